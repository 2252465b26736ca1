/// An error of another library.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no picture. `Display` says what this level knows; `source()` has the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A chart couldn't be drawn.
    #[error("chart of {y} against {x}")]
    Chart {
        /// The horizontal axis.
        x: String,
        /// The vertical axis.
        y: String,
        /// What the library says.
        source: Cause,
    },
    /// Words couldn't be drawn.
    #[error("drawing {words:?}")]
    Words {
        /// The words.
        words: String,
        /// What the library says.
        source: Cause,
    },
    /// Pixels couldn't be encoded.
    #[error("PNG of {width} x {height} pixels")]
    Png {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// What the encoder says.
        source: Cause,
    },
    /// A row doesn't fit its sheet.
    #[error("a row of a sheet: expected {expected}, got {got}")]
    Row {
        /// What would fit.
        expected: String,
        /// What came.
        got: String,
    },
    /// The file couldn't be written.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
