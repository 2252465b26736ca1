use std::path::PathBuf;

/// An error of any other crate.
type Cause = Box<dyn std::error::Error + Send + Sync>;

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
    #[error("{what}{}: a value is NaN or infinite", of_image(.image.as_ref()))]
    NonFinite {
        /// Which array.
        what: String,
        /// The number of the image that it belongs to, where there is one, among the images that were given.
        image: Option<usize>,
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
        /// What is wrong with it, or the part that is.
        message: String,
        /// The cause, where another part of the program found it.
        #[source]
        source: Option<Cause>,
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
    /// A file couldn't be read.
    #[error("can't read {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file couldn't be written.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),
    /// The network that extracts the features failed.
    #[error("feature extractor")]
    Extractor(#[source] Cause),
    /// Features of another extractor than the one that a model was built with.
    #[error("features: expected those that it was built with, {expected}, got {got}")]
    OtherExtractor {
        /// The fingerprint of the extractor that it was built with.
        expected: String,
        /// The fingerprint of the one that came.
        got: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation")]
    Tensor(#[from] candle_core::Error),
}

fn of_image(image: Option<&usize>) -> String {
    image.map_or_else(String::new, |image| format!(" of image {image}"))
}

impl Error {
    pub(crate) fn non_finite(what: impl Into<String>, image: Option<usize>) -> Self {
        Self::NonFinite {
            what: what.into(),
            image,
        }
    }

    /// The error of a batch that begins with image `start`, seen from all images.
    pub(crate) fn after(self, start: usize) -> Self {
        match self {
            Self::NonFinite {
                what,
                image: Some(image),
            } => Self::non_finite(what, Some(start + image)),
            other => other,
        }
    }

    pub(crate) fn malformed(
        what: impl Into<String>,
        message: impl Into<String>,
        source: Option<Cause>,
    ) -> Self {
        Self::Malformed {
            what: what.into(),
            message: message.into(),
            source,
        }
    }

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

#[cfg(test)]
mod tests {
    use super::Error;

    fn chain(error: &dyn std::error::Error) -> Vec<String> {
        let mut parts = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            parts.push(error.to_string());
            next = error.source();
        }
        parts
    }

    #[test]
    fn each_level_of_the_chain_says_its_own_part_once() {
        let io = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such place");
        for (error, own, cause) in [
            (
                Error::Io {
                    path: "a/bank".into(),
                    source: io(),
                },
                "can't read a/bank",
                "no such place",
            ),
            (
                Error::malformed("a/bank", "the header", Some(Box::new(io()))),
                "a/bank: malformed: the header",
                "no such place",
            ),
            (
                Error::Extractor(Box::new(io())),
                "feature extractor",
                "no such place",
            ),
            (
                Error::Tensor(candle_core::Error::Msg("no such place".into())),
                "tensor operation",
                "no such place",
            ),
        ] {
            assert_eq!(chain(&error), [own, cause]);
        }
        let alone = Error::malformed("a/bank", "the file is empty", None);
        assert_eq!(chain(&alone), ["a/bank: malformed: the file is empty"]);
        let image = Error::non_finite("feature map 1", Some(2)).after(5);
        assert_eq!(
            chain(&image),
            ["feature map 1 of image 7: a value is NaN or infinite"]
        );
    }
}
