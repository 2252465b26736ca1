//! The operations beside convolution: forward alone, or with the gradient of every input.

use super::Case;
use crate::inputs::{sample, tensor};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use fndm_kernels::{AdamStep, Conv2d, Tape};
use serde_json::Value;

type Op = fn(&[Tensor]) -> candle_core::Result<Tensor>;

struct Operation {
    op: Op,
    inputs: Vec<Tensor>,
    /// The gradient of the output, where the backward pass is timed too.
    dy: Option<Tensor>,
    out: Option<Tensor>,
}

impl Case for Operation {
    fn run(&mut self) -> Result<()> {
        self.out = None;
        let Some(dy) = &self.dy else {
            self.out = Some((self.op)(&self.inputs)?);
            return Ok(());
        };
        let tape = Tape::start()?;
        let y = (self.op)(&self.inputs)?;
        let mut grads = tape.backward_from(&y, dy)?;
        for x in &self.inputs {
            let g = grads.remove(x).context("no gradient")?;
            self.out.get_or_insert(g);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.out.as_ref().context("nothing has run")?)?)
    }
}

/// An update of a parameter in place.
struct Update {
    ema: bool,
    parameter: Var,
    first: Var,
    second: Var,
    gradient: Tensor,
    step: u64,
}

impl Case for Update {
    fn run(&mut self) -> Result<()> {
        if self.ema {
            fndm_kernels::ema_update(&self.parameter, &self.gradient, 0.999)?;
            return Ok(());
        }
        self.step += 1;
        let s = AdamStep {
            lr: 1e-4,
            step: self.step,
            ..AdamStep::default()
        };
        fndm_kernels::adam_step(
            &self.parameter,
            &self.first,
            &self.second,
            &self.gradient,
            &s,
        )?;
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.parameter.as_tensor())?)
    }
}

fn operation(name: &str) -> Result<Op> {
    Ok(match name {
        "group_norm" => |t| fndm_kernels::group_norm(&t[0], 32, &t[1], &t[2], 1e-5),
        "group_norm_silu" => |t| fndm_kernels::group_norm_silu(&t[0], 32, &t[1], &t[2], 1e-5, None),
        "group_norm_scale_shift_silu" => |t| {
            let scale_shift = Some((&t[3], &t[4]));
            fndm_kernels::group_norm_silu(&t[0], 32, &t[1], &t[2], 1e-5, scale_shift)
        },
        "silu" => |t| fndm_kernels::silu(&t[0]),
        "attention" => |t| fndm_kernels::attention(&t[0], &t[1], &t[2]),
        "upsample" => |t| fndm_kernels::upsample_nearest_2x(&t[0]),
        "upsample_conv" => |t| Conv2d::new(t[1].clone(), None, 1)?.forward_upsampled(&t[0]),
        "avg_pool" => |t| fndm_kernels::avg_pool_2x(&t[0]),
        "cat" => |t| fndm_kernels::cat_channels(&t[0], &t[1]),
        "add" => |t| fndm_kernels::add(&t[0], &t[1]),
        "combine" => {
            |t| fndm_kernels::linear_combination(&[(0.75, &t[0]), (0.5, &t[1]), (-0.25, &t[2])])
        }
        other => bail!("spec: unknown operation {other:?}"),
    })
}

fn shape(value: &Value) -> Result<Vec<usize>> {
    Ok(serde_json::from_value(value.clone())?)
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let name = spec["op"].as_str().context("spec: expected an op")?;
    let inputs = spec["shapes"]
        .as_array()
        .context("spec: expected shapes")?
        .iter()
        .enumerate()
        .map(|(i, s)| Ok(tensor(i as u32, &shape(s)?)?))
        .collect::<Result<Vec<_>>>()?;
    if name == "adam" || name == "ema" {
        let gradient = inputs[0].clone();
        let var = || Var::zeros(gradient.dims(), DType::F32, &Device::Cpu);
        return Ok(Box::new(Update {
            ema: name == "ema",
            parameter: var()?,
            first: var()?,
            second: var()?,
            gradient,
            step: 0,
        }));
    }
    let op = operation(name)?;
    if spec["training"] != true {
        return Ok(Box::new(Operation {
            op,
            inputs,
            dy: None,
            out: None,
        }));
    }
    let inputs = inputs
        .iter()
        .map(|x| Ok(Var::from_tensor(x)?.into_inner()))
        .collect::<Result<Vec<_>>>()?;
    let dims = op(&inputs)?.dims().to_vec();
    Ok(Box::new(Operation {
        op,
        dy: Some(tensor(99, &dims)?),
        inputs,
        out: None,
    }))
}
