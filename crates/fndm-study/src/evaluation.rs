//! Figures of a method against the truth, per slice and per volume.

use std::collections::BTreeSet;

use fndm_data::PatientSlices;
use fndm_metrics::{
    Aggregate, BootstrapConfig, Confusion, Definition, LesionConfig, Ranking, Score,
    bootstrap_mean, lesion_detection, percentile_hausdorff,
};
use ndarray::{Array3, ArrayView, Axis, CowArray, Dimension, Ix3};
use serde::{Deserialize, Serialize};

use fndm::{ThresholdScope, threshold};

use crate::{Error, MethodMap, Result};

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
    /// 1 for each slice with a lesion in the files, also a small one of which the model's grid has nothing left. `None`: those of the truth.
    pub labels: Option<Vec<u8>>,
    /// Distance between neighbours along (slice, row, column), in millimetres.
    pub spacing: [f64; 3],
    /// The mask by the method's own rule, where it has one.
    pub mask: Option<Array3<bool>>,
    /// The same mask on the grid of the patient's files, beside the lesion of the whole volume; background isn't counted. `None` where that
    /// isn't known.
    pub whole: Option<Confusion>,
    /// How likely each slice is diseased, 0 to 1, where that is known.
    pub diseased: Option<Vec<f64>>,
    /// Wall time of the whole method on this patient, in milliseconds.
    pub milliseconds: f64,
}

impl Case {
    pub(crate) fn truth_of(slices: &PatientSlices) -> Result<&Array3<bool>> {
        slices.mask.as_ref().ok_or_else(|| Error::Input {
            what: format!("patient {}", slices.id),
            expected: "a lesion mask to compare with".into(),
            got: "none".into(),
        })
    }

    /// What a method says of a patient, beside the patient's mask.
    ///
    /// # Errors
    /// When the slices have no mask, or what was found is of other slices.
    pub fn new(slices: &PatientSlices, found: &MethodMap) -> Result<Self> {
        let truth = Self::truth_of(slices)?.clone();
        let [row, column] = slices.geometry.pixel_spacing();
        // It isn't small.
        let whole = match &slices.lesion {
            Some(_) => slices.whole_overlap(&found.to_mask(slices)?)?,
            None => None,
        };
        Ok(Self {
            patient: slices.id.clone(),
            z: slices.z.clone(),
            anomaly: found.anomaly.clone(),
            inner_head: found.inner_head.clone(),
            head: slices.head.clone(),
            truth,
            labels: slices.labels.clone(),
            spacing: [slices.geometry.slice_spacing(), row, column],
            mask: Some(found.mask.clone()),
            whole: whole.map(|overlap| Confusion {
                true_positive: overlap.both,
                false_positive: overlap.mask_only,
                false_negative: overlap.lesion_only,
                true_negative: 0,
            }),
            diseased: found.diseased.clone(),
            milliseconds: found.milliseconds,
        })
    }

    /// Whether each slice has a lesion in the files. One that the grid lost can't be overlapped with, but the slice isn't healthy.
    #[must_use]
    pub fn diseased_slices(&self) -> Vec<bool> {
        let lesion = self.truth.outer_iter().map(|t| t.iter().any(|&v| v));
        match &self.labels {
            Some(labels) => lesion.zip(labels).map(|(any, &l)| any || l == 1).collect(),
            None => lesion.collect(),
        }
    }

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
            None => match &self.labels {
                Some(labels) if labels.len() != shape.0 => (
                    "labels of slices",
                    shape.0.to_string(),
                    labels.len().to_string(),
                ),
                _ => return Ok(()),
            },
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

impl Level {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Slice, Self::Volume];
}

