//! A run as a value: one network evaluation at a time.

use std::collections::{HashMap, VecDeque};

use candle_core::{DType, Tensor};
use fndm_kernels::linear_combination;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::coefficients::Integrand;
use crate::plan::{Plan, Stage, Update};
use crate::prediction::Mix;
use crate::{Clip, Error, Result, Solver};

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
    /// Number of this evaluation, from 0.
    pub evaluation: usize,
}

/// A run of a [`Solver`] on one batch, held between two network evaluations.
///
/// It is a plain value: clone it to branch, drop it to stop, and take it apart with [`Stepper::tensors`] to go on later
/// with [`Solver::resume`]. Splitting a run anywhere gives the same bits as running through.
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
    solver: Solver,
    evaluation: usize,
    x: Tensor,
    anchor: State,
    history: VecDeque<Evaluation>,
}

/// A state with a number that tells whether two are the same one, so that their weights are joined: 2 e for the state
/// at which evaluation e was or will be made, 2 e + 1 for the state that was corrected with it.
#[derive(Debug, Clone)]
struct State {
    number: usize,
    tensor: Tensor,
}

/// A past evaluation; the interpolated quantity is a [`Mix`] of the two, so it need never be formed on its own.
#[derive(Debug, Clone)]
struct Evaluation {
    /// The state, kept only where the mix needs it.
    x: Option<State>,
    output: Tensor,
    mix: Mix,
}

impl Stepper {
    pub(crate) fn new(solver: Solver, x: &Tensor) -> Result<Self> {
        if !matches!(
            x.dtype(),
            DType::F64 | DType::F32 | DType::F16 | DType::BF16
        ) {
            return Err(Error::Tensor {
                what: "the state".into(),
                expected: "a type of f64, f32, f16 or bf16".into(),
                got: format!("{:?}", x.dtype()),
            });
        }
        if x.rank() == 0 {
            return Err(Error::Tensor {
                what: "the state".into(),
                expected: "a batch axis".into(),
                got: "a scalar".into(),
            });
        }
        let x = x.contiguous()?.detach();
        Ok(Self {
            solver,
            evaluation: 0,
            anchor: State {
                number: 0,
                tensor: x.clone(),
            },
            x,
            history: VecDeque::new(),
        })
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
                evaluation: self.evaluation,
            })
    }

    /// Goes on with the network's `output` at [`Self::query`], which has the state's shape and type.
    ///
    /// # Errors
    /// When the run is through already, or the output's shape or type doesn't fit.
    pub fn advance(&mut self, output: &Tensor) -> Result<()> {
        let solver = self.solver.clone();
        let plan = solver.plan();
        let Some(stage) = plan.stages.get(self.evaluation) else {
            return Err(Error::Stepper {
                expected: "a run with evaluations left".into(),
                got: format!("one that is through after {}", self.evaluation),
            });
        };
        let output = self.checked(output, plan)?;
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

    /// The result.
    ///
    /// # Errors
    /// When evaluations are left.
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
        Ok(self.x)
    }

    /// All tensors of the run's state by name, to be stored together with [`Self::evaluation`].
    #[must_use]
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let mut tensors = HashMap::new();
        tensors.insert("x".to_string(), self.x.clone());
        tensors.insert("anchor".to_string(), self.anchor.tensor.clone());
        for (i, e) in self.history.iter().enumerate() {
            tensors.insert(format!("history.{i}.output"), e.output.clone());
            if let Some(x) = &e.x {
                tensors.insert(format!("history.{i}.x"), x.tensor.clone());
            }
        }
        tensors
    }

    pub(crate) fn resume(
        solver: &Solver,
        evaluation: usize,
        tensors: &HashMap<String, Tensor>,
    ) -> Result<Self> {
        if evaluation > solver.evaluations() {
            return Err(Error::Stepper {
                expected: format!("at most {} evaluations", solver.evaluations()),
                got: evaluation.to_string(),
            });
        }
        let get = |name: &str| -> Result<Tensor> {
            tensors.get(name).cloned().ok_or_else(|| Error::Tensor {
                what: name.to_string(),
                expected: "a tensor of a stored run".into(),
                got: "none".into(),
            })
        };
        let mut stepper = Self::new(solver.clone(), &get("x")?)?;
        let fitting = |name: &str| -> Result<Tensor> {
            let tensor = get(name)?;
            expect_like(name, &tensor, &stepper.x)?;
            Ok(tensor)
        };
        let plan = solver.plan();
        let (mut anchor, mut past): (usize, Vec<(usize, &Stage)>) = (0, Vec::new());
        for (e, stage) in plan.stages.iter().take(evaluation).enumerate() {
            if stage.replaces {
                past.pop();
            }
            past.push((2 * e, stage));
            if stage.correct.is_some() {
                anchor = 2 * e + 1;
            }
            if stage.commit {
                anchor = 2 * e + 2;
            }
        }
        let mut history = VecDeque::new();
        for (i, (number, stage)) in past.into_iter().rev().take(plan.memory).enumerate() {
            let mix = plan.mix(stage);
            let x = if mix.x == 0.0 {
                None
            } else {
                Some(State {
                    number,
                    tensor: fitting(&format!("history.{i}.x"))?,
                })
            };
            let output = fitting(&format!("history.{i}.output"))?;
            history.push_back(Evaluation { x, output, mix });
        }
        stepper.anchor = State {
            number: anchor,
            tensor: fitting("anchor")?,
        };
        stepper.evaluation = evaluation;
        stepper.history = history;
        Ok(stepper)
    }

    /// The network's output, without its variance half, cut off from any gradient.
    fn checked(&self, output: &Tensor, plan: &Plan) -> Result<Tensor> {
        let output = if plan.learned_variance {
            let (channels, got) = (self.x.dims().get(1).copied(), output.dims().get(1).copied());
            match channels {
                Some(c) if got == Some(2 * c) => output.narrow(1, 0, c)?,
                _ => {
                    return Err(Error::Tensor {
                        what: "the network's output (learned_variance is set)".into(),
                        expected: format!("twice the channels of {:?}", self.x.dims()),
                        got: format!("{:?}", output.dims()),
                    });
                }
            }
        } else {
            output.clone()
        };
        expect_like("the network's output", &output, &self.x)?;
        Ok(output.detach().contiguous()?)
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

pub(crate) fn expect_like(what: &str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    if tensor.dims() == like.dims() && tensor.dtype() == like.dtype() {
        return Ok(());
    }
    Err(Error::Tensor {
        what: what.to_string(),
        expected: format!("the state's {:?} {:?}", like.dims(), like.dtype()),
        got: format!("{:?} {:?}", tensor.dims(), tensor.dtype()),
    })
}

impl Plan {
    /// The interpolated quantity at a stage in terms of its state and of what is stored as its output.
    fn mix(&self, stage: &Stage) -> Mix {
        let (alpha, sigma) = (stage.node.alpha, stage.node.sigma);
        let stored = if self.clip == Clip::None {
            self.prediction
        } else {
            crate::Prediction::X0
        };
        match self.integrand {
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
