//! A student: one evaluation a slice, taught from the bit of each slice.
//!
//! Two teachers that err differently look at the training slices: the [`Contrast`] of healthy and diseased slices, by Gaussians
//! that haven't seen the patient, and a remover of lesions, which was trained on healthy slices alone and changes what it
//! doesn't know from there. The masks of their geometric mean, and the healthy slices, which have none, teach a small network.
//! Patients held apart calibrate it, again by their bits.

mod calibration;
mod maps;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use fndm::batch_tensor;
use fndm_data::corrupt::PseudoLesion;
use fndm_data::preprocess::erode;
use fndm_data::{PatientSlices, SliceSet};
use fndm_memory::{Contrast, ContrastConfig, HealthyModel, intensities, silent};
use fndm_models::{Limits, Segmenter, SegmenterConfig, StateDict};
use fndm_train::{
    Ended, PixelTargets, RemoverConfig, RunConfig, SegmenterTrainer, StepReport, StopFlag,
    StudentConfig, run,
};
use ndarray::{Array3, Axis, Zip};
use serde::{Deserialize, Serialize};

pub use calibration::StudentCalibration;
pub use maps::{
    probability, residual, residual_map, smooth_z, volume_thresholds, weighted_product,
};

use crate::{Error, Result, files};

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
    /// Pixels whose score is within this share of the threshold don't count.
    pub band: f64,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self {
            contrast: ContrastConfig::default(),
            parts: 4,
            contrast_power: 0.5,
            remover_power: 0.5,
            smoothing: 1.0,
            z_smoothing: 0.7,
            head_erosion: 3,
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
    /// The student's network.
    pub student: SegmenterConfig,
    /// Its training.
    pub student_training: StudentConfig,
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
    /// For gliomas in FLAIR, T1 and T1 with contrast agent, at 64 px.
    #[must_use]
    pub fn glioma_64() -> Self {
        Self {
            remover: SegmenterConfig::remover_64(3),
            remover_training: RemoverConfig {
                lesion: PseudoLesion::glioma(),
                ..RemoverConfig::of(1200)
            },
            teacher: TeacherConfig::default(),
            student: SegmenterConfig::small_64(3),
            student_training: StudentConfig::of(1200),
            mirror: true,
            apart: 8,
            empty: 0.9,
            seed: 1,
        }
    }

    /// Whether a patient of a slice set, by its number there, is held apart.
    fn holds_apart(&self, patient: usize) -> bool {
        self.apart > 0 && patient % self.apart == self.apart - 1
    }
}

/// A trained student.
#[derive(Debug, Clone)]
pub struct Student {
    network: Segmenter,
    about: About,
    device: Device,
}

/// What stands beside the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    z_smoothing: f64,
    mirror: bool,
    calibration: StudentCalibration,
}

/// What a student says of a patient's slices.
#[derive(Debug, Clone)]
pub struct StudentMaps {
    /// The probability of a lesion, calibrated, 0 outside the head: `(N, H, W)`. A mask is what is above 0.5.
    pub probability: Array3<f32>,
    /// How likely each slice is diseased.
    pub diseased: Vec<f64>,
}

/// Names in a student's folder.
const WEIGHTS: &str = "student.safetensors";
const ABOUT: &str = "student.json";

impl Student {
    /// The network.
    #[must_use]
    pub fn network(&self) -> &Segmenter {
        &self.network
    }

    /// How its numbers were given their meaning.
    #[must_use]
    pub fn calibration(&self) -> &StudentCalibration {
        &self.about.calibration
    }

    /// Probabilities `(N, H, W)` of slices before the calibration, smoothed over z, 0 outside the head.
    fn raw(
        &self,
        images: &ndarray::Array4<f32>,
        head: &Array3<bool>,
        patient: &[usize],
        z: &[usize],
    ) -> Result<Array3<f32>> {
        let About {
            z_smoothing,
            mirror,
            ..
        } = self.about;
        let map = probability(
            &self.network,
            images.view(),
            patient,
            z,
            mirror,
            &self.device,
        )?;
        let mut map = smooth_z(&map, patient, z, z_smoothing)?;
        Zip::from(&mut map).and(head).for_each(|v, &head| {
            if !head {
                *v = 0.0;
            }
        });
        Ok(map)
    }

    /// Examines the slices of a patient.
    ///
    /// # Errors
    /// When they don't fit the network.
    pub fn examine(&self, slices: &PatientSlices) -> Result<StudentMaps> {
        let patient = vec![0; slices.z.len()];
        let mut map = self.raw(&slices.images, &slices.head, &patient, &slices.z)?;
        let calibration = &self.about.calibration;
        let slice = |map: ndarray::ArrayView2<'_, f32>| calibration.slice(map.iter().copied());
        let diseased = map.axis_iter(Axis(0)).map(slice).collect();
        Zip::from(&mut map).and(&slices.head).for_each(|v, &head| {
            if head {
                *v = calibration.pixel(*v);
            }
        });
        Ok(StudentMaps {
            probability: map,
            diseased,
        })
    }

