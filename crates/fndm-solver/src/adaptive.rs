//! Step sizes from an error tolerance, for each sample of a batch on its own.

use std::ops::RangeInclusive;

use candle_core::{DType, Tensor};
use fndm_kernels::linear_combination;
use serde::{Deserialize, Serialize};

use crate::checks::{check_state, network_output, not_finite};
use crate::coefficients::{Integrand, Node, Segment};
use crate::config::{Algorithm, Method};

use crate::{Error, NoiseSchedule, Prediction, Result, RunTensor, SolverConfig};

/// An adaptive singlestep solver: DPM-Solver-12 or -23 (Lu et al. 2022a, appendix C), or the same with DPM-Solver++.
///
/// Every sample has its own steps, so a batch gives what its members give alone. The number of network evaluations
/// is known only afterwards; see [`AdaptiveRun::evaluations`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fndm_solver::{AdaptiveConfig, ScheduleConfig};
/// # fn main() -> fndm_solver::Result<()> {
/// let schedule = ScheduleConfig::linear(1000).build()?;
/// let solver = AdaptiveConfig { rtol: 0.01, ..AdaptiveConfig::default() }.sample(&schedule, schedule.span())?;
/// let x = Tensor::randn(0f32, 1.0, (2, 1, 4, 4), &Device::Cpu)?;
/// let run = solver.run(&x, |query| {
///     // Standard normal data; each sample has its own time.
///     let sigmas = query.model_times.iter().map(|&m| schedule.sigma(schedule.time_of_model_time(m)));
///     let sigmas: Vec<f32> = sigmas.map(|s| s as f32).collect();
///     let sigmas = Tensor::from_vec(sigmas, (query.model_times.len(), 1, 1, 1), &Device::Cpu)?;
///     query.x.broadcast_mul(&sigmas)
/// })?;
/// assert!((run.x - x)?.abs()?.max_all()?.to_scalar::<f32>()? < 0.05);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveConfig {
    /// [`Algorithm::DpmSolver`] or [`Algorithm::DpmSolverPlusPlus`].
    pub algorithm: Algorithm,
    /// The higher order of the pair: 2 or 3.
    pub order: usize,
    /// Absolute tolerance of a step; 0.0078 is one grey level of 256 on a scale from -1 to 1.
    pub atol: f64,
    /// Tolerance relative to the state.
    pub rtol: f64,
    /// First step size in lambda.
    pub first_step: f64,
    /// Share of the estimated best step that is taken, in (0, 1).
    pub safety: f64,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The network outputs twice the channels, the second half a variance, which is dropped.
    pub learned_variance: bool,
    /// Evaluations that one sample may use before the run is given up.
    pub max_evaluations: usize,
}

impl Default for AdaptiveConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::DpmSolver,
            order: 3,
            atol: 0.0078,
            rtol: 0.05,
            first_step: 0.05,
            safety: 0.9,
            prediction: Prediction::Noise,
            learned_variance: false,
            max_evaluations: 10_000,
        }
    }
}

/// What the network is asked: the samples that are not through yet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AdaptiveQuery<'a> {
    /// Their states, `(b, ...)`.
    pub x: &'a Tensor,
    /// The network's time of each.
    pub model_times: &'a [f64],
    /// Their places in the batch, for picking conditions.
    pub samples: &'a [usize],
}

/// The result of an adaptive run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdaptiveRun {
    /// The end states, in the shape of the start.
    pub x: Tensor,
    /// Network evaluations of each sample.
    pub evaluations: Vec<usize>,
}

/// An adaptive solver on a schedule and a time span.
#[derive(Debug, Clone)]
pub struct AdaptiveSolver {
    config: AdaptiveConfig,
    schedule: NoiseSchedule,
    from: Node,
    to: Node,
    integrand: Integrand,
}

/// One sample under way.
struct Sample {
    x: Tensor,
    /// The last accepted state of the lower order: the error's scale, as in the paper.
    reference: Tensor,
    node: Node,
    h: f64,
    /// The evaluation at `node`, kept when a step is tried again.
    m0: Option<Tensor>,
    evaluations: usize,
    /// Steps that were tried, the rejected ones too.
    steps: usize,
}

/// A state at which the network is asked.
struct Asked {
    x: Tensor,
    node: Node,
    sample: usize,
    step: usize,
    evaluation: usize,
}

