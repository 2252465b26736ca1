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
    /// The tensor library or the caller's model failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
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
