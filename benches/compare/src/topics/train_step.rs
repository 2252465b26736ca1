//! One iteration of training: forward, mean squared error, backward, Adam.

use super::Case;
use super::unet::Input;
use crate::inputs::{sample, tensor};
use crate::parameters::fill;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use fndm_kernels::{AdamStep, Tape, adam_step};
use fndm_models::{Parameters, UNet, UNetConfig};
use serde_json::Value;

/// Parameters whose first gradient is compared.
const COMPARED: [&str; 3] = [
    "input_blocks.0.0.weight",
    "middle_block.1.qkv.weight",
    "out.2.weight",
];

struct Trained {
    parameter: Var,
    first: Var,
    second: Var,
}

struct Training {
    unet: UNet,
    parameters: Parameters,
    state: Vec<Trained>,
    input: Input,
    target: Tensor,
    step: u64,
    losses: Vec<f64>,
    first_gradients: Vec<f64>,
}

impl Case for Training {
    fn run(&mut self) -> Result<()> {
        let Input { x, t, y } = &self.input;
        let tape = Tape::start()?;
        let out = self.unet.forward(x, t, Some(y))?;
        let loss = (out - &self.target)?.sqr()?.mean_all()?;
        let grads = tape.backward(&loss)?;
        if self.step == 0 {
            for name in COMPARED {
                let v = self.parameters.get(name).context(name)?;
                let g = grads.get(&v).context(name)?;
                // By their largest, so that each counts as much as the losses.
                let top = g.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
                self.first_gradients.push(f64::from(top).ln());
                self.first_gradients.extend(sample(&(g / f64::from(top))?)?);
            }
        }
        self.step += 1;
        let constants = AdamStep {
            lr: 1e-4,
            step: self.step,
            ..AdamStep::default()
        };
        for s in &self.state {
            let g = grads.get(&s.parameter).context("no gradient")?;
            adam_step(&s.parameter, &s.first, &s.second, g, &constants)?;
        }
        self.losses.push(f64::from(loss.to_scalar::<f32>()?));
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        let first = self.losses.first().context("nothing has run")?;
        let second = self.losses.get(1).unwrap_or(first);
        Ok([*first, *second]
            .into_iter()
            .chain(self.first_gradients.iter().copied())
            .collect())
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let config: UNetConfig = serde_json::from_value(spec["config"].clone())?;
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let unet = UNet::new(&config, parameters.builder())?;
    fill(&parameters)?;
    let state = parameters
        .iter()
        .map(|(_, parameter)| {
            let zeros = || Var::zeros(parameter.dims(), DType::F32, &Device::Cpu);
            Ok(Trained {
                first: zeros()?,
                second: zeros()?,
                parameter,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let input = Input::new(spec, config.in_channels)?;
    let mut dims = input.x.dims().to_vec();
    dims[1] = config.out_channels;
    Ok(Box::new(Training {
        unet,
        parameters,
        state,
        input,
        target: tensor(1002, &dims)?,
        step: 0,
        losses: Vec::new(),
        first_gradients: Vec::new(),
    }))
}
