/// Why there is no report. `Display` says what this level knows; `source()` has the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that a page is made of doesn't fit the rest of it.
    #[error("{what}: expected {expected}, got {got}")]
    Input {
        /// What doesn't fit.
        what: String,
        /// What would fit.
        expected: String,
        /// What came.
        got: String,
    },
    /// Pixels couldn't be encoded, or a chart couldn't be drawn.
    #[error(transparent)]
    Pictures(#[from] fndm_pictures::Error),
    /// The page's data couldn't be written as JSON.
    #[error("data of a page")]
    Json(#[from] serde_json::Error),
    /// A page couldn't be written.
    #[error("cannot write a page")]
    Write(#[source] std::io::Error),
}

impl Error {
    pub(crate) fn input(
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        Self::Input {
            what: what.into(),
            expected: expected.into(),
            got: got.into(),
        }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
