//! Lesions and scores by size, and lesions over many volumes.

use super::detection::{Lesion, LesionReport};
use crate::aggregate::Aggregate;
use crate::error::{Error, Result};
use crate::score::{Score, Undefined};
use serde::{Deserialize, Serialize};

/// Classes of size, from 0 to infinity, cut at ascending edges: `edge <= size` is the upper class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct SizeBins {
    edges: Vec<f64>,
}

impl SizeBins {
    /// Cuts at these sizes.
    ///
    /// # Errors
    /// If they are not finite, positive and ascending.
    pub fn new(edges: &[f64]) -> Result<Self> {
        let ascending = edges.windows(2).all(|pair| pair[0] < pair[1]);
        if let Some(&found) = edges
            .iter()
            .find(|edge| !ascending || !edge.is_finite() || **edge <= 0.0)
        {
            return Err(Error::Parameter {
                what: "edges of size classes",
                expected: "finite positive numbers in ascending order",
                found,
            });
        }
        Ok(Self {
            edges: edges.to_vec(),
        })
    }

    /// The number of classes: one more than edges.
    #[must_use]
    pub fn count(&self) -> usize {
        self.edges.len() + 1
    }

    /// The class of a size; the first of all for NaN and for sizes below 0.
    #[must_use]
    pub fn class(&self, size: f64) -> usize {
        self.edges.partition_point(|&edge| edge <= size)
    }

    /// The lower end of a class, and its upper end unless it is the last.
    #[must_use]
    pub fn range(&self, class: usize) -> (f64, Option<f64>) {
        let lower = class.checked_sub(1).and_then(|i| self.edges.get(i));
        (
            lower.copied().unwrap_or(0.0),
            self.edges.get(class).copied(),
        )
    }
}

impl TryFrom<Vec<f64>> for SizeBins {
    type Error = Error;

    fn try_from(edges: Vec<f64>) -> Result<Self> {
        Self::new(&edges)
    }
}

impl From<SizeBins> for Vec<f64> {
    fn from(bins: SizeBins) -> Self {
        bins.edges
    }
}

/// Scores of cases (Dice of a slice or a volume, say) by the size of what was to be found, an
/// aggregate for each class.
///
/// # Errors
/// If a size is NaN: it belongs to no class.
pub fn scores_by_size(
    cases: impl IntoIterator<Item = (f64, Score)>,
    bins: &SizeBins,
) -> Result<Vec<Aggregate>> {
    let mut classes = vec![Vec::new(); bins.count()];
    for (position, (size, score)) in cases.into_iter().enumerate() {
        if size.is_nan() {
            return Err(Error::NotFinite {
                what: "sizes of cases",
                found: size,
                position,
            });
        }
        classes[bins.class(size)].push(score);
    }
    Ok(classes.into_iter().map(Aggregate::of).collect())
}

/// The lesions of one class of size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SizeRow {
    /// The smallest volume of the class.
    pub from: f64,
    /// The volume where the next class begins; none for the last.
    pub to: Option<f64>,
    /// The number of lesions.
    pub lesions: usize,
    /// How many of them were found.
    pub found: usize,
    /// The share found; undefined in a class with no lesion.
    pub sensitivity: Score,
    /// The lesions' own Dice, missed ones counting 0.
    pub dice: Aggregate,
}

/// Lesions over a set of volumes.
///
/// ```
/// use fndm_metrics::{LesionConfig, LesionSummary, Score, SizeBins, lesion_detection};
/// use ndarray::array;
///
/// let result = array![true, false, false, true];
/// let reference = array![true, false, true, false];
/// let config = LesionConfig::default();
/// let report = lesion_detection(&result.view(), &reference.view(), &[1.0], &config)?;
/// let summary = LesionSummary::of(&[report], &SizeBins::new(&[1.5])?);
/// assert_eq!(summary.false_lesions_per_volume, Score::Value(1.0));
/// assert_eq!(summary.sensitivity, Score::Value(0.5));
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LesionSummary {
    /// The number of volumes.
    pub volumes: usize,
    /// The number of lesions in all.
    pub lesions: usize,
    /// The share of all lesions that were found: each lesion counts alike.
    pub sensitivity: Score,
    /// False lesions per volume, volumes without a lesion included.
    pub false_lesions_per_volume: Score,
    /// The volumes' F1.
    pub f1: Aggregate,
    /// The volumes' lesion-wise Dice.
    pub lesion_wise_dice: Aggregate,
    /// The lesions by volume.
    pub by_size: Vec<SizeRow>,
}