/// One row of a table. A figure is `None` where no case has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// Per volume: mean Dice of that mask as `detect` writes it, on the grid of the patient's files, over all of their slices: lesion in those
    /// that the model doesn't use is missed.
    #[serde(default)]
    pub dice_whole: Option<f64>,
    /// Share of the slices without a lesion whose mask, by the method's own rule, is empty.
    #[serde(default)]
    pub empty_when_healthy: Option<f64>,
    /// AUROC of whether a slice has a lesion, by how likely the method calls it diseased.
    #[serde(default)]
    pub slice_auroc: Option<f64>,
    /// Per volume: mean share of a volume's lesions (connected by faces, edges or corners) of which the mask at Otsu's threshold has a
    /// voxel.
    #[serde(default)]
    pub lesion_sensitivity: Option<f64>,
    /// Per volume: mean number of connected parts of that mask that touch no lesion.
    #[serde(default)]
    pub false_lesions: Option<f64>,
    /// 95 % interval of the Dice at Otsu's threshold, by bootstrap over patients (2000 resamples); none of fewer than two.
    #[serde(default)]
    pub dice_interval: Option<[f64; 2]>,
    /// Evaluations of the `UNet` per slice.
    pub evaluations: usize,
    /// Gradients of the classifier per slice.
    pub gradient_evaluations: usize,
    /// Mean wall time per slice, in milliseconds; none where figures were joined without times.
    #[serde(default)]
    pub ms_per_slice: Option<f64>,
    /// Cases that were counted: slices or patients with a lesion.
    pub cases: usize,
    /// HD95 cases that were skipped, with the reasons in words.
    pub hd95_skipped: String,
}

/// The figures of one case: a slice or a volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
    /// The lesions of a volume; none for a slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lesions: Option<LesionCount>,
}

/// The lesions of a volume: parts of the truth that are connected by faces, edges or corners, and those of the mask at Otsu's threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LesionCount {
    /// Lesions of the truth.
    pub lesions: usize,
    /// Those of which the mask has a voxel.
    pub found: usize,
    /// Parts of the mask that touch no lesion.
    pub false_lesions: usize,
}

/// A row, and the cases that it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
    let mut scores =
        MaskScores::new(method, &[level]).with_evaluations(evaluations, gradient_evaluations);
    for case in cases {
        scores.add_case(case)?;
    }
    let mut both = scores.finish()?;
    Ok(both.swap_remove(0))
}

/// The scores of one method so far: of each case its figures, and the pixels that the ranking is over. The cases themselves aren't kept.
///
/// As JSON it has all but the pixels, which are many, and the times, which differ from run to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaskScores {
    method: String,
    levels: Vec<LevelScores>,
    patients: BTreeSet<String>,
    /// Values and truth of the head's pixels of all slices, healthy ones included.
    #[serde(skip)]
    pixels: (Vec<f32>, Vec<bool>),
    /// Whether the mask by the method's own rule is empty, of each slice without a lesion.
    empty: Vec<bool>,
    /// How likely a slice is diseased, and whether it has a lesion.
    likely: (Vec<f32>, Vec<bool>),
    slices: usize,
    #[serde(skip)]
    milliseconds: Option<f64>,
    /// Evaluations of the network and gradients of the classifier per slice.
    pub(crate) evaluations: (usize, usize),
}

/// Is given values and truth of pixels, a case at a time.
pub type NextPixels<'a> = dyn FnMut(&[f32], &[bool]) -> Result<()> + 'a;

/// Hands on the pixels of all cases.
pub type PixelPass<'a, E> = dyn FnMut(&mut NextPixels<'_>) -> std::result::Result<(), E> + 'a;

/// An error of who hands on pixels, or of who ranks them.
enum PassError<E> {
    Theirs(E),
    Ours(fndm_metrics::Error),
}

impl<E> From<fndm_metrics::Error> for PassError<E> {
    fn from(error: fndm_metrics::Error) -> Self {
        Self::Ours(error)
    }
}

/// What is scored case by case at one level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LevelScores {
    level: Level,
    cases: Vec<CaseScore>,
    /// Dice of the mask by the method's own rule.
    own_dice: Vec<Score>,
    /// The same over whole volumes.
    #[serde(default)]
    whole_dice: Vec<Score>,
}

impl MaskScores {
    /// No case yet, to be scored at these levels.
    #[must_use]
    pub fn new(method: &str, levels: &[Level]) -> Self {
        let levels = levels.iter().map(|&level| LevelScores {
            level,
            cases: Vec::new(),
            own_dice: Vec::new(),
            whole_dice: Vec::new(),
        });
        Self {
            method: method.to_string(),
            levels: levels.collect(),
            patients: BTreeSet::new(),
            pixels: (Vec::new(), Vec::new()),
            empty: Vec::new(),
            likely: (Vec::new(), Vec::new()),
            slices: 0,
            milliseconds: None,
            evaluations: (0, 0),
        }
    }

