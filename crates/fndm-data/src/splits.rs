//! Which patient belongs to training, validation and test.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Limits, Result, text};

/// A side of the split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Parameters are fitted on it.
    Train,
    /// Settings are chosen on it.
    Val,
    /// Looked at once, at the end.
    Test,
}

impl Side {
    /// All sides, in order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// "train", "val" or "test", as in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// A split by patient. Slices of one patient look alike, so a split by slice
/// would let a model see its test data.
///
/// ```
/// use fndm_data::Splits;
/// let splits = Splits {
///     train: vec!["a".into(), "b".into()],
///     val: vec!["c".into()],
///     test: vec!["b".into()],
/// };
/// assert_eq!(
///     splits.check().unwrap_err().to_string(),
///     "patient b stands on two sides of the split: train and test"
/// );
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Splits {
    /// Patients for training.
    #[serde(default)]
    pub train: Vec<String>,
    /// Patients for validation.
    #[serde(default)]
    pub val: Vec<String>,
    /// Patients for the test.
    #[serde(default)]
    pub test: Vec<String>,
}

impl Splits {
    /// Reads `{"train": [...], "val": [...], "test": [...]}` and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Limit`], [`Error::Text`], [`Error::PatientOnTwoSides`].
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let splits: Self = text::read_json(path.as_ref(), limits)?;
        splits.check()?;
        Ok(splits)
    }

    /// Writes the split as JSON, through a temporary name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::PatientOnTwoSides`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        text::write_json(path.as_ref(), self)
    }

    /// The patients of one side. May be empty.
    #[must_use]
    pub fn side(&self, side: Side) -> &[String] {
        match side {
            Side::Train => &self.train,
            Side::Val => &self.val,
            Side::Test => &self.test,
        }
    }

    /// The patients of one side, of which at least one is needed.
    ///
    /// # Errors
    /// [`Error::EmptySplit`].
    pub fn needed(&self, side: Side) -> Result<&[String]> {
        match self.side(side) {
            [] => Err(Error::EmptySplit {
                side: side.name().to_string(),
            }),
            patients => Ok(patients),
        }
    }

    /// Checks that no patient is listed twice, on two sides or on one.
    ///
    /// # Errors
    /// [`Error::PatientOnTwoSides`], naming the patient.
    pub fn check(&self) -> Result<()> {
        let mut seen: BTreeMap<&str, Side> = BTreeMap::new();
        for side in Side::ALL {
            for patient in self.side(side) {
                if let Some(first) = seen.insert(patient, side) {
                    return Err(Error::PatientOnTwoSides {
                        patient: patient.clone(),
                        first: first.name().to_string(),
                        second: side.name().to_string(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Checks that every patient has a folder in the data set.
    ///
    /// # Errors
    /// [`Error::PatientWithoutFolder`]; [`Error::PatientOnTwoSides`].
    pub fn check_folders(&self, root: impl AsRef<Path>) -> Result<()> {
        let root = root.as_ref();
        self.check()?;
        for side in Side::ALL {
            for patient in self.side(side) {
                if patient.is_empty() || !root.join(patient).is_dir() {
                    return Err(Error::PatientWithoutFolder {
                        patient: patient.clone(),
                        side: side.name().to_string(),
                        folder: root.to_path_buf(),
                    });
                }
            }
        }
        Ok(())
    }
}
