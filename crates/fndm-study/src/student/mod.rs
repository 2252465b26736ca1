//! A student: one evaluation a slice, taught from the bit of each slice.
//!
//! Two teachers that err differently look at the training slices: the [`Contrast`] of healthy and diseased slices, by Gaussians
//! that haven't seen the patient, and a remover of lesions, which was trained on healthy slices alone and changes what it
//! doesn't know from there. The masks of their geometric mean, and the healthy slices, which have none, teach a small network.
//! Patients held apart calibrate it, again by their bits.

mod folds;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use fndm::student::{probability, residual, residual_map, volume_thresholds, weighted_product};
use fndm::{
    SliceCalibration, StudentConfig, ThresholdScope, batch_tensor, keep_inside, smooth_z, threshold,
};
use fndm_data::SliceSet;
use fndm_data::corrupt::{PseudoLesion, Shift};
use fndm_data::preprocess::erode;
use fndm_memory::{Contrast, ContrastConfig, HealthyModel, intensities, silent};
use fndm_models::{Segmenter, SegmenterConfig, StateDict};
use fndm_train::{
    Ended, PixelTargets, RemoverConfig, RunConfig, SegmenterTrainer, StepReport, StopFlag, run,
};
use ndarray::{Array3, ArrayView4, Axis};
use serde::{Deserialize, Serialize};

pub use folds::{FoldCases, FoldRow, examine_fold};

use crate::{Error, Result};

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
    /// Smoothing of the residual in the plane, in pixels.
    pub smoothing: f64,
    /// Smoothing of every map over z, in slices.
    pub z_smoothing: f64,
    /// Pixels of the head's rim that no mask has.
    pub head_erosion: usize,
    /// Between Otsu's threshold of the volume (0) and that of the slice (1), in logarithms. Every slice here is diseased, and the
    /// volume's threshold overlooks small lesions beside large ones.
    pub by_slice: f64,
    /// Pixels whose score is within this share of the threshold don't count.
    pub band: f64,
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

impl Default for TeacherConfig {
    fn default() -> Self {
        Self {
            contrast: ContrastConfig::default(),
            parts: 4,
            contrast_power: 0.33,
            remover_power: 0.67,
            smoothing: 1.0,
            z_smoothing: 0.7,
            head_erosion: 3,
            by_slice: 0.5,
            band: 0.0,
        }
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
    /// One patient in so many is held apart from everything and calibrates; 0 for none.
    pub apart: usize,
    /// The share of healthy slices that gets an empty mask.
    pub empty: f64,
    /// Seed of weights and of everything drawn.
    pub seed: u64,
}

impl StudentPlan {
    /// For slices of these sequences and this size, with so many iterations for each of the two trainings. Pseudo-lesions are
    /// mostly bright in `flair` and `t2`, dark in `t1` and `t1ce`, as gliomas are, and either in any other sequence.
    #[must_use]
    pub fn new(sequences: &[String], size: usize, iterations: u64, seed: u64) -> Self {
        let count = sequences.len();
        let shift = sequences.iter().map(|name| {
            let (mean, deviation) = match name.as_str() {
                "flair" | "t2" => (0.25, 0.5),
                "t1" => (-0.1, 0.35),
                "t1ce" => (-0.05, 0.4),
                _ => (0., 0.5),
            };
            Shift { mean, deviation }
        });
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
                lesion: PseudoLesion {
                    shift: shift.collect(),
                    ..PseudoLesion::default()
                },
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
            apart: 8,
            empty: 0.9,
            seed,
        }
    }

