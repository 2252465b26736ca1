use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use fndm_kernels::{AdamStep, AdamTensor, adam_step_all};

use crate::{Error, OptimizerConfig, Result};

/// Running means of one parameter's gradient and of its square.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    pub(crate) first: Var,
    pub(crate) second: Var,
}

/// Adam (Kingma and Ba 2015), and `AdamW` where the weight decay isn't 0, with its state by parameter name.
///
/// Equal to `PyTorch`'s `Adam` and `AdamW` within rounding.
#[derive(Debug)]
pub struct Adam {
    constants: AdamStep,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl Adam {
    /// An optimiser that has made no step.
    #[must_use]
    pub fn new(config: &OptimizerConfig) -> Self {
        Self {
            constants: AdamStep {
                lr: config.lr,
                beta1: config.beta1,
                beta2: config.beta2,
                eps: config.eps,
                weight_decay: config.weight_decay,
                step: 1,
            },
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
        for (name, parameter) in parameters {
            if !self.moments.contains_key(name) {
                let moments = Moments {
                    first: Var::from_tensor(&parameter.as_detached_tensor().zeros_like()?)?,
                    second: Var::from_tensor(&parameter.as_detached_tensor().zeros_like()?)?,
                };
                self.moments.insert(name.clone(), moments);
            }
        }
        let tensors: Vec<AdamTensor<'_>> = parameters
            .iter()
            .filter_map(|(name, param)| {
                let moments = self.moments.get(name)?;
                Some(AdamTensor {
                    param,
                    m: &moments.first,
                    v: &moments.second,
                    grad: gradients.get(name)?,
                })
            })
            .collect();
        let step = AdamStep {
            lr,
            step: self.steps,
            ..self.constants
        };
        Ok(adam_step_all(&tensors, &step, scale)?)
    }

    pub(crate) fn moments(&self) -> &BTreeMap<String, Moments> {
        &self.moments
    }

    pub(crate) fn restore(&mut self, steps: u64, moments: BTreeMap<String, Moments>) {
        self.steps = steps;
        self.moments = moments;
    }
}
