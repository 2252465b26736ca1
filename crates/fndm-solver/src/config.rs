//! The solver's settings as one plain value, checked when a solver is built from it.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::{Error, Grid, NoiseSchedule, Prediction, Result, Solver};

/// Which formula family takes the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// DPM-Solver++ (Lu et al. 2022b): integrates the x0 prediction. The choice for guided models. When encoding in few
    /// steps from next to no noise, its singlestep forms blow up errors of the first, long step: use
    /// [`Algorithm::DpmSolver`] or [`Method::Multistep`].
    #[default]
    DpmSolverPlusPlus,
    /// DPM-Solver (Lu et al. 2022a): integrates the noise prediction. With order 3 the most exact for encoding in ten
    /// to fifty steps.
    DpmSolver,
    /// DDIM (Song et al. 2021): order 1, and with `eta` above 0 stochastic while sampling.
    Ddim,
    /// `UniPC` (Zhao et al. 2023) on the x0 prediction: a multistep predictor of the given order, and a corrector that
    /// reuses the next evaluation, which raises the order by one at no cost. Exact exponential weights. So that this
    /// holds from the first step on, order 3 asks the network once more at its start (see [`ThirdOrder`]).
    UniPc,
}

/// How a step of order 2 or 3 gets its extra information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// From earlier evaluations: one network evaluation per step.
    #[default]
    Multistep,
    /// From evaluations inside the step: `order` per step; the last steps take lower orders so that exactly `steps`
    /// evaluations are spent ("DPM-Solver-fast").
    Singlestep,
    /// As [`Method::Singlestep`], but every step has the full order: `steps / order` steps, rounded down.
    SinglestepFixed,
}

/// Whether the last multistep steps take lower orders, which steadies runs of few steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LowerOrderFinal {
    /// Never: full order to the end.
    Never,
    /// In runs of fewer steps than this the last step is of order 1, the one before of order 2 at most.
    /// The dpm-solver program uses 10, diffusers 15.
    Below(usize),
    /// The same in runs of any length.
    Always,
    /// Only the last step, of order 1, in runs of any length (`euler_at_final` of diffusers).
    LastStep,
}

impl Default for LowerOrderFinal {
    fn default() -> Self {
        Self::Below(15)
    }
}

/// Form of the order-2 formulas, and of the last stage of singlestep order 3. Both converge with the same order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondOrder {
    /// As the papers define them (`dpmsolver`, or `midpoint` in diffusers).
    #[default]
    Midpoint,
    /// With exactly integrated Taylor terms (`taylor`, or `heun` in diffusers).
    Taylor,
}

/// Form of multistep order 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThirdOrder {
    /// Of order 3: the second evaluation also corrects the first step, which costs nothing, and the interpolation
    /// through three evaluations is integrated exactly. `UniPC` of order 3 is of order 4, with one evaluation more
    /// than steps.
    #[default]
    Exact,
    /// As dpm-solver and diffusers do it: an uncorrected first step of order 1, and half of the second-difference
    /// term. Of order 2; for comparison with them. `UniPC` starts without the extra evaluation, and is of order 3.
    Peers,
}

/// Form of the steps of `UniPC` that use a single difference of evaluations: the predictor of order 2, and the corrector
/// after a step of order 1. All others are determined by their order alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniPcForm {
    /// The interpolation is integrated exactly.
    #[default]
    Exact,
    /// Half of the difference times B(h) = h, the paper's `B_1` (`bh1` in its program and in diffusers).
    Bh1,
    /// Half of the difference times B(h) = e^h - 1, the paper's `B_2` (`bh2`).
    Bh2,
}

/// What is done to the predicted clean image before a step uses it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Clip {
    /// Nothing.
    #[default]
    None,
    /// Limited to `[-max, max]`. Allowed in both directions (as in guided-diffusion), but the flow is no longer
    /// reversible where it bites.
    Static {
        /// The bound.
        max: f64,
    },
    /// Dynamic thresholding (Saharia et al. 2022), only while sampling: with s the `ratio` quantile of |x0| over each
    /// sample, but at least `least` and at most `most`, limited to `[-s, s]` and divided by s.
    Dynamic {
        /// The quantile, in (0, 1].
        ratio: f64,
        /// The smallest s; the paper has 1 (`max_val` in dpm-solver).
        least: f64,
        /// The largest s, if any (`sample_max_value` in diffusers).
        #[serde(default)]
        most: Option<f64>,
    },
}

