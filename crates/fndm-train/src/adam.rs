use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::{Error, OptimizerConfig, Result};

/// Running means of one parameter's gradient and of its square.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    pub(crate) first: Tensor,
    pub(crate) second: Tensor,
}

/// Adam (Kingma and Ba 2015), and `AdamW` where the weight decay isn't 0, with its state by parameter name.
///
/// Equal to `PyTorch`'s `Adam` and `AdamW` within rounding.
#[derive(Debug)]
pub struct Adam {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl Adam {
    /// An optimiser that has made no step.
    #[must_use]
    pub fn new(config: &OptimizerConfig) -> Self {
        Self {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// Steps made so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step of all parameters, each by its gradient (same name, same shape) times `scale`.
    ///
    /// # Errors
    /// [`Error::NoGradient`] when a parameter has no gradient: then nothing is changed.
    pub fn step(
        &mut self,
        parameters: &[(String, Var)],
        gradients: &BTreeMap<String, Tensor>,
        lr: f64,
        scale: f64,
    ) -> Result<()> {
        let without = parameters
            .iter()
            .find(|(name, _)| !gradients.contains_key(name));
        if let Some((name, _)) = without {
            return Err(Error::NoGradient { name: name.clone() });
        }
        self.steps += 1;
        let n = self.steps as f64;
        let correction1 = 1.0 - self.beta1.powf(n);
        let correction2 = 1.0 - self.beta2.powf(n);
        for (name, parameter) in parameters {
            let Some(gradient) = gradients.get(name) else {
                continue;
            };
            let gradient = gradient.affine(scale, 0.0)?;
            if !self.moments.contains_key(name) {
                let moments = Moments {
                    first: parameter.zeros_like()?,
                    second: parameter.zeros_like()?,
                };
                self.moments.insert(name.clone(), moments);
            }
            let Some(moments) = self.moments.get_mut(name) else {
                continue;
            };
            moments.first = (moments.first.affine(self.beta1, 0.0)?
                + gradient.affine(1.0 - self.beta1, 0.0)?)?;
            moments.second = (moments.second.affine(self.beta2, 0.0)?
                + gradient.sqr()?.affine(1.0 - self.beta2, 0.0)?)?;
            let root = moments
                .second
                .sqrt()?
                .affine(1.0 / correction2.sqrt(), self.eps)?;
            let change = (&moments.first / root)?.affine(lr / correction1, 0.0)?;
            let decayed = parameter
                .as_detached_tensor()
                .affine(1.0 - lr * self.weight_decay, 0.0)?;
            parameter.set(&(decayed - change)?)?;
        }
        Ok(())
    }

    pub(crate) fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    pub(crate) fn restore(&mut self, steps: u64, moments: BTreeMap<String, Moments>) {
        self.steps = steps;
        self.moments = moments;
    }
}
