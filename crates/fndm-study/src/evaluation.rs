//! Figures of a method against the truth, per slice and per volume.

use std::collections::BTreeSet;

use fndm_metrics::{
    Aggregate, BootstrapConfig, Confusion, Definition, Ranking, Score, bootstrap_mean,
    percentile_hausdorff,
};
use ndarray::{Array3, ArrayView, Axis, Dimension};
use serde::{Deserialize, Serialize};

use fndm::{ThresholdScope, threshold};

use crate::{Error, Result};

/// What a method says of one patient, with the truth beside it. All arrays are `(N, H, W)`, N slices.
#[derive(Debug, Clone)]
pub struct Case {
    /// The patient.
    pub patient: String,
    /// The position of each slice in the volume.
    pub z: Vec<usize>,
    /// The anomaly map; higher is more anomalous.
    pub anomaly: Array3<f32>,
    /// Where the map counts: the head without its rim.
    pub inner_head: Array3<bool>,
    /// The whole head: AUROC is over its pixels.
    pub head: Array3<bool>,
    /// The truth.
    pub truth: Array3<bool>,
    /// Distance between neighbours along (slice, row, column), in millimetres.
    pub spacing: [f64; 3],
    /// The mask by the method's own rule, where it has one.
    pub mask: Option<Array3<bool>>,
    /// How likely each slice is diseased, 0 to 1, where that is known.
    pub diseased: Option<Vec<f64>>,
    /// Wall time of the whole method on this patient, in milliseconds.
    pub milliseconds: f64,
}

impl Case {
    /// Whether the arrays are of one shape, with a position for each slice.
    ///
    /// # Errors
    /// The first array that differs, with the patient.
    pub fn check(&self) -> Result<()> {
        let shape = self.anomaly.dim();
        let arrays = [
            ("inner head", self.inner_head.dim()),
            ("head", self.head.dim()),
            ("truth", self.truth.dim()),
            ("mask", self.mask.as_ref().map_or(shape, Array3::dim)),
        ];
        let wrong = arrays.into_iter().find(|(_, dim)| *dim != shape);
        let (what, expected, got) = match wrong {
            Some((what, got)) => (what, format!("{shape:?}, as the map"), format!("{got:?}")),
            None if self.z.len() != shape.0 => (
                "slice positions",
                shape.0.to_string(),
                self.z.len().to_string(),
            ),
            None => return Ok(()),
        };
        Err(Error::Input {
            what: format!("patient {}: {what}", self.patient),
            expected,
            got,
        })
    }
}

/// What a row of a table counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Slices with a lesion, one Otsu threshold a slice, distances in pixels.
    Slice,
    /// Patients with a lesion, one Otsu threshold a volume, distances in millimetres.
    Volume,
}

/// One row of a table. A figure is `None` where no case has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Key of the method: `fndm`, `cg_nm`, `cg`, `flair`.
    pub method: String,
    /// What is counted.
    pub level: Level,
    /// Mean Dice at Otsu's threshold, which needs no label.
    pub dice_otsu: Option<f64>,
    /// Mean Dice at each case's best threshold, which needs the truth: a ceiling.
    pub dice_ceiling: Option<f64>,
    /// Mean 95th percentile Hausdorff distance (both directions joined, as medpy has it), at Otsu's threshold; in pixels
    /// per slice, in millimetres per volume. Cases with an empty mask are skipped and counted.
    pub hd95: Option<f64>,
    /// Mean volumetric similarity, 1 - |FP - FN| / (2 TP + FP + FN), at Otsu's threshold.
    pub volumetric_similarity: Option<f64>,
    /// Area under the ROC curve of the anomaly map over the head's pixels of all slices, healthy ones included.
    pub auroc: Option<f64>,
    /// Average precision over the same pixels.
    #[serde(default)]
    pub average_precision: Option<f64>,
    /// Mean Dice of the mask by the method's own rule.
    #[serde(default)]
    pub dice_mask: Option<f64>,
    /// Share of the slices without a lesion whose mask, by the method's own rule, is empty.
    #[serde(default)]
    pub empty_when_healthy: Option<f64>,
    /// AUROC of whether a slice has a lesion, by how likely the method calls it diseased.
    #[serde(default)]
    pub slice_auroc: Option<f64>,
    /// 95 % interval of the Dice at Otsu's threshold, by bootstrap over patients (2000 resamples); none of fewer than two.
    #[serde(default)]
    pub dice_interval: Option<[f64; 2]>,
    /// Evaluations of the `UNet` per slice.
    pub evaluations: usize,
    /// Gradients of the classifier per slice.
    pub gradient_evaluations: usize,
    /// Mean wall time per slice, in milliseconds.
    pub ms_per_slice: f64,
    /// Cases that were counted: slices or patients with a lesion.
    pub cases: usize,
    /// HD95 cases that were skipped, with the reasons in words.
    pub hd95_skipped: String,
}

