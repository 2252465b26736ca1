//! A run as a value: one network evaluation at a time.

use std::collections::VecDeque;

use candle_core::Tensor;
use fndm_kernels::linear_combination;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::checks::{check_state, expect_like, network_output, not_finite};
use crate::coefficients::Integrand;
use crate::plan::{Plan, Stage, Update};
use crate::prediction::Mix;
use crate::{Clip, Error, Guidance, Prediction, Result, RunTensor, Solver};

/// What the network is asked next.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Query<'a> {
    /// The state at which the network is evaluated, `(B, ...)`.
    pub x: &'a Tensor,
    /// The time that the network takes, the same for the whole batch.
    pub model_time: f64,
    /// The continuous time, in [0, 1].
    pub t: f64,
    /// alpha at that time.
    pub alpha: f64,
    /// sigma at that time.
    pub sigma: f64,
    /// lambda at that time, ln(alpha / sigma); -infinity in pure noise.
    pub lambda: f64,
    /// Number of this evaluation, from 0.
    pub evaluation: usize,
    /// Number of the step that it belongs to, from 0; the same for all evaluations inside a singlestep step.
    pub step: usize,
}

/// What a model says at a [`Query`]: its output, and what guides it. A tensor alone is an output without guidance.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fndm_solver::{Answer, Clip, Guidance, Query, ScheduleConfig, SolverConfig};
/// # fn main() -> fndm_solver::Result<()> {
/// let schedule = ScheduleConfig::linear(1000).build()?;
/// let config = SolverConfig { clip: Clip::Static { max: 1.0 }, ..SolverConfig::dpm_solver_pp(2, 10) };
/// let solver = config.sample(&schedule, schedule.span())?;
/// let x = Tensor::ones((1, 4), DType::F32, &Device::Cpu)?;
/// let image = solver.run(&x, |query: Query<'_>| -> fndm_solver::Result<Answer> {
///     let noise = (query.x * query.sigma)?; // the network's work
///     let gradient = query.x.neg()?; // of ln p(y | x)
///     Ok(Answer::guided(noise, Guidance { scale: 2.0 }, gradient))
/// })?;
/// # assert_eq!(image.dims(), [1, 4]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Answer {
    /// The network's output: the state's shape and type, its channels twice where the solver's
    /// [`learned_variance`](crate::SolverConfig::learned_variance) says so.
    pub output: Tensor,
    /// How strongly to guide, and the gradient of ln p(y | x) in x, of the state's shape and type.
    pub guidance: Option<(Guidance, Tensor)>,
}

impl Answer {
    /// An output to be guided by the gradient of ln p(y | x) in x.
    #[must_use]
    pub fn guided(output: Tensor, guidance: Guidance, gradient: Tensor) -> Self {
        Self {
            output,
            guidance: Some((guidance, gradient)),
        }
    }
}

impl From<Tensor> for Answer {
    fn from(output: Tensor) -> Self {
        Self {
            output,
            guidance: None,
        }
    }
}

impl From<&Tensor> for Answer {
    fn from(output: &Tensor) -> Self {
        output.clone().into()
    }
}

/// A run of a [`Solver`] on one batch, held between two network evaluations.
///
/// It is a plain value: clone it to branch, drop it to stop, store it with [`Stepper::tensors`] to go on later with
/// [`Solver::resume`]. Splitting a run anywhere gives the same bits as running through.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fndm_solver::{ScheduleConfig, SolverConfig};
/// # fn main() -> fndm_solver::Result<()> {
/// let schedule = ScheduleConfig::linear(1000).build()?;
/// let solver = SolverConfig::dpm_solver_pp(2, 8).sample(&schedule, schedule.span())?;
/// let mut stepper = solver.stepper(&Tensor::ones((1, 4), DType::F32, &Device::Cpu)?)?;
/// while let Some(query) = stepper.query() {
///     let noise = (query.x * query.sigma)?; // the network's work
///     stepper.advance(&noise)?;
///     println!("{} of {}", stepper.evaluation(), solver.evaluations());
/// }
/// let image = stepper.finish()?;
/// # assert_eq!(image.dims(), [1, 4]);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Stepper {
    pub(crate) solver: Solver,
    pub(crate) evaluation: usize,
    pub(crate) x: Tensor,
    pub(crate) anchor: State,
    pub(crate) history: VecDeque<Evaluation>,
}

/// A state with a number that tells whether two are the same one, so that their weights are joined: 2 e for the state
/// at which evaluation e was or will be made, 2 e + 1 for the state that was corrected with it.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) number: usize,
    pub(crate) tensor: Tensor,
}

