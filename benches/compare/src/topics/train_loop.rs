//! The whole training loop of the diffusion model, data included: slices drawn, augmented, corrupted and noised, forward and
//! backward pass, clipping, Adam, moving average.

use super::{Case, number};
use crate::inputs::{floats, sample, tensor};
use crate::parameters::fill;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use fndm_data::SliceSet;
use fndm_kernels::Tape;
use fndm_models::{Parameters, UNet, UNetConfig};
use fndm_train::{DiffusionConfig, DiffusionTrainer, Ema, EmaConfig, Optimizer, OptimizerConfig};
use ndarray::{Array3, Array4};
use serde_json::Value;
use std::collections::BTreeMap;

/// Slices that the loop draws from.
const SLICES: usize = 256;

struct Loop {
    trainer: DiffusionTrainer,
    model: UNetConfig,
    batch: usize,
}

/// Discs of rough intensity in a dark background; every second one has the label 1.
fn slices(channels: usize, size: usize) -> Result<SliceSet> {
    let shape = (SLICES, channels, size, size);
    let rough = floats(2001, SLICES * channels * size * size);
    let rough = Array4::from_shape_vec(shape, rough)?;
    let (centre, radius) = ((size as f64 - 1.) / 2., 0.42 * size as f64);
    let inside = |y: usize, x: usize| (y as f64 - centre).hypot(x as f64 - centre) < radius;
    let images = Array4::from_shape_fn(shape, |(n, c, y, x)| match inside(y, x) {
        true => 0.4 * rough[[n, c, y, x]],
        false => -1.,
    });
    Ok(SliceSet {
        images,
        labels: (0..SLICES).map(|i| (i % 2) as u8).collect(),
        head: Array3::from_shape_fn((SLICES, size, size), |(_, y, x)| inside(y, x)),
        patient: vec![0; SLICES],
        z: (0..SLICES).collect(),
        ids: vec!["disc".to_owned()],
        sequences: (0..channels).map(|c| format!("sequence {c}")).collect(),
    })
}

impl Case for Loop {
    fn run(&mut self) -> Result<()> {
        self.trainer.step()?;
        Ok(())
    }

    /// Two iterations on a batch by formula from weights by formula: the losses before, between and after, that of the
    /// average, and some of the weights' changes.
    fn check(&mut self) -> Result<Vec<f64>> {
        let (channels, size) = (self.model.out_channels, self.model.image_size);
        let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
        let unet = UNet::new(&self.model, parameters.builder())?;
        fill(&parameters)?;
        let times: Vec<f32> = (0..self.batch).map(|i| 500. - 37. * i as f32).collect();
        let labels: Vec<u32> = (0..self.batch as u32).map(|i| i % 2).collect();
        let t = Tensor::new(times, &Device::Cpu)?;
        let y = Tensor::new(labels, &Device::Cpu)?;
        let x = tensor(1001, &[self.batch, self.model.in_channels, size, size])?;
        let target = tensor(1002, &[self.batch, channels, size, size])?;
        let optimizer = OptimizerConfig::default();
        let vars: Vec<(String, Var)> = parameters.iter().collect();
        let mut adam = Optimizer::new(&optimizer);
        let mut ema = Ema::new(0.5, &vars)?;
        let averaging = EmaConfig {
            decays: vec![0.5],
            warm_up: false,
        };
        let loss = |unet: &UNet| -> Result<Tensor> {
            let output = unet.forward(&x, &t, Some(&y))?;
            Ok((output - &target)?.sqr()?.mean_all()?)
        };
        let mut values = Vec::new();
        for step in 0..2 {
            let tape = Tape::start()?;
            let loss = loss(&unet)?;
            values.push(f64::from(loss.to_scalar::<f32>()?));
            let store = tape.backward(&loss)?;
            let mut gradients = BTreeMap::new();
            let mut square = 0.;
            for (name, var) in &vars {
                let gradient = store.get(var).context("no gradient")?.clone();
                square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
                gradients.insert(name.clone(), gradient);
            }
            values.push(square.sqrt());
            adam.step(&vars, &gradients, 1e-4, (1. / square.sqrt()).min(1.))?;
            ema.update(&averaging, step, &vars)?;
        }
        values.push(f64::from(loss(&unet)?.to_scalar::<f32>()?));
        parameters
            .iter()
            .zip(ema.tensors().values())
            .try_for_each(|((_, var), average)| var.set(average))?;
        values.push(f64::from(loss(&unet)?.to_scalar::<f32>()?));
        let output = unet.forward(&x, &t, Some(&y))?;
        values.extend(sample(&output)?);
        Ok(values)
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let model: UNetConfig = serde_json::from_value(spec["config"].clone())?;
    let batch = number(spec, "batch")?;
    let config = DiffusionConfig {
        batch,
        ..DiffusionConfig::default()
    };
    let set = slices(model.out_channels, model.image_size)?.into();
    let trainer = DiffusionTrainer::new(&config, &model, set, 1, &Device::Cpu)?;
    Ok(Box::new(Loop {
        trainer,
        model,
        batch,
    }))
}
