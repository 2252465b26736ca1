//! What decides what a student is.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Device;
use fndm::student::probability;
use fndm::{DetectConfig, GuidedSmoothing, ResidualSide, SliceCalibration, keep_inside, smooth_z};
use fndm_data::SliceSet;
use fndm_data::corrupt::PseudoLesion;
use fndm_memory::ContrastConfig;
use fndm_models::{Segmenter, SegmenterConfig};
use fndm_train::RemoverConfig;
use ndarray::Array3;
use serde::{Deserialize, Serialize};

use super::ModelTeacher;
use crate::{Error, Result};

/// Greatest power of a map in the product: beyond it only the brightest pixels are left.
const MOST_POWER: f64 = 100.;

/// Greatest deviation of a Gaussian that smooths maps, in pixels or slices.
const MOST_SMOOTHING: f64 = 100.;

/// Greatest shift of log-odds: beyond it every pixel is one or the other.
const MOST_SHIFT: f64 = 30.;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(value: &f64) -> bool {
    *value == 0.
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_one(value: &f64) -> bool {
    *value == 1.
}

/// How the teachers' maps become masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherConfig {
    /// The Gaussians of healthy and diseased slices.
    pub contrast: ContrastConfig,
    /// Patients are divided into so many parts, and each part is scored by Gaussians that haven't seen it. 2 or more.
    pub parts: usize,
    /// Power of the contrast in the product.
    pub contrast_power: f64,
    /// Power of the remover's residual in the product.
    pub remover_power: f64,
    /// Power of a sequence's own brightness in the product; 0 leaves it out.
    pub intensity_power: f64,
    /// The sequence of that, counted from 0.
    pub intensity_sequence: usize,
    /// Whether that brightness is measured slice by slice, inside the head without its rim: above the slice's median, in median distances
    /// from it. A slice that is brighter as a whole then marks no more than others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub intensity_by_slice: bool,
    /// Models that are there already and teach too. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelTeacher>,
    /// Which residuals of each sequence count. Default: none named, which is both sides of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub residual_sides: Vec<ResidualSide>,
    /// Smoothing of the residual in the plane, in pixels.
    pub smoothing: f64,
    /// Smoothing of every map over z, in slices.
    pub z_smoothing: f64,
    /// Pixels of the head's rim that no mask has.
    pub head_erosion: usize,
    /// Whether what is marked inside and goes on into that rim without a gap is left out too. Fat of the scalp and of the orbits does, and
    /// lesions that lie deep don't.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub clear_rim: bool,
    /// Between Otsu's threshold of the volume (0) and that of the slice (1), in logarithms. Every slice here is diseased, and the
    /// volume's threshold overlooks small lesions beside large ones.
    pub by_slice: f64,
    /// The share of a volume's pixels, in its diseased slices and inside the head without its rim, that are below the threshold; none for
    /// Otsu's. Where lesions are a hundredth of the pixels, Otsu's threshold divides tissues and not lesions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile: Option<f64>,
    /// What that share is of.
    #[serde(skip_serializing_if = "QuantileScope::is_default")]
    pub quantile_of: QuantileScope,
    /// Pixels whose score is within this share of the threshold don't count.
    pub band: f64,
    /// Weight, in the last training, of pixels about which the teachers differ, each by its own threshold; 1 counts them as all others.
    #[serde(skip_serializing_if = "is_one")]
    pub disputed: f64,
}

/// The pixels that a [`TeacherConfig::quantile`] is of, each inside the head without its rim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuantileScope {
    /// The diseased slices of the same patient: each patient has as many marked.
    #[default]
    Volume,
    /// The diseased slices of all patients: one threshold, for maps that mean the same in each.
    All,
}

impl QuantileScope {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A second round: two students, each of every second patient, say of the other half's slices what they learned from their own, and
/// are a teacher then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossConfig {
    /// Iterations of each of the two.
    pub iterations: u64,
    /// Power of their maps in the product; the other teachers' powers are multiplied by 1 less this.
    pub power: f64,
}

