use std::path::{Path, PathBuf};

/// What can go wrong in inference, or in a crate below it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder couldn't be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A JSON file doesn't hold what it should.
    #[error("{}: not a valid {what}: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the file should hold.
        what: &'static str,
        /// What the parser said.
        error: serde_json::Error,
    },
    /// A model folder lacks a file.
    #[error("model folder {}: expected the file {file}, found none", folder.display())]
    MissingModelFile {
        /// The model folder.
        folder: PathBuf,
        /// The missing file.
        file: String,
    },
    /// A file of a model folder doesn't fit the folder's config.
    #[error("{}: {error}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What doesn't fit.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A model folder was written by a newer version of this library.
    #[error("{}: format version {found}, this library reads up to {supported}", path.display())]
    FormatVersion {
        /// The config file.
        path: PathBuf,
        /// The file's version.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// An option has a value that makes no sense.
    #[error("{name}: expected {expected}, got {got}")]
    Option {
        /// The option.
        name: &'static str,
        /// What is allowed.
        expected: String,
        /// What came.
        got: String,
    },
    /// Slices don't fit the model.
    #[error("{what}: expected {expected}, got {got}")]
    Input {
        /// What was given.
        what: String,
        /// What the model takes.
        expected: String,
        /// What came.
        got: String,
    },
    /// From fndm-data.
    #[error(transparent)]
    Data(#[from] fndm_data::Error),
    /// From fndm-memory.
    #[error(transparent)]
    Memory(#[from] fndm_memory::Error),
    /// From fndm-metrics.
    #[error(transparent)]
    Metrics(#[from] fndm_metrics::Error),
    /// From fndm-models.
    #[error(transparent)]
    Models(#[from] fndm_models::Error),
    /// From fndm-solver.
    #[error(transparent)]
    Solver(#[from] fndm_solver::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Io { path, error }
    }

    pub(crate) fn option(
        name: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::Option {
            name,
            expected: expected.into(),
            got: got.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that prints the whole chain of causes tells each of them once.
    #[test]
    fn a_cause_is_told_once() {
        let path = Path::new("x/model.json");
        let refused = Error::io(path)(std::io::Error::other("disk on fire"));
        assert_eq!(refused.to_string(), "x/model.json: disk on fire");
        assert!(std::error::Error::source(&refused).is_none());
        let json = Error::Json {
            path: path.into(),
            what: "model config",
            error: serde_json::from_str::<u8>("{").unwrap_err(),
        };
        assert!(json.to_string().contains("not a valid model config: "));
        assert!(std::error::Error::source(&json).is_none());
    }
}
