//! A trained model at work.

mod build;
mod coarse;
mod diffusion;
mod load;
mod long_steps;
mod mask;
mod result;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Device;
use fndm_data::{Limits, Patient, PatientSlices, SliceImages, Turned};
use fndm_memory::{Contrast, MemoryBank};
use fndm_models::{Classifier, StateDict, UNet};
use fndm_solver::NoiseSchedule;
use ndarray::{Array, Array3, Axis, RemoveAxis};

pub use build::DetectorBuilder;
pub use coarse::CoarseMaps;
pub use long_steps::LongSteps;
pub use mask::{MapMask, mask_of};
pub use result::{Detection, SliceMaps};

use crate::round_trip::milliseconds;
use crate::{
    CoarseModel, CoarseSource, DetectConfig, Error, Method, ModelConfig, Result, Student, anomaly,
    flair_map, smooth_z,
};

/// A trained model, ready to examine patients.
///
/// It is a folder of files: `model.json`, `unet.safetensors`, `classifier.safetensors`, `memory.safetensors`; where the training
/// was asked for them, `contrast.safetensors`, `student.safetensors` and networks of the ablation's rows,
/// `unet_cg_nm.safetensors` and `unet_cg.safetensors`. A model of a student alone is `model.json` and `student.safetensors`. Or it is made of parts that are already there: [`Detector::builder`].
#[derive(Debug)]
pub struct Detector {
    config: ModelConfig,
    diffusion: Option<Diffusion>,
    coarse: BTreeMap<CoarseSource, Box<dyn CoarseModel>>,
    student: Option<Student>,
    device: Device,
    parts: Parts,
}

/// The networks of the diffusion. A model of a student alone has none.
#[derive(Debug)]
struct Diffusion {
    schedule: NoiseSchedule,
    unet: UNet,
    /// The network of the encoding, where each direction has its own.
    encoder: Option<UNet>,
    separate: BTreeMap<Method, UNet>,
    classifier: Classifier,
}

/// What a model can be written from again.
#[derive(Debug)]
enum Parts {
    /// The folder that it was read from. It gives the networks their names in messages, too.
    Folder(PathBuf),
    /// What it was built from.
    Given {
        networks: BTreeMap<String, StateDict>,
        bank: Option<Box<MemoryBank>>,
        contrast: Option<Box<Contrast>>,
    },
}

impl Detector {
    /// The model's config.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The student, where the model has one.
    #[must_use]
    pub fn student(&self) -> Option<&Student> {
        self.student.as_ref()
    }

    /// A file of the model, for messages.
    fn named(&self, file: &str) -> String {
        match &self.parts {
            Parts::Folder(folder) => folder.join(file).display().to_string(),
            Parts::Given { .. } => file.to_owned(),
        }
    }

    /// From volumes to slices, as this model takes them.
    ///
    /// # Errors
    /// When the patient's volumes aren't those of [`ModelConfig::names_to_read`], or one can't be used.
    pub fn slices(&self, patient: &Patient) -> Result<PatientSlices> {
        Ok(self.turn(patient)?.slices()?)
    }

    /// The patient turned to the axes of the slices, with its head found: for who cuts slices and has the input checked too.
    ///
    /// # Errors
    /// As [`Detector::slices`].
    pub fn turn<'a>(&'a self, patient: &'a Patient) -> Result<Turned<'a>> {
        let names = patient.sequences.iter().map(|(name, _)| name.as_str());
        self.check_names(&patient.id, names)?;
        Ok(self.config.preprocess.turn(patient)?)
    }

