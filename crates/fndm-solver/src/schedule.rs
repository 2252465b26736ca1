//! Noise schedules: alpha, sigma and lambda as functions of time, in f64.

use std::ops::RangeInclusive;

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// Smallest ln(alpha) that a schedule may reach: alpha = 9e-14. Up to there a single step over the whole schedule stays
/// finite in f32 too, though it blows up rounding errors by 1 / alpha.
const MIN_LOG_ALPHA: f64 = -30.0;

/// A variance-preserving noise schedule: `x_t` = alpha(t) `x_0` + sigma(t) epsilon, with alpha^2 + sigma^2 = 1.
///
/// Time runs from 0 (data) to 1 (noise). A discrete schedule of T training steps puts training index i at
/// t = (i + 1) / T and joins the values of ln(alpha) there, and 0 at t = 0, by straight lines. Everything is f64.
///
/// A schedule may end in pure noise (zero terminal SNR, Lin et al. 2024): alpha is 0 and lambda -infinity at t = 1, and over
/// the last training step alpha itself falls along a straight line. See [`Self::rescaled_to_zero_snr`].
///
/// ```
/// use fndm_solver::ScheduleConfig;
/// # fn main() -> fndm_solver::Result<()> {
/// let schedule = ScheduleConfig::linear(1000).build()?;
/// let t = schedule.time_of_index(499);
/// assert!((schedule.model_time(t) - 499.0).abs() < 1e-9);
/// let (alpha, sigma) = (schedule.alpha(t), schedule.sigma(t));
/// assert!((alpha * alpha + sigma * sigma - 1.0).abs() < 1e-12);
/// assert!((schedule.lambda_inverse(schedule.lambda(t)) - t).abs() < 1e-12);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    form: Form,
    steps: usize,
    t_max: f64,
}

#[derive(Debug, Clone, PartialEq)]
enum Form {
    /// ln(alpha) at t = 0, 1/T, 2/T, .. 1: T + 1 values, the first 0, strictly falling. The last may be -infinity.
    Discrete { log_alphas: Vec<f64> },
    /// ln(alpha) = -(`beta_max` - `beta_min`) t^2 / 4 - `beta_min` t / 2.
    Linear { beta_min: f64, beta_max: f64 },
}

impl NoiseSchedule {
    /// A discrete schedule from its betas, one per training step.
    ///
    /// The last beta may be 1: the schedule then ends in pure noise (zero terminal SNR).
    ///
    /// # Errors
    /// When there is none, one is not in (0, 1), or alpha falls below 9e-14 before the end in pure noise.
    pub fn from_betas(betas: &[f64]) -> Result<Self> {
        let mut log_alphas = Vec::with_capacity(betas.len() + 1);
        let mut sum = 0.0;
        log_alphas.push(sum);
        for (i, &beta) in betas.iter().enumerate() {
            let last = i + 1 == betas.len();
            if !(beta > 0.0 && (beta < 1.0 || (last && beta == 1.0))) {
                return Err(Error::schedule(
                    format!("beta {i}"),
                    "a number in (0, 1); the last may be 1",
                    beta,
                ));
            }
            sum += 0.5 * (-beta).ln_1p();
            log_alphas.push(sum);
        }
        Self::from_knots(log_alphas)
    }

    /// A discrete schedule from the products of (1 - beta), that is alpha^2 at every training step. The last may be 0:
    /// the schedule then ends in pure noise.
    ///
    /// # Errors
    /// When there is none, they don't fall strictly inside (0, 1), or alpha falls below 9e-14 before the end in pure noise.
    pub fn from_alphas_cumprod(alphas_cumprod: &[f64]) -> Result<Self> {
        let mut log_alphas = Vec::with_capacity(alphas_cumprod.len() + 1);
        log_alphas.push(0.0);
        for (i, &a) in alphas_cumprod.iter().enumerate() {
            let last = i + 1 == alphas_cumprod.len();
            if !(a < 1.0 && (a > 0.0 || (last && a == 0.0))) {
                return Err(Error::schedule(
                    format!("alpha_cumprod {i}"),
                    "a number in (0, 1); the last may be 0",
                    a,
                ));
            }
            log_alphas.push(0.5 * a.ln());
        }
        Self::from_knots(log_alphas)
    }

