//! A patient as a set of volumes on one grid, and the checks on it.

use crate::affine::Affine;
use crate::nifti::Header;
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
            None => Err(Self::no_sequence(&self.id)),
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
        let grid = Grid::of(first);
        for (name, volume) in all.chain(mask) {
            grid.check_same(&self.id, first_name, name, &Grid::of(volume))?;
            check_finite(&self.id, name, volume)?;
        }
        for (name, volume) in &self.sequences {
            check_constant(&self.id, name, volume)?;
        }
        Ok(())
    }

    pub(crate) fn no_sequence(id: &str) -> Error {
        let what = format!("sequences of patient {id}");
        Error::config(what, "at least one", "none")
    }
}

/// What volumes of one patient have in common.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    pub(crate) shape: [usize; 3],
    pub(crate) affine: Affine,
    /// The header of the file, where the volume comes from one.
    pub(crate) header: Option<Header>,
}

impl Grid {
    pub(crate) fn of(volume: &Volume) -> Self {
        Self {
            shape: volume.shape(),
            affine: volume.affine,
            header: volume.header.clone(),
        }
    }

    /// Whether another volume of a patient lies on the same grid; both with their names.
    pub(crate) fn check_same(
        &self,
        patient: &str,
        name: &str,
        other_name: &str,
        other: &Self,
    ) -> Result<()> {
        let mismatch = |what, values| Error::GridMismatch {
            patient: patient.to_string(),
            first: name.to_string(),
            second: other_name.to_string(),
            what,
            values,
        };
        if self.shape != other.shape {
            let values = format!("{:?} and {:?}", self.shape, other.shape);
            return Err(mismatch("shape", values));
        }
        let far = (self.affine.iter().flatten())
            .zip(other.affine.iter().flatten())
            .any(|(x, y)| (x - y).is_nan() || (x - y).abs() > AFFINE_TOLERANCE);
        if far {
            let values = format!("{:?} and {:?}", self.affine, other.affine);
            return Err(mismatch("affine", values));
        }
        Ok(())
    }
}

pub(crate) fn check_finite(patient: &str, name: &str, volume: &Volume) -> Result<()> {
    // `fold` goes in the order of memory, `iter` does not.
    let count = volume
        .data
        .fold(0, |count, v| count + usize::from(!v.is_finite()));
    if count == 0 {
        return Ok(());
    }
    Err(Error::NotFinite {
        patient: patient.to_string(),
        sequence: name.to_string(),
        count,
        total: volume.data.len(),
    })
}

pub(crate) fn check_constant(patient: &str, name: &str, volume: &Volume) -> Result<()> {
    let Some(&first) = volume.data.first() else {
        return Err(Error::shape(
            format!("patient {patient}, {name}"),
            "no empty axis",
            volume.data.shape(),
        ));
    };
    if volume.data.fold(false, |other, v| other | (*v != first)) {
        return Ok(());
    }
    Err(Error::ConstantVolume {
        patient: patient.to_string(),
        sequence: name.to_string(),
        value: first,
    })
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
