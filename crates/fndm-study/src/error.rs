use std::path::{Path, PathBuf};

/// What can go wrong in a training or an evaluation, or in a crate below.
///
/// `Display` says what this level knows, `source` the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder couldn't be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of ours couldn't be read or written, or doesn't hold what it should.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),
    /// A stage of a training's plan can't be.
    #[error("plan of the training: {stage}")]
    Plan {
        /// The stage.
        stage: String,
        /// What is wrong with it.
        source: Box<Error>,
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
    /// The settings of a rival.
    #[error("settings of {key}")]
    Row {
        /// The method.
        key: &'static str,
        /// What is wrong with them.
        source: Box<Error>,
    },
    /// Settings and what is laid over them don't make settings.
    #[error("settings with their changes")]
    Overlay(#[source] serde_json::Error),
    /// The caller's progress function asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// From fndm-pictures.
    #[error(transparent)]
    Pictures(#[from] fndm_pictures::Error),
    /// From fndm-report.
    #[error(transparent)]
    Report(#[from] fndm_report::Error),
    /// From fndm.
    #[error(transparent)]
    Fndm(#[from] fndm::Error),
    /// From fndm-baselines.
    #[error(transparent)]
    Baselines(#[from] fndm_baselines::Error),
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
    /// From fndm-train.
    #[error(transparent)]
    Train(#[from] fndm_train::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// Whether it is about a table of labels: one wrong row makes the others doubtful, so nothing should be computed.
    #[must_use]
    pub fn is_of_the_table(&self) -> bool {
        matches!(
            self,
            Self::Data(fndm_data::Error::LabelTable { .. } | fndm_data::Error::Label { .. })
        )
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

    /// Who prints the whole chain of causes tells each of them once.
    #[test]
    fn a_cause_is_told_once() {
        let told = |error: Error, display: &str, parts: &[&str]| {
            assert_eq!(error.to_string(), display);
            let chain = fndm_files::chain(&error);
            for part in parts {
                assert_eq!(chain.matches(part).count(), 1, "{part} in {chain}");
            }
        };
        let path = Path::new("x/report.json");
        told(
            Error::io(path)(std::io::Error::other("disk on fire")),
            "x/report.json",
            &["x/report.json", "disk on fire"],
        );
        told(
            fndm_files::Error::json(path, "report")("EOF in line 1").into(),
            "x/report.json: not a valid report",
            &["x/report.json", "not a valid", "line 1"],
        );
        told(
            Error::Plan {
                stage: "classifier".to_owned(),
                source: Box::new(Error::option("batch", "1 or more", 0)),
            },
            "plan of the training: classifier",
            &["classifier", "batch: expected 1 or more, got 0"],
        );
        let below = fndm::Error::MissingModelFile {
            folder: "m".into(),
            file: "unet.safetensors".into(),
        };
        told(
            below.into(),
            "model folder m: expected the file unet.safetensors, found none",
            &["unet.safetensors"],
        );
    }
}