    fn from_knots(log_alphas: Vec<f64>) -> Result<Self> {
        let steps = log_alphas.len() - 1;
        if steps == 0 {
            return Err(Error::schedule("training steps", "at least one", 0));
        }
        for (i, pair) in log_alphas.windows(2).enumerate() {
            if pair[1] >= pair[0] {
                return Err(Error::schedule(
                    format!("ln(alpha) at training step {i}"),
                    format!("less than {} before it", pair[0]),
                    pair[1],
                ));
            }
        }
        // Pure noise is exact; what comes shortly before it isn't.
        let pure = log_alphas[steps] == f64::NEG_INFINITY;
        let i = steps - usize::from(pure);
        if log_alphas[i] < MIN_LOG_ALPHA {
            return Err(Error::schedule(
                format!("ln(alpha) at training step {}", i - 1),
                format!("at least {MIN_LOG_ALPHA}, below which alpha is of no use in arithmetic"),
                log_alphas[i],
            ));
        }
        Ok(Self {
            form: Form::Discrete { log_alphas },
            steps,
            t_max: 1.0,
        })
    }

    /// The continuous schedule whose beta rises linearly from `beta_min` to `beta_max` (the VP-SDE of Song et al. 2021).
    ///
    /// `steps` only sets where [`Self::time_of_index`] and [`Self::t_min`] lie; a model of this kind takes t itself.
    ///
    /// # Errors
    /// Unless 0 < `beta_min` < `beta_max` with an alpha of at least 9e-14 at t = 1 (as `beta_min` + `beta_max` = 120
    /// has), and `steps` > 0.
    pub fn continuous_linear(beta_min: f64, beta_max: f64, steps: usize) -> Result<Self> {
        let last = -0.25 * (beta_min + beta_max);
        if !(beta_min > 0.0 && beta_max > beta_min && last >= MIN_LOG_ALPHA) {
            return Err(Error::schedule(
                "beta_min and beta_max",
                format!(
                    "0 < beta_min < beta_max, and beta_min + beta_max at most {}",
                    -4.0 * MIN_LOG_ALPHA
                ),
                format!("{beta_min} and {beta_max}"),
            ));
        }
        if steps == 0 {
            return Err(Error::schedule("training steps", "at least one", 0));
        }
        Ok(Self {
            form: Form::Linear { beta_min, beta_max },
            steps,
            t_max: 1.0,
        })
    }

    /// The same schedule, rescaled to end in pure noise: zero terminal SNR (Lin et al. 2024, algorithm 1). alpha is moved
    /// and stretched so that it stays what it is at the first training step and is exactly 0 at the last.
    ///
    /// A network for such a schedule predicts v or x0: at t = 1 the state is the noise, and the noise says nothing of the
    /// image. Sampling starts at t = 1 exactly; [`Grid::Trailing`](crate::Grid::Trailing) over `0..=1` is the paper's
    /// choice of steps. Lambda being infinite there, grids in lambda need another start.
    ///
    /// ```
    /// use fndm_solver::ScheduleConfig;
    /// # fn main() -> fndm_solver::Result<()> {
    /// let usual = ScheduleConfig::linear(1000).build()?;
    /// let schedule = ScheduleConfig::linear(1000).zero_terminal_snr().build()?;
    /// assert_eq!((schedule.alpha(1.0), schedule.sigma(1.0)), (0.0, 1.0));
    /// assert!((schedule.alpha_of_index(0) - usual.alpha_of_index(0)).abs() < 1e-15);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the schedule is continuous, clipped, or has a single training step.
    pub fn rescaled_to_zero_snr(&self) -> Result<Self> {
        let Form::Discrete { log_alphas } = &self.form else {
            return Err(Error::schedule(
                "a schedule of zero terminal SNR",
                "a discrete schedule to rescale",
                "a continuous one",
            ));
        };
        if self.steps < 2 || self.t_max < 1.0 {
            return Err(Error::schedule(
                "a schedule of zero terminal SNR",
                "a whole schedule of two training steps or more to rescale",
                format!("{} steps up to t = {}", self.steps, self.t_max),
            ));
        }
        let (first, last) = (log_alphas[1].exp(), log_alphas[self.steps].exp());
        let stretch = first / (first - last);
        let mut rescaled = log_alphas.clone();
        // The first and the last are exact.
        for l in &mut rescaled[2..self.steps] {
            *l = ((l.exp() - last) * stretch).ln();
        }
        rescaled[self.steps] = f64::NEG_INFINITY;
        Self::from_knots(rescaled)
    }

