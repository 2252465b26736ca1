//! Which patient belongs to training, validation and test.

use std::collections::BTreeMap;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::layout::is_inside;
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
/// let again = Splits {
///     test: vec!["d".into(), "d".into()],
///     ..Splits::default()
/// };
/// assert_eq!(
///     again.check().unwrap_err().to_string(),
///     "patient d stands twice on the side test of the split"
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
    /// [`Error::Io`], [`Error::Limit`], [`Error::Text`], [`Error::Json`], [`Error::PatientOnTwoSides`].
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let splits: Self = text::read_json(path.as_ref(), limits)?;
        splits.check()?;
        Ok(splits)
    }

    /// Writes the split as JSON, through a temporary name.
    ///
    /// # Errors
    /// [`Error::Files`], [`Error::PatientOnTwoSides`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        Ok(fndm_files::write_json(path, self)?)
    }

    /// Splits patients at random, with about the same fractions of every stratum (site,
    /// scanner, with or without lesion) on each side.
    ///
    /// `patients` are pairs of name and stratum; `fractions` are those of training,
    /// validation and test, and sum to 1. The same seed gives the same split, whatever the order of the patients.
    ///
    /// Each stratum is dealt out one patient after the other; a patient goes to the side that lacks
    /// most so far, in the stratum and over all taken together.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for fractions that are negative or do not sum to 1;
    /// [`Error::PatientOnTwoSides`] for a patient named twice.
    ///
    /// ```
    /// use fndm_data::Splits;
    /// let patients: Vec<(String, String)> =
    ///     (0..20).map(|n| (format!("p{n:02}"), format!("site{}", n % 2))).collect();
    /// let splits = Splits::stratified(&patients, [0.7, 0.1, 0.2], 7)?;
    /// assert_eq!((splits.train.len(), splits.val.len(), splits.test.len()), (14, 2, 4));
    /// # Ok::<(), fndm_data::Error>(())
    /// ```
    pub fn stratified(
        patients: &[(String, String)],
        fractions: [f64; 3],
        seed: u64,
    ) -> Result<Self> {
        let sum: f64 = fractions.iter().sum();
        if fractions.iter().any(|f| f.is_nan() || *f < 0.0) || (sum - 1.0).abs() > 1e-9 {
            return Err(Error::config(
                "fractions of the split",
                "three numbers from 0 that sum to 1",
                format!("{fractions:?}"),
            ));
        }
        let mut strata: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (patient, stratum) in patients {
            strata.entry(stratum).or_default().push(patient);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sides: [Vec<String>; 3] = Default::default();
        let mut dealt = 0.0;
        for members in strata.values_mut() {
            members.sort_unstable();
            members.shuffle(&mut rng);
            let mut inside = [0.0; 3];
            for (n, member) in members.iter().enumerate() {
                dealt += 1.0;
                // How much of a patient each side lacks in the stratum, then overall.
                let lack = |side: usize| {
                    let own = fractions[side] * (n + 1) as f64 - inside[side];
                    let all = fractions[side] * dealt - sides[side].len() as f64;
                    own + all
                };
                let open = (0..3).filter(|&side| fractions[side] > 0.0);
                let side = open
                    .max_by(|&a, &b| lack(a).total_cmp(&lack(b)))
                    .unwrap_or(0);
                inside[side] += 1.0;
                sides[side].push((*member).to_string());
            }
        }
        for side in &mut sides {
            side.sort_unstable();
        }
        let [train, val, test] = sides;
        let splits = Self { train, val, test };
        splits.check()?;
        Ok(splits)
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
                if !is_inside(patient) || !root.join(patient).is_dir() {
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
