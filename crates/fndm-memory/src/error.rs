use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value of a configuration is out of its range.
    #[error("config: {field}: {message}")]
    Config {
        /// The field, as it is written in the configuration.
        field: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// An array has another shape than expected.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which array.
        what: String,
        /// The expected shape.
        expected: String,
        /// The shape that came.
        got: String,
    },
    /// An array holds NaN or an infinite value.
    #[error("{what}: a value is NaN or infinite")]
    NonFinite {
        /// Which array.
        what: String,
    },
    /// There is nothing to work on.
    #[error("{what} is empty")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// Features of one dimension met a bank of another.
    #[error("expected features of {expected} dimensions, got {got}")]
    Dimension {
        /// The bank's dimension.
        expected: usize,
        /// The dimension that came.
        got: usize,
    },
    /// Not even one row fits the byte budget.
    #[error("one row takes {row} bytes, the budget is {budget} bytes")]
    Budget {
        /// Bytes of one row.
        row: u64,
        /// The budget in bytes.
        budget: u64,
    },
    /// A coarse map was asked of a model that has no matching threshold.
    #[error("not calibrated: {message}")]
    NotCalibrated {
        /// What is missing, or what has changed since.
        message: String,
    },
    /// Two banks can't be merged.
    #[error("the banks can't be merged: {message}")]
    Incompatible {
        /// What differs.
        message: String,
    },
    /// The caller's progress function asked to stop.
    #[error("cancelled during {stage}")]
    Cancelled {
        /// The stage of the work that was interrupted.
        stage: crate::Stage,
    },
    /// A file is larger than allowed.
    #[error("{what}: limit of {limit} bytes, got {got}")]
    Limit {
        /// Which file.
        what: String,
        /// The allowed number of bytes.
        limit: u64,
        /// The number of bytes found.
        got: u64,
    },
    /// A file isn't a saved model of this crate.
    #[error("{what}: malformed: {message}")]
    Malformed {
        /// Which file.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// A file's content isn't what was saved.
    #[error("{what}: checksum {got}, expected {expected}: the file is damaged")]
    Checksum {
        /// Which file.
        what: String,
        /// The checksum in the file.
        expected: String,
        /// The checksum of what was read.
        got: String,
    },
    /// A file couldn't be read or written.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The network that extracts the features failed.
    #[error("feature extractor")]
    Extractor(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn config(field: &'static str, message: impl Into<String>) -> Self {
        Self::Config {
            field,
            message: message.into(),
        }
    }

    pub(crate) fn shape(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl std::fmt::Debug,
    ) -> Self {
        Self::Shape {
            what: what.into(),
            expected: expected.into(),
            got: format!("{got:?}"),
        }
    }
}

impl From<fndm_models::Error> for Error {
    fn from(e: fndm_models::Error) -> Self {
        Self::Extractor(Box::new(e))
    }
}

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;