/// A past evaluation; the interpolated quantity is a [`Mix`] of the two, so it need never be formed on its own.
#[derive(Debug, Clone)]
pub(crate) struct Evaluation {
    /// The state, kept only where the mix needs it.
    pub(crate) x: Option<State>,
    pub(crate) output: Tensor,
    pub(crate) mix: Mix,
}

impl Stepper {
    pub(crate) fn new(solver: Solver, x: &Tensor) -> Result<Self> {
        check_state(x)?;
        let x = x.contiguous()?.detach();
        let stepper = Self {
            solver,
            evaluation: 0,
            anchor: State {
                number: 0,
                tensor: x.clone(),
            },
            x,
            history: VecDeque::new(),
        };
        stepper.expect_finite(RunTensor::Start, &stepper.x)?;
        Ok(stepper)
    }

    /// The state: where the network is evaluated next, or the result once the run is through.
    #[must_use]
    pub fn x(&self) -> &Tensor {
        &self.x
    }

    /// How many evaluations are done.
    #[must_use]
    pub fn evaluation(&self) -> usize {
        self.evaluation
    }

    /// How many evaluations are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.solver.evaluations().saturating_sub(self.evaluation)
    }

    /// How many steps are done. When an evaluation has completed one, [`Self::x`] is the state at that entry of
    /// [`Solver::times`]; after evaluations inside a singlestep step it lies between two.
    #[must_use]
    pub fn steps_done(&self) -> usize {
        self.solver
            .plan()
            .stages
            .iter()
            .take(self.evaluation)
            .filter(|s| s.lands)
            .count()
    }

    /// What the network is asked next, or `None` when the run is through.
    #[must_use]
    pub fn query(&self) -> Option<Query<'_>> {
        self.solver
            .plan()
            .stages
            .get(self.evaluation)
            .map(|stage| Query {
                x: &self.x,
                model_time: stage.model_time,
                t: stage.node.t,
                alpha: stage.node.alpha,
                sigma: stage.node.sigma,
                lambda: stage.node.lambda,
                evaluation: self.evaluation,
                step: self.steps_done(),
            })
    }

    /// Goes on with the model's answer at [`Self::query`]: a tensor, or a guided [`Answer`].
    ///
    /// # Errors
    /// When the run is through already, a tensor's shape or type doesn't fit, or isn't finite ([`Error::NonFinite`]).
    pub fn advance(&mut self, answer: impl Into<Answer>) -> Result<()> {
        let solver = self.solver.clone();
        let plan = solver.plan();
        let Some(stage) = plan.stages.get(self.evaluation) else {
            return Err(Error::Stepper {
                expected: "a run with evaluations left".into(),
                got: format!("one that is through after {}", self.evaluation),
            });
        };
        let answer = answer.into();
        let output = network_output(&answer.output, &self.x, plan.learned_variance)?;
        self.expect_finite(RunTensor::Output, &output)?;
        let output = self.kept(plan, stage, output, answer.guidance)?;
        let mix = plan.mix(stage);
        let evaluation = Evaluation {
            x: (mix.x != 0.0).then(|| State {
                number: 2 * self.evaluation,
                tensor: self.x.clone(),
            }),
            output,
            mix,
        };
        if stage.replaces {
            self.history.pop_front();
        }
        self.history.push_front(evaluation);
        self.history.truncate(plan.memory);
        if let Some(correct) = &stage.correct {
            self.anchor = State {
                number: 2 * self.evaluation + 1,
                tensor: self.apply(correct, None)?,
            };
        }
        let fresh = if stage.noise > 0.0 {
            Some((
                stage.noise,
                normal_like(&self.x, plan.seed, self.evaluation as u64)?,
            ))
        } else {
            None
        };
        self.x = self.apply(&stage.predict, fresh.as_ref())?;
        self.evaluation += 1;
        if stage.commit {
            self.anchor = State {
                number: 2 * self.evaluation,
                tensor: self.x.clone(),
            };
        }
        Ok(())
    }

    /// What a run keeps of an answer: the guided output, or the clean image that it amounts to where that is limited.
    fn kept(
        &self,
        plan: &Plan,
        stage: &Stage,
        output: Tensor,
        guidance: Option<(Guidance, Tensor)>,
    ) -> Result<Tensor> {
        let (alpha, sigma) = (stage.node.alpha, stage.node.sigma);
        let mut output = match plan.clip {
            Clip::None => output,
            Clip::Static { .. } | Clip::Dynamic { .. } => {
                plan.prediction.x0(&self.x, &output, alpha, sigma)?
            }
        };
        if let Some((guidance, gradient)) = guidance {
            expect_like("the gradient of the guidance", &gradient, &self.x)?;
            let gradient = gradient.detach().contiguous()?;
            self.expect_finite(RunTensor::Gradient, &gradient)?;
            output = guidance.apply_to(plan.stored(), &output, &gradient, alpha, sigma)?;
            // The scale may blow up what was finite, and a limit would hide it.
            self.expect_finite(RunTensor::Guided, &output)?;
        }
        plan.clip.apply(&output)
    }

    /// What isn't finite at one evaluation can't be told from a result at the next.
    fn expect_finite(&self, what: RunTensor, tensor: &Tensor) -> Result<()> {
        let Some((sample, value)) = not_finite(tensor)? else {
            return Ok(());
        };
        let plan = self.solver.plan();
        let stage = plan.stages.get(self.evaluation);
        let end = plan.times.last().copied().unwrap_or(f64::NAN);
        Err(Error::NonFinite {
            what,
            value,
            sample,
            step: self.steps_done(),
            evaluation: self.evaluation,
            t: stage.map_or(end, |s| s.node.t),
            model_time: stage.map_or(f64::NAN, |s| s.model_time),
        })
    }

    /// Takes what is left of the run, and returns the result; see [`Solver::run`].
    ///
    /// # Errors
    /// Those of the model, and this crate's own, made into one of the model's type.
    pub fn run<E, A, M>(mut self, mut model: M) -> std::result::Result<Tensor, E>
    where
        E: From<Error>,
        A: Into<Answer>,
        M: FnMut(Query<'_>) -> std::result::Result<A, E>,
    {
        while let Some(query) = self.query() {
            let answer = model(query)?;
            self.advance(answer)?;
        }
        Ok(self.finish()?)
    }

    /// The result.
    ///
    /// # Errors
    /// When evaluations are left, or the result isn't finite.
    pub fn finish(self) -> Result<Tensor> {
        if self.remaining() > 0 {
            return Err(Error::Stepper {
                expected: format!(
                    "a run through all {} evaluations",
                    self.solver.evaluations()
                ),
                got: format!("one at evaluation {}", self.evaluation),
            });
        }
        self.expect_finite(RunTensor::Result, &self.x)?;
        Ok(self.x)
    }

    /// One pass over memory: every tensor that takes part is named once.
    fn apply(&self, update: &Update, fresh: Option<&(f64, Tensor)>) -> Result<Tensor> {
        let mut states: Vec<(f64, &State)> = vec![(update.anchor, &self.anchor)];
        let mut terms: Vec<(f64, &Tensor)> = Vec::with_capacity(8);
        for (c, e) in update.history.iter().zip(&self.history) {
            if let Some(x) = &e.x {
                match states.iter_mut().find(|(_, s)| s.number == x.number) {
                    Some((sum, _)) => *sum += c * e.mix.x,
                    None => states.push((c * e.mix.x, x)),
                }
            }
            terms.push((c * e.mix.output, &e.output));
        }
        terms.extend(states.iter().map(|(c, s)| (*c, &s.tensor)));
        if let Some((c, noise)) = fresh {
            terms.push((*c, noise));
        }
        terms.retain(|(c, _)| *c != 0.0);
        if terms.is_empty() {
            return Ok(self.x.zeros_like()?);
        }
        Ok(linear_combination(&terms)?)
    }
}

impl Plan {
    /// What the stored outputs mean.
    fn stored(&self) -> Prediction {
        match self.clip {
            Clip::None => self.prediction,
            Clip::Static { .. } | Clip::Dynamic { .. } => Prediction::X0,
        }
    }

    /// The interpolated quantity at a stage in terms of its state and of what is stored as its output.
    pub(crate) fn mix(&self, stage: &Stage) -> Mix {
        let (alpha, sigma) = (stage.node.alpha, stage.node.sigma);
        match stage.integrand {
            Integrand::X0 => self.stored().x0_mix(alpha, sigma),
            Integrand::Noise => self.stored().noise_mix(alpha, sigma),
        }
    }
}

/// Standard normal values in the shape of `like`; the same for the same seed and stream.
fn normal_like(like: &Tensor, seed: u64, stream: u64) -> Result<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let values: Vec<f64> = (0..like.elem_count())
        .map(|_| StandardNormal.sample(&mut rng))
        .collect();
    Ok(
        Tensor::from_vec(values, like.dims(), &candle_core::Device::Cpu)?
            .to_dtype(like.dtype())?
            .to_device(like.device())?,
    )
}
