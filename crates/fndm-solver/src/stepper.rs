//! A run as a value: one network evaluation at a time.

use std::collections::VecDeque;

use candle_core::Tensor;
use fndm_kernels::linear_combination;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::checks::{check_state, network_output, sample_not_finite};
use crate::coefficients::Integrand;
use crate::plan::{Plan, Stage, Update};
use crate::prediction::Mix;
use crate::{Clip, Error, Prediction, Result, Solver};

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
        stepper.expect_finite("the state at the start", &stepper.x)?;
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

    /// Goes on with the network's `output` at [`Self::query`], which has the state's shape and type.
    ///
    /// # Errors
    /// When the run is through already, the output's shape or type doesn't fit, or it isn't finite
    /// ([`Error::NonFinite`]).
    pub fn advance(&mut self, output: &Tensor) -> Result<()> {
        let solver = self.solver.clone();
        let plan = solver.plan();
        let Some(stage) = plan.stages.get(self.evaluation) else {
            return Err(Error::Stepper {
                expected: "a run with evaluations left".into(),
                got: format!("one that is through after {}", self.evaluation),
            });
        };
        let output = network_output(output, &self.x, plan.learned_variance)?;
        self.expect_finite("the network's output", &output)?;
        let state = State {
            number: 2 * self.evaluation,
            tensor: self.x.clone(),
        };
        let evaluation = plan.evaluate(stage, state, output)?;
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

    /// What isn't finite at one evaluation can't be told from a result at the next.
    fn expect_finite(&self, what: &'static str, tensor: &Tensor) -> Result<()> {
        let Some(sample) = sample_not_finite(tensor)? else {
            return Ok(());
        };
        let plan = self.solver.plan();
        let stage = plan.stages.get(self.evaluation);
        let end = plan.times.last().copied().unwrap_or(f64::NAN);
        Err(Error::NonFinite {
            what,
            sample,
            step: self.steps_done(),
            evaluation: self.evaluation,
            t: stage.map_or(end, |s| s.node.t),
            model_time: stage.map_or(f64::NAN, |s| s.model_time),
        })
    }

    /// One evaluation by `model`, which sees what [`Solver::run`] shows it.
    pub(crate) fn evaluate<M>(&mut self, model: &mut M) -> Result<()>
    where
        M: FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor>,
    {
        match self.query() {
            Some(query) => {
                let output = model(query.x, query.model_time, query.evaluation)?;
                self.advance(&output)
            }
            None => Ok(()),
        }
    }

    /// Takes what is left of the run, and returns the result; see [`Solver::run`].
    ///
    /// # Errors
    /// When the model fails, its output doesn't fit the state, or isn't finite.
    pub fn run<M>(mut self, mut model: M) -> Result<Tensor>
    where
        M: FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor>,
    {
        while self.remaining() > 0 {
            self.evaluate(&mut model)?;
        }
        self.finish()
    }

    /// As [`Self::run`], with a model that sees the whole [`Query`] and fails with an error of its own;
    /// see [`Solver::run_queries`].
    ///
    /// # Errors
    /// Those of the model, and this crate's own, made into one of the model's type.
    pub fn run_queries<E, M>(mut self, mut model: M) -> std::result::Result<Tensor, E>
    where
        E: From<Error>,
        M: FnMut(Query<'_>) -> std::result::Result<Tensor, E>,
    {
        while let Some(query) = self.query() {
            let output = model(query)?;
            self.advance(&output)?;
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
        self.expect_finite("the result", &self.x)?;
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
    /// The interpolated quantity at a stage in terms of its state and of what is stored as its output.
    pub(crate) fn mix(&self, stage: &Stage) -> Mix {
        let (alpha, sigma) = (stage.node.alpha, stage.node.sigma);
        let stored = if self.clip == Clip::None {
            self.prediction
        } else {
            Prediction::X0
        };
        match stage.integrand {
            Integrand::X0 => stored.x0_mix(alpha, sigma),
            Integrand::Noise => stored.noise_mix(alpha, sigma),
        }
    }

    fn evaluate(&self, stage: &Stage, x: State, output: Tensor) -> Result<Evaluation> {
        let output = if self.clip == Clip::None {
            output
        } else {
            self.clip.apply(&self.prediction.x0(
                &x.tensor,
                &output,
                stage.node.alpha,
                stage.node.sigma,
            )?)?
        };
        let mix = self.mix(stage);
        Ok(Evaluation {
            x: (mix.x != 0.0).then_some(x),
            output,
            mix,
        })
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
