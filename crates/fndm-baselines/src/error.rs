use std::path::PathBuf;

/// What an error was caused by, in another crate's words.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("{field}: expected {expected}, got {got}")]
    Config {
        /// Which setting.
        field: String,
        /// What it may be.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A tensor has the wrong shape or type.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which tensor.
        what: String,
        /// The shape that fits.
        expected: String,
        /// The shape that came.
        got: String,
    },
    /// A value is NaN or infinite.
    #[error("{what}: a value is NaN or infinite")]
    NonFinite {
        /// Where.
        what: String,
    },
    /// Nothing to fit to.
    #[error("no healthy slice among the {slices} given")]
    NoHealthySlice {
        /// How many slices there were.
        slices: usize,
    },
    /// A training was asked to end before its time. Its checkpoints remain.
    #[error("the training was stopped")]
    Stopped,
    /// A file isn't what this crate saved.
    #[error("{path}: malformed: {message}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// The cause, where another part of the program found it.
        #[source]
        source: Option<Cause>,
    },
    /// Features of another extractor than the one that a method was fitted with.
    #[error("features: expected those that it was fitted with, {expected}, got {got}")]
    OtherExtractor {
        /// The fingerprint of the extractor that it was fitted with.
        expected: String,
        /// The fingerprint of the one that came.
        got: String,
    },
    /// The network or its checkpoint.
    #[error("network")]
    Model(#[source] Box<fndm_models::Error>),
    /// Features, memory bank or map.
    #[error("features")]
    Memory(#[source] Box<fndm_memory::Error>),
    /// Figures of merit.
    #[error("metrics")]
    Metrics(#[source] Box<fndm_metrics::Error>),
    /// What all maps end with.
    #[error("post-processing")]
    Post(#[source] Box<fndm::Error>),
    /// The training.
    #[error("training")]
    Train(#[source] Box<fndm_train::Error>),
    /// A file couldn't be written or read.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn config(
        field: impl Into<String>,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::Config {
            field: field.into(),
            expected: expected.into(),
            got: got.to_string(),
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
        Self::Model(Box::new(e))
    }
}

impl From<fndm_memory::Error> for Error {
    fn from(e: fndm_memory::Error) -> Self {
        Self::Memory(Box::new(e))
    }
}

impl From<fndm_metrics::Error> for Error {
    fn from(e: fndm_metrics::Error) -> Self {
        Self::Metrics(Box::new(e))
    }
}

impl From<fndm::Error> for Error {
    fn from(e: fndm::Error) -> Self {
        Self::Post(Box::new(e))
    }
}

impl From<fndm_train::Error> for Error {
    fn from(e: fndm_train::Error) -> Self {
        Self::Train(Box::new(e))
    }
}

/// This crate's results.
pub type Result<T> = std::result::Result<T, Error>;
