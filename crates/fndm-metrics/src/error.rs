//! The crate's error type.

/// What can be wrong with an input of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two arrays that must have the same shape have not.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The array that is wrong.
        what: &'static str,
        /// The shape that was expected.
        expected: Vec<usize>,
        /// The shape that came.
        found: Vec<usize>,
    },
    /// The number of axes is not one that the metric is defined for.
    #[error("{what}: expected {expected} axes, found {found}")]
    Dimension {
        /// The metric or array.
        what: &'static str,
        /// The numbers of axes that are possible.
        expected: &'static str,
        /// The number of axes that came.
        found: usize,
    },
    /// A voxel spacing is missing, zero, negative, not finite, or so small or large that squares of
    /// distances have no number.
    #[error(
        "spacing: expected {axes} numbers from 1e-50 to 1e50, one per array axis, found {found:?}"
    )]
    Spacing {
        /// The number of axes of the mask.
        axes: usize,
        /// The spacing that came.
        found: Vec<f64>,
    },
    /// There are no values to compute from.
    #[error("{what}: expected at least one value, found none")]
    NoValues {
        /// The input that is empty.
        what: &'static str,
    },
    /// A value is NaN or infinite.
    #[error("{what}: expected finite values, found {found} at position {position}")]
    NotFinite {
        /// The input.
        what: &'static str,
        /// The value.
        found: f64,
        /// Its position in memory order.
        position: usize,
    },
    /// A parameter lies outside its range.
    #[error("{what}: expected {expected}, found {found}")]
    Parameter {
        /// The parameter.
        what: &'static str,
        /// Its range in words.
        expected: &'static str,
        /// The value that came.
        found: f64,
    },
    /// The values lie so close together that the bins of a histogram have no width.
    #[error("otsu: the range {low} to {high} is too narrow for {bins} bins; use otsu_exact")]
    RangeTooNarrow {
        /// The smallest value.
        low: f64,
        /// The largest value.
        high: f64,
        /// The number of bins.
        bins: usize,
    },
    /// The named definition does not define this metric.
    #[error("{metric} is not defined by {definition}")]
    NotDefined {
        /// The metric.
        metric: &'static str,
        /// The definition that has none.
        definition: &'static str,
    },
    /// A table was asked for a column or got a row that does not fit.
    #[error("table: {0}")]
    Table(String),
    /// A value could not be written as JSON.
    #[error("json: {0}")]
    Json(#[from] serde_json::Error),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Checks that two arrays have the same shape.
pub(crate) fn same_shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape {
        what,
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}
