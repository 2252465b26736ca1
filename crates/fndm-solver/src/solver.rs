//! A solver: a checked config on a schedule and a time span.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::plan::Plan;
use crate::{Result, Stepper};

/// All times and scalars of a run, worked out; ready for any number of batches. Made by
/// [`SolverConfig::encode`](crate::SolverConfig::encode) and [`SolverConfig::sample`](crate::SolverConfig::sample).
///
/// It is cheap to clone and can be shared between threads.
#[derive(Debug, Clone)]
pub struct Solver {
    plan: Arc<Plan>,
}

impl Solver {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan: Arc::new(plan),
        }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How often a run asks the network, exactly.
    #[must_use]
    pub fn evaluations(&self) -> usize {
        self.plan.stages.len()
    }

    /// The times between which steps are taken, first to last. The times inside singlestep steps are not among them.
    #[must_use]
    pub fn times(&self) -> &[f64] {
        &self.plan.times
    }

    /// What the network is given as its time, one value per evaluation.
    #[must_use]
    pub fn model_times(&self) -> Vec<f64> {
        self.plan.stages.iter().map(|s| s.model_time).collect()
    }

    /// Takes `x`, a batch `(B, ...)` at the first time, to the last.
    ///
    /// `model` is asked [`Self::evaluations`] times, with the state, the time that it was trained on (a real number,
    /// one for the whole batch) and the number of the evaluation, from 0. Its output has the state's shape and type,
    /// and means what [`SolverConfig::prediction`](crate::SolverConfig::prediction) says.
    ///
    /// # Errors
    /// When the model fails, or its output doesn't fit the state.
    pub fn run<M>(&self, x: &Tensor, mut model: M) -> Result<Tensor>
    where
        M: FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor>,
    {
        let mut stepper = self.stepper(x)?;
        while let Some(query) = stepper.query() {
            let output = model(query.x, query.model_time, query.evaluation)?;
            stepper.advance(&output)?;
        }
        stepper.finish()
    }

    /// A run to be taken one evaluation at a time.
    ///
    /// # Errors
    /// When `x` is a scalar or not of a floating-point type.
    pub fn stepper(&self, x: &Tensor) -> Result<Stepper> {
        Stepper::new(self.clone(), x)
    }

    /// Goes on with a run of this solver that was stored with [`Stepper::tensors`] after `evaluation` evaluations.
    ///
    /// # Errors
    /// When a tensor is missing or doesn't fit, or `evaluation` is more than a run has.
    pub fn resume(&self, evaluation: usize, tensors: &HashMap<String, Tensor>) -> Result<Stepper> {
        Stepper::resume(self, evaluation, tensors)
    }
}