impl LesionSummary {
    /// Sums up the reports of a set of volumes.
    #[must_use]
    pub fn of(reports: &[LesionReport], bins: &SizeBins) -> Self {
        let mut classes: Vec<Vec<&Lesion>> = vec![Vec::new(); bins.count()];
        for lesion in reports.iter().flat_map(|report| &report.lesions) {
            classes[bins.class(lesion.volume)].push(lesion);
        }
        let by_size: Vec<SizeRow> = classes
            .iter()
            .enumerate()
            .map(|(class, lesions)| {
                let (from, to) = bins.range(class);
                let found = lesions.iter().filter(|lesion| lesion.found).count();
                SizeRow {
                    from,
                    to,
                    lesions: lesions.len(),
                    found,
                    sensitivity: sensitivity(found, lesions.len()),
                    dice: lesions.iter().map(|l| Score::Value(l.dice)).collect(),
                }
            })
            .collect();
        let lesions = by_size.iter().map(|row| row.lesions).sum();
        let found = by_size.iter().map(|row| row.found).sum();
        let false_lesions: usize = reports.iter().map(|report| report.false_lesions).sum();
        Self {
            volumes: reports.len(),
            lesions,
            sensitivity: sensitivity(found, lesions),
            false_lesions_per_volume: if reports.is_empty() {
                Score::Undefined(Undefined::NoCases)
            } else {
                Score::Value(false_lesions as f64 / reports.len() as f64)
            },
            f1: reports.iter().map(LesionReport::f1).collect(),
            lesion_wise_dice: reports.iter().map(LesionReport::lesion_wise_dice).collect(),
            by_size,
        }
    }
}

fn sensitivity(found: usize, lesions: usize) -> Score {
    if lesions == 0 {
        return Score::Undefined(Undefined::ReferenceEmpty);
    }
    Score::Value(found as f64 / lesions as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_lower_edge() {
        let bins = SizeBins::new(&[1.0, 10.0]).unwrap();
        assert_eq!([0.5, 1.0, 9.9, 10.0].map(|s| bins.class(s)), [0, 1, 1, 2]);
        assert_eq!(bins.range(0), (0.0, Some(1.0)));
        assert_eq!(bins.range(2), (10.0, None));
        assert!(SizeBins::new(&[2.0, 1.0]).is_err());
        assert!(SizeBins::new(&[0.0]).is_err());
        assert!(serde_json::from_str::<SizeBins>("[3.0, 2.0]").is_err());
    }

    #[test]
    fn scores_fall_into_their_classes() {
        let bins = SizeBins::new(&[5.0]).unwrap();
        let cases = [
            (1.0, Score::Value(0.2)),
            (6.0, Score::Value(0.8)),
            (7.0, Score::Undefined(Undefined::Failed)),
        ];
        let classes = scores_by_size(cases, &bins).unwrap();
        assert_eq!(classes[0].mean, Some(0.2));
        assert_eq!(classes[1].mean, Some(0.8));
        assert_eq!(classes[1].skipped_total(), 1);
        let nameless = [(1.0, Score::Value(0.2)), (f64::NAN, Score::Value(0.9))];
        assert!(matches!(
            scores_by_size(nameless, &bins),
            Err(Error::NotFinite { position: 1, .. })
        ));
    }

    #[test]
    fn volumes_without_lesions_count_for_false_ones() {
        let lesion = |volume, found| Lesion {
            voxels: 1,
            volume,
            overlap: 0,
            found,
            dice: if found { 0.5 } else { 0.0 },
        };
        let reports = [
            LesionReport {
                lesions: vec![lesion(1.0, false), lesion(9.0, true), lesion(8.0, true)],
                components: 2,
                ..LesionReport::default()
            },
            LesionReport {
                components: 3,
                false_lesions: 3,
                ..LesionReport::default()
            },
        ];
        let summary = LesionSummary::of(&reports, &SizeBins::new(&[5.0]).unwrap());
        assert_eq!(summary.sensitivity, Score::Value(2.0 / 3.0));
        assert_eq!(summary.false_lesions_per_volume, Score::Value(1.5));
        assert_eq!(summary.by_size[0].sensitivity, Score::Value(0.0));
        assert_eq!(summary.by_size[1].dice.mean, Some(0.5));
    }
}