impl CrossConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<()> {
        if self.iterations == 0 {
            return Err(Error::option("cross.iterations", "1 or more", 0));
        }
        if !(0.0..=1.0).contains(&self.power) {
            return Err(Error::option("cross.power", "0 to 1", self.power));
        }
        Ok(())
    }
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self {
            contrast: ContrastConfig::default(),
            parts: 4,
            contrast_power: 0.33,
            remover_power: 0.67,
            intensity_power: 0.0,
            intensity_sequence: 0,
            intensity_by_slice: false,
            models: Vec::new(),
            residual_sides: Vec::new(),
            smoothing: 1.0,
            z_smoothing: 0.7,
            head_erosion: 3,
            clear_rim: false,
            by_slice: 0.5,
            quantile: None,
            quantile_of: QuantileScope::Volume,
            band: 0.0,
            disputed: 1.0,
        }
    }
}

impl TeacherConfig {
    /// For lesions that are small, and brighter than tissue in the sequence of this number, in slices of this side in pixels.
    ///
    /// The one teacher is how far a pixel is above its slice's median there: the contrast knows places, and these lesions have none; Otsu's
    /// threshold divides tissues. One threshold serves all patients, so that those with more lesions have more marked. Settings were
    /// chosen on slices of 1.8 mm a pixel; see `docs/experiments.md`.
    #[must_use]
    pub fn small_bright(sequence: usize, size: usize) -> Self {
        Self {
            contrast_power: 0.0,
            remover_power: 0.0,
            intensity_power: 1.0,
            intensity_sequence: sequence,
            intensity_by_slice: true,
            smoothing: size as f64 / 128.,
            z_smoothing: 0.3,
            head_erosion: size / 12,
            clear_rim: true,
            quantile: Some(0.975),
            quantile_of: QuantileScope::All,
            ..Self::default()
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<()> {
        self.contrast.check()?;
        if self.parts < 2 {
            return Err(Error::option("parts", "2 or more", self.parts));
        }
        let powers = [
            ("contrast_power", self.contrast_power),
            ("remover_power", self.remover_power),
            ("intensity_power", self.intensity_power),
        ];
        let models = self
            .models
            .iter()
            .map(|model| ("models.power", model.power));
        let powers: Vec<(&str, f64)> = powers.into_iter().chain(models).collect();
        for &(name, power) in &powers {
            if !(0.0..=MOST_POWER).contains(&power) {
                let expected = format!("0 to {MOST_POWER}");
                return Err(Error::option(name, expected, power));
            }
        }
        for (name, sigma) in [
            ("smoothing", self.smoothing),
            ("z_smoothing", self.z_smoothing),
        ] {
            if !(0.0..=MOST_SMOOTHING).contains(&sigma) {
                let expected = format!("0 to {MOST_SMOOTHING}");
                return Err(Error::option(name, expected, sigma));
            }
        }
        if !(0.0..=1.0).contains(&self.by_slice) {
            let got = self.by_slice;
            return Err(Error::option("by_slice", "0 to 1", got));
        }
        if powers.iter().all(|&(_, power)| power == 0.) {
            return Err(Error::option("powers", "one above 0", 0));
        }
        if let Some(quantile) = self.quantile.filter(|q| !(0.0..1.0).contains(q)) {
            return Err(Error::option("quantile", "0 to below 1", quantile));
        }
        if !(0.0..1.0).contains(&self.band) {
            return Err(Error::option("band", "0 to below 1", self.band));
        }
        if !(0.0..=1.0).contains(&self.disputed) {
            return Err(Error::option("disputed", "0 to 1", self.disputed));
        }
        Ok(())
    }
}

/// Everything that decides what a student is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentPlan {
    /// The remover's network.
    pub remover: SegmenterConfig,
    /// Its training.
    pub remover_training: RemoverConfig,
    /// From maps to masks.
    pub teacher: TeacherConfig,
    /// The second round; none for one round alone.
    pub cross: Option<CrossConfig>,
    /// The student's network.
    pub student: SegmenterConfig,
    /// Its training.
    pub student_training: fndm_train::StudentConfig,
    /// Whether a probability is the mean of a slice's and of its mirror image's.
    pub mirror: bool,
    /// Added to the log-odds of every pixel once the network is trained: to the bias of its last layer. A student marks as much as its
    /// teacher does, and has seen more diseased slices than there are; below 0 it marks less. No pixel's rank changes. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub log_odds_shift: f64,
    /// How the student's map is smoothed before its threshold; none leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guided_smoothing: Option<GuidedSmoothing>,
    /// One patient in so many is held apart from everything and calibrates; 0 for none.
    pub apart: usize,
    /// The share of healthy slices that gets an empty mask.
    pub empty: f64,
    /// Seed of weights and of everything drawn.
    pub seed: u64,
}

impl StudentPlan {
    /// For slices of these sequences and this size, with so many iterations for each of the two trainings. Pseudo-lesions are those
    /// of [`PseudoLesion::of_sequences`].
    #[must_use]
    pub fn new(sequences: &[String], size: usize, iterations: u64, seed: u64) -> Self {
        let count = sequences.len();
        let student = match size {
            0..=64 => SegmenterConfig::small_64(count),
            65..=128 => SegmenterConfig::small_128(count),
            _ => SegmenterConfig::small_256(count),
        };
        Self {
            remover: SegmenterConfig {
                image_size: size,
                model_channels: 16,
                channel_mult: student.channel_mult.clone(),
                ..SegmenterConfig::remover_64(count)
            },
            remover_training: RemoverConfig {
                lesion: PseudoLesion::of_sequences(sequences),
                ..RemoverConfig::of(iterations)
            },
            teacher: TeacherConfig::default(),
            cross: Some(CrossConfig {
                iterations: iterations.div_ceil(2),
                power: 0.4,
            }),
            student: SegmenterConfig {
                image_size: size,
                ..student
            },
            student_training: fndm_train::StudentConfig::of(iterations),
            mirror: true,
            log_odds_shift: 0.0,
            guided_smoothing: Some(GuidedSmoothing::of_size(size)),
            apart: 8,
            empty: 0.9,
            seed,
        }
    }