    /// As [`Detector::turn`], from the files of [`ModelConfig::names_to_read`], with one volume in memory at a time: see
    /// [`Preprocess::turn_files`](fndm_data::Preprocess::turn_files).
    ///
    /// # Errors
    /// As [`Detector::slices`], and as there.
    pub fn turn_files(
        &self,
        id: &str,
        files: &[(String, PathBuf)],
        limits: &Limits,
        file: File,
    ) -> Result<Turned<'_>> {
        self.check_names(id, files.iter().map(|(name, _)| name.as_str()))?;
        let preprocess = &self.config.preprocess;
        Ok(preprocess.turn_files(id, files, limits, file)?)
    }

    fn check_names<'a>(&self, id: &str, got: impl Iterator<Item = &'a str>) -> Result<()> {
        let got: Vec<&str> = got.collect();
        let expected = self.config.names_to_read();
        if got == expected {
            return Ok(());
        }
        Err(Error::Input {
            what: format!("sequences of patient {id}"),
            expected: expected.join(", "),
            got: got.join(", "),
        })
    }

    /// Examines a patient by the model's own row and settings: see [`ModelConfig::method`].
    ///
    /// # Errors
    /// As [`Detector::slices`].
    pub fn detect(&self, patient: &Patient) -> Result<Detection> {
        let method = self.config.method;
        let config = self.config.detect_config(method);
        self.detect_by(method, patient, &config, &mut |_| {})
    }

    /// Examines a patient by the diffusion. `progress` is told the share that is done, 0 to 1.
    ///
    /// # Errors
    /// As [`Detector::slices`], or when the settings make no sense.
    pub fn detect_with(
        &self,
        patient: &Patient,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Detection> {
        self.detect_by(Method::Fndm, patient, config, progress)
    }

    /// Examines a patient by one row of the tables. `progress` is told the share that is done, 0 to 1.
    ///
    /// # Errors
    /// As [`Detector::slices`], when the settings make no sense, or the model lacks what the row takes.
    pub fn detect_by(
        &self,
        method: Method,
        patient: &Patient,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Detection> {
        config.check()?;
        self.detect_slices(method, self.slices(patient)?, config, progress)
    }

    /// As [`Detector::detect_by`], of a patient whose slices were made before: by [`Detector::slices`], in another thread perhaps, so
    /// that the volumes themselves needn't be kept.
    ///
    /// # Errors
    /// As [`Detector::examine_by`].
    pub fn detect_slices(
        &self,
        method: Method,
        slices: PatientSlices,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Detection> {
        let maps = self.examine_by(method, &slices, config, progress)?;
        Ok(Detection {
            mask: maps.to_mask(&slices)?,
            anomaly: slices.to_volume(&maps.anomaly)?,
            slices,
            maps,
        })
    }

    /// Examines slices by one row of the tables. `progress` is told the share that is done, 0 to 1.
    ///
    /// Where the images are on the disk, the student reads them a batch at a time, and other rows hold all of them while they run.
    ///
    /// # Errors
    /// As [`Detector::examine`], or when the model lacks what the row takes.
    pub fn examine_by<I: SliceImages>(
        &self,
        method: Method,
        slices: &PatientSlices<I>,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<SliceMaps> {
        config.check()?;
        self.run_row(method, slices, config, progress)
    }

    /// Examines slices by the diffusion. `progress` is told the share that is done, 0 to 1.
    ///
    /// # Errors
    /// When the slices aren't of the model's size and channels, or the settings make no sense.
    pub fn examine(
        &self,
        slices: &PatientSlices,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<SliceMaps> {
        config.check()?;
        self.run_diffusion(slices, config, progress)
    }

    /// One row of the tables, by settings that were checked.
    fn run_row<I: SliceImages>(
        &self,
        method: Method,
        slices: &PatientSlices<I>,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<SliceMaps> {
        if method.parts().is_some() {
            return self.run_diffusion(&*I::in_memory(slices)?, config, progress);
        }
        self.check_input(slices)?;
        let start = Instant::now();
        let mut maps = SliceMaps::empty(slices);
        match method {
            Method::Student => {
                let student = self.need_student()?;
                maps.anomaly = student.probability(slices, &self.device)?;
                maps.evaluations = student.evaluations();
                maps.diseased = Some(student.diseased(&maps.anomaly));
                anomaly::smooth(&mut maps.anomaly, config.smoothing)?;
            }
            Method::Memory => {
                let found = self.find_coarse(&*I::in_memory(slices)?, config)?;
                (maps.anomaly, maps.diseased) = (found.soft, found.diseased);
                maps.evaluations = self.coarse_evaluations(config);
            }
            _ => {
                maps.anomaly = flair_map(&*I::in_memory(slices)?, 0, config.smoothing)?.0;
            }
        }
        self.finish(&mut maps, slices, config)?;
        maps.probability = method.gives_probabilities(config);
        maps.milliseconds = milliseconds(start);
        self.ask_student(&mut maps, slices)?;
        progress(1.);
        Ok(maps)
    }

    /// How likely each slice is diseased, where the model has a student: 0 to 1.
    ///
    /// # Errors
    /// As [`Detector::examine`].
    pub fn diseased<I: SliceImages>(&self, slices: &PatientSlices<I>) -> Result<Option<Vec<f64>>> {
        let Some(student) = &self.student else {
            return Ok(None);
        };
        let probability = student.probability(slices, &self.device)?;
        Ok(Some(student.diseased(&probability)))
    }

    /// Lets the student say how likely each slice is diseased, where it hasn't yet; whether it was asked. What a row takes doesn't hang on
    /// it, unless slices that count as healthy are emptied.
    fn ask_student<I: SliceImages>(
        &self,
        maps: &mut SliceMaps,
        slices: &PatientSlices<I>,
    ) -> Result<bool> {
        if maps.diseased.is_some() {
            return Ok(false);
        }
        maps.diseased = self.diseased(slices)?;
        Ok(maps.diseased.is_some())
    }

    fn need_student(&self) -> Result<&Student> {
        (self.student.as_ref()).ok_or_else(|| ModelConfig::no_student(Method::Student))
    }

    /// Whether these are slices of the model's size, and finite.
    fn check_input<I: SliceImages>(&self, slices: &PatientSlices<I>) -> Result<()> {
        let (_, c, h, w) = slices.images.dim();
        let size = self.config.preprocess.image_size;
        if (c, h, w) != (self.config.sequences.len(), size, size) {
            return Err(Error::Input {
                what: format!("slices of {}", slices.id),
                expected: format!("(N, {}, {size}, {size})", self.config.sequences.len()),
                got: format!("{:?}", slices.images.dim()),
            });
        }
        slices.check()?;
        for at in 0..slices.len() {
            let image = slices.images.part(at..at + 1)?;
            if let Some(&value) = image.iter().find(|value| !value.is_finite()) {
                return Err(not_finite("the image", slices, at, value));
            }
        }
        Ok(())
    }

    /// From the anomaly map to the mask: what every row ends with.
    fn finish<I: SliceImages>(
        &self,
        maps: &mut SliceMaps,
        slices: &PatientSlices<I>,
        config: &DetectConfig,
    ) -> Result<()> {
        if config.z_smoothing > 0. {
            let one = vec![0; slices.z.len()];
            maps.anomaly = smooth_z(&maps.anomaly, &one, &slices.z, config.z_smoothing)?;
        }
        if config.empty_when_healthy && self.ask_student(maps, slices)? {
            maps.evaluations += self.student.as_ref().map_or(0, Student::evaluations);
        }
        let student = self.student.as_ref().zip(maps.diseased.as_deref());
        let found = mask_of(&mut maps.anomaly, slices, config, student)?;
        maps.inner_head = found.inner_head;
        (maps.mask, maps.thresholds) = (found.mask, found.thresholds);
        Ok(())
    }

    /// Writes the model into a folder, as [`model_folder::replace`](crate::model_folder::replace) does: one that is there is
    /// replaced at one moment. A coarse map of one's own isn't part of it.
    ///
    /// # Errors
    /// When the folder can't be written, or this model's own folder has another model by now.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        load::save(self, folder.as_ref())
    }
}

/// Fails on the first slice of `(N, ...)` with a value that is NaN or infinite.
fn check_finite<D: RemoveAxis, I>(
    array: &Array<f32, D>,
    what: &str,
    slices: &PatientSlices<I>,
) -> Result<()> {
    for (i, slice) in array.axis_iter(Axis(0)).enumerate() {
        if let Some(&value) = slice.iter().find(|value| !value.is_finite()) {
            return Err(not_finite(what, slices, i, value));
        }
    }
    Ok(())
}

fn not_finite<I>(what: &str, slices: &PatientSlices<I>, at: usize, value: f32) -> Error {
    Error::NotFinite {
        what: what.to_owned(),
        patient: slices.id.clone(),
        slice: slices.z.get(at).copied().unwrap_or(at),
        value,
    }
}

/// All false, of the size of the slices `(N, H, W)`.
fn none_of<I>(slices: &PatientSlices<I>) -> Array3<bool> {
    Array3::from_elem(slices.head.dim(), false)
}

fn shape_error(what: &str, error: &ndarray::ShapeError) -> Error {
    Error::Input {
        what: what.to_string(),
        expected: "arrays of one shape".into(),
        got: error.to_string(),
    }
}