/// Everything that defines a solver, apart from schedule and time span.
///
/// The same config serves both directions. What has a meaning only while sampling (`eta`, `denoise_to_zero`, dynamic
/// thresholding) makes [`SolverConfig::encode`] fail.
///
/// ```
/// use fndm_solver::{Grid, ScheduleConfig, SolverConfig};
/// # fn main() -> fndm_solver::Result<()> {
/// let schedule = ScheduleConfig::linear(1000).build()?;
/// let config = SolverConfig { grid: Grid::UniformLambda, ..SolverConfig::dpm_solver_pp(2, 20) };
/// let encode = config.encode(&schedule, schedule.t_min()..=0.5)?;
/// let sample = config.sample(&schedule, schedule.t_min()..=0.5)?;
/// assert_eq!((encode.evaluations(), sample.evaluations()), (20, 20));
/// assert_eq!(sample.times()[0], 0.5);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SolverConfig {
    /// The formula family.
    pub algorithm: Algorithm,
    /// 1, 2 or 3.
    pub order: usize,
    /// Multistep or singlestep.
    pub method: Method,
    /// How times are spread over the span.
    pub grid: Grid,
    /// Number of steps, which for both methods is the number of network evaluations asked for;
    /// see [`Solver::evaluations`] for the exact one.
    pub steps: usize,
    /// Lower orders at the end of multistep runs.
    pub lower_order_final: LowerOrderFinal,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The network outputs twice the channels, the second half a variance, which is dropped.
    pub learned_variance: bool,
    /// Form of order 2.
    pub second_order: SecondOrder,
    /// Form of multistep order 3.
    pub third_order: ThirdOrder,
    /// Form of `UniPC`.
    pub uni_pc_form: UniPcForm,
    /// Limits on the predicted clean image.
    pub clip: Clip,
    /// Sampling only: one more evaluation at the last time, whose predicted clean image is the result.
    pub denoise_to_zero: bool,
    /// Encoding only: one more evaluation at the last time, whose predicted noise is the result
    /// (guided-diffusion's reverse DDIM ends like this).
    pub encode_to_noise: bool,
    /// DDIM sampling only: share of fresh noise in each step, from 0 (deterministic) to 1 (as DDPM).
    pub eta: f64,
    /// Seed of the fresh noise when `eta` is above 0. Each evaluation draws for the whole batch at once, so a sample's
    /// noise depends on its place in the batch.
    pub seed: u64,
}

impl Default for SolverConfig {
    fn default() -> Self {
        Self::dpm_solver_pp(2, 50)
    }
}

/// More steps than this are taken for a mistake.
const MAX_STEPS: usize = 1_000_000;

impl SolverConfig {
    /// Multistep DPM-Solver++ of this order, uniform in time.
    #[must_use]
    pub fn dpm_solver_pp(order: usize, steps: usize) -> Self {
        Self {
            algorithm: Algorithm::DpmSolverPlusPlus,
            order,
            method: Method::Multistep,
            grid: Grid::UniformTime,
            steps,
            lower_order_final: LowerOrderFinal::default(),
            prediction: Prediction::Noise,
            learned_variance: false,
            second_order: SecondOrder::Midpoint,
            third_order: ThirdOrder::Exact,
            uni_pc_form: UniPcForm::Exact,
            clip: Clip::None,
            denoise_to_zero: false,
            encode_to_noise: false,
            eta: 0.0,
            seed: 0,
        }
    }

    /// DDIM, deterministic, uniform in time.
    #[must_use]
    pub fn ddim(steps: usize) -> Self {
        Self {
            algorithm: Algorithm::Ddim,
            ..Self::dpm_solver_pp(1, steps)
        }
    }

    /// `UniPC` of this order, uniform in time.
    #[must_use]
    pub fn uni_pc(order: usize, steps: usize) -> Self {
        Self {
            algorithm: Algorithm::UniPc,
            ..Self::dpm_solver_pp(order, steps)
        }
    }

