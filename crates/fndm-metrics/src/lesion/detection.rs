//! Lesion-wise detection of one volume.

use crate::components::Runs;
use crate::empty::check_spacing;
use crate::error::{Error, Result, same_shape};
use crate::score::{Score, Undefined};
use crate::surface::Connectivity;
use ndarray::{ArrayView, Dimension};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How much of a component must be covered by the other mask to count as met.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetectionRule {
    /// One common voxel is enough.
    #[default]
    AnyVoxel,
    /// At least this share (above 0, up to 1) of the component's own voxels.
    Share(f64),
}

impl DetectionRule {
    fn check(self) -> Result<()> {
        match self {
            Self::Share(share) if !(share > 0.0 && share <= 1.0) => Err(Error::Parameter {
                what: "share of a lesion to be covered",
                expected: "above 0, up to 1",
                found: share,
            }),
            _ => Ok(()),
        }
    }

    fn met(self, overlap: u64, voxels: u64) -> bool {
        match self {
            Self::AnyVoxel => overlap > 0,
            Self::Share(share) => overlap > 0 && overlap as f64 >= share * voxels as f64,
        }
    }
}

/// What a lesion is and when it counts as found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LesionConfig {
    /// Which voxels hang together. Default: corners (26 neighbours in 3-D).
    pub connectivity: Connectivity,
    /// Components with fewer voxels are no lesions: in the result they are dropped; in the
    /// reference they are neither found nor missed. Default: 1, which drops none.
    pub minimum_voxels: u64,
    /// When a lesion of the reference is found. Default: one common voxel.
    pub found: DetectionRule,
    /// When a component of the result is true; otherwise it is a false lesion. Default: one
    /// common voxel.
    pub confirmed: DetectionRule,
}

impl Default for LesionConfig {
    fn default() -> Self {
        Self {
            connectivity: Connectivity::Corners,
            minimum_voxels: 1,
            found: DetectionRule::AnyVoxel,
            confirmed: DetectionRule::AnyVoxel,
        }
    }
}

impl LesionConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// If a rule's share is not above 0 and up to 1.
    pub fn check(&self) -> Result<()> {
        self.found.check()?;
        self.confirmed.check()
    }
}

/// One lesion of the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lesion {
    /// Its number of voxels.
    pub voxels: u64,
    /// Its volume (area in 2-D) in the units of the spacing.
    pub volume: f64,
    /// How many of its voxels the result has.
    pub overlap: u64,
    /// Whether it was found.
    pub found: bool,
    /// Dice of the lesion against all components of the result that touch it, joined: `2 |L ∩ R| /
    /// (|L| + |R|)`. 0 for a missed lesion, so that missing one can never raise a mean.
    pub dice: f64,
}

/// The lesions of one volume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LesionReport {
    /// The reference's lesions, in the order of their first voxels.
    pub lesions: Vec<Lesion>,
    /// The number of components of the result (those of the minimum size and up).
    pub components: usize,
    /// How many of them are false.
    pub false_lesions: usize,
    /// Components of the reference below the minimum size.
    pub ignored_in_reference: usize,
    /// Components of the result below the minimum size.
    pub ignored_in_result: usize,
}

impl LesionReport {
    /// The number of lesions that were found.
    #[must_use]
    pub fn found(&self) -> usize {
        self.lesions.iter().filter(|lesion| lesion.found).count()
    }

    /// The share of lesions that were found. Undefined without a lesion.
    #[must_use]
    pub fn sensitivity(&self) -> Score {
        share(self.found(), self.lesions.len(), self.empty())
    }

    /// The share of the result's components that are no false lesions. Undefined without one.
    #[must_use]
    pub fn precision(&self) -> Score {
        share(
            // A report that was read from a file can hold anything.
            self.components.saturating_sub(self.false_lesions),
            self.components,
            self.empty(),
        )
    }

    /// `2 TP / (2 TP + FP + FN)` with the lesions found, the false lesions and the lesions missed.
    /// Undefined when there is neither a lesion nor a component.
    #[must_use]
    pub fn f1(&self) -> Score {
        let found = self.found();
        let missed = self.lesions.len() - found;
        let all = 2 * found + self.false_lesions + missed;
        share(2 * found, all, self.empty())
    }

    /// The sum of the lesions' Dice over the number of lesions and false lesions: missed and false
    /// ones count 0. Undefined when there is neither.
    #[must_use]
    pub fn lesion_wise_dice(&self) -> Score {
        let all = self.lesions.len() + self.false_lesions;
        if all == 0 {
            return Score::Undefined(Undefined::BothEmpty);
        }
        let sum: f64 = self.lesions.iter().map(|lesion| lesion.dice).sum();
        Score::Value(sum / all as f64)
    }

