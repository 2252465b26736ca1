//! The one error type of the crate.

use std::path::PathBuf;

/// What can go wrong when a network becomes an ONNX file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network can't be read, or its weights don't fit it.
    #[error(transparent)]
    Models(#[from] fndm_models::Error),

    /// A model folder can't be read.
    #[error(transparent)]
    Folder(#[from] fndm::Error),

    /// A file can't be written.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),

    /// A tensor can't be read.
    #[error(transparent)]
    Tensor(Box<candle_core::Error>),

    /// A weight can't be stored as asked.
    #[error("weight {name}: expected {expected}, got {got}")]
    Weights {
        /// Its name in the checkpoint.
        name: String,
        /// What would have fitted.
        expected: String,
        /// What it is.
        got: String,
    },

    /// A network is larger than one file of protocol buffers may be.
    #[error("{name}: an ONNX file holds at most {limit} bytes, and the network takes {got}")]
    TooLarge {
        /// Which network.
        name: String,
        /// Bytes of the file.
        got: usize,
        /// The format's bound.
        limit: usize,
    },

    /// A model folder has no network.
    #[error("{}: the model has no network that could be written", folder.display())]
    NoNetwork {
        /// The folder.
        folder: PathBuf,
    },

    /// A config can't be written as JSON.
    #[error("a config can't be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensor(Box::new(error))
    }
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;