    /// For lesions that are small, and brighter than tissue in the sequence of this number, as those of multiple sclerosis are in FLAIR.
    ///
    /// The teacher is [`TeacherConfig::small_bright`]. A round of students as teachers gained nothing, and no patient is held apart: see
    /// `docs/experiments.md`.
    #[must_use]
    pub fn small_bright(mut self, sequence: usize) -> Self {
        self.teacher = TeacherConfig::small_bright(sequence, self.student.image_size);
        self.cross = None;
        self.apart = 0;
        // Lesions of a few pixels would flow into what is around them.
        self.guided_smoothing = None;
        // The teacher marks a third more than there is, and every second pixel of it is none.
        self.log_odds_shift = -2.0;
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<()> {
        self.remover_training.check()?;
        self.student_training.check()?;
        self.remover.check()?;
        self.student.check()?;
        if self.remover.out_channels != self.remover.sequences || self.remover.context != 0 {
            return Err(Error::option(
                "remover",
                format!("{} outputs, no neighbours", self.remover.sequences),
                format!("{} and {}", self.remover.out_channels, self.remover.context),
            ));
        }
        if self.student.out_channels != 1 {
            let got = self.student.out_channels;
            return Err(Error::option("student.out_channels", "1", got));
        }
        for (iterations, name) in [
            (
                self.remover_training.iterations,
                "remover_training.iterations",
            ),
            (
                self.student_training.iterations,
                "student_training.iterations",
            ),
        ] {
            if iterations.is_none_or(|n| n == 0) {
                return Err(Error::option(name, "1 or more", "none"));
            }
        }
        if let Some(cross) = &self.cross {
            cross.check()?;
        }
        self.teacher.check()?;
        if let Some(smoothing) = &self.guided_smoothing {
            smoothing.check()?;
        }
        if self.apart == 1 {
            return Err(Error::option("apart", "0, or 2 or more", 1));
        }
        if !(0.0..=1.0).contains(&self.empty) {
            return Err(Error::option("empty", "0 to 1", self.empty));
        }
        if !(-MOST_SHIFT..=MOST_SHIFT).contains(&self.log_odds_shift) {
            let expected = format!("-{MOST_SHIFT} to {MOST_SHIFT}");
            let got = self.log_odds_shift;
            return Err(Error::option("log_odds_shift", expected, got));
        }
        Ok(())
    }

    /// The settings of the student's row.
    #[must_use]
    pub fn detect_config(&self) -> DetectConfig {
        DetectConfig {
            guided_smoothing: self.guided_smoothing,
            ..DetectConfig::student()
        }
    }

    /// As [`StudentPlan::check`], and whether the networks are for slices of so many sequences and this size.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check_slices(&self, sequences: usize, size: usize) -> Result<()> {
        for (name, network) in [
            ("remover.image_size", &self.remover),
            ("student.image_size", &self.student),
        ] {
            if network.image_size != size {
                return Err(Error::option(name, size.to_string(), network.image_size));
            }
            if network.sequences != sequences {
                let expected = format!("{sequences} sequences");
                return Err(Error::option(
                    "student, remover",
                    expected,
                    network.sequences,
                ));
            }
        }
        ResidualSide::check(&self.teacher.residual_sides, sequences)?;
        let (sequence, expected) = (
            self.teacher.intensity_sequence,
            format!("below {sequences}"),
        );
        if sequence >= sequences {
            return Err(Error::option("intensity_sequence", expected, sequence));
        }
        self.check()?;
        let mut models = self.teacher.models.iter();
        models.try_for_each(|model| model.check_slices(sequences, size))
    }