impl AdaptiveConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`], which names the field.
    pub fn check(&self) -> Result<()> {
        if !matches!(
            self.algorithm,
            Algorithm::DpmSolver | Algorithm::DpmSolverPlusPlus
        ) {
            return Err(Error::config(
                "algorithm",
                "DPM-Solver or DPM-Solver++",
                format!("{:?}", self.algorithm),
            ));
        }
        if !(2..=3).contains(&self.order) {
            return Err(Error::config("order", "2 or 3", self.order));
        }
        let positive = |field, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(Error::config(field, "a positive number", value))
            }
        };
        positive("atol", self.atol)?;
        positive("first_step", self.first_step)?;
        if !(self.rtol >= 0.0 && self.rtol.is_finite()) {
            return Err(Error::config("rtol", "0 or more", self.rtol));
        }
        if !(self.safety > 0.0 && self.safety < 1.0) {
            return Err(Error::config("safety", "a number in (0, 1)", self.safety));
        }
        if self.max_evaluations == 0 {
            return Err(Error::config("max_evaluations", "at least 1", 0));
        }
        Ok(())
    }

    /// A solver from data towards noise over `span`.
    ///
    /// # Errors
    /// When the config is unsound, or the span leaves the schedule or touches t = 0.
    pub fn encode(
        &self,
        schedule: &NoiseSchedule,
        span: RangeInclusive<f64>,
    ) -> Result<AdaptiveSolver> {
        self.build(schedule, span, true)
    }

    /// A solver from noise towards data over `span`.
    ///
    /// # Errors
    /// When the config is unsound, or the span leaves the schedule or touches t = 0.
    pub fn sample(
        &self,
        schedule: &NoiseSchedule,
        span: RangeInclusive<f64>,
    ) -> Result<AdaptiveSolver> {
        self.build(schedule, span, false)
    }

    fn build(
        &self,
        schedule: &NoiseSchedule,
        span: RangeInclusive<f64>,
        encode: bool,
    ) -> Result<AdaptiveSolver> {
        self.check()?;
        let (low, high) = crate::config::ends(schedule, span)?;
        if low <= 0.0 {
            return Err(Error::span(
                "an adaptive run to stay above t = 0, where lambda is infinite",
                low,
            ));
        }
        if schedule.lambda(high) == f64::NEG_INFINITY {
            return Err(Error::span(
                "an adaptive run to stay below pure noise, where lambda is infinite",
                high,
            ));
        }
        let (from, to) = if encode { (low, high) } else { (high, low) };
        Ok(AdaptiveSolver {
            config: self.clone(),
            schedule: schedule.clone(),
            from: Node::at(schedule, from),
            to: Node::at(schedule, to),
            integrand: if self.algorithm == Algorithm::DpmSolver {
                Integrand::Noise
            } else {
                Integrand::X0
            },
        })
    }
}

impl From<&AdaptiveConfig> for SolverConfig {
    /// The fixed-step config of the same formulas, for comparison.
    fn from(config: &AdaptiveConfig) -> Self {
        Self {
            algorithm: config.algorithm,
            order: config.order,
            method: Method::SinglestepFixed,
            prediction: config.prediction,
            learned_variance: config.learned_variance,
            ..Self::default()
        }
    }
}

impl AdaptiveSolver {
    /// Takes `x`, a batch `(B, ...)` at the first time, to the last. The model's output has the shape of the query's
    /// states.
    ///
    /// # Errors
    /// When the model fails, its output doesn't fit, a value isn't finite, or a sample uses up its evaluations.
    pub fn run<M>(&self, x: &Tensor, mut model: M) -> Result<AdaptiveRun>
    where
        M: FnMut(AdaptiveQuery<'_>) -> candle_core::Result<Tensor>,
    {
        check_state(x)?;
        let batch = x.dim(0)?;
        if batch == 0 {
            return Err(Error::Tensor {
                what: "the state".into(),
                expected: "a batch of at least one sample".into(),
                got: format!("{:?}", x.dims()),
            });
        }
        if let Some((sample, value)) = not_finite(x)? {
            return Err(Error::NonFinite {
                what: RunTensor::Start,
                value,
                sample,
                step: 0,
                evaluation: 0,
                t: self.from.t,
                model_time: self.schedule.model_time(self.from.t),
            });
        }
        let direction = (self.to.lambda - self.from.lambda).signum();
        let mut samples = Vec::with_capacity(batch);
        for i in 0..batch {
            let x = x.narrow(0, i, 1)?.contiguous()?.detach();
            samples.push(Sample {
                reference: x.clone(),
                x,
                node: self.from,
                h: direction * self.config.first_step,
                m0: None,
                evaluations: 0,
                steps: 0,
            });
        }
        loop {
            let active: Vec<usize> = (0..batch)
                .filter(|&i| samples[i].node.lambda != self.to.lambda)
                .collect();
            if active.is_empty() {
                break;
            }
            let most = active
                .iter()
                .map(|&i| samples[i].evaluations)
                .max()
                .unwrap_or(0);
            if most + self.config.order > self.config.max_evaluations {
                return Err(Error::Evaluations {
                    unfinished: active.len(),
                    batch,
                    evaluations: most,
                });
            }
            self.round(&mut samples, &active, &mut model)?;
        }
        let ends: Vec<&Tensor> = samples.iter().map(|s| &s.x).collect();
        Ok(AdaptiveRun {
            x: Tensor::cat(&ends, 0)?,
            evaluations: samples.iter().map(|s| s.evaluations).collect(),
        })
    }

    /// One tried step of every active sample.
    fn round<M>(&self, samples: &mut [Sample], active: &[usize], model: &mut M) -> Result<()>
    where
        M: FnMut(AdaptiveQuery<'_>) -> candle_core::Result<Tensor>,
    {
        let fresh: Vec<usize> = active
            .iter()
            .copied()
            .filter(|&i| samples[i].m0.is_none())
            .collect();
        let asked: Vec<Asked> = fresh
            .iter()
            .map(|&i| samples[i].asked(i, samples[i].x.clone(), samples[i].node, 0))
            .collect();
        for (&i, m) in fresh.iter().zip(self.ask(&asked, model)?) {
            samples[i].m0 = Some(m);
            samples[i].evaluations += 1;
        }
        let tries = active
            .iter()
            .map(|&i| self.attempt(&samples[i]))
            .collect::<Result<Vec<Try>>>()?;

        let asked = active
            .iter()
            .zip(&tries)
            .map(|(&i, t)| {
                let segment = Segment::new(self.integrand, t.start, t.inner[0]);
                let x = linear_combination(&[(segment.base(), &t.x), (segment.first(), &t.m0)])?;
                Ok(samples[i].asked(i, x, t.inner[0], 0))
            })
            .collect::<Result<Vec<_>>>()?;
        let m1 = self.ask(&asked, model)?;

        let (lower, higher) = if self.config.order == 2 {
            let mut ends = (Vec::new(), Vec::new());
            for (t, m1) in tries.iter().zip(&m1) {
                let whole = Segment::new(self.integrand, t.start, t.end);
                ends.0.push(linear_combination(&[
                    (whole.base(), &t.x),
                    (whole.first(), &t.m0),
                ])?);
                let w = whole.midpoint(t.part(0));
                ends.1.push(linear_combination(&[
                    (whole.base(), &t.x),
                    (w[0], &t.m0),
                    (w[1], m1),
                ])?);
            }
            ends
        } else {
            let mut asked = Vec::new();
            for ((&i, t), m1) in active.iter().zip(&tries).zip(&m1) {
                let segment = Segment::new(self.integrand, t.start, t.inner[1]);
                let w = segment.weights(&[0.0, t.part(0) / t.part(1)]);
                let x = linear_combination(&[(segment.base(), &t.x), (w[0], &t.m0), (w[1], m1)])?;
                asked.push(samples[i].asked(i, x, t.inner[1], 1));
            }
            let m2 = self.ask(&asked, model)?;
            let mut ends = (Vec::new(), Vec::new());
            for ((t, m1), m2) in tries.iter().zip(&m1).zip(&m2) {
                let whole = Segment::new(self.integrand, t.start, t.end);
                let w = whole.midpoint(t.part(0));
                ends.0.push(linear_combination(&[
                    (whole.base(), &t.x),
                    (w[0], &t.m0),
                    (w[1], m1),
                ])?);
                let w = whole.weights(&[0.0, t.part(1)]);
                ends.1.push(linear_combination(&[
                    (whole.base(), &t.x),
                    (w[0], &t.m0),
                    (w[1], m2),
                ])?);
            }
            ends
        };

        for (k, &i) in active.iter().enumerate() {
            let sample = &mut samples[i];
            sample.evaluations += self.config.order - 1;
            let error = self.error(&lower[k], &higher[k], &sample.reference)?;
            // The network's outputs are finite, so the step itself overflowed; a NaN would pass for a rejected step.
            if !error.is_finite() {
                let asked = sample.asked(i, higher[k].clone(), tries[k].start, 0);
                return Err(self.non_finite(RunTensor::Estimate, error, &asked));
            }
            sample.steps += 1;
            let taken = tries[k].end.lambda - tries[k].start.lambda;
            if error <= 1.0 {
                sample.x = higher[k].clone();
                sample.reference = lower[k].clone();
                sample.node = tries[k].end;
                sample.m0 = None;
            }
            // Bounded both ways: an error of zero would make the next step infinite.
            let factor = self.config.safety * error.powf(-1.0 / self.config.order as f64);
            sample.h = taken * factor.clamp(0.2, 5.0);
        }
        Ok(())
    }

    /// The points of the next step of a sample; the last one ends exactly at the run's end.
    fn attempt(&self, sample: &Sample) -> Result<Try> {
        let left = self.to.lambda - sample.node.lambda;
        // A crumb that would be left over is taken along.
        let h = if sample.h.abs() >= left.abs() * (1.0 - 1e-6) {
            left
        } else {
            sample.h
        };
        let at = |lambda: f64| Node::at(&self.schedule, self.schedule.lambda_inverse(lambda));
        let parts: &[f64] = if self.config.order == 2 {
            &[0.5]
        } else {
            &[1.0 / 3.0, 2.0 / 3.0]
        };
        let m0 = sample.m0.clone().ok_or_else(|| Error::Stepper {
            expected: "an evaluation at the step's start".into(),
            got: "none".into(),
        })?;
        Ok(Try {
            x: sample.x.clone(),
            m0,
            start: sample.node,
            inner: parts
                .iter()
                .map(|p| at(sample.node.lambda + p * h))
                .collect(),
            end: if h == left {
                self.to
            } else {
                at(sample.node.lambda + h)
            },
        })
    }

    /// Root mean square of the difference of the two orders, in units of the tolerance.
    fn error(&self, lower: &Tensor, higher: &Tensor, reference: &Tensor) -> Result<f64> {
        let wide = if lower.dtype() == DType::F64 {
            DType::F64
        } else {
            DType::F32
        };
        let (lower, higher) = (lower.to_dtype(wide)?, higher.to_dtype(wide)?);
        let size = lower.abs()?.maximum(&reference.to_dtype(wide)?.abs()?)?;
        let tolerance = (size * self.config.rtol)?.maximum(self.config.atol)?;
        let ratio = ((higher - lower)? / tolerance)?;
        Ok(ratio
            .sqr()?
            .mean_all()?
            .to_dtype(DType::F64)?
            .to_scalar::<f64>()?
            .sqrt())
    }

    fn non_finite(&self, what: RunTensor, value: f64, asked: &Asked) -> Error {
        Error::NonFinite {
            what,
            value,
            sample: asked.sample,
            step: asked.step,
            evaluation: asked.evaluation,
            t: asked.node.t,
            model_time: self.schedule.model_time(asked.node.t),
        }
    }

    /// Asks the network for these states, and turns its answers into what is integrated.
    fn ask<M>(&self, states: &[Asked], model: &mut M) -> Result<Vec<Tensor>>
    where
        M: FnMut(AdaptiveQuery<'_>) -> candle_core::Result<Tensor>,
    {
        if states.is_empty() {
            return Ok(Vec::new());
        }
        let tensors: Vec<&Tensor> = states.iter().map(|s| &s.x).collect();
        let samples: Vec<usize> = states.iter().map(|s| s.sample).collect();
        let x = Tensor::cat(&tensors, 0)?;
        let model_times: Vec<f64> = states
            .iter()
            .map(|s| self.schedule.model_time(s.node.t))
            .collect();
        let output = model(AdaptiveQuery {
            x: &x,
            model_times: &model_times,
            samples: &samples,
        })?;
        let output = network_output(&output, &x, self.config.learned_variance)?;
        states
            .iter()
            .enumerate()
            .map(|(k, asked)| {
                let (x, node) = (&asked.x, asked.node);
                let output = output.narrow(0, k, 1)?.contiguous()?;
                if let Some((_, value)) = not_finite(&output)? {
                    return Err(self.non_finite(RunTensor::Output, value, asked));
                }
                let mix = match self.integrand {
                    Integrand::X0 => self.config.prediction.x0_mix(node.alpha, node.sigma),
                    Integrand::Noise => self.config.prediction.noise_mix(node.alpha, node.sigma),
                };
                mix.apply(x, &output)
            })
            .collect()
    }
}

impl Sample {
    /// The sample's place in the batch is `sample`; `ahead` evaluations come before this one.
    fn asked(&self, sample: usize, x: Tensor, node: Node, ahead: usize) -> Asked {
        Asked {
            x,
            node,
            sample,
            step: self.steps,
            evaluation: self.evaluations + ahead,
        }
    }
}

/// A step that may yet be rejected.
struct Try {
    x: Tensor,
    m0: Tensor,
    start: Node,
    inner: Vec<Node>,
    end: Node,
}

impl Try {
    /// Where inner point `k` lies, as a part of the step.
    fn part(&self, k: usize) -> f64 {
        (self.inner[k].lambda - self.start.lambda) / (self.end.lambda - self.start.lambda)
    }
}
