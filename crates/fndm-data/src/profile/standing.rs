//! Whether a head stands as its header says: by its picture beside the training's, in all ways that a head can be turned.

use std::collections::BTreeMap;

use ndarray::Array3;
use serde::{Deserialize, Serialize};

use super::measure::PatientProfile;
use super::picture::{SIDE, Turn, correlation};
use super::statistics::{quantile, round};

/// The mean picture of the training's heads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// For each sequence `SIDE`^3 cells, (z, y, x): 0 for the background, 200 for the head's 99th percentile.
    pictures: BTreeMap<String, Vec<u8>>,
    /// The first percentile of the training patients' correlations with the mean of the others.
    lowest: f64,
}

/// How a head fits the training's.
pub(super) struct Fit {
    /// Correlation as it stands, the mean of the sequences.
    pub(super) own: f64,
    /// The best other way of standing and its correlation.
    pub(super) other: Option<(Turn, f64)>,
}

/// Cells' values for 1.
const SCALE: f64 = 200.;

impl Standing {
    pub(super) fn learn(profiles: &[&PatientProfile]) -> Self {
        let mut sums: BTreeMap<&str, Array3<f64>> = BTreeMap::new();
        for sequence in profiles.iter().flat_map(|p| &p.sequences) {
            let zeros = || Array3::zeros((SIDE, SIDE, SIDE));
            *sums.entry(&sequence.name).or_insert_with(zeros) += &sequence.picture;
        }
        let others = profiles.len().saturating_sub(1) as f64;
        let mut fits: Vec<f64> = Vec::new();
        if others > 0. {
            for patient in profiles {
                let own = patient.sequences.iter().filter_map(|sequence| {
                    let rest = (sums.get(sequence.name.as_str())? - &sequence.picture) / others;
                    Some(correlation(sequence.picture.iter(), rest.iter()))
                });
                let own: Vec<f64> = own.collect();
                fits.push(own.iter().sum::<f64>() / own.len().max(1) as f64);
            }
        }
        fits.sort_by(f64::total_cmp);
        let count = profiles.len().max(1) as f64;
        let cell = |v: &f64| (v / count * SCALE).round().clamp(0., 255.) as u8;
        let pictures = sums.iter().map(|(name, sum)| {
            let cells = sum.iter().map(cell).collect();
            ((*name).to_owned(), cells)
        });
        Self {
            pictures: pictures.collect(),
            lowest: round(quantile(&fits, 0.01)),
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let cells = SIDE.pow(3);
        match self
            .pictures
            .iter()
            .find(|(_, picture)| picture.len() != cells)
        {
            Some((name, picture)) => Err(format!(
                "picture of {name}: expected {cells} cells, got {}",
                picture.len()
            )),
            None => Ok(()),
        }
    }

    /// Least correlation that is usual.
    pub(super) fn lowest(&self) -> f64 {
        self.lowest
    }

    /// The fit of a patient; `None` where none of its sequences is known.
    pub(super) fn fit(&self, patient: &PatientProfile) -> Option<Fit> {
        let pairs: Vec<(&Array3<f64>, Vec<f64>)> = patient
            .sequences
            .iter()
            .filter_map(|sequence| {
                let picture = self.pictures.get(&sequence.name)?;
                let cells = picture.iter().map(|&v| f64::from(v)).collect();
                Some((&sequence.picture, cells))
            })
            .collect();
        if pairs.is_empty() {
            return None;
        }
        let of = |turn: Turn| {
            let fits = pairs
                .iter()
                .map(|(picture, usual)| correlation(turn.of(picture).iter(), usual.iter()));
            fits.sum::<f64>() / pairs.len() as f64
        };
        let mut turns = Turn::all(patient.plane).into_iter();
        let own = turns.next().map(of)?;
        let other = turns
            .map(|turn| (turn, of(turn)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        Some(Fit { own, other })
    }
}
