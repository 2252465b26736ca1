//! Parameters, optimiser, averages, and their way into and out of a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::update::Memory;
use crate::{
    CheckpointState, Ema, Error, Group, NonFinite, Optimizer, OptimizerConfig, Result, hash,
};

const WEIGHTS: &str = "weights/";
/// In how many steps a parameter took part, where that may be fewer than were made.
const STEPS: &str = "optimizer.steps/";

/// Adds up gradients, then makes optimiser steps.
#[derive(Debug)]
pub(crate) struct Learner {
    config: OptimizerConfig,
    iterations: Option<u64>,
    parameters: Vec<(String, Var)>,
    optimizer: Optimizer,
    emas: Vec<Ema>,
    /// Iterations made, the skipped ones included.
    pub(crate) iteration: u64,
    pub(crate) skipped_in_a_row: u32,
}

/// What one iteration did.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) gradient_norm: f64,
    pub(crate) rate: f64,
    pub(crate) skipped: bool,
}

/// The state of a [`Learner`] in a checkpoint.
pub(crate) struct Restored {
    weights: Vec<Tensor>,
    memory: BTreeMap<String, Memory>,
    averages: Vec<BTreeMap<String, Tensor>>,
}

/// Which batch an error is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blame {
    pub(crate) slices: Vec<usize>,
    pub(crate) names: Vec<String>,
    pub(crate) timesteps: Vec<usize>,
}

/// Gradients by parameter name.
pub(crate) type Gradients = BTreeMap<String, Tensor>;

impl Learner {
    pub(crate) fn new(
        config: &OptimizerConfig,
        iterations: Option<u64>,
        parameters: Vec<(String, Var)>,
    ) -> Result<Self> {
        let emas = config
            .ema
            .decays
            .iter()
            .map(|&decay| Ema::new(decay, &parameters))
            .collect::<Result<_>>()?;
        Ok(Self {
            config: config.clone(),
            iterations,
            optimizer: Optimizer::new(config),
            parameters,
            emas,
            iteration: 0,
            skipped_in_a_row: 0,
        })
    }

    /// Adds the gradients of one backward pass to `sum`.
    pub(crate) fn accumulate(&self, store: &GradStore, sum: &mut Gradients) -> Result<()> {
        for (name, var) in &self.parameters {
            let gradient = match store.get(var.as_tensor()) {
                Some(gradient) => gradient,
                None if self.config.absent_gradients => continue,
                None => return Err(Error::NoGradient { name: name.clone() }),
            };
            let next = match sum.remove(name) {
                Some(before) => (before + gradient)?,
                None => gradient.clone(),
            };
            sum.insert(name.clone(), next);
        }
        Ok(())
    }

    /// One iteration: clips, steps, averages. `loss` and the gradients' norm must be finite.
    pub(crate) fn apply(
        &mut self,
        gradients: &Gradients,
        loss: f64,
        blame: Blame,
    ) -> Result<Applied> {
        let rate = self.config.rate_at(self.iteration, self.iterations);
        let gradient_norm = if loss.is_finite() {
            norm(gradients)?
        } else {
            f64::NAN
        };
        self.iteration += 1;
        if !(loss.is_finite() && gradient_norm.is_finite()) {
            self.skipped_in_a_row += 1;
            let allowed = match self.config.non_finite {
                NonFinite::Stop => 0,
                NonFinite::Skip { at_most } => at_most,
            };
            if self.skipped_in_a_row > allowed {
                let (what, value) = if loss.is_finite() {
                    ("gradient norm", gradient_norm)
                } else {
                    ("loss", loss)
                };
                return Err(Error::NonFinite {
                    iteration: self.iteration,
                    what,
                    value,
                    slices: blame.slices,
                    names: blame.names,
                    timesteps: blame.timesteps,
                });
            }
            return Ok(Applied {
                gradient_norm,
                rate,
                skipped: true,
            });
        }
        self.skipped_in_a_row = 0;
        let scale = self.config.clip_scale(gradient_norm);
        let n = self.optimizer.steps();
        self.optimizer
            .step(&self.parameters, gradients, rate, scale)?;
        for ema in &mut self.emas {
            ema.update(&self.config.ema, n, &self.parameters)?;
        }
        Ok(Applied {
            gradient_norm,
            rate,
            skipped: false,
        })
    }

