use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Tensor, Var};
use fndm_kernels::{AdamStep, AdamTensor, adam_step_all, linear_combination};

use crate::{Error, OptimizerConfig, Result, UpdateRule};

/// What an optimiser remembers of one parameter.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// Steps that it was part of.
    pub(crate) steps: u64,
    /// Running values, each like the parameter, in the order of [`UpdateRule::running`].
    pub(crate) running: Vec<Var>,
}

/// Adam (Kingma and Ba 2015), `AdamW` where the decoupled weight decay isn't 0, `AMSGrad`, or gradient descent with momentum, by the
/// config's [`UpdateRule`], with its state by parameter name.
///
/// Equal to `PyTorch`'s optimisers within rounding.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    steps: u64,
    memory: BTreeMap<String, Memory>,
}

/// A parameter with its gradient, ready for a step.
struct Ready<'a> {
    parameter: &'a Var,
    gradient: Tensor,
    memory: &'a Memory,
}

impl Optimizer {
    /// An optimiser that has made no step.
    #[must_use]
    pub fn new(config: &OptimizerConfig) -> Self {
        Self {
            config: config.clone(),
            steps: 0,
            memory: BTreeMap::new(),
        }
    }

    /// Steps made so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step of all parameters, each by its gradient (same name, same shape) times `scale`. Where the config allows that
    /// gradients are absent, a parameter without one stays as it is, and so does what is remembered of it.
    ///
    /// # Errors
    /// [`Error::NoGradient`] when a parameter has no gradient and the config doesn't allow it: then nothing is changed.
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
        if let (Some((name, _)), false) = (without, self.config.absent_gradients) {
            return Err(Error::NoGradient { name: name.clone() });
        }
        self.steps += 1;
        let running = self.config.rule.running().len();
        for (name, parameter) in parameters {
            if !gradients.contains_key(name) {
                continue;
            }
            if !self.memory.contains_key(name) {
                let zeros = || Var::from_tensor(&parameter.as_detached_tensor().zeros_like()?);
                let memory = Memory {
                    steps: 0,
                    running: (0..running)
                        .map(|_| zeros())
                        .collect::<candle_core::Result<_>>()?,
                };
                self.memory.insert(name.clone(), memory);
            }
            if let Some(memory) = self.memory.get_mut(name) {
                memory.steps += 1;
            }
        }
        // A coupled decay joins the gradient in the pass that scales it.
        let (l2, scale_later) = match self.config.l2 {
            0.0 => (0.0, scale),
            l2 => (l2, 1.0),
        };
        let ready = parameters
            .iter()
            .filter_map(|(name, parameter)| {
                let memory = self.memory.get(name)?;
                let gradient = gradients.get(name)?;
                let joined = || -> Result<Tensor> {
                    if l2 == 0.0 {
                        return Ok(gradient.clone());
                    }
                    let value = parameter.as_detached_tensor();
                    Ok(linear_combination(&[
                        (scale, &gradient.detach()),
                        (l2, &value),
                    ])?)
                };
                Some(joined().map(|gradient| Ready {
                    parameter,
                    gradient,
                    memory,
                }))
            })
            .collect::<Result<Vec<_>>>()?;
        match self.config.rule {
            UpdateRule::Adam => self.adam(&ready, lr, scale_later),
            UpdateRule::AmsGrad => ready
                .iter()
                .try_for_each(|ready| self.ams_grad(ready, lr, scale_later)),
            UpdateRule::Sgd { momentum } => ready
                .iter()
                .try_for_each(|ready| descend(ready, momentum, lr, scale_later)),
        }
    }

    /// Parameters that were part of equally many steps have one bias correction, and go together.
    fn adam(&self, ready: &[Ready<'_>], lr: f64, scale: f64) -> Result<()> {
        let counts: BTreeSet<u64> = ready.iter().map(|ready| ready.memory.steps).collect();
        for count in counts {
            let tensors: Vec<AdamTensor<'_>> = ready
                .iter()
                .filter(|ready| ready.memory.steps == count)
                .filter_map(|ready| {
                    let [m, v] = &ready.memory.running[..] else {
                        return None;
                    };
                    Some(AdamTensor {
                        param: ready.parameter,
                        m,
                        v,
                        grad: &ready.gradient,
                    })
                })
                .collect();
            let step = AdamStep {
                lr,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                eps: self.config.eps,
                weight_decay: self.config.weight_decay,
                step: count,
            };
            adam_step_all(&tensors, &step, scale)?;
        }
        Ok(())
    }

    /// Reddi et al. 2018: the largest second moment so far takes the place of the present one.
    fn ams_grad(&self, ready: &Ready<'_>, lr: f64, scale: f64) -> Result<()> {
        let [first, second, largest] = &ready.memory.running[..] else {
            return Ok(());
        };
        let c = &self.config;
        let count = ready.memory.steps.min(i32::MAX as u64) as i32;
        let corrections = (1.0 - c.beta1.powi(count), 1.0 - c.beta2.powi(count));
        let gradient = ready.gradient.detach();
        let squares = gradient.sqr()?;
        let (m, v) = (first.as_detached_tensor(), second.as_detached_tensor());
        let m = linear_combination(&[(c.beta1, &m), ((1.0 - c.beta1) * scale, &gradient)])?;
        let v = linear_combination(&[(c.beta2, &v), ((1.0 - c.beta2) * scale * scale, &squares)])?;
        let most = largest.as_detached_tensor().maximum(&v)?;
        let root = most.sqrt()?.affine(1.0 / corrections.1.sqrt(), c.eps)?;
        let change = (&m / root)?;
        let parameter = ready.parameter.as_detached_tensor();
        let kept = 1.0 - lr * c.weight_decay;
        let moved = linear_combination(&[(kept, &parameter), (-lr / corrections.0, &change)])?;
        first.set(&m)?;
        second.set(&v)?;
        largest.set(&most)?;
        Ok(ready.parameter.set(&moved)?)
    }

    pub(crate) fn memory(&self) -> &BTreeMap<String, Memory> {
        &self.memory
    }

    pub(crate) fn restore(&mut self, steps: u64, memory: BTreeMap<String, Memory>) {
        self.steps = steps;
        self.memory = memory;
    }
}

/// Gradient descent; the first momentum is the first gradient.
fn descend(ready: &Ready<'_>, momentum: f64, lr: f64, scale: f64) -> Result<()> {
    let gradient = ready.gradient.detach();
    let parameter = ready.parameter.as_detached_tensor();
    let moved = match &ready.memory.running[..] {
        [velocity] => {
            let before = velocity.as_detached_tensor();
            let next = linear_combination(&[(momentum, &before), (scale, &gradient)])?;
            velocity.set(&next)?;
            linear_combination(&[(1.0, &parameter), (-lr, &next)])?
        }
        _ => linear_combination(&[(1.0, &parameter), (-lr * scale, &gradient)])?,
    };
    Ok(ready.parameter.set(&moved)?)
}