    /// Whether the schedule ends in pure noise: alpha is 0 at [`Self::t_max`].
    #[must_use]
    pub fn ends_in_pure_noise(&self) -> bool {
        self.lambda(self.t_max) == f64::NEG_INFINITY
    }

    /// Ends the schedule at the last training step whose lambda is at least `lambda_min`.
    ///
    /// The last steps of a cosine schedule are almost pure noise, and first steps from there are unstable.
    /// Only [`Self::t_max`] moves; time and the model's time keep their meaning.
    ///
    /// # Errors
    /// When no training step is left, or `lambda_min` is not a number.
    pub fn clipped(mut self, lambda_min: f64) -> Result<Self> {
        let kept = (0..self.steps)
            .rev()
            .find(|&i| self.lambda(self.time_of_index(i)) >= lambda_min);
        match kept {
            Some(i) => {
                self.t_max = self.t_max.min(self.time_of_index(i));
                Ok(self)
            }
            None => Err(Error::schedule(
                "lambda_min",
                format!(
                    "at most lambda of the first training step, {}",
                    self.lambda(self.t_min())
                ),
                lambda_min,
            )),
        }
    }

    /// Number T of training steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Smallest time that a model was trained at: 1 / T. Encoding starts here.
    #[must_use]
    pub fn t_min(&self) -> f64 {
        1.0 / self.steps as f64
    }

    /// Largest usable time: 1, or less when the schedule is [clipped](Self::clipped).
    #[must_use]
    pub fn t_max(&self) -> f64 {
        self.t_max
    }

    /// `t_min..=t_max`: all that a model was trained on.
    #[must_use]
    pub fn span(&self) -> RangeInclusive<f64> {
        self.t_min()..=self.t_max
    }

    /// Time of training index `i`, (i + 1) / T.
    #[must_use]
    pub fn time_of_index(&self, i: usize) -> f64 {
        (i as f64 + 1.0) / self.steps as f64
    }

    /// What the model takes as its time: (t - 1/T) T, a real number that equals the training index at training times.
    /// For a continuous schedule, t itself.
    #[must_use]
    pub fn model_time(&self, t: f64) -> f64 {
        match self.form {
            Form::Discrete { .. } => t * self.steps as f64 - 1.0,
            Form::Linear { .. } => t,
        }
    }

    /// The inverse of [`Self::model_time`].
    #[must_use]
    pub fn time_of_model_time(&self, model_time: f64) -> f64 {
        match self.form {
            Form::Discrete { .. } => (model_time + 1.0) / self.steps as f64,
            Form::Linear { .. } => model_time,
        }
    }

    /// ln(alpha) at time `t`. Above 1 the last straight line goes on; below 0 it is 0. -infinity in pure noise.
    #[must_use]
    pub fn log_alpha(&self, t: f64) -> f64 {
        match &self.form {
            Form::Discrete { log_alphas } => {
                let p = (t * self.steps as f64).max(0.0);
                let i = (p.floor() as usize).min(self.steps - 1);
                let part = p - i as f64;
                if log_alphas[i + 1] == f64::NEG_INFINITY {
                    // Down to pure noise alpha falls along a straight line, as its logarithm can't.
                    return log_alphas[i] + (-part.min(1.0)).ln_1p();
                }
                log_alphas[i] + part * (log_alphas[i + 1] - log_alphas[i])
            }
            Form::Linear { beta_min, beta_max } => {
                let t = t.max(0.0);
                -0.25 * t * t * (beta_max - beta_min) - 0.5 * t * beta_min
            }
        }
    }

    /// alpha at time `t`, in (0, 1]; 0 in pure noise.
    #[must_use]
    pub fn alpha(&self, t: f64) -> f64 {
        self.log_alpha(t).exp()
    }

    /// sigma at time `t`, sqrt(1 - alpha^2), in [0, 1); 1 in pure noise.
    #[must_use]
    pub fn sigma(&self, t: f64) -> f64 {
        (-(2.0 * self.log_alpha(t)).exp_m1()).sqrt()
    }

    /// Half the log signal-to-noise ratio, ln(alpha / sigma): falls with time, infinite at t = 0, -infinity in pure noise.
    #[must_use]
    pub fn lambda(&self, t: f64) -> f64 {
        let log_alpha = self.log_alpha(t);
        log_alpha - 0.5 * (-(2.0 * log_alpha).exp_m1()).ln()
    }

