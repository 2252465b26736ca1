//! The one error type of the crate.

use std::fmt;
use std::path::{Path, PathBuf};

/// What can go wrong when a network is built, run, loaded or saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A combination of options that no network can have; the message says what fits.
    #[error("config: {0}")]
    Config(String),

    /// A tensor handed to a network doesn't fit it.
    #[error("input {name}: expected {expected}, got {got}")]
    Input {
        /// Which argument.
        name: &'static str,
        /// What would have fitted.
        expected: String,
        /// What came.
        got: String,
    },

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(candle_core::Error),

    /// A file can't be written.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),

    /// A file can't be read, or not be written to.
    #[error("{}: can't be read or written", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },

    /// A file isn't a checkpoint, or a broken one.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What was expected, and what came.
        reason: String,
    },

    /// A file asks for more than its reader's [`Limits`](crate::Limits) allow.
    #[error("{}: limit: {what} is {got}, at most {limit} allowed", path.display())]
    Limit {
        /// Which file.
        path: PathBuf,
        /// What is too large.
        what: &'static str,
        /// How large it is.
        got: u64,
        /// How large it may be.
        limit: u64,
    },

    /// A checkpoint's tensors aren't those of the network.
    #[error("{file}: {mismatch}")]
    Mismatch {
        /// Where the tensors came from.
        file: String,
        /// Everything that doesn't fit.
        mismatch: Box<Mismatch>,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything in which a checkpoint differs from the network that it is loaded into, in the order of the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// Tensors that the network needs and the checkpoint lacks, with the shape that is needed.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors that the network has no place for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape: name, expected, got.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors that don't hold real numbers, with the type that they have.
    pub types: Vec<(String, String)>,
}

impl Mismatch {
    /// Whether the checkpoint fits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of tensors that don't fit.
    #[must_use]
    pub fn len(&self) -> usize {
        self.missing.len() + self.unexpected.len() + self.shapes.len() + self.types.len()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors don't fit the network:", self.len())?;
        for (name, expected) in &self.missing {
            write!(f, "\n  missing {name}, expected {expected:?}")?;
        }
        for name in &self.unexpected {
            write!(f, "\n  unexpected {name}")?;
        }
        for (name, expected, got) in &self.shapes {
            write!(
                f,
                "\n  wrong shape {name}: expected {expected:?}, got {got:?}"
            )?;
        }
        for (name, got) in &self.types {
            write!(
                f,
                "\n  wrong type {name}: expected floating point, got {got}"
            )?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    pub(crate) fn input(
        name: &'static str,
        expected: impl Into<String>,
        got: impl fmt::Debug,
    ) -> Self {
        Self::Input {
            name,
            expected: expected.into(),
            got: format!("{got:?}"),
        }
    }

    pub(crate) fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    /// For `map_err` on a file's operations.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// As [`Error::io`], for bytes that the file's own description promises.
    pub(crate) fn reading(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Self::malformed(&path, "cut short: the file ends within a tensor's values")
            }
            _ => Self::Io { path, source },
        }
    }
}

impl From<candle_core::Error> for Error {
    /// Without the backtrace that candle may put behind its message: whoever reports an error adds one, or not.
    fn from(error: candle_core::Error) -> Self {
        match error {
            candle_core::Error::WithBacktrace { inner, .. } => Self::from(*inner),
            error => Self::Tensor(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(error: &dyn std::error::Error) -> Vec<String> {
        let all = std::iter::successors(Some(error), |e| e.source());
        all.map(ToString::to_string).collect()
    }

    /// Every level says what it knows, once.
    #[test]
    fn errors_are_told_by_their_chain() {
        let path = Path::new("a/unet.pt");
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let io = chain(&Error::io(path)(denied()));
        assert_eq!(io.len(), 2, "{io:?}");
        let joined = io.join(": ");
        for part in ["a/unet.pt", &denied().to_string()] {
            assert_eq!(joined.matches(part).count(), 1, "{joined}");
        }
        let cut = Error::reading(path)(std::io::ErrorKind::UnexpectedEof.into());
        assert_eq!(
            chain(&cut),
            ["a/unet.pt: cut short: the file ends within a tensor's values"]
        );
        let other = Error::reading(path)(denied());
        assert_eq!(chain(&other), io);
        let tensor = Error::from(candle_core::Error::Msg("two".into()).bt());
        assert_eq!(chain(&tensor), ["two"]);
        let traced = candle_core::Error::WithBacktrace {
            inner: Box::new(candle_core::Error::Msg("three".into())),
            backtrace: Box::new(std::backtrace::Backtrace::force_capture()),
        };
        assert_eq!(chain(&Error::from(traced)), ["three"]);
    }
}
