//! One pass through the noise-prediction network, for inference.

use super::{Case, number};
use crate::inputs::{sample, tensor};
use crate::parameters::filled;
use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use fndm_models::{UNet, UNetConfig};
use serde_json::Value;

/// An image, its time and its label.
pub(crate) struct Input {
    pub(crate) x: Tensor,
    pub(crate) t: Tensor,
    pub(crate) y: Tensor,
}

impl Input {
    pub(crate) fn new(spec: &Value, channels: usize) -> Result<Self> {
        let (batch, size) = (number(spec, "batch")?, number(spec, "size")?);
        let times: Vec<f32> = (0..batch).map(|i| 500. - 37. * i as f32).collect();
        let labels: Vec<u32> = (0..batch as u32).map(|i| i % 2).collect();
        Ok(Self {
            x: tensor(1001, &[batch, channels, size, size])?,
            t: Tensor::new(times, &Device::Cpu)?,
            y: Tensor::new(labels, &Device::Cpu)?,
        })
    }
}

struct Forward {
    unet: UNet,
    input: Input,
    out: Option<Tensor>,
}

impl Case for Forward {
    fn run(&mut self) -> Result<()> {
        self.out = None;
        let Input { x, t, y } = &self.input;
        self.out = Some(self.unet.forward(x, t, Some(y))?);
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.out.as_ref().context("nothing has run")?)?)
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let config: UNetConfig = serde_json::from_value(spec["config"].clone())?;
    Ok(Box::new(Forward {
        input: Input::new(spec, config.in_channels)?,
        unet: filled(|vb| UNet::new(&config, vb))?,
        out: None,
    }))
}