    /// Writes `student.safetensors` and `student.json` into a folder, the latter last.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn save(&self, folder: &Path, weights: &StateDict) -> Result<()> {
        files::create_dir(folder)?;
        let config = self.network.config();
        weights
            .clone()
            .with_config(config)?
            .save(folder.join(WEIGHTS))?;
        files::write_json(&folder.join(ABOUT), "student", &self.about)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When a file can't be read or isn't a student's.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let limits = Limits::default();
        Ok(Self {
            network: Segmenter::load(folder.join(WEIGHTS), &limits, DType::F32, device)?,
            about: files::read_json(&folder.join(ABOUT), "student")?,
            device: device.clone(),
        })
    }
}

/// Trains both teachers and the student on slices with their bits, and writes the student into `folder`, beside the
/// checkpoints `remover` and `student`, from which a run that was stopped goes on. `progress` sees the name of the training and
/// every iteration.
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
    mut progress: impl FnMut(&str, &StepReport),
) -> Result<Option<Student>> {
    let (apart, learned): (Vec<usize>, Vec<usize>) =
        (0..set.len()).partition(|&n| plan.holds_apart(set.patient[n]));
    let apart = set.select(&apart)?;
    let set = Arc::new(set.select(&learned)?);
    let place = |name: &str| RunConfig {
        folder: folder.join(name),
        ..RunConfig::default()
    };

    let mut trainer = SegmenterTrainer::remover(
        &plan.remover_training,
        &plan.remover,
        set.clone(),
        plan.seed,
        device,
    )?;
    let ended = run(&mut trainer, &place("remover"), stop, |_, report| {
        progress("remover", report);
    })?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let targets = teach(&plan.teacher, &trainer.ema_network()?, &set, device)?;

    let mut trainer = SegmenterTrainer::student(
        &plan.student_training,
        &plan.student,
        set,
        Arc::new(targets),
        plan.seed,
        device,
    )?;
    let ended = run(&mut trainer, &place("student"), stop, |_, report| {
        progress("student", report);
    })?;
    if ended == Ended::Stopped {
        return Ok(None);
    }
    let mut student = Student {
        network: trainer.ema_network()?,
        about: About {
            z_smoothing: plan.teacher.z_smoothing,
            mirror: plan.mirror,
            calibration: StudentCalibration::NONE,
        },
        device: device.clone(),
    };
    if !apart.is_empty() {
        let map = student.raw(&apart.images, &apart.head, &apart.patient, &apart.z)?;
        student.about.calibration = StudentCalibration::learn(&map, &apart.labels, plan.empty)?;
    }
    student.save(folder, &StateDict::new(trainer.ema_tensors()?))?;
    Ok(Some(student))
}

/// What the teachers want a student to say of the slices that they were made from.
///
/// # Errors
/// When the config doesn't fit the slices.
pub fn teach(
    config: &TeacherConfig,
    remover: &Segmenter,
    set: &SliceSet,
    device: &Device,
) -> Result<PixelTargets> {
    let contrast = unseen_contrast(config, set, device)?;
    let residual = residual(remover, set.images.view(), device)?;
    let residual = residual_map(residual.view(), config.smoothing)?;
    let smooth = |map: &Array3<f32>| smooth_z(map, &set.patient, &set.z, config.z_smoothing);
    let map = weighted_product(&[
        (&smooth(&contrast)?, config.contrast_power),
        (&smooth(&residual)?, config.remover_power),
    ])?;
    let mut inside = set.head.clone();
    for mut slice in inside.axis_iter_mut(Axis(0)) {
        let inner = erode(slice.view(), config.head_erosion);
        slice.assign(&inner);
    }
    let thresholds = volume_thresholds(&map, &inside, &set.patient)?;
    Ok(PixelTargets::from_teacher(
        set,
        &map,
        &inside,
        &thresholds,
        config.band,
    )?)
}

/// The contrast's scores of every slice, by Gaussians of other patients.
fn unseen_contrast(config: &TeacherConfig, set: &SliceSet, device: &Device) -> Result<Array3<f32>> {
    let parts = config.parts;
    if parts < 2 {
        return Err(Error::option("parts", "2 or more", parts));
    }
    let (n, _, h, w) = set.images.dim();
    let mut scores = Array3::zeros((n, h, w));
    for part in 0..parts {
        let (own, others): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|&n| set.patient[n] % parts == part);
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