    /// Checks every setting, for slices of so many sequences and this size: all that can be told without any.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self, sequences: usize, size: usize) -> Result<()> {
        self.remover_training.check()?;
        self.student_training.check()?;
        for (name, network) in [
            ("remover.image_size", &self.remover),
            ("student.image_size", &self.student),
        ] {
            network.check()?;
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
        if self.remover.out_channels != sequences || self.remover.context != 0 {
            return Err(Error::option(
                "remover",
                format!("{sequences} outputs, no neighbours"),
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
            if cross.iterations == 0 {
                return Err(Error::option("cross.iterations", "1 or more", 0));
            }
            if !(0.0..=1.0).contains(&cross.power) {
                return Err(Error::option("cross.power", "0 to 1", cross.power));
            }
        }
        if !(0.0..=1.0).contains(&self.teacher.by_slice) {
            let got = self.teacher.by_slice;
            return Err(Error::option("by_slice", "0 to 1", got));
        }
        if self.teacher.parts < 2 {
            return Err(Error::option("parts", "2 or more", self.teacher.parts));
        }
        if self.apart == 1 {
            return Err(Error::option("apart", "0, or 2 or more", 1));
        }
        if !(0.0..=1.0).contains(&self.empty) {
            return Err(Error::option("empty", "0 to 1", self.empty));
        }
        Ok(())
    }

    /// The slices of patients that are held apart, and of those that are learned from.
    fn parts(&self, set: &SliceSet) -> (Vec<usize>, Vec<usize>) {
        let apart = |patient: usize| self.apart > 0 && patient % self.apart == self.apart - 1;
        (0..set.len()).partition(|&n| apart(set.patient[n]))
    }

    /// What a network's numbers mean, by the bits of the slices that were held apart.
    fn calibrate(
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
    fn probability(
        &self,
        network: &Segmenter,
        set: &SliceSet,
        device: &Device,
    ) -> Result<Array3<f32>> {
        let (patient, z) = (&set.patient, &set.z);
        let images = set.images.view();
        let map = probability(network, images, patient, z, self.mirror, device)?;
        let mut map = smooth_z(&map, patient, z, self.teacher.z_smoothing)?;
        keep_inside(&mut map, &set.head);
        Ok(map)
    }
}

/// A student as it comes out of its training: what [`fndm::DetectorBuilder::student`] takes.
#[derive(Debug, Clone)]
pub struct TrainedStudent {
    /// The network, and what its numbers mean.
    pub config: StudentConfig,
    /// Its weights.
    pub weights: StateDict,
    /// The remover of lesions that was one of its teachers.
    pub remover: Segmenter,
}

/// The trainings of a student, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StudentStage {
    /// The network that removes lesions.
    Remover,
    /// The student of the even patients, for the second round.
    Even,
    /// The student of the odd patients.
    Odd,
    /// The student itself.
    Student,
}

impl StudentStage {
    /// The name of the folder of its checkpoints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Remover => "remover",
            Self::Even => "even",
            Self::Odd => "odd",
            Self::Student => "student",
        }
    }
}

/// Trains the remover and the student on slices with their bits. Checkpoints go to `remover` and `student` in `folder`; a run that
/// was stopped goes on from there. `progress` sees every iteration, and the share of the stage that is done.
///
/// Gives nothing where `stop` was set before the end.
///
/// # Errors
/// When the plan doesn't fit the slices, a training fails, or the folder can't be written.
pub fn train_student(
    plan: &StudentPlan,
    set: &SliceSet,
    folder: &Path,
    device: &Device,
    stop: &StopFlag,
    mut progress: impl FnMut(StudentStage, &StepReport, f64),
) -> Result<Option<TrainedStudent>> {
    let (apart, learned) = plan.parts(set);
    let apart = set.select(&apart)?;
    let set = Arc::new(set.select(&learned)?);
    let mut progress = |stage: StudentStage, report: &StepReport, of: Option<u64>| {
        let whole = of.unwrap_or(1).max(1);
        progress(stage, report, report.iteration as f64 / whole as f64);
    };

    let training = &plan.remover_training;
    let mut trainer =
        SegmenterTrainer::remover(training, &plan.remover, set.clone(), plan.seed, device)?;
    let stage = StudentStage::Remover;
    let place_of_it = place(folder, stage.name());
    let ended = run(&mut trainer, &place_of_it, stop, |_, report| {
        progress(stage, report, training.iterations);
    })?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let remover = trainer.ema_network()?;
    drop(trainer);
    let mut maps = teachers(&plan.teacher, &remover, &set, device)?;

    let mut train = |stage: StudentStage, iterations, set: Arc<SliceSet>, maps: &Array3<f32>| {
        let training = fndm_train::StudentConfig {
            iterations,
            ..plan.student_training.clone()
        };
        let targets = Arc::new(targets(&plan.teacher, &set, maps)?);
        let (config, seed) = (&plan.student, plan.seed);
        let mut trainer = SegmenterTrainer::student(&training, config, set, targets, seed, device)?;
        let place_of_it = place(folder, stage.name());
        let ended = run(&mut trainer, &place_of_it, stop, |_, report| {
            progress(stage, report, iterations);
        })?;
        Ok::<_, Error>((ended == Ended::Finished).then_some(trainer))
    };
    if let Some(cross) = &plan.cross {
        let ranks = ranks(&set);
        let mut unseen = Array3::zeros(maps.dim());
        let halves = [StudentStage::Even, StudentStage::Odd];
        for (half, stage) in halves.into_iter().enumerate() {
            let (own, others): (Vec<usize>, Vec<usize>) =
                (0..set.len()).partition(|&n| ranks[n] % 2 == half);
            let part = Arc::new(set.select(&own)?);
            let own = maps.select(Axis(0), &own);
            let Some(trainer) = train(stage, Some(cross.iterations), part, &own)? else {
                return Ok(None);
            };
            let found = plan.probability(&trainer.ema_network()?, &set.select(&others)?, device)?;
            for (&n, map) in others.iter().zip(found.outer_iter()) {
                unseen.index_axis_mut(Axis(0), n).assign(&map);
            }
        }
        maps = weighted_product(&[(&maps, 1. - cross.power), (&unseen, cross.power)])?;
    }
    let iterations = plan.student_training.iterations;
    let Some(trainer) = train(StudentStage::Student, iterations, set, &maps)? else {
        return Ok(None);
    };
    let calibration = plan.calibrate(&trainer.ema_network()?, &apart, device)?;
    Ok(Some(TrainedStudent {
        config: StudentConfig {
            network: plan.student.clone(),
            mirror: plan.mirror,
            z_smoothing: plan.teacher.z_smoothing,
            calibration,
        },
        weights: StateDict::new(trainer.ema_tensors()?),
        remover,
    }))
}

