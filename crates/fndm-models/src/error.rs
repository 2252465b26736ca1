//! The one error type of the crate.

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
    Tensor(#[from] candle_core::Error),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    pub(crate) fn input(
        name: &'static str,
        expected: impl Into<String>,
        got: impl std::fmt::Debug,
    ) -> Self {
        Self::Input {
            name,
            expected: expected.into(),
            got: format!("{got:?}"),
        }
    }
}
