//! Folds by patient: every choice is made by their mean, and the test split is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Limits, Result, text};

/// A division of patients into folds. What is trained on all folds but one is judged on that one, and every patient is
/// judged once.
///
/// ```
/// use fndm_data::Folds;
/// let patients: Vec<(String, String)> =
///     (0..20).map(|n| (format!("p{n:02}"), format!("site{}", n % 2))).collect();
/// let folds = Folds::stratified(&patients, 4, 7)?;
/// assert_eq!(folds.folds.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 5, 5]);
/// assert_eq!(folds.train(0)?.len(), 15);
/// # Ok::<(), fndm_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folds {
    /// The seed that patients were dealt out by.
    pub seed: u64,
    /// The patients of each fold, sorted.
    pub folds: Vec<Vec<String>>,
}

impl Folds {
    /// Deals patients out at random, so that the folds differ by at most one patient, in all and in every stratum (site,
    /// scanner).
    ///
    /// `patients` are pairs of name and stratum. The same seed gives the same folds, whatever the order of the patients.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for fewer than two folds, fewer patients than folds, or a patient named twice.
    pub fn stratified(patients: &[(String, String)], count: usize, seed: u64) -> Result<Self> {
        if count < 2 || patients.len() < count {
            return Err(Error::config(
                "number of folds",
                format!("2 to {}, the number of patients", patients.len()),
                count,
            ));
        }
        let mut strata: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (patient, stratum) in patients {
            strata.entry(stratum).or_default().push(patient);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut folds = vec![Vec::new(); count];
        let mut next = 0;
        for members in strata.values_mut() {
            members.sort_unstable();
            members.shuffle(&mut rng);
            // Round and round, each stratum going on where the last one ended.
            for member in members {
                folds[next].push((*member).to_string());
                next = (next + 1) % count;
            }
        }
        for fold in &mut folds {
            fold.sort_unstable();
        }
        let folds = Self { seed, folds };
        folds.check()?;
        Ok(folds)
    }

    /// Reads `{"seed": ..., "folds": [[...], ...]}` and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Limit`], [`Error::Text`], [`Error::InvalidConfig`].
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let folds: Self = text::read_json(path.as_ref(), limits)?;
        folds.check()?;
        Ok(folds)
    }

    /// Writes the folds as JSON, through a temporary name.
    ///
    /// # Errors
    /// [`Error::Files`], [`Error::InvalidConfig`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.check()?;
        Ok(fndm_files::write_json(path, self)?)
    }

    /// Number of folds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.folds.len()
    }

    /// Whether there is no fold.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.folds.is_empty()
    }

    /// The patients of fold `i`: what is trained without them is judged on them.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a fold that isn't there.
    pub fn held_out(&self, i: usize) -> Result<&[String]> {
        let fold = self.folds.get(i).map(Vec::as_slice);
        fold.ok_or_else(|| Error::config("fold", format!("below {}", self.len()), i))
    }

    /// The patients of all other folds, sorted.
    ///
    /// # Errors
    /// As [`held_out`](Self::held_out).
    pub fn train(&self, i: usize) -> Result<Vec<String>> {
        self.held_out(i)?;
        let others = self.folds.iter().enumerate().filter(|(j, _)| *j != i);
        let mut patients: Vec<String> = others.flat_map(|(_, fold)| fold.clone()).collect();
        patients.sort_unstable();
        Ok(patients)
    }

    /// Checks that there are two folds or more, none is empty, and no patient stands in two.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the patient.
    pub fn check(&self) -> Result<()> {
        if self.len() < 2 || self.folds.iter().any(Vec::is_empty) {
            let sizes: Vec<usize> = self.folds.iter().map(Vec::len).collect();
            let expected = "two folds or more, with a patient or more in each";
            return Err(Error::config("folds", expected, format!("sizes {sizes:?}")));
        }
        let mut seen = BTreeSet::new();
        for patient in self.folds.iter().flatten() {
            if !seen.insert(patient) {
                return Err(Error::config(
                    "folds",
                    "every patient once",
                    format!("{patient} twice"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patients(n: usize) -> Vec<(String, String)> {
        let site = |i: usize| format!("site{}", i * i % 5);
        (0..n).map(|i| (format!("p{i:02}"), site(i))).collect()
    }

    #[test]
    fn every_patient_is_held_out_once_and_strata_are_even() {
        let patients = patients(43);
        let folds = Folds::stratified(&patients, 4, 3).unwrap();
        let mut all: Vec<&String> = folds.folds.iter().flatten().collect();
        all.sort();
        assert!(
            all.iter()
                .map(|p| p.as_str())
                .eq(patients.iter().map(|p| p.0.as_str()))
        );
        let even = |counts: Vec<usize>| {
            let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(high - low <= 1, "{counts:?}");
        };
        even(folds.folds.iter().map(Vec::len).collect());
        for site in ["site0", "site1", "site4"] {
            let here = |fold: &Vec<String>| {
                let of = |p: &&(String, String)| p.1 == site && fold.contains(&p.0);
                patients.iter().filter(of).count()
            };
            even(folds.folds.iter().map(here).collect());
        }
        for i in 0..4 {
            let (train, held) = (folds.train(i).unwrap(), folds.held_out(i).unwrap());
            assert_eq!(train.len() + held.len(), 43);
            assert!(held.iter().all(|p| !train.contains(p)));
        }
    }

    #[test]
    fn the_order_of_the_patients_does_not_matter_and_the_seed_does() {
        let (mut list, seed) = (patients(20), 9);
        let folds = Folds::stratified(&list, 3, seed).unwrap();
        list.reverse();
        assert_eq!(Folds::stratified(&list, 3, seed).unwrap(), folds);
        assert_ne!(Folds::stratified(&list, 3, 10).unwrap().folds, folds.folds);
    }

    #[test]
    fn a_file_is_read_back_and_a_wrong_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folds.json");
        let folds = Folds::stratified(&patients(9), 2, 1).unwrap();
        folds.write(&path).unwrap();
        assert_eq!(Folds::read(&path, &Limits::default()).unwrap(), folds);
        for (text, expected) in [
            (r#"{"seed": 1, "folds": [["a"], ["b", "a"]]}"#, "a twice"),
            (r#"{"seed": 1, "folds": [["a"], []]}"#, "sizes [1, 0]"),
            (
                r#"{"seed": 1, "folds": [["a"], ["b"]], "fold": 2}"#,
                "unknown field",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Folds::read(&path, &Limits::default()).unwrap_err();
            let mut chain = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(error) = source {
                chain += &format!(": {error}");
                source = error.source();
            }
            assert!(chain.contains(expected), "{chain}");
        }
        assert!(Folds::stratified(&patients(3), 4, 1).is_err());
        let twice = [patients(3), patients(1)].concat();
        assert!(Folds::stratified(&twice, 2, 1).is_err());
        assert!(folds.train(2).is_err());
    }
}
