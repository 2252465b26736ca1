use std::path::PathBuf;

/// What can go wrong while training, saving and resuming.
///
/// `Display` says what this level knows, `source` the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("training config: {field}: expected {expected}, got {got}")]
    Config {
        /// The setting's name, as it stands in JSON.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The slices don't fit the config or the network.
    #[error("training data: expected {expected}, got {got}")]
    Data {
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A loss or a gradient was infinite or not a number.
    #[error(
        "iteration {iteration}: the {what} is {value}; slices {slices:?} ({}), timesteps {timesteps:?}",
        names.join(", ")
    )]
    NonFinite {
        /// The iteration, counted from 1.
        iteration: u64,
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// Positions of the batch's slices in the slice set.
        slices: Vec<usize>,
        /// The same slices by patient and height: `patient z=12`.
        names: Vec<String>,
        /// The batch's discrete timesteps.
        timesteps: Vec<usize>,
    },
    /// A parameter took no part in the loss.
    #[error("parameter {name} received no gradient")]
    NoGradient {
        /// The parameter's name.
        name: String,
    },
    /// A checkpoint was made with another setting.
    #[error("{}: made with {field} = {saved}, but this run has {current}", path.display())]
    Changed {
        /// The checkpoint.
        path: PathBuf,
        /// The setting's path, such as `config.batch`.
        field: String,
        /// The checkpoint's value.
        saved: String,
        /// This run's value.
        current: String,
    },
    /// A checkpoint was made with other patients.
    #[error(
        "{}: made with {} patients, but this run has {}; missing: {}; new: {}",
        path.display(),
        saved,
        current,
        listed(missing),
        listed(added)
    )]
    Patients {
        /// The checkpoint.
        path: PathBuf,
        /// Patients of the checkpoint.
        saved: usize,
        /// Patients of this run.
        current: usize,
        /// Those that this run lacks.
        missing: Vec<String>,
        /// Those that the checkpoint lacks.
        added: Vec<String>,
    },
    /// The processes of a data-parallel run don't work together.
    #[error("training in several processes: {reason}")]
    Group {
        /// What was expected and what happened.
        reason: String,
    },
    /// A checkpoint could not be understood.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A file could not be written.
    #[error(transparent)]
    Files(#[from] fndm_files::Error),
    /// A file could not be read, or not be written to.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A step made a parameter, or an average of it, infinite or not a number. Such weights are never written.
    #[error("after iteration {iteration}: parameter {name} holds {value}, expected finite numbers")]
    NonFiniteWeight {
        /// Iterations made.
        iteration: u64,
        /// The parameter's name; `ema.0.999/NAME` for an average.
        name: String,
        /// The first such value.
        value: f32,
    },
    /// The thread that prepares batches ended early.
    #[error("preparing batch {index} failed: {reason}")]
    Batch {
        /// The batch's number, from 0.
        index: u64,
        /// Why.
        reason: String,
    },
    /// The loss curve couldn't be drawn.
    #[error(transparent)]
    Pictures(#[from] fndm_pictures::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The network could not be built or run.
    #[error(transparent)]
    Model(Box<fndm_models::Error>),
    /// The noise schedule is wrong.
    #[error(transparent)]
    Schedule(Box<fndm_solver::Error>),
    /// The masks or corruptions are wrong.
    #[error(transparent)]
    Slices(Box<fndm_data::Error>),
    /// A [`Task`](crate::Task) from outside of this crate failed.
    #[error(transparent)]
    Task(Box<dyn std::error::Error + Send + Sync>),
}

/// A result whose error is [`Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

// Boxed, so that a `Result` stays small.
macro_rules! boxed {
    ($($from:ty => $variant:ident),*) => {$(
        impl From<$from> for Error {
            fn from(error: $from) -> Self {
                Self::$variant(Box::new(error))
            }
        }
    )*};
}

boxed!(fndm_models::Error => Model, fndm_solver::Error => Schedule, fndm_data::Error => Slices);

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io {
            path: path.into(),
            source,
        }
    }

    pub(crate) fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// The first few names.
fn listed(names: &[String]) -> String {
    const MOST: usize = 5;
    match names.len() {
        0 => "none".to_owned(),
        n if n <= MOST => names.join(", "),
        n => format!("{} and {} more", names[..MOST].join(", "), n - MOST),
    }
}

/// Fails with [`Error::Config`] unless `ok`.
pub(crate) fn check(
    ok: bool,
    field: &'static str,
    expected: &str,
    got: impl std::fmt::Debug,
) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::Config {
        field,
        expected: expected.to_owned(),
        got: format!("{got:?}"),
    })
}

/// Fails with [`Error::Config`] unless `p` is in `[0, 1]`.
pub(crate) fn check_share(p: f64, field: &'static str) -> Result<()> {
    check(
        (0.0..=1.0).contains(&p),
        field,
        "a share between 0 and 1",
        p,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who prints the whole chain of causes tells each of them once.
    #[test]
    fn a_cause_is_told_once() {
        let told = |error: Error, parts: &[&str]| {
            let text = fndm_files::chain(&error);
            for part in parts {
                assert_eq!(text.matches(part).count(), 1, "{part} in {text}");
            }
        };
        let full = || std::io::Error::other("disk on fire");
        let error = Error::io("run/log.jsonl", full());
        assert_eq!(error.to_string(), "run/log.jsonl");
        told(error, &["run/log.jsonl", "disk on fire"]);
        told(candle_core::Error::wrap(full()).into(), &["disk on fire"]);
        let schedule = fndm_solver::ScheduleConfig::cosine(0).build();
        told(schedule.unwrap_err().into(), &["noise schedule"]);
        let missing = fndm_models::StateDict::read("no/such", &fndm_models::Limits::default());
        told(missing.unwrap_err().into(), &["no/such"]);
    }
}
