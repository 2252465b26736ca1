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
    /// For each other way of standing, the median of how much better the training patients fit as they stand; 0 where that way can't be told
    /// from the right one.
    #[serde(default)]
    margins: Vec<f64>,
}

/// How a head fits the training's.
pub(super) struct Fit {
    /// Correlation as it stands, the mean of the sequences.
    pub(super) own: f64,
    /// Of the ways of standing that can be told, the one that fits best.
    pub(super) other: Option<OtherWay>,
}

/// Another way of standing.
pub(super) struct OtherWay {
    pub(super) turn: Turn,
    /// The correlation when turned so.
    pub(super) fit: f64,
    /// How much better that is: 1 for a head of the training that was turned so, -1 for one as it stands.
    pub(super) better: f64,
}

/// Cells' values for 1.
const SCALE: f64 = 200.;
/// Ways of standing whose correlations differ by less are alike.
const ALIKE: f64 = 0.05;
/// Training patients whose margins are measured, at most.
const MOST: usize = 64;

impl Standing {
    pub(super) fn learn(profiles: &[&PatientProfile]) -> Self {
        let mut sums: BTreeMap<&str, Array3<f64>> = BTreeMap::new();
        for sequence in profiles.iter().flat_map(|p| &p.sequences) {
            let zeros = || Array3::zeros((SIDE, SIDE, SIDE));
            *sums.entry(&sequence.name).or_insert_with(zeros) += &sequence.picture;
        }
        let others = profiles.len().saturating_sub(1) as f64;
        let turns = profiles
            .first()
            .map_or_else(Vec::new, |p| Turn::all(p.plane));
        let every = profiles.len().div_ceil(MOST).max(1);
        let mut fits: Vec<f64> = Vec::new();
        let mut margins: Vec<Vec<f64>> = vec![Vec::new(); turns.len().saturating_sub(1)];
        if others > 0. {
            for (n, patient) in profiles.iter().enumerate() {
                let rests = patient.sequences.iter().filter_map(|sequence| {
                    let rest = (sums.get(sequence.name.as_str())? - &sequence.picture) / others;
                    Some((&sequence.picture, rest.into_iter().collect::<Vec<f64>>()))
                });
                let rests: Vec<(&Array3<f64>, Vec<f64>)> = rests.collect();
                let Some((right, wrong)) = turns.split_first() else {
                    continue;
                };
                let own = mean_fit(*right, &rests);
                fits.push(own);
                if n % every == 0 {
                    for (margins, turn) in margins.iter_mut().zip(wrong) {
                        margins.push(own - mean_fit(*turn, &rests));
                    }
                }
            }
        }
        fits.sort_by(f64::total_cmp);
        let margin = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            let middle = quantile(&all, 0.5);
            let told = middle > ALIKE && quantile(&all, 0.05) > 0.;
            if told { round(middle) } else { 0. }
        };
        let count = profiles.len().max(1) as f64;
        let cell = |v: &f64| (v / count * SCALE).round().clamp(0., 255.) as u8;
        let pictures = sums.iter().map(|(name, sum)| {
            let cells = sum.iter().map(cell).collect();
            ((*name).to_owned(), cells)
        });
        Self {
            pictures: pictures.collect(),
            lowest: round(quantile(&fits, 0.01)),
            margins: margins.into_iter().map(margin).collect(),
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
        let mut turns = Turn::all(patient.plane).into_iter();
        let own = mean_fit(turns.next()?, &pairs);
        let other = turns
            .zip(&self.margins)
            .filter(|(_, margin)| **margin > 0.)
            .map(|(turn, margin)| {
                let fit = mean_fit(turn, &pairs);
                OtherWay {
                    turn,
                    fit,
                    better: (fit - own) / margin,
                }
            })
            .max_by(|a, b| a.better.total_cmp(&b.better));
        Some(Fit { own, other })
    }
}

/// The mean correlation of pictures that are turned so with the usual ones.
fn mean_fit(turn: Turn, pairs: &[(&Array3<f64>, Vec<f64>)]) -> f64 {
    let fits = pairs
        .iter()
        .map(|(picture, usual)| correlation(turn.of(picture).iter(), usual.iter()));
    fits.sum::<f64>() / pairs.len().max(1) as f64
}