/// What the teachers want a student to say of the slices that they were made from, in the first round.
///
/// # Errors
/// When the config doesn't fit the slices.
pub fn teach(
    config: &TeacherConfig,
    remover: &Segmenter,
    set: &SliceSet,
    device: &Device,
) -> Result<PixelTargets> {
    targets(config, set, &teachers(config, remover, set, device)?)
}

/// The product of both teachers' maps, `(N, H, W)`, none of which has seen the patient's bits.
fn teachers(
    config: &TeacherConfig,
    remover: &Segmenter,
    set: &SliceSet,
    device: &Device,
) -> Result<Array3<f32>> {
    let contrast = unseen_contrast(config, set, device)?;
    let place = (&set.patient[..], &set.z[..]);
    product(
        config,
        &contrast,
        remover,
        &set.images.view(),
        place,
        device,
    )
}

/// The masks of a map.
fn targets(config: &TeacherConfig, set: &SliceSet, map: &Array3<f32>) -> Result<PixelTargets> {
    let mut inside = set.head.clone();
    for mut slice in inside.axis_iter_mut(Axis(0)) {
        let inner = erode(slice.view(), config.head_erosion);
        slice.assign(&inner);
    }
    let volume = volume_thresholds(map, &inside, &set.patient)?;
    let slice = threshold(map.view(), inside.view(), ThresholdScope::Slice)?.thresholds;
    let between = |(v, s): (f32, f32)| match v > 0. && s > 0. && s.is_finite() {
        true => v * (s / v).powf(config.by_slice as f32),
        false => v,
    };
    let thresholds: Vec<f32> = volume.into_iter().zip(slice).map(between).collect();
    Ok(PixelTargets::from_teacher(
        set,
        map,
        &inside,
        &thresholds,
        config.band,
    )?)
}

/// For each slice the rank of its patient among those of the set, whose numbers have gaps where patients were held apart.
fn ranks(set: &SliceSet) -> Vec<usize> {
    let present: BTreeSet<usize> = set.patient.iter().copied().collect();
    let rank = |p: &usize| present.range(..p).count();
    set.patient.iter().map(rank).collect()
}

/// Where the checkpoints of one training go.
fn place(folder: &Path, name: &str) -> RunConfig {
    RunConfig {
        folder: folder.join(name),
        ..RunConfig::default()
    }
}

/// The teachers' map `(N, H, W)` of slices `(N, C, H, W)` of these patients and positions, from the contrast's scores and what the
/// remover changes.
fn product(
    config: &TeacherConfig,
    contrast: &Array3<f32>,
    remover: &Segmenter,
    images: &ArrayView4<'_, f32>,
    (patient, z): (&[usize], &[usize]),
    device: &Device,
) -> Result<Array3<f32>> {
    let residual = residual(remover, images.view(), device)?;
    let residual = residual_map(residual.view(), config.smoothing)?;
    let smooth = |map: &Array3<f32>| smooth_z(map, patient, z, config.z_smoothing);
    Ok(weighted_product(&[
        (&smooth(contrast)?, config.contrast_power),
        (&smooth(&residual)?, config.remover_power),
    ])?)
}

/// The contrast's scores of every slice, by Gaussians of other patients.
fn unseen_contrast(config: &TeacherConfig, set: &SliceSet, device: &Device) -> Result<Array3<f32>> {
    let parts = config.parts;
    if parts < 2 {
        return Err(Error::option("parts", "2 or more", parts));
    }
    let ranks = ranks(set);
    let patients = ranks.iter().max().map_or(0, |most| most + 1);
    if patients < 2 {
        return Err(Error::Input {
            what: "patients for a student".into(),
            expected: "two or more: each is scored by Gaussians of the others".into(),
            got: patients.to_string(),
        });
    }
    let (n, _, h, w) = set.images.dim();
    let mut scores = Array3::zeros((n, h, w));
    for part in 0..parts {
        let (own, others): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|&n| ranks[n] % parts == part);
        if own.is_empty() {
            continue;
        }
        let tensor =
            |slices: &[usize]| batch_tensor(&set.images.select(Axis(0), slices).view(), device);
        let labels: Vec<u8> = others.iter().map(|&n| set.labels[n]).collect();
        let contrast = Contrast::build(
            &config.contrast,
            &intensities,
            &tensor(&others)?,
            &labels,
            &mut silent,
        )?;
        let maps = contrast.score_maps(&intensities, &tensor(&own)?, None)?;
        for (&n, map) in own.iter().zip(maps.axis_iter(Axis(0))) {
            scores.index_axis_mut(Axis(0), n).assign(&map);
        }
    }
    Ok(scores)
}