/// The figures of one case: a slice or a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseScore {
    /// The patient.
    pub patient: String,
    /// Position of the slice in the volume; `None` for a volume.
    pub z: Option<usize>,
    /// Lesion pixels in the truth.
    pub lesion_pixels: usize,
    /// Dice at Otsu's threshold.
    pub dice_otsu: Score,
    /// Dice at the best threshold.
    pub dice_ceiling: Score,
    /// 95th percentile Hausdorff distance.
    pub hd95: Score,
    /// Volumetric similarity.
    pub volumetric_similarity: Score,
}

/// A row, and the cases that it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The figures over all cases.
    pub row: Row,
    /// The figures of each case.
    pub cases: Vec<CaseScore>,
}

/// Scores one method over a cohort at one level. Each case is another patient.
///
/// # Errors
/// When the arrays of a case differ in shape, a map isn't finite, or two cases are of one patient: whose slices belong
/// together decides on the interval.
pub fn evaluate(
    method: &str,
    level: Level,
    cases: &[Case],
    evaluations: usize,
    gradient_evaluations: usize,
) -> Result<Evaluation> {
    let mut scores = Vec::new();
    let mut patients = BTreeSet::new();
    for case in cases {
        case.check()?;
        if !patients.insert(case.patient.as_str()) {
            return Err(Error::Input {
                what: format!("patient {}", case.patient),
                expected: "one case for each patient".into(),
                got: "two".into(),
            });
        }
        match level {
            Level::Slice => score_slices(case, &mut scores)?,
            Level::Volume => score_volume(case, &mut scores)?,
        }
    }
    let aggregate = |pick: fn(&CaseScore) -> Score| Aggregate::of(scores.iter().map(pick));
    let hd95 = aggregate(|s| s.hd95);
    let slices: usize = cases.iter().map(|c| c.z.len()).sum();
    let interval = match bootstrap_mean(
        scores.iter().map(|s| (s.patient.as_str(), s.dice_otsu)),
        &BootstrapConfig::default(),
    ) {
        Ok(interval) => Some(interval),
        // Of fewer than two patients there is none.
        Err(fndm_metrics::Error::TooFew { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let ranking = ranking(cases)?;
    let own = OwnMasks::of(cases, level)?;
    let milliseconds: f64 = cases.iter().map(|c| c.milliseconds).sum();
    let row = Row {
        method: method.to_string(),
        level,
        dice_otsu: aggregate(|s| s.dice_otsu).mean,
        dice_ceiling: aggregate(|s| s.dice_ceiling).mean,
        hd95: hd95.mean,
        volumetric_similarity: aggregate(|s| s.volumetric_similarity).mean,
        auroc: ranking.auroc().value(),
        average_precision: ranking.average_precision().value(),
        dice_mask: own.dice,
        empty_when_healthy: own.empty_when_healthy,
        slice_auroc: own.slice_auroc,
        dice_interval: interval.map(|interval| [interval.low, interval.high]),
        evaluations,
        gradient_evaluations,
        ms_per_slice: milliseconds / slices.max(1) as f64,
        cases: scores.len(),
        hd95_skipped: hd95.skipped_in_words(),
    };
    Ok(Evaluation { row, cases: scores })
}

/// Figures of the masks that a method gives by its own rule.
struct OwnMasks {
    dice: Option<f64>,
    empty_when_healthy: Option<f64>,
    slice_auroc: Option<f64>,
}

impl OwnMasks {
    fn of(cases: &[Case], level: Level) -> Result<Self> {
        let (mut dice, mut empty) = (Vec::new(), Vec::new());
        let (mut likely, mut diseased) = (Vec::new(), Vec::new());
        for case in cases {
            let truth = &case.truth;
            let lesions = truth.outer_iter().map(|t| t.iter().any(|&v| v));
            let lesions: Vec<bool> = lesions.collect();
            if let Some(found) = &case.diseased {
                likely.extend(found.iter().map(|&p| p as f32));
                diseased.extend(&lesions);
            }
            let Some(mask) = &case.mask else { continue };
            for (i, &lesion) in lesions.iter().enumerate() {
                let mask = mask.index_axis(Axis(0), i);
                if !lesion {
                    empty.push(!mask.iter().any(|&v| v));
                } else if level == Level::Slice {
                    let truth = truth.index_axis(Axis(0), i);
                    dice.push(Confusion::of(&mask, &truth)?.dice());
                }
            }
            if level == Level::Volume && lesions.contains(&true) {
                dice.push(Confusion::of(&mask.view(), &truth.view())?.dice());
            }
        }
        let count = empty.iter().filter(|&&empty| empty).count();
        let slice_auroc = match likely.is_empty() {
            true => None,
            false => Ranking::of(&likely, &diseased)?.auroc().value(),
        };
        Ok(Self {
            dice: Aggregate::of(dice).mean,
            empty_when_healthy: (!empty.is_empty()).then(|| count as f64 / empty.len() as f64),
            slice_auroc,
        })
    }
}

/// The head's pixels of all slices, healthy ones included.
fn ranking(cases: &[Case]) -> Result<Ranking<f32>> {
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for case in cases {
        for ((&value, &label), &inside) in case.anomaly.iter().zip(&case.truth).zip(&case.head) {
            if inside {
                values.push(value);
                labels.push(label);
            }
        }
    }
    Ok(Ranking::of(&values, &labels)?)
}

fn score_slices(case: &Case, scores: &mut Vec<CaseScore>) -> Result<()> {
    let map = case.anomaly.view();
    let found = threshold(map, case.inner_head.view(), ThresholdScope::Slice)?;
    for (i, truth) in case.truth.axis_iter(Axis(0)).enumerate() {
        if truth.iter().any(|&v| v) {
            let mask = found.mask.index_axis(Axis(0), i);
            let map = case.anomaly.index_axis(Axis(0), i);
            let z = case.z.get(i).copied();
            scores.push(score(&case.patient, z, &map, &mask, &truth, &[1., 1.])?);
        }
    }
    Ok(())
}

fn score_volume(case: &Case, scores: &mut Vec<CaseScore>) -> Result<()> {
    let truth = case.truth.view();
    if truth.iter().any(|&v| v) {
        let map = case.anomaly.view();
        let found = threshold(map, case.inner_head.view(), ThresholdScope::Volume)?;
        let mask = found.mask.view();
        scores.push(score(
            &case.patient,
            None,
            &map,
            &mask,
            &truth,
            &case.spacing,
        )?);
    }
    Ok(())
}

fn score<D: Dimension>(
    patient: &str,
    z: Option<usize>,
    map: &ArrayView<'_, f32, D>,
    mask: &ArrayView<'_, bool, D>,
    truth: &ArrayView<'_, bool, D>,
    spacing: &[f64],
) -> Result<CaseScore> {
    let values: Vec<f32> = map.iter().copied().collect();
    let labels: Vec<bool> = truth.iter().copied().collect();
    let confusion = Confusion::of(mask, truth)?;
    Ok(CaseScore {
        patient: patient.to_string(),
        z,
        lesion_pixels: labels.iter().filter(|&&label| label).count(),
        dice_otsu: confusion.dice(),
        dice_ceiling: fndm_metrics::best_dice(&values, &labels)?.dice,
        hd95: percentile_hausdorff(mask, truth, spacing, 95., Definition::Medpy)?,
        volumetric_similarity: confusion.volumetric_similarity(),
    })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, s};

    use super::*;

    /// Two slices of 20 x 20, a lesion of 6 x 6 in the first one, found but for one row, with a bright spot beside it.
    fn case() -> Case {
        let mut truth = Array3::from_elem((2, 20, 20), false);
        truth.slice_mut(s![0, 5..11, 5..11]).fill(true);
        let mut map = Array3::zeros((2, 20, 20));
        map.slice_mut(s![0, 5..10, 5..11]).fill(1f32);
        // Otsu's threshold is the centre of the histogram's bin (25.5 / 256) that this value is in, and not above.
        map[[0, 10, 5]] = 0.099;
        let inside = Array3::from_elem((2, 20, 20), true);
        Case {
            patient: "a".into(),
            z: vec![3, 4],
            anomaly: map,
            inner_head: inside.clone(),
            head: inside,
            truth,
            spacing: [5., 2., 2.],
            mask: None,
            diseased: None,
            milliseconds: 30.,
        }
    }

    #[test]
    fn the_figures_of_a_slice_are_those_counted_by_hand() {
        let result = evaluate("fndm", Level::Slice, &[case()], 20, 10).unwrap();
        assert_eq!(
            result.cases.len(),
            1,
            "the slice without a lesion isn't counted"
        );
        let row = &result.row;
        // 30 of 36 pixels found: Dice 60 / 66; with the low threshold one more: 62 / 67.
        assert!((row.dice_otsu.unwrap() - 60. / 66.).abs() < 1e-12);
        assert!((row.dice_ceiling.unwrap() - 62. / 67.).abs() < 1e-12);
        assert!((row.volumetric_similarity.unwrap() - (1. - 6. / 66.)).abs() < 1e-12);
        assert!((row.ms_per_slice - 15.).abs() < 1e-12);
        assert!(row.hd95.unwrap() > 0. && row.hd95.unwrap() <= 1.);
        assert_eq!(
            (row.evaluations, row.gradient_evaluations, row.cases),
            (20, 10, 1)
        );
    }

    #[test]
    fn the_distances_of_a_volume_are_in_millimetres() {
        let slice = evaluate("fndm", Level::Slice, &[case()], 1, 1).unwrap();
        let volume = evaluate("fndm", Level::Volume, &[case()], 1, 1).unwrap();
        assert_eq!(volume.cases.len(), 1);
        assert!((volume.row.dice_otsu.unwrap() - slice.row.dice_otsu.unwrap()).abs() < 1e-12);
        // In a volume every voxel of one slice is border, so one distance of 2 mm stands among many zeros.
        assert!(volume.row.hd95.unwrap() <= 2.);
    }

    #[test]
    fn arrays_of_other_shapes_are_an_error() {
        let changes: [fn(&mut Case); 5] = [
            |case| case.truth = Array3::from_elem((1, 20, 20), false),
            |case| case.head = Array3::from_elem((2, 20, 19), true),
            |case| case.inner_head = Array3::from_elem((2, 19, 20), true),
            |case| case.anomaly = Array3::zeros((3, 20, 20)),
            |case| case.z = vec![3],
        ];
        for change in changes {
            for level in [Level::Slice, Level::Volume] {
                let mut case = case();
                change(&mut case);
                let error = evaluate("fndm", level, &[case], 1, 1).unwrap_err();
                assert!(error.to_string().contains("patient a: "), "{error}");
            }
        }
    }

    /// Patients of the same name in two folders are two patients, and two cases of one id are a mistake.
    #[test]
    fn patients_are_told_apart_by_their_whole_id() {
        let of = |id: &str, missed: usize| {
            let mut case = case();
            case.patient = id.to_owned();
            case.anomaly.slice_mut(s![0, 5..5 + missed, ..]).fill(0.);
            case
        };
        let both = [of("HGG/Brats_001", 0), of("LGG/Brats_001", 3)];
        let result = evaluate("fndm", Level::Slice, &both, 1, 1).unwrap();
        let ids: Vec<&str> = result.cases.iter().map(|c| c.patient.as_str()).collect();
        assert_eq!(ids, ["HGG/Brats_001", "LGG/Brats_001"]);
        let [low, high] = result.row.dice_interval.unwrap();
        // Drawn from two patients, the mean may be that of either alone.
        let dice: Vec<f64> = result
            .cases
            .iter()
            .filter_map(|c| c.dice_otsu.value())
            .collect();
        assert!((high - dice[0]).abs() < 1e-12 && (low - dice[1]).abs() < 1e-12);
        assert!(low < high);
        let twice = [of("a", 0), of("a", 3)];
        let error = evaluate("fndm", Level::Slice, &twice, 1, 1).unwrap_err();
        assert!(error.to_string().contains("patient a"), "{error}");
    }

    #[test]
    fn a_cohort_without_lesions_has_no_interval_and_a_map_of_nan_is_an_error() {
        let mut healthy = case();
        healthy.truth.fill(false);
        let row = evaluate("fndm", Level::Slice, &[healthy], 1, 1)
            .unwrap()
            .row;
        assert_eq!((row.dice_interval, row.cases), (None, 0));
        for level in [Level::Slice, Level::Volume] {
            let mut case = case();
            case.anomaly[[1, 3, 3]] = f32::NAN;
            assert!(evaluate("fndm", level, &[case], 1, 1).is_err());
        }
    }

    #[test]
    fn an_empty_mask_is_skipped_and_said() {
        let mut case = case();
        case.anomaly.fill(0.);
        let row = evaluate("fndm", Level::Slice, &[case], 1, 1).unwrap().row;
        assert_eq!(row.hd95, None);
        assert_eq!(row.hd95_skipped, "1 result empty");
        assert_eq!(row.dice_otsu, Some(0.));
    }
}
