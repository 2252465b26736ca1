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
        /// Its position in the order of the values: of a set of images, counted on from one to the next.
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
    /// What was to be gone through several times wasn't the same each time.
    #[error("pass {pass} over the pixels: expected those of the first pass, found others")]
    PassesDiffer {
        /// The pass, from 1.
        pass: usize,
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
    /// The values are so large that their squares have no number, not even in double precision.
    #[error("{what}: the squares of values from {low:e} to {high:e} are too large for a number")]
    TooLarge {
        /// The function.
        what: &'static str,
        /// The smallest value.
        low: f64,
        /// The largest value.
        high: f64,
    },
    /// There is something to compute from, but less than the method needs.
    #[error("{what}: expected at least {least}, found {found}")]
    TooFew {
        /// What there is too little of.
        what: &'static str,
        /// How many are needed.
        least: usize,
        /// How many came.
        found: usize,
    },
    /// A table was asked for a column or got a row that does not fit.
    #[error("table: {0}")]
    Table(String),
    /// A value could not be written as JSON.
    #[error("the table cannot be written as JSON")]
    Json(#[source] Box<dyn std::error::Error + Send + Sync>),
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

#[cfg(test)]
mod tests {
    use super::Error;
    use std::error::Error as _;

    #[test]
    fn each_level_of_the_chain_says_its_own_part_once() {
        let cause = serde_json::from_str::<u8>("x").unwrap_err();
        let words = cause.to_string();
        let error = Error::Json(Box::new(cause));
        let source = error.source().unwrap().to_string();
        let chain = format!("{error}: {source}");
        assert_eq!(source, words);
        assert_eq!(chain.matches(&words).count(), 1, "{chain}");
        assert!(chain.starts_with("the table cannot be written as JSON: "));
        assert!(error.source().unwrap().source().is_none());
    }
}
