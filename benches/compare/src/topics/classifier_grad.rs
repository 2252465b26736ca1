//! The gradient that guides the sampling: of the classifier's log probability with respect to its input.

use super::Case;
use super::unet::Input;
use crate::inputs::sample;
use crate::parameters::filled;
use anyhow::{Context, Result};
use candle_core::Tensor;
use fndm_models::{Classifier, ClassifierConfig};
use serde_json::Value;

struct Guidance {
    classifier: Classifier,
    input: Input,
    out: Option<Tensor>,
}

impl Case for Guidance {
    fn run(&mut self) -> Result<()> {
        let Input { x, t, y } = &self.input;
        self.out = None;
        self.out = Some(self.classifier.log_prob_gradient(x, t, y)?);
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.out.as_ref().context("nothing has run")?)?)
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let config: ClassifierConfig = serde_json::from_value(spec["config"].clone())?;
    Ok(Box::new(Guidance {
        input: Input::new(spec, config.in_channels)?,
        classifier: filled(|vb| Classifier::new(&config, vb))?,
        out: None,
    }))
}