    pub(crate) fn optimizer_steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Fails where a parameter or an average of it isn't finite: a step whose gradients were sound may still overflow, and
    /// the guard of the next step never comes where it was the last.
    pub(crate) fn check_finite(&self) -> Result<()> {
        let named = |tensor: &Tensor, name: &dyn Fn() -> String| match first_non_finite(tensor)? {
            Some(value) => Err(Error::NonFiniteWeight {
                iteration: self.iteration,
                name: name(),
                value,
            }),
            None => Ok(()),
        };
        for (name, var) in &self.parameters {
            named(&var.as_detached_tensor(), &|| name.clone())?;
        }
        for ema in &self.emas {
            for (name, tensor) in ema.tensors() {
                named(&tensor, &|| ema_name(ema.decay(), &name))?;
            }
        }
        Ok(())
    }

    /// A copy of the averages of decay number `i`.
    pub(crate) fn ema_tensors_of(&self, i: usize) -> Result<BTreeMap<String, Tensor>> {
        let ema = self.emas.get(i).ok_or_else(|| Error::Config {
            field: "optimizer.ema.decays",
            expected: format!("more than {i} decays"),
            got: self.emas.len().to_string(),
        })?;
        let averages = ema.tensors();
        for (name, tensor) in &averages {
            if let Some(value) = first_non_finite(tensor)? {
                return Err(Error::NonFiniteWeight {
                    iteration: self.iteration,
                    name: ema_name(ema.decay(), name),
                    value,
                });
            }
        }
        averages
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), tensor.copy()?)))
            .collect()
    }

    /// A copy of the weights as they are.
    pub(crate) fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.parameters
            .iter()
            .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)))
            .collect()
    }

    /// Everything that must be saved, by name.
    pub(crate) fn tensors(&self) -> BTreeMap<String, Tensor> {
        let mut all = BTreeMap::new();
        for (name, var) in &self.parameters {
            all.insert(format!("{WEIGHTS}{name}"), var.as_detached_tensor());
        }
        for (name, memory) in self.optimizer.memory() {
            for (slot, var) in self.config.rule.running().iter().zip(&memory.running) {
                all.insert(format!("{slot}{name}"), var.as_detached_tensor());
            }
            all.extend(self.steps_of(name, memory));
        }
        for ema in &self.emas {
            for (name, tensor) in ema.tensors() {
                all.insert(ema_name(ema.decay(), &name), tensor);
            }
        }
        all
    }

    /// The number of a parameter's steps as a tensor, where it may differ from the number of all steps.
    fn steps_of(&self, name: &str, memory: &Memory) -> Option<(String, Tensor)> {
        if !self.config.absent_gradients {
            return None;
        }
        let steps = Tensor::new(memory.steps as i64, &Device::Cpu).ok()?;
        Some((format!("{STEPS}{name}"), steps))
    }

    /// The number of steps that a parameter was part of; none where it was part of none.
    fn read_steps(
        &self,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
        state: &CheckpointState,
        name: &str,
    ) -> Result<Option<u64>> {
        let all = state.optimizer_steps;
        if !self.config.absent_gradients {
            return Ok((all > 0).then_some(all));
        }
        let key = format!("{STEPS}{name}");
        let Some(tensor) = tensors.get(&key) else {
            return Ok(None);
        };
        let steps = tensor.to_scalar::<i64>().unwrap_or(-1);
        match u64::try_from(steps) {
            Ok(steps) if (1..=all).contains(&steps) => Ok(Some(steps)),
            _ => Err(Error::checkpoint(
                path,
                format!("tensor {key}: expected a number from 1 to {all}, got {tensor}"),
            )),
        }
    }

    /// An upper bound of a checkpoint's size in bytes, with `more` for other tensors and the head.
    pub(crate) fn checkpoint_limit(&self, more: u64) -> u64 {
        let values: usize = self.parameters.iter().map(|(_, v)| v.elem_count()).sum();
        // Weights, running values, numbers of steps, averages; and a few hundred bytes of head for each tensor.
        let copies = 2 + self.config.rule.running().len() as u64 + self.emas.len() as u64;
        copies * (4 * values as u64 + 512 * self.parameters.len() as u64) + more
    }

    /// Adds the gradients of all processes up and divides them by their number.
    pub(crate) fn average(&self, gradients: &mut Gradients, group: &dyn Group) -> Result<()> {
        if group.size() == 1 {
            return Ok(());
        }
        let mut flat = Vec::new();
        for gradient in gradients.values() {
            flat.extend(gradient.flatten_all()?.to_vec1::<f32>()?);
        }
        group.sum(&mut flat)?;
        let share = 1.0 / group.size() as f32;
        flat.iter_mut().for_each(|value| *value *= share);
        let mut at = 0;
        for gradient in gradients.values_mut() {
            let end = at + gradient.elem_count();
            *gradient = Tensor::from_slice(&flat[at..end], gradient.dims(), gradient.device())?;
            at = end;
        }
        Ok(())
    }

    /// A few words that differ where the weights do.
    pub(crate) fn weights_hash(&self) -> Result<[u32; 2]> {
        let mut words = Vec::new();
        for (_, var) in &self.parameters {
            let values = var.flatten_all()?.to_vec1::<f32>()?;
            let of_one = hash::of_words(values.into_iter().map(f32::to_bits));
            words.extend(of_one.to_le_bytes());
        }
        let hash = hash::of_bytes(&words);
        Ok([hash as u32, (hash >> 32) as u32])
    }

    /// What [`tensors`](Self::tensors) gave, read again. Nothing is changed yet.
    pub(crate) fn read(
        &self,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
        state: &CheckpointState,
    ) -> Result<Restored> {
        let get = |key: String, like: &Var| -> Result<Tensor> {
            let tensor = tensors.get(&key).ok_or_else(|| {
                Error::checkpoint(path, format!("expected a tensor {key}, found none"))
            })?;
            if tensor.shape() != like.shape() || tensor.dtype() != like.dtype() {
                return Err(Error::checkpoint(
                    path,
                    format!(
                        "tensor {key}: expected {:?} {:?}, got {:?} {:?}",
                        like.dtype(),
                        like.dims(),
                        tensor.dtype(),
                        tensor.dims()
                    ),
                ));
            }
            Ok(tensor.copy()?)
        };
        let mut restored = Restored {
            weights: Vec::new(),
            memory: BTreeMap::new(),
            averages: vec![BTreeMap::new(); self.emas.len()],
        };
        for (name, var) in &self.parameters {
            restored.weights.push(get(format!("{WEIGHTS}{name}"), var)?);
            if let Some(steps) = self.read_steps(path, tensors, state, name)? {
                let slots = self.config.rule.running().iter();
                let running = slots
                    .map(|slot| Ok(Var::from_tensor(&get(format!("{slot}{name}"), var)?)?))
                    .collect::<Result<_>>()?;
                let memory = Memory { steps, running };
                restored.memory.insert(name.clone(), memory);
            }
            for (ema, average) in self.emas.iter().zip(&mut restored.averages) {
                average.insert(name.clone(), get(ema_name(ema.decay(), name), var)?);
            }
        }
        Ok(restored)
    }

    /// Goes back to what was [`read`](Self::read).
    pub(crate) fn restore(&mut self, state: &CheckpointState, restored: Restored) -> Result<()> {
        for ((_, var), weight) in self.parameters.iter().zip(&restored.weights) {
            var.set(weight)?;
        }
        self.optimizer
            .restore(state.optimizer_steps, restored.memory);
        for (ema, average) in self.emas.iter().zip(&restored.averages) {
            ema.restore(average)?;
        }
        self.iteration = state.iteration;
        self.skipped_in_a_row = state.skipped_in_a_row;
        Ok(())
    }
}

/// The name of an average in a checkpoint.
pub(crate) fn ema_name(decay: f64, name: &str) -> String {
    format!("ema.{decay}/{name}")
}

/// The first value that is infinite or not a number.
fn first_non_finite(tensor: &Tensor) -> Result<Option<f32>> {
    match fndm_kernels::first_non_finite(tensor)? {
        Some(index) => {
            let value = tensor.flatten_all()?.get(index)?;
            Ok(Some(value.to_scalar::<f32>()?))
        }
        None => Ok(None),
    }
}

/// The Euclidean norm of all gradients together.
fn norm(gradients: &Gradients) -> Result<f64> {
    let squares = gradients
        .values()
        .map(|gradient| gradient.sqr()?.sum_all()?.to_dtype(candle_core::DType::F64))
        .collect::<candle_core::Result<Vec<_>>>()?;
    if squares.is_empty() {
        return Ok(0.0);
    }
    // One transfer for all, where they lie on another device.
    let sums = Tensor::stack(&squares, 0)?.to_vec1::<f64>()?;
    Ok(sums.iter().sum::<f64>().sqrt())
}
