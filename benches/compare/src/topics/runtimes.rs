//! Whole networks and convolutions, for inference, beside the engines that people deploy with.

use super::{Case, conv, number, unet};
use crate::inputs::{sample, tensor};
use crate::parameters::filled;
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use fndm_models::{Classifier, ClassifierConfig, Segmenter, SegmenterConfig};
use serde_json::Value;

/// A network with its input.
enum Network {
    Classifier(Classifier, unet::Input),
    Segmenter(Segmenter, Tensor),
}

struct Forward {
    network: Network,
    out: Option<Tensor>,
}

impl Case for Forward {
    fn run(&mut self) -> Result<()> {
        self.out = None;
        self.out = Some(match &self.network {
            Network::Classifier(network, input) => network.forward(&input.x, &input.t)?,
            Network::Segmenter(network, x) => network.forward(x)?,
        });
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.out.as_ref().context("nothing has run")?)?)
    }
}

fn classifier(spec: &Value) -> Result<Network> {
    let config: ClassifierConfig = serde_json::from_value(spec["config"].clone())?;
    let network = filled(|vb| Classifier::new(&config, vb))?;
    let input = unet::Input::new(spec, config.in_channels)?;
    Ok(Network::Classifier(network, input))
}

fn segmenter(spec: &Value) -> Result<Network> {
    let config: SegmenterConfig = serde_json::from_value(spec["config"].clone())?;
    let network = filled(|vb| Segmenter::new(&config, vb))?;
    let (batch, size) = (number(spec, "batch")?, number(spec, "size")?);
    let x = tensor(1001, &[batch, config.in_channels(), size, size])?;
    Ok(Network::Segmenter(network, x))
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let network = match spec["network"].as_str() {
        Some("unet") => return unet::prepare(spec),
        Some("conv") => return conv::prepare(spec),
        Some("classifier") => classifier(spec)?,
        Some("segmenter") => segmenter(spec)?,
        other => bail!("spec: unknown network {other:?}"),
    };
    Ok(Box::new(Forward { network, out: None }))
}