    /// With so many evaluations of the network and gradients of the classifier per slice.
    #[must_use]
    pub fn with_evaluations(mut self, evaluations: usize, gradients: usize) -> Self {
        self.evaluations = (evaluations, gradients);
        self
    }

    /// Key of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Values and truth of the head's pixels: what the JSON form lacks.
    #[must_use]
    pub fn pixels(&self) -> (&[f32], &[bool]) {
        (&self.pixels.0, &self.pixels.1)
    }

    /// Takes values and truth of the pixels away, for those who keep them elsewhere than in memory: see [`MaskScores::finish_by`].
    pub fn take_pixels(&mut self) -> (Vec<f32>, Vec<bool>) {
        std::mem::take(&mut self.pixels)
    }

    /// The scores as they were written, with their pixels.
    #[must_use]
    pub fn with_pixels(mut self, values: Vec<f32>, truth: Vec<bool>) -> Self {
        self.pixels = (values, truth);
        self
    }

    /// Wall time of all cases, in milliseconds, where it was measured.
    #[must_use]
    pub fn milliseconds(&self) -> Option<f64> {
        self.milliseconds
    }

    /// Adds the scores of other patients. Joined in one order they give the figures of a single run in that order, to the last bit.
    ///
    /// # Errors
    /// When they are of another method or other levels, have a patient that is here already, or were made by other numbers of
    /// evaluations.
    pub fn join(&mut self, other: Self) -> Result<()> {
        let levels = |scores: &Self| -> Vec<Level> {
            scores.levels.iter().map(|scores| scores.level).collect()
        };
        let unlike = |what: &str, expected: String, got: String| Error::Input {
            what: what.into(),
            expected,
            got,
        };
        if other.method != self.method || levels(&other) != levels(self) {
            let of = |scores: &Self| format!("{} at {:?}", scores.method, levels(scores));
            return Err(unlike("scores to be joined", of(self), of(&other)));
        }
        let counted = self.evaluations != (0, 0) && other.evaluations != (0, 0);
        if counted && self.evaluations != other.evaluations {
            let of = |scores: &Self| format!("{:?}", scores.evaluations);
            return Err(unlike("evaluations per slice", of(self), of(&other)));
        }
        if let Some(twice) = self.patients.intersection(&other.patients).next() {
            let what = format!("patient {twice}");
            return Err(unlike(
                &what,
                "one case for each patient".into(),
                "two".into(),
            ));
        }
        if other.evaluations != (0, 0) {
            self.evaluations = other.evaluations;
        }
        self.milliseconds = match self.patients.is_empty() {
            true => other.milliseconds,
            false => self
                .milliseconds
                .zip(other.milliseconds)
                .map(|(a, b)| a + b),
        };
        for (own, more) in self.levels.iter_mut().zip(other.levels) {
            own.cases.extend(more.cases);
            own.own_dice.extend(more.own_dice);
            own.whole_dice.extend(more.whole_dice);
        }
        self.patients.extend(other.patients);
        self.pixels.0.extend(other.pixels.0);
        self.pixels.1.extend(other.pixels.1);
        self.empty.extend(other.empty);
        self.likely.0.extend(other.likely.0);
        self.likely.1.extend(other.likely.1);
        self.slices += other.slices;
        Ok(())
    }

