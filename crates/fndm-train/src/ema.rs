use std::collections::BTreeMap;

use candle_core::{Tensor, Var};
use fndm_kernels::ema_update_all;

use crate::{EmaConfig, Result};

/// An exponential moving average of parameters, by name: `ema = decay * ema + (1 - decay) * weight`.
///
/// It starts as a copy of the first weights.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    averages: BTreeMap<String, Var>,
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
            .map(|(name, var)| {
                Ok((
                    name.clone(),
                    Var::from_tensor(&var.as_detached_tensor().copy()?)?,
                ))
            })
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
        let pairs: Vec<(&Var, Tensor)> = parameters
            .iter()
            .filter_map(|(name, var)| Some((self.averages.get(name)?, var.as_detached_tensor())))
            .collect();
        let pairs: Vec<(&Var, &Tensor)> = pairs.iter().map(|(e, p)| (*e, p)).collect();
        Ok(ema_update_all(&pairs, decay)?)
    }

    /// The averages by name, as plain tensors that share the averages' memory: they change with the next update.
    #[must_use]
    pub fn tensors(&self) -> BTreeMap<String, Tensor> {
        self.averages
            .iter()
            .map(|(name, var)| (name.clone(), var.as_detached_tensor()))
            .collect()
    }

    pub(crate) fn restore(&self, averages: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, var) in &self.averages {
            if let Some(average) = averages.get(name) {
                var.set(average)?;
            }
        }
        Ok(())
    }
}
