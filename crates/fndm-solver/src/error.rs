//! The crate's error type.

/// What can go wrong when a schedule, a solver or a run is built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A noise schedule's parameter is out of its range.
    #[error("noise schedule: {what}: expected {expected}, got {got}")]
    Schedule {
        /// The parameter's name.
        what: String,
        /// What it has to be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A solver config has a field out of its range, or fields that contradict each other.
    #[error("solver config: {field}: expected {expected}, got {got}")]
    Config {
        /// The field's name.
        field: &'static str,
        /// What it has to be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// The config is sound, but asks for something that has no meaning while encoding.
    #[error("solver config: {field} has a meaning only while sampling, not while encoding")]
    EncodingOnlySampling {
        /// The field's name.
        field: &'static str,
    },
    /// The times of a run lie outside what the schedule covers.
    #[error("time span: expected {expected}, got {got}")]
    Span {
        /// What the times have to be.
        expected: String,
        /// What they were.
        got: String,
    },
    /// A tensor that was handed in has the wrong shape or type.
    #[error("{what}: expected {expected}, got {got}")]
    Tensor {
        /// Which tensor.
        what: String,
        /// Its expected shape or type.
        expected: String,
        /// What came.
        got: String,
    },
    /// A stepper was advanced after its last evaluation, or finished before it.
    #[error("stepper: expected {expected}, got {got}")]
    Stepper {
        /// What the call needs.
        expected: String,
        /// Where the stepper stands.
        got: String,
    },
    /// An adaptive run used up its evaluations before every sample arrived.
    #[error(
        "adaptive run: {unfinished} of {batch} samples hadn't arrived after {evaluations} network evaluations: \
         raise max_evaluations or the tolerances"
    )]
    Evaluations {
        /// Samples that had not arrived.
        unfinished: usize,
        /// Samples in the batch.
        batch: usize,
        /// The limit that was reached.
        evaluations: usize,
    },
    /// One kind of prediction can't be turned into another at this place of the schedule: at alpha = 0 the noise doesn't
    /// determine the clean image, at sigma = 0 the clean image doesn't determine the noise.
    #[error("no {wanted} from a prediction of {given} at alpha = {alpha}, sigma = {sigma}")]
    Conversion {
        /// What was asked for.
        wanted: &'static str,
        /// What the network predicts.
        given: &'static str,
        /// alpha there.
        alpha: f64,
        /// sigma there.
        sigma: f64,
    },
    /// NaN or infinity where a run needs numbers.
    #[error(
        "{value} in {what}, sample {sample} of the batch, at step {step} (evaluation {evaluation}, t = {t}, \
         model time {model_time})"
    )]
    NonFinite {
        /// Which tensor.
        what: RunTensor,
        /// The first such value in it.
        value: f64,
        /// The first sample of the batch that has one, from 0.
        sample: usize,
        /// The step, from 0. In an adaptive run, the sample's own: the steps that it has tried.
        step: usize,
        /// The network evaluation, from 0. In an adaptive run, the sample's own.
        evaluation: usize,
        /// The continuous time there.
        t: f64,
        /// The network's time there.
        model_time: f64,
    },
    /// The tensor library or the caller's model failed.
    #[error("a tensor operation or the model failed")]
    Candle(#[from] candle_core::Error),
}

/// The tensors of a run that have to be finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunTensor {
    /// The state that a run starts at.
    Start,
    /// What the network gave.
    Output,
    /// The gradient of a guided answer.
    Gradient,
    /// What the network gave, after guidance.
    Guided,
    /// The error of an adaptive step, as it is estimated.
    Estimate,
    /// The state that a run ends at.
    Result,
}

impl std::fmt::Display for RunTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "the state at the start",
            Self::Output => "the network's output",
            Self::Gradient => "the gradient of the guidance",
            Self::Guided => "the guided output",
            Self::Estimate => "the error of a step",
            Self::Result => "the result",
        })
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

// Callers pass numbers and texts alike; a reference at each call would only be noise.
#[allow(clippy::needless_pass_by_value)]
impl Error {
    pub(crate) fn config(
        field: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Config {
            field,
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    pub(crate) fn schedule(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Schedule {
            what: what.into(),
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    pub(crate) fn span(expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Span {
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}