    /// The time at which [`Self::lambda`] is `lambda`, in closed form.
    #[must_use]
    pub fn lambda_inverse(&self, lambda: f64) -> f64 {
        match &self.form {
            Form::Discrete { log_alphas } => {
                // alpha^2 = 1 / (1 + exp(-2 lambda)), written so that nothing overflows.
                let log_alpha = if lambda >= 0.0 {
                    -0.5 * (-2.0 * lambda).exp().ln_1p()
                } else {
                    lambda - 0.5 * (2.0 * lambda).exp().ln_1p()
                };
                let after = log_alphas.partition_point(|&l| l >= log_alpha);
                let i = after.clamp(1, self.steps) - 1;
                if log_alphas[i + 1] == f64::NEG_INFINITY {
                    let part = -(log_alpha - log_alphas[i]).exp_m1();
                    return (i as f64 + part) / self.steps as f64;
                }
                let part = (log_alpha - log_alphas[i]) / (log_alphas[i + 1] - log_alphas[i]);
                (i as f64 + part) / self.steps as f64
            }
            Form::Linear { beta_min, beta_max } => {
                // Root of the quadratic in t, in the form that doesn't cancel.
                let minus_2_log_alpha = if lambda >= 0.0 {
                    (-2.0 * lambda).exp().ln_1p()
                } else {
                    -2.0 * lambda + (2.0 * lambda).exp().ln_1p()
                };
                let slope = beta_max - beta_min;
                let q = 2.0 * slope * minus_2_log_alpha;
                q / ((beta_min * beta_min + q).sqrt() + beta_min) / slope
            }
        }
    }

    /// alpha at training index `i`.
    #[must_use]
    pub fn alpha_of_index(&self, i: usize) -> f64 {
        self.alpha(self.time_of_index(i))
    }

    /// sigma at training index `i`.
    #[must_use]
    pub fn sigma_of_index(&self, i: usize) -> f64 {
        self.sigma(self.time_of_index(i))
    }

    /// lambda at training index `i`.
    #[must_use]
    pub fn lambda_of_index(&self, i: usize) -> f64 {
        self.lambda(self.time_of_index(i))
    }

    /// Noised training inputs alpha `x_0` + sigma epsilon, with one training index per sample.
    ///
    /// `x0` and `noise` are `(B, ...)` of one shape and type; `indices` has B entries.
    ///
    /// # Errors
    /// When the shapes differ, there isn't one index per sample, or an index is T or more.
    pub fn q_sample(&self, x0: &Tensor, noise: &Tensor, indices: &[usize]) -> Result<Tensor> {
        if x0.dims() != noise.dims() {
            return Err(Error::Tensor {
                what: "noise".into(),
                expected: format!("the shape of x0, {:?}", x0.dims()),
                got: format!("{:?}", noise.dims()),
            });
        }
        let (alpha, sigma) = self.coefficient_tensors(x0, indices)?;
        Ok((x0.broadcast_mul(&alpha)? + noise.broadcast_mul(&sigma)?)?)
    }

    /// alpha and sigma of one training index per sample, each `(B, 1, ..)` with the type and device of `like` `(B, ...)`.
    ///
    /// # Errors
    /// When there isn't one index per sample, or an index is T or more.
    pub fn coefficient_tensors(
        &self,
        like: &Tensor,
        indices: &[usize],
    ) -> Result<(Tensor, Tensor)> {
        if like.dims().first() != Some(&indices.len()) {
            return Err(Error::Tensor {
                what: "training indices".into(),
                expected: format!("one per sample of a batch of shape {:?}", like.dims()),
                got: format!("{} indices", indices.len()),
            });
        }
        if let Some(&i) = indices.iter().find(|&&i| i >= self.steps) {
            return Err(Error::schedule(
                "training index",
                format!("less than {}", self.steps),
                i,
            ));
        }
        let mut shape = vec![1; like.rank()];
        shape[0] = indices.len();
        let column = |values: Vec<f64>| -> candle_core::Result<Tensor> {
            let column = Tensor::from_vec(values, shape.clone(), &candle_core::Device::Cpu)?;
            column
                .to_dtype(if like.dtype() == DType::F64 {
                    DType::F64
                } else {
                    DType::F32
                })?
                .to_dtype(like.dtype())?
                .to_device(like.device())
        };
        let alpha = column(indices.iter().map(|&i| self.alpha_of_index(i)).collect())?;
        let sigma = column(indices.iter().map(|&i| self.sigma_of_index(i)).collect())?;
        Ok((alpha, sigma))
    }
}
