use std::path::{Path, PathBuf};

/// An error of another library.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in inference, or in a crate below it.
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
    /// A model folder lacks a file.
    #[error("model folder {}: expected the file {file}, found none", folder.display())]
    MissingModelFile {
        /// The model folder.
        folder: PathBuf,
        /// The missing file.
        file: String,
    },
    /// A file of a model folder can't be used.
    #[error("model file {}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Cause,
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
    /// A network gave NaN or infinity: its weights are broken, or too large for the arithmetic. No mask comes of that.
    #[error(
        "{network}: gave {value} for patient {patient}, slice {slice}, in step {step} of {steps} while {direction}; expected finite numbers"
    )]
    NetworkNotFinite {
        /// The network's file, or its name where it comes from none.
        network: String,
        /// The patient.
        patient: String,
        /// The slice, by its position in the volume (from 0).
        slice: usize,
        /// `encoding` or `sampling`.
        direction: &'static str,
        /// The step, from 1.
        step: usize,
        /// Steps in that direction.
        steps: usize,
        /// The first such value.
        value: f32,
    },
    /// What decides on a mask is NaN or infinite.
    #[error("{what} of patient {patient}, slice {slice}: expected finite numbers, got {value}")]
    NotFinite {
        /// What: an image, a map.
        what: String,
        /// The patient.
        patient: String,
        /// The slice, by its position in the volume (from 0).
        slice: usize,
        /// The first such value.
        value: f32,
    },
    /// The coarse map of a patient couldn't be made.
    #[error("{network}: no coarse map of patient {patient}{}", at_slice(*slice))]
    Coarse {
        /// The file of the network whose features it comes from, or of the model that judges them.
        network: String,
        /// The patient.
        patient: String,
        /// The slice that it failed at, by its position in the volume (from 0), where it was one.
        slice: Option<usize>,
        /// Why.
        source: fndm_memory::Error,
    },
    /// Of a part of the calling program's own.
    #[error("{what}")]
    Own {
        /// The part.
        what: String,
        /// Why.
        source: Cause,
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

fn at_slice(slice: Option<usize>) -> String {
    slice.map_or_else(String::new, |z| format!(", slice {z}"))
}

impl Error {
    /// An error of a part that the calling program brings.
    pub fn own(what: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self::Own {
            what: what.into(),
            source: cause.into(),
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
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
        let path = Path::new("x/model.json");
        told(
            Error::io(path)(std::io::Error::other("disk on fire")),
            "x/model.json",
            &["x/model.json", "disk on fire"],
        );
        told(
            fndm_files::Error::json(path, "model config")("EOF in line 1").into(),
            "x/model.json: not a valid model config",
            &["x/model.json", "not a valid", "line 1"],
        );
        let full = || std::io::Error::other("disk on fire");
        told(
            Error::ModelFile {
                path: path.into(),
                source: Box::new(full()),
            },
            "model file x/model.json",
            &["x/model.json", "disk on fire"],
        );
        told(
            Error::Coarse {
                network: "x/classifier.safetensors".into(),
                patient: "a/b".into(),
                slice: Some(7),
                source: fndm_memory::Error::NonFinite {
                    what: "feature map 0".into(),
                    image: None,
                },
            },
            "x/classifier.safetensors: no coarse map of patient a/b, slice 7",
            &["classifier", "a/b", "feature map 0", "NaN"],
        );
        // Errors of the crates below show through, with their own causes.
        let below = fndm_models::StateDict::read("no/such", &fndm_models::Limits::default());
        let below = Error::from(below.unwrap_err());
        assert!(fndm_files::chain(&below).contains("no/such"));
        // Without the backtrace that candle puts into its message where the environment asks for one.
        let traced = Error::from(candle_core::Error::Msg("no".into()).bt());
        assert_eq!(fndm_files::chain(&traced), "no");
    }
}
