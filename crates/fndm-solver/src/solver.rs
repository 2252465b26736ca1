//! A solver: a checked config on a schedule and a time span.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;

use crate::plan::Plan;
use crate::{Answer, Query, Result, Stepper, Trajectory};

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
    /// `model` is asked [`Self::evaluations`] times. It sees the [`Query`]: the state, the time that the network was trained on
    /// (a real number, one for the whole batch), alpha, sigma and lambda there. It gives the network's output, which has the
    /// state's shape and type and means what [`SolverConfig::prediction`](crate::SolverConfig::prediction) says, or an
    /// [`Answer`] with guidance. Conversion, guidance and limits are the solver's. It may fail with an error of its own.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use fndm_solver::{Query, ScheduleConfig, SolverConfig};
    ///
    /// #[derive(Debug)]
    /// enum MyError {
    ///     Solver(fndm_solver::Error),
    ///     Network(candle_core::Error),
    /// }
    /// impl From<fndm_solver::Error> for MyError {
    ///     fn from(error: fndm_solver::Error) -> Self {
    ///         Self::Solver(error)
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let schedule = ScheduleConfig::linear(1000).build()?;
    /// let solver = SolverConfig::dpm_solver_pp(2, 10).sample(&schedule, schedule.span())?;
    /// let x = Tensor::ones((1, 4), DType::F32, &Device::Cpu)?;
    /// let image = solver.run(&x, |query: Query<'_>| (query.x * query.sigma).map_err(MyError::Network));
    /// assert!(image.is_ok_and(|image| image.dims() == [1, 4]));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Those of the model, and this crate's own, made into one of the model's type: when an answer doesn't fit the state, or a
    /// value isn't finite ([`Error::NonFinite`](crate::Error::NonFinite) names the step and its time).
    pub fn run<E, A, M>(&self, x: &Tensor, model: M) -> std::result::Result<Tensor, E>
    where
        E: From<crate::Error>,
        A: Into<Answer>,
        M: FnMut(Query<'_>) -> std::result::Result<A, E>,
    {
        self.stepper(x)?.run(model)
    }

    /// The states after each step, as an iterator: those at [`Self::times`] without the first. Each is worked out when
    /// it is asked for, so a run can be shown, or left, at any step.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// use fndm_solver::{Query, Result, ScheduleConfig, SolverConfig};
    /// # fn main() -> Result<()> {
    /// let schedule = ScheduleConfig::cosine(1000).clipped(-5.1).build()?;
    /// let solver = SolverConfig::dpm_solver_pp(2, 10).sample(&schedule, schedule.span())?;
    /// let x = Tensor::ones((1, 4), DType::F32, &Device::Cpu)?;
    /// let network = |query: Query<'_>| -> Result<Tensor> { Ok((query.x * 0.5)?) };
    /// for (t, state) in solver.times()[1..].iter().zip(solver.trajectory(&x, network)?) {
    ///     println!("t = {t:.3}: {}", state?.mean_all()?);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When `x` is a scalar, not of a floating-point type or not finite; the items, when the model fails or its output
    /// isn't finite.
    pub fn trajectory<E, A, M>(&self, x: &Tensor, model: M) -> Result<Trajectory<M>>
    where
        E: From<crate::Error>,
        A: Into<Answer>,
        M: FnMut(Query<'_>) -> std::result::Result<A, E>,
    {
        Ok(Trajectory::new(self.stepper(x)?, model))
    }

    /// A run to be taken one evaluation at a time.
    ///
    /// # Errors
    /// When `x` is a scalar, not of a floating-point type or not finite.
    pub fn stepper(&self, x: &Tensor) -> Result<Stepper> {
        Stepper::new(self.clone(), x)
    }

    /// Goes on with a run of this solver that was stored with [`Stepper::tensors`].
    ///
    /// # Errors
    /// When a tensor is missing or doesn't fit, or the run was another solver's.
    pub fn resume(&self, tensors: &HashMap<String, Tensor>) -> Result<Stepper> {
        Stepper::resume(self, tensors)
    }
}
