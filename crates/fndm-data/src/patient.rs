//! A patient as a set of volumes on one grid, and the checks on it.

use crate::{Error, Result, Volume};

/// Two grids are the same when no entry of their affines differs by more than this, in millimetres.
/// Files written by different programs round in the seventh digit.
const AFFINE_TOLERANCE: f64 = 1e-3;

/// What is known of one patient: some sequences on one grid and, perhaps, a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Patient {
    /// What the user calls the patient: the path of the patient's folder below the data folder
    /// (`HGG/Brats_001`), or the name of the folder.
    pub id: String,
    /// Sequence name ("flair", "t1", ...) and volume, in the order asked for.
    pub sequences: Vec<(String, Volume)>,
    /// Lesion mask on the same grid: what counts as lesion tells [`is_lesion`](crate::is_lesion).
    pub mask: Option<Volume>,
}

impl Patient {
    /// The volume of one sequence, if the patient has it.
    #[must_use]
    pub fn sequence(&self, name: &str) -> Option<&Volume> {
        self.sequences
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, volume)| volume)
    }

    /// The first sequence: its grid is the patient's.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when there is no sequence.
    pub fn reference(&self) -> Result<&Volume> {
        match self.sequences.first() {
            Some((_, volume)) => Ok(volume),
            None => Err(Error::config(
                format!("sequences of patient {}", self.id),
                "at least one",
                "none",
            )),
        }
    }

    /// Checks that all volumes lie on one grid, are finite, and are not constant.
    /// A mask may be all zero.
    ///
    /// # Errors
    /// [`Error::GridMismatch`], [`Error::NotFinite`], [`Error::ConstantVolume`], or
    /// [`Error::InvalidConfig`] when there is no sequence.
    pub fn check(&self) -> Result<()> {
        self.reference()?;
        let Some((first_name, first)) = self.sequences.first() else {
            return Ok(());
        };
        let mask = self.mask.iter().map(|mask| ("mask", mask));
        let all = self.sequences.iter().map(|(n, v)| (n.as_str(), v));
        for (name, volume) in all.chain(mask) {
            self.check_grid((first_name, first), (name, volume))?;
            self.check_finite(name, volume)?;
        }
        for (name, volume) in &self.sequences {
            self.check_constant(name, volume)?;
        }
        Ok(())
    }

    fn check_grid(&self, first: (&str, &Volume), second: (&str, &Volume)) -> Result<()> {
        let mismatch = |what, values| Error::GridMismatch {
            patient: self.id.clone(),
            first: first.0.to_string(),
            second: second.0.to_string(),
            what,
            values,
        };
        let (a, b) = (first.1, second.1);
        if a.shape() != b.shape() {
            let values = format!("{:?} and {:?}", a.shape(), b.shape());
            return Err(mismatch("shape", values));
        }
        let far = (a.affine.iter().flatten())
            .zip(b.affine.iter().flatten())
            .any(|(x, y)| (x - y).is_nan() || (x - y).abs() > AFFINE_TOLERANCE);
        if far {
            let values = format!("{:?} and {:?}", a.affine, b.affine);
            return Err(mismatch("affine", values));
        }
        Ok(())
    }

    fn check_finite(&self, name: &str, volume: &Volume) -> Result<()> {
        // `fold` goes in the order of memory, `iter` does not.
        let count = volume
            .data
            .fold(0, |count, v| count + usize::from(!v.is_finite()));
        if count == 0 {
            return Ok(());
        }
        Err(Error::NotFinite {
            patient: self.id.clone(),
            sequence: name.to_string(),
            count,
            total: volume.data.len(),
        })
    }

    fn check_constant(&self, name: &str, volume: &Volume) -> Result<()> {
        let Some(&first) = volume.data.first() else {
            return Err(Error::shape(
                format!("patient {}, {name}", self.id),
                "no empty axis",
                volume.data.shape(),
            ));
        };
        if volume.data.fold(false, |other, v| other | (*v != first)) {
            return Ok(());
        }
        Err(Error::ConstantVolume {
            patient: self.id.clone(),
            sequence: name.to_string(),
            value: first,
        })
    }
}

/// Pairs of sequences that are the same image under two names, bit for bit. Data sets
/// do this where a sequence was not acquired; such a patient teaches a
/// multi-channel model something wrong, so leave it out and say so.
#[must_use]
pub fn find_identical_sequences(patient: &Patient) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (n, (first_name, first)) in patient.sequences.iter().enumerate() {
        for (second_name, second) in &patient.sequences[n + 1..] {
            let same = first.shape() == second.shape()
                && ndarray::Zip::from(&first.data)
                    .and(&second.data)
                    .all(|a, b| a.to_bits() == b.to_bits());
            if same {
                found.push((first_name.clone(), second_name.clone()));
            }
        }
    }
    found
}