    /// The slices of patients that are held apart, and of those that are learned from.
    ///
    /// Healthy and diseased slices are held apart, or none: a calibration by slices of one kind isn't possible. Where one patient in so
    /// many doesn't have both, as where each patient is healthy or diseased as a whole, it is one in so many of each kind of patient, and
    /// at least one of those that there are two of.
    pub(super) fn parts(&self, set: &SliceSet) -> (Vec<usize>, Vec<usize>) {
        if self.apart == 0 {
            return (Vec::new(), (0..set.len()).collect());
        }
        let nth = |n: usize| n % self.apart == self.apart - 1;
        let has_both = |slices: &[usize]| {
            let has = |label: u8| slices.iter().any(|&n| set.labels[n] == label);
            has(0) && has(1)
        };
        let (apart, learned): (Vec<_>, Vec<_>) = (0..set.len()).partition(|&n| nth(set.patient[n]));
        if apart.is_empty() || has_both(&apart) {
            return (apart, learned);
        }
        let mut kinds: BTreeMap<[bool; 2], Vec<usize>> = BTreeMap::new();
        for patient in 0..set.ids.len() {
            let own = (0..set.len()).filter(|&n| set.patient[n] == patient);
            let labels: Vec<u8> = own.map(|n| set.labels[n]).collect();
            let kind = [labels.contains(&0), labels.contains(&1)];
            kinds.entry(kind).or_default().push(patient);
        }
        let mut held = BTreeSet::new();
        for patients in kinds.values().filter(|patients| patients.len() > 1) {
            let of_kind = patients.iter().enumerate().filter(|&(rank, _)| nth(rank));
            held.extend(of_kind.map(|(_, patient)| *patient));
            if patients.len() < self.apart {
                held.extend(patients.last());
            }
        }
        let (apart, learned): (Vec<_>, Vec<_>) =
            (0..set.len()).partition(|&n| held.contains(&set.patient[n]));
        if has_both(&apart) {
            return (apart, learned);
        }
        tracing::warn!(
            "too few patients to hold some of each kind apart: the student isn't calibrated"
        );
        (Vec::new(), (0..set.len()).collect())
    }