    /// Checks every field that doesn't depend on the schedule.
    ///
    /// # Errors
    /// [`Error::Config`], which names the field.
    pub fn check(&self) -> Result<()> {
        if !(1..=3).contains(&self.order) {
            return Err(Error::config("order", "1, 2 or 3", self.order));
        }
        if self.algorithm == Algorithm::Ddim && self.order != 1 {
            return Err(Error::config(
                "order",
                "1, the only order of DDIM",
                self.order,
            ));
        }
        if self.algorithm == Algorithm::UniPc && self.method != Method::Multistep {
            return Err(Error::config(
                "method",
                "multistep, the only method of UniPC",
                format!("{:?}", self.method),
            ));
        }
        if self.steps == 0 || self.steps > MAX_STEPS {
            return Err(Error::config(
                "steps",
                format!("1 to {MAX_STEPS}"),
                self.steps,
            ));
        }
        if self.method == Method::SinglestepFixed && self.steps < self.order {
            return Err(Error::config(
                "steps",
                format!("at least the order, {}", self.order),
                self.steps,
            ));
        }
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(Error::config("eta", "0 to 1", self.eta));
        }
        if self.eta > 0.0 && self.algorithm != Algorithm::Ddim {
            return Err(Error::config("eta", "0, except with DDIM", self.eta));
        }
        match self.clip {
            Clip::None => {}
            Clip::Static { max } => positive("clip.max", max)?,
            Clip::Dynamic { ratio, least, most } => {
                positive("clip.least", least)?;
                if let Some(most) = most.filter(|most| !(*most >= least && most.is_finite())) {
                    return Err(Error::config("clip.most", format!("{least} or more"), most));
                }
                if !(ratio > 0.0 && ratio <= 1.0) {
                    return Err(Error::config("clip.ratio", "a number in (0, 1]", ratio));
                }
            }
        }
        self.grid.check(self.steps)
    }

    /// A solver from data towards noise, over the times of `span`, whose ends may be given in either order.
    ///
    /// # Errors
    /// When the config is unsound, asks for what only sampling has, or the span leaves the schedule or touches t = 0.
    ///
    /// On a schedule of zero terminal SNR it may end in pure noise, with a last step of order 1.
    pub fn encode(&self, schedule: &NoiseSchedule, span: RangeInclusive<f64>) -> Result<Solver> {
        self.check()?;
        let refuse = |field| Err(Error::EncodingOnlySampling { field });
        if self.eta > 0.0 {
            return refuse("eta");
        }
        if self.denoise_to_zero {
            return refuse("denoise_to_zero");
        }
        if matches!(self.clip, Clip::Dynamic { .. }) {
            return refuse("dynamic thresholding");
        }
        let (low, high) = ends(schedule, span)?;
        if low <= 0.0 {
            return Err(Error::span(
                format!(
                    "encoding to start above t = 0, where lambda is infinite; {} is the usual start",
                    schedule.t_min()
                ),
                low,
            ));
        }
        if self.encode_to_noise && schedule.lambda(high) == f64::NEG_INFINITY {
            return Err(Error::config(
                "encode_to_noise",
                "false when the span already ends in pure noise",
                true,
            ));
        }
        Ok(Solver::new(Plan::new(self, schedule, low, high)?))
    }

    /// A solver from noise towards data, over the times of `span`, whose ends may be given in either order.
    ///
    /// On a schedule of zero terminal SNR it may start in pure noise, with a first step of order 1; the network then
    /// predicts v or x0. It may end at t = 0, with a last step of order 1. A network is never asked at 0, but between 0 and
    /// [`NoiseSchedule::t_min`] it is asked at times below any that it was trained at, where a step begins there.
    ///
    /// # Errors
    /// When the config is unsound, the span leaves the schedule, or it starts in pure noise and the network predicts the
    /// noise or the score.
    pub fn sample(&self, schedule: &NoiseSchedule, span: RangeInclusive<f64>) -> Result<Solver> {
        self.check()?;
        if self.encode_to_noise {
            return Err(Error::config(
                "encode_to_noise",
                "false while sampling",
                true,
            ));
        }
        let (low, high) = ends(schedule, span)?;
        if self.denoise_to_zero && low <= 0.0 {
            return Err(Error::config(
                "denoise_to_zero",
                "false when the span already ends at t = 0",
                true,
            ));
        }
        Ok(Solver::new(Plan::new(self, schedule, high, low)?))
    }
}

fn positive(field: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(Error::config(field, "a positive number", value))
    }
}

/// The span's smaller and larger end, inside `[0, t_max]`.
pub(crate) fn ends(schedule: &NoiseSchedule, span: RangeInclusive<f64>) -> Result<(f64, f64)> {
    let (a, b) = span.into_inner();
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    // A rounding error above t_max, as (i + 1) / T may have, is no mistake.
    let limit = schedule.t_max() * (1.0 + 1e-12);
    if !(low >= 0.0 && high <= limit) {
        return Err(Error::span(
            format!("times in 0..={}", schedule.t_max()),
            format!("{a}..={b}"),
        ));
    }
    Ok((low, high.min(schedule.t_max())))
}
