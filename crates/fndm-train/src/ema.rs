use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use crate::{EmaConfig, Result};

/// An exponential moving average of parameters, by name: `ema = decay * ema + (1 - decay) * weight`.
///
/// It starts as a copy of the first weights.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    averages: BTreeMap<String, Tensor>,
}

impl Ema {
    /// Starts at the parameters as they are now.
    ///
    /// # Errors
    /// When a tensor can't be copied.
    pub fn new(decay: f64, parameters: &[(String, Var)]) -> Result<Self> {
        let averages = parameters
            .iter()
            // A detached tensor shares the variable's memory, which the optimiser writes to.
            .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)))
            .collect::<Result<_>>()?;
        Ok(Self { decay, averages })
    }

    /// The decay after the warm-up.
    #[must_use]
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// Update number `n` (from 0), with the decay that `config` gives it.
    ///
    /// # Errors
    /// When a shape has changed.
    pub fn update(
        &mut self,
        config: &EmaConfig,
        n: u64,
        parameters: &[(String, Var)],
    ) -> Result<()> {
        let decay = config.decay(self.decay, n);
        for (name, var) in parameters {
            let weight = var.as_detached_tensor();
            let next = match self.averages.get(name) {
                Some(average) => {
                    (average.affine(decay, 0.0)? + weight.affine(1.0 - decay, 0.0)?)?
                }
                None => weight.copy()?,
            };
            self.averages.insert(name.clone(), next);
        }
        Ok(())
    }

    /// The averages, in name order. They are plain tensors, not variables.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.averages
    }

    pub(crate) fn restore(&mut self, averages: BTreeMap<String, Tensor>) {
        self.averages = averages;
    }
}