    /// What a network's numbers mean, by the bits of the slices that were held apart.
    pub(super) fn calibrate(
        &self,
        network: &Segmenter,
        apart: &SliceSet,
        device: &Device,
    ) -> Result<SliceCalibration> {
        if apart.is_empty() {
            return Ok(SliceCalibration::NONE);
        }
        let map = self.probability(network, apart, device)?;
        Ok(SliceCalibration::learn(&map, &apart.labels, self.empty)?)
    }

    /// What a network says of slices, smoothed over z, 0 outside of the head.
    pub(super) fn probability(
        &self,
        network: &Segmenter,
        set: &SliceSet,
        device: &Device,
    ) -> Result<Array3<f32>> {
        let (patient, z) = (&set.patient, &set.z);
        let images = set.images.view();
        let map = probability(network, &images, patient, z, self.mirror, device)?;
        let mut map = smooth_z(&map, patient, z, self.teacher.z_smoothing)?;
        keep_inside(&mut map, &set.head);
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, Array4};

    /// Slices of patients, each given by the labels of its slices.
    fn set(patients: &[&[u8]]) -> SliceSet {
        let labels = patients.concat();
        let n = labels.len();
        let numbers = patients.iter().enumerate();
        SliceSet {
            images: Array4::zeros((n, 1, 4, 4)),
            head: Array3::from_elem((n, 4, 4), true),
            patient: numbers
                .flat_map(|(p, labels)| vec![p; labels.len()])
                .collect(),
            z: patients.iter().flat_map(|labels| 0..labels.len()).collect(),
            ids: (0..patients.len()).map(|p| p.to_string()).collect(),
            sequences: vec!["flair".into()],
            labels,
        }
    }

    /// The patients that are held apart.
    fn apart(patients: &[&[u8]], one_in: usize) -> Vec<usize> {
        let set = set(patients);
        let plan = StudentPlan {
            apart: one_in,
            ..StudentPlan::new(&["flair".to_owned()], 64, 1, 0)
        };
        let (apart, learned) = plan.parts(&set);
        let of = |slices: &[usize]| -> BTreeSet<usize> {
            slices.iter().map(|&n| set.patient[n]).collect()
        };
        assert_eq!(apart.len() + learned.len(), set.len());
        assert!(of(&apart).is_disjoint(&of(&learned)) && !learned.is_empty());
        of(&apart).into_iter().collect()
    }

    #[test]
    fn healthy_and_diseased_slices_are_held_apart_or_none() {
        let (both, healthy, diseased): (&[u8], &[u8], &[u8]) = (&[0, 1, 0], &[0, 0], &[1, 1]);
        // Every fourth, where that has both.
        assert_eq!(apart(&[both; 9], 4), [3, 7]);
        assert!(apart(&[both; 3], 4).is_empty());
        assert!(apart(&[both; 9], 0).is_empty());
        // Patients of one kind: every fourth of each, and one at least.
        let sides = [vec![healthy; 3], vec![diseased; 9]].concat();
        assert_eq!(apart(&sides, 4), [2, 6, 10]);
        let sides = [vec![healthy; 2], vec![diseased; 6]].concat();
        assert_eq!(apart(&sides, 4), [1, 5]);
        // Every fourth is diseased, the others are not.
        let turns = [[healthy, healthy, healthy, diseased]; 3].concat();
        assert_eq!(apart(&turns, 4), [4, 9, 11]);
        // The only healthy patient is learned from.
        let one = [vec![healthy; 1], vec![diseased; 9]].concat();
        assert!(apart(&one, 4).is_empty());
    }
}