    /// Which side is empty, for a score that has no value.
    fn empty(&self) -> Undefined {
        match (self.components, self.lesions.len()) {
            (0, 0) => Undefined::BothEmpty,
            (0, _) => Undefined::ResultEmpty,
            _ => Undefined::ReferenceEmpty,
        }
    }
}

fn share(part: usize, all: usize, empty: Undefined) -> Score {
    if all == 0 {
        return Score::Undefined(empty);
    }
    Score::Value(part as f64 / all as f64)
}

/// Looks at each lesion of the reference and each component of the result.
///
/// A lesion is found when [`LesionConfig::found`] holds for its voxels in the result. A component
/// is false when [`LesionConfig::confirmed`] does not hold for its voxels in the reference
/// (reference lesions below the minimum size included, since they are no error). One component
/// may find several lesions, and several components one.
///
/// ```
/// use fndm_metrics::{LesionConfig, Score, lesion_detection};
/// use ndarray::array;
///
/// let result = array![[true, true, false, false, false, true]];
/// let reference = array![[false, true, false, true, false, false]];
/// let report = lesion_detection(
///     &result.view(), &reference.view(), &[1.0, 1.0], &LesionConfig::default(),
/// )?;
/// assert_eq!(report.sensitivity(), Score::Value(0.5));
/// assert_eq!(report.false_lesions, 1);
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// If the shapes differ, the masks have not 1 to 3 axes, there is not one finite positive spacing
/// per axis, or a rule's share is not above 0 and up to 1.
pub fn lesion_detection<D: Dimension>(
    result: &ArrayView<'_, bool, D>,
    reference: &ArrayView<'_, bool, D>,
    spacing: &[f64],
    config: &LesionConfig,
) -> Result<LesionReport> {
    same_shape("result mask", reference.shape(), result.shape())?;
    check_spacing(reference.ndim(), spacing)?;
    config.check()?;
    let lesions = Runs::of(reference, config.connectivity)?;
    let components = Runs::of(result, config.connectivity)?;

    // Common voxels of each pair that touches.
    let mut common: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    lesions.overlaps(&components, |lesion, component, voxels| {
        *common.entry((lesion, component)).or_insert(0) += voxels;
    });
    let counts = |voxels: u64| voxels >= config.minimum_voxels;
    let kept = |component: u32| counts(components.sizes[component as usize - 1]);
    let mut covered_lesion = vec![0u64; lesions.sizes.len()];
    let mut covered_component = vec![0u64; components.sizes.len()];
    let mut touching = vec![BTreeSet::new(); lesions.sizes.len()];
    for (&(lesion, component), &voxels) in &common {
        covered_component[component as usize - 1] += voxels;
        if kept(component) {
            covered_lesion[lesion as usize - 1] += voxels;
            touching[lesion as usize - 1].insert(component);
        }
    }

    let mut report = LesionReport::default();
    let voxel_volume: f64 = spacing.iter().product();
    for (i, &voxels) in lesions.sizes.iter().enumerate() {
        if !counts(voxels) {
            report.ignored_in_reference += 1;
            continue;
        }
        let overlap = covered_lesion[i];
        let touched: u64 = touching[i]
            .iter()
            .map(|&component| components.sizes[component as usize - 1])
            .sum();
        report.lesions.push(Lesion {
            voxels,
            volume: voxels as f64 * voxel_volume,
            overlap,
            found: config.found.met(overlap, voxels),
            dice: (2 * overlap) as f64 / (voxels + touched) as f64,
        });
    }
    for (i, &voxels) in components.sizes.iter().enumerate() {
        if !counts(voxels) {
            report.ignored_in_result += 1;
            continue;
        }
        report.components += 1;
        if !config.confirmed.met(covered_component[i], voxels) {
            report.false_lesions += 1;
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, ArrayView1};
    use proptest::prelude::*;
    use std::ops::Range;

    fn line(text: &str) -> Array1<bool> {
        text.chars().map(|c| c == '#').collect()
    }

    fn report(result: &str, reference: &str, config: &LesionConfig) -> LesionReport {
        lesion_detection(
            &line(result).view(),
            &line(reference).view(),
            &[2.0],
            config,
        )
        .unwrap()
    }

    #[test]
    fn a_report_that_contradicts_itself_is_no_panic() {
        let read = LesionReport {
            components: 1,
            false_lesions: 2,
            ..LesionReport::default()
        };
        assert_eq!(read.precision(), Score::Value(0.0));
    }

    #[test]
    fn missing_a_lesion_never_helps() {
        let config = LesionConfig::default();
        let all = report("##..#...", "##..##..", &config);
        let missed = report("##......", "##..##..", &config);
        let value = |score: Score| score.value().unwrap();
        assert!(value(missed.f1()) < value(all.f1()));
        assert!(value(missed.lesion_wise_dice()) < value(all.lesion_wise_dice()));
        assert_eq!(missed.sensitivity(), Score::Value(0.5));
        assert_eq!(missed.lesions[0].volume, 4.0);
    }

    fn runs(line: &[bool]) -> Vec<Range<usize>> {
        let starts = (0..line.len()).filter(|&i| line[i] && (i == 0 || !line[i - 1]));
        starts
            .map(|i| i..i + line[i..].iter().take_while(|&&v| v).count())
            .collect()
    }

    proptest! {
        #[test]
        fn missing_one_more_lesion_never_raises_a_score(
            voxels in prop::collection::vec((any::<bool>(), any::<bool>()), 1..40),
            which in 0usize..8,
        ) {
            let (result, reference): (Vec<bool>, Vec<bool>) = voxels.into_iter().unzip();
            let (components, lesions) = (runs(&result), runs(&reference));
            prop_assume!(!lesions.is_empty());
            let lesion = &lesions[which % lesions.len()];
            let touch = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
            let its_own: Vec<_> = components.iter().filter(|c| touch(c, lesion)).collect();
            // A finding that other lesions share would be missed there too.
            prop_assume!(!its_own.is_empty());
            prop_assume!(its_own.iter().all(|c| lesions.iter().filter(|l| touch(c, l)).count() == 1));
            let mut less = result.clone();
            for component in its_own {
                less[component.clone()].fill(false);
            }
            let report = |result: &[bool]| {
                let (a, b) = (ArrayView1::from(result), ArrayView1::from(reference.as_slice()));
                lesion_detection(&a, &b, &[1.0], &LesionConfig::default()).unwrap()
            };
            let (before, after) = (report(&result), report(&less));
            let metrics: [fn(&LesionReport) -> Score; 3] =
                [LesionReport::sensitivity, LesionReport::f1, LesionReport::lesion_wise_dice];
            for metric in metrics {
                let (before, after) = (metric(&before).value(), metric(&after).value());
                prop_assert!(after.unwrap() < before.unwrap(), "{before:?} {after:?}");
            }
        }
    }

    #[test]
    fn counts_of_a_drawn_case() {
        // Lesion 1 half covered, lesion 2 found by two pieces, a false one at the end.
        let config = LesionConfig::default();
        let r = report(".##...#.#..#", "##....###...", &config);
        assert_eq!((r.lesions.len(), r.found()), (2, 2));
        assert_eq!((r.components, r.false_lesions), (4, 1));
        assert_eq!(r.precision(), Score::Value(0.75));
        assert_eq!(r.lesions[0].dice, 0.5);
        assert_eq!(r.lesions[1].dice, 4.0 / 5.0);
        assert_eq!(r.f1(), Score::Value(4.0 / 5.0));
        assert_eq!(r.lesion_wise_dice(), Score::Value(1.3 / 3.0));
        let strict = LesionConfig {
            found: DetectionRule::Share(0.6),
            ..config
        };
        assert_eq!(report(".##...#.#..#", "##....###...", &strict).found(), 1);
    }

    #[test]
    fn small_components_are_no_lesions() {
        let config = LesionConfig {
            minimum_voxels: 2,
            ..LesionConfig::default()
        };
        // The single voxel of the reference is ignored, and the finding on it is no false one.
        let r = report("##.#....", ".##....#", &config);
        assert_eq!((r.lesions.len(), r.found()), (1, 1));
        assert_eq!((r.ignored_in_reference, r.ignored_in_result), (1, 1));
        assert_eq!((r.components, r.false_lesions), (1, 0));
        let r = report(".......##", "##.....#.", &config);
        assert_eq!((r.found(), r.false_lesions), (0, 0));
    }

    #[test]
    fn empty_volumes_are_undefined() {
        let config = LesionConfig::default();
        let none = report("....", "....", &config);
        assert_eq!(none.f1(), Score::Undefined(Undefined::BothEmpty));
        assert_eq!(
            none.lesion_wise_dice(),
            Score::Undefined(Undefined::BothEmpty)
        );
        let missed = report("....", ".#..", &config);
        assert_eq!(missed.precision(), Score::Undefined(Undefined::ResultEmpty));
        assert_eq!(missed.f1(), Score::Value(0.0));
        let invented = report(".#..", "....", &config);
        assert_eq!(
            invented.sensitivity(),
            Score::Undefined(Undefined::ReferenceEmpty)
        );
        assert_eq!(invented.lesion_wise_dice(), Score::Value(0.0));
    }

    #[test]
    fn bad_rules_are_errors() {
        let mask = Array2::from_elem((2, 2), true);
        let config = LesionConfig {
            found: DetectionRule::Share(0.0),
            ..LesionConfig::default()
        };
        let answer = lesion_detection(&mask.view(), &mask.view(), &[1.0; 2], &config);
        assert!(matches!(answer, Err(Error::Parameter { .. })));
        let answer = lesion_detection(&mask.view(), &mask.view(), &[1.0], &LesionConfig::default());
        assert!(matches!(answer, Err(Error::Spacing { .. })));
    }
}