    /// Scores one case more, of another patient.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn add_case(&mut self, case: &Case) -> Result<()> {
        case.check()?;
        if !self.patients.insert(case.patient.clone()) {
            return Err(Error::Input {
                what: format!("patient {}", case.patient),
                expected: "one case for each patient".into(),
                got: "two".into(),
            });
        }
        let lesions = case.truth.outer_iter().map(|t| t.iter().any(|&v| v));
        let lesions: Vec<bool> = lesions.collect();
        let diseased = case.diseased_slices();
        for scores in &mut self.levels {
            scores.add(case, &lesions)?;
        }
        let (values, labels) = &mut self.pixels;
        for ((&value, &label), &inside) in case.anomaly.iter().zip(&case.truth).zip(&case.head) {
            if inside {
                values.push(value);
                labels.push(label);
            }
        }
        if let Some(mask) = &case.mask {
            let masks = mask.outer_iter().zip(&diseased);
            let healthy = masks.filter(|&(_, &diseased)| !diseased);
            let empty = healthy.map(|(mask, _)| !mask.iter().any(|&v| v));
            self.empty.extend(empty);
        }
        if let Some(likely) = &case.diseased {
            self.likely.0.extend(likely.iter().map(|&p| p as f32));
            self.likely.1.extend(&diseased);
        }
        self.slices += case.z.len();
        *self.milliseconds.get_or_insert(0.) += case.milliseconds;
        Ok(())
    }

    /// The figures over all cases, in the order of the levels.
    ///
    /// # Errors
    /// When a map isn't finite.
    pub fn finish(self) -> Result<Vec<Evaluation>> {
        let ranking = Ranking::of(&self.pixels.0, &self.pixels.1)?;
        self.figures([ranking.auroc(), ranking.average_precision()])
    }

    /// As [`MaskScores::finish`] to the last bit, with pixels that are elsewhere: `go_through` hands on those of all cases, each time it
    /// is called. It is called several times, and `bytes` of memory are used for what is counted.
    ///
    /// # Errors
    /// As there, and those of `go_through`.
    pub fn finish_by<E: From<Error>>(
        self,
        bytes: u64,
        go_through: &mut PixelPass<'_, E>,
    ) -> std::result::Result<Vec<Evaluation>, E> {
        let ranking = fndm_metrics::rank_in_passes(bytes, |next| {
            let went = go_through(&mut |values, truth| Ok(next(values, truth)?));
            went.map_err(PassError::Theirs)
        });
        let ranking = match ranking {
            Ok(ranking) => ranking,
            Err(PassError::Theirs(error)) => return Err(error),
            Err(PassError::Ours(error)) => return Err(Error::from(error).into()),
        };
        Ok(self.figures([ranking.auroc, ranking.average_precision])?)
    }

    /// `ranked` is AUROC and average precision over the pixels.
    fn figures(self, ranked: [Score; 2]) -> Result<Vec<Evaluation>> {
        let empty = self.empty.iter().filter(|&&empty| empty).count();
        let empty_when_healthy =
            (!self.empty.is_empty()).then(|| empty as f64 / self.empty.len() as f64);
        let slice_auroc = match self.likely.0.is_empty() {
            true => None,
            false => Ranking::of(&self.likely.0, &self.likely.1)?.auroc().value(),
        };
        let evaluation = |scores: LevelScores| {
            let LevelScores {
                level,
                cases,
                own_dice,
                whole_dice,
            } = scores;
            let aggregate = |pick: fn(&CaseScore) -> Score| Aggregate::of(cases.iter().map(pick));
            let hd95 = aggregate(|s| s.hd95);
            let interval = match bootstrap_mean(
                cases.iter().map(|s| (s.patient.as_str(), s.dice_otsu)),
                &BootstrapConfig::default(),
            ) {
                Ok(interval) => Some(interval),
                // Of fewer than two patients there is none.
                Err(fndm_metrics::Error::TooFew { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let lesions = |of: fn(&LesionCount) -> Option<f64>| {
                let counts = cases.iter().filter_map(|case| case.lesions.as_ref());
                let figures: Vec<f64> = counts.filter_map(of).collect();
                (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
            };
            let row = Row {
                method: self.method.clone(),
                level,
                dice_otsu: aggregate(|s| s.dice_otsu).mean,
                dice_ceiling: aggregate(|s| s.dice_ceiling).mean,
                hd95: hd95.mean,
                volumetric_similarity: aggregate(|s| s.volumetric_similarity).mean,
                auroc: ranked[0].value(),
                average_precision: ranked[1].value(),
                dice_mask: Aggregate::of(own_dice).mean,
                dice_whole: Aggregate::of(whole_dice).mean,
                empty_when_healthy,
                slice_auroc,
                lesion_sensitivity: lesions(|count| {
                    (count.lesions > 0).then(|| count.found as f64 / count.lesions as f64)
                }),
                false_lesions: lesions(|count| Some(count.false_lesions as f64)),
                dice_interval: interval.map(|interval| [interval.low, interval.high]),
                evaluations: self.evaluations.0,
                gradient_evaluations: self.evaluations.1,
                ms_per_slice: self.milliseconds.map(|ms| ms / self.slices.max(1) as f64),
                cases: cases.len(),
                hd95_skipped: hd95.skipped_in_words(),
            };
            Ok(Evaluation { row, cases })
        };
        self.levels.into_iter().map(evaluation).collect()
    }
}

impl LevelScores {
    /// `lesions` says of each slice whether it has one.
    fn add(&mut self, case: &Case, lesions: &[bool]) -> Result<()> {
        let truth = &case.truth;
        match self.level {
            Level::Slice => score_slices(case, &mut self.cases)?,
            Level::Volume => score_volume(case, &mut self.cases)?,
        }
        if let (Level::Volume, Some(whole)) = (self.level, &case.whole)
            && whole.true_positive + whole.false_negative > 0
        {
            self.whole_dice.push(whole.dice());
        }
        let Some(mask) = &case.mask else {
            return Ok(());
        };
        match self.level {
            Level::Slice => {
                let both = mask.outer_iter().zip(truth.outer_iter());
                for ((mask, truth), _) in both.zip(lesions).filter(|&(_, &lesion)| lesion) {
                    self.own_dice.push(Confusion::of(&mask, &truth)?.dice());
                }
            }
            Level::Volume if lesions.contains(&true) => {
                let confusion = Confusion::of(&mask.view(), &truth.view())?;
                self.own_dice.push(confusion.dice());
            }
            Level::Volume => {}
        }
        Ok(())
    }
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
        let (patient, spacing) = (&case.patient, &case.spacing);
        let mut scored = score(patient, None, &map, &mask, &truth, spacing)?;
        // Slices that aren't used may lie in between: neither are those around them neighbours, nor is a distance shorter for it.
        let (mask, truth) = (
            in_place(&found.mask, &case.z),
            in_place(&case.truth, &case.z),
        );
        let (mask, truth) = (mask.view(), truth.view());
        if truth.dim() != case.truth.dim() {
            scored.hd95 = percentile_hausdorff(&mask, &truth, spacing, 95., Definition::Medpy)?;
        }
        let lesions = lesion_detection(&mask, &truth, spacing, &LesionConfig::default())?;
        scored.lesions = Some(LesionCount {
            lesions: lesions.lesions.len(),
            found: lesions.found(),
            false_lesions: lesions.false_lesions,
        });
        scores.push(scored);
    }
    Ok(())
}

/// Bits `(N, H, W)` of slices at these places, with empty slices in the gaps between them.
fn in_place<'a>(bits: &'a Array3<bool>, z: &[usize]) -> CowArray<'a, bool, Ix3> {
    let (n, h, w) = bits.dim();
    let first = z.iter().min().copied().unwrap_or_default();
    let count = z.iter().max().map_or(0, |last| last - first + 1);
    if count == n {
        return bits.view().into();
    }
    let mut all = Array3::from_elem((count, h, w), false);
    for (slice, z) in bits.outer_iter().zip(z) {
        all.index_axis_mut(Axis(0), z - first).assign(&slice);
    }
    all.into()
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
        lesions: None,
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
            labels: None,
            spacing: [5., 2., 2.],
            mask: None,
            whole: None,
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
        assert!((row.ms_per_slice.unwrap() - 15.).abs() < 1e-12);
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

    /// Two lesions, one of them missed, and two spots where there is none.
    #[test]
    fn lesions_of_a_volume_are_those_counted_by_hand() {
        let mut case = case();
        case.truth.slice_mut(s![1, 15..17, 15..17]).fill(true);
        case.anomaly[[1, 2, 2]] = 1.;
        case.anomaly[[0, 17, 2]] = 1.;
        let row = evaluate("fndm", Level::Volume, &[case.clone()], 1, 1)
            .unwrap()
            .row;
        assert_eq!(row.lesion_sensitivity, Some(0.5));
        assert_eq!(row.false_lesions, Some(2.));
        let slice = evaluate("fndm", Level::Slice, &[case], 1, 1).unwrap().row;
        assert_eq!(
            (slice.lesion_sensitivity, slice.false_lesions),
            (None, None)
        );
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

    /// Patients scored apart, written and read, and joined: the figures of one run over all, to the last bit.
    #[test]
    fn scores_of_parts_are_joined_to_the_digit() {
        let of = |id: &str, missed: usize| {
            let mut case = case();
            case.patient = id.to_owned();
            case.anomaly
                .slice_mut(s![0, 5..5 + missed, ..])
                .fill(0.1 / 3.);
            case.mask = Some(case.anomaly.mapv(|v| v > 0.5));
            case.diseased = Some(vec![0.1 * missed as f64, 0.03]);
            case
        };
        let cases = [of("a", 0), of("b", 3), of("c", 1)];
        let mut whole = MaskScores::new("fndm", &Level::ALL);
        let mut joined = MaskScores::new("fndm", &Level::ALL);
        for case in &cases {
            whole.add_case(case).unwrap();
            let mut part = MaskScores::new("fndm", &Level::ALL);
            part.add_case(case).unwrap();
            let (values, truth) = part.pixels();
            let (values, truth) = (values.to_vec(), truth.to_vec());
            let text = serde_json::to_string(&part).unwrap();
            assert!(!text.contains("milliseconds"), "{text}");
            let part: MaskScores = serde_json::from_str(&text).unwrap();
            joined.join(part.with_pixels(values, truth)).unwrap();
        }
        let twice = joined.clone();
        assert!(joined.join(twice).is_err(), "a patient twice");
        assert!(joined.join(MaskScores::new("cg", &Level::ALL)).is_err());
        let mut whole = whole.finish().unwrap();
        for evaluation in &mut whole {
            assert!(evaluation.row.ms_per_slice.take().is_some());
        }
        assert_eq!(joined.clone().finish().unwrap(), whole);
        // With the pixels elsewhere.
        let (values, truth) = joined.take_pixels();
        assert!(joined.pixels().0.is_empty());
        let found = joined.finish_by::<Error>(0, &mut |next| {
            let halves = values.chunks(500).zip(truth.chunks(500));
            halves.into_iter().try_for_each(|(v, t)| next(v, t))
        });
        assert_eq!(found.unwrap(), whole);
    }

    /// Two slices with one between them that isn't used: what is 10 mm apart is no lesion in one piece.
    #[test]
    fn distances_and_lesions_span_slices_that_are_not_used() {
        let mut case = case();
        // The truth in both slices, the map in the first alone.
        case.truth.slice_mut(s![1, 5..11, 5..11]).fill(true);
        case.anomaly.fill(0.);
        case.anomaly.slice_mut(s![0, 5..11, 5..11]).fill(1.);
        let volume = |z: Vec<usize>| {
            let case = Case { z, ..case.clone() };
            let found = evaluate("fndm", Level::Volume, &[case], 1, 1).unwrap();
            let case = found.cases[0].clone();
            let lesions = case.lesions.unwrap();
            (case.hd95, lesions.lesions, lesions.found, case.dice_otsu)
        };
        let (together, apart) = (volume(vec![3, 4]), volume(vec![3, 5]));
        assert_eq!((together.1, together.2), (1, 1));
        assert_eq!((apart.1, apart.2), (2, 1));
        assert_eq!((together.0, apart.0), (Score::Value(5.), Score::Value(10.)));
        assert_eq!(together.3, apart.3);
    }

    /// A lesion of less than half a pixel is none of the truth's, and its slice isn't a healthy one.
    #[test]
    fn a_slice_whose_lesion_the_grid_lost_is_not_healthy() {
        let mut case = case();
        case.mask = Some(Array3::from_elem((2, 20, 20), true));
        case.diseased = Some(vec![0.8, 0.9]);
        let row = |case: &Case| {
            let cases = std::slice::from_ref(case);
            evaluate("fndm", Level::Slice, cases, 1, 1).unwrap().row
        };
        // By the truth alone the second slice is healthy: marked wrongly, and likelier diseased than the first.
        let by_truth = row(&case);
        assert_eq!(by_truth.empty_when_healthy, Some(0.));
        assert_eq!(by_truth.slice_auroc, Some(0.));
        case.labels = Some(vec![1, 1]);
        let by_labels = row(&case);
        assert_eq!(by_labels.empty_when_healthy, None);
        assert_eq!(by_labels.slice_auroc, None);
        assert_eq!(
            (by_labels.cases, by_labels.dice_otsu),
            (1, by_truth.dice_otsu)
        );
        case.labels = Some(vec![1]);
        assert!(case.check().is_err());
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
