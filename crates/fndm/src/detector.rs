use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use fndm_data::{Patient, PatientSlices, Volume};
use fndm_memory::{
    ClassifierFeatures, CoarseConfig, Contrast, HealthyModel, MemoryBank, intensities,
};
use fndm_models::{Classifier, Limits, StateDict, UNet};
use fndm_solver::NoiseSchedule;
use ndarray::{Array, Array3, Array4, Axis, RemoveAxis, concatenate, s};

use crate::{
    CoarseRule, CoarseSource, DetectConfig, Error, Method, ModelConfig, Result, ThresholdScope,
    anomaly, model_folder as names,
    round_trip::{Place, RoundTrip, batch_tensor},
};

/// How often a model folder is read again that changes while it is read.
const ATTEMPTS: usize = 5;

/// A trained model, ready to examine patients.
///
/// It is a folder of files: `model.json`, `unet.safetensors`, `classifier.safetensors`, `memory.safetensors`; where the training
/// was asked for them, `contrast.safetensors` and networks of the ablation's rows, `unet_cg_nm.safetensors` and
/// `unet_cg.safetensors`.
#[derive(Debug)]
pub struct Detector {
    config: ModelConfig,
    schedule: NoiseSchedule,
    unet: UNet,
    separate: BTreeMap<Method, UNet>,
    features: ClassifierFeatures,
    bank: MemoryBank,
    contrast: Option<Contrast>,
    device: Device,
    /// Where the networks come from, for messages; none where they were there already.
    folder: Option<PathBuf>,
}

/// What the method says of the slices of one patient.
#[derive(Debug, Clone)]
pub struct SliceMaps {
    /// The healthy reconstruction, `(N, C, H, W)` in [-1, 1].
    pub healthy: Array4<f32>,
    /// The memory bank's soft map, `(N, H, W)`, 0 and up; all zero where the bank isn't used.
    pub coarse: Array3<f32>,
    /// The coarse segmentation x_seg as the UNet saw it, `(N, H, W)`.
    pub x_seg: Array3<bool>,
    /// The anomaly map, `(N, H, W)`, 0 and up, 0 outside `inner_head`.
    pub anomaly: Array3<f32>,
    /// The head without its rim: where the map counts, `(N, H, W)`.
    pub inner_head: Array3<bool>,
    /// The mask, `(N, H, W)`.
    pub mask: Array3<bool>,
    /// Otsu's threshold of each slice.
    pub thresholds: Vec<f32>,
    /// Evaluations of the UNet per slice.
    pub evaluations: usize,
    /// Gradients of the classifier per slice.
    pub gradient_evaluations: usize,
    /// Wall time in milliseconds.
    pub milliseconds: f64,
}

/// The coarse map of the slices of one patient.
#[derive(Debug, Clone)]
pub struct CoarseMaps {
    /// The soft map, `(N, H, W)`, 0 and up.
    pub soft: Array3<f32>,
    /// The coarse segmentation x_seg, `(N, H, W)`.
    pub x_seg: Array3<bool>,
    /// The threshold of each slice; infinite for one with no head.
    pub thresholds: Vec<f32>,
}

/// What the method says of one patient, on the grid of the patient's volumes.
#[derive(Debug, Clone)]
pub struct Detection {
    /// The mask: 1 in the lesion, 0 elsewhere.
    pub mask: Volume,
    /// The anomaly map, 0 and up.
    pub anomaly: Volume,
    /// The slices that were examined.
    pub slices: PatientSlices,
    /// The maps of these slices.
    pub maps: SliceMaps,
}

impl Detector {
    /// Loads a model folder.
    ///
    /// # Errors
    /// When a file is missing or broken, or a tensor is missing or of the wrong shape: the error names the file.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        Self::load_in(folder, device, DType::F32)
    }

    /// As [`Detector::load`], with a UNet that computes in `dtype`: bf16 halves its memory, and is faster on GPUs that have it. The
    /// classifier, whose features are compared with those in the bank, stays f32.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn load_in(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        // A training may replace the model meanwhile: then what was read may be of both.
        for _ in 0..ATTEMPTS {
            let before = fs::read(folder.join(names::CONFIG)).ok();
            let loaded = Self::load_once(folder, device, dtype);
            if fs::read(folder.join(names::CONFIG)).ok() == before {
                return loaded;
            }
        }
        Err(Error::Input {
            what: format!("model folder {}", folder.display()),
            expected: "one that stays as it is while it is read".into(),
            got: format!("{ATTEMPTS} changes"),
        })
    }

    fn load_once(folder: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let config = ModelConfig::read(&file_in(folder, names::CONFIG)?)?;
        let state = tensors(folder, names::UNET)?;
        let unet = UNet::from_state_dict(&config.unet, &state, dtype, device)?;
        let state = tensors(folder, names::CLASSIFIER)?;
        let classifier =
            Classifier::from_state_dict(&config.classifier, &state, DType::F32, device)?;
        let bank = MemoryBank::load(names::file(folder, names::MEMORY)?)?;
        let mut separate = BTreeMap::new();
        for (&method, model) in &config.separate {
            let state = tensors(folder, &names::separate(method))?;
            let network = UNet::from_state_dict(&model.unet, &state, dtype, device)?;
            separate.insert(method, network);
        }
        // Where model.json speaks of none, a file of that name is another model's.
        let contrast = match config.contrast {
            true => Some(Contrast::load(names::file(folder, names::CONTRAST)?)?),
            false => None,
        };
        let detector = Self::from_parts(config, unet, classifier, bank, device)?;
        Ok(Self {
            separate,
            contrast,
            folder: Some(folder.to_path_buf()),
            ..detector
        })
    }

    /// The detector with this model beside its memory bank, for [`CoarseSource::Contrast`].
    #[must_use]
    pub fn with_contrast(self, contrast: Option<Contrast>) -> Self {
        Self { contrast, ..self }
    }

    /// The network for these settings, that of the row where it has one of its own; and its file.
    fn unet(&self, config: &DetectConfig) -> (&UNet, String) {
        let row = self.config.row_of(config);
        match row.and_then(|row| Some((row, self.separate.get(&row)?))) {
            Some((row, unet)) => (unet, self.named(&names::separate(row))),
            None => (&self.unet, self.named(names::UNET)),
        }
    }

    /// A file of the model, for messages.
    fn named(&self, file: &str) -> String {
        match &self.folder {
            Some(folder) => folder.join(file).display().to_string(),
            None => file.to_owned(),
        }
    }

    /// A detector from networks that are already there.
    ///
    /// # Errors
    /// When the config doesn't fit.
    pub fn from_parts(
        config: ModelConfig,
        unet: UNet,
        classifier: Classifier,
        bank: MemoryBank,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        let schedule = config.schedule.build()?;
        let features = ClassifierFeatures {
            classifier,
            blocks: config.features.blocks.clone(),
            t: config.features.model_time,
        };
        Ok(Self {
            config,
            schedule,
            unet,
            separate: BTreeMap::new(),
            features,
            bank,
            contrast: None,
            device: device.clone(),
            folder: None,
        })
    }

    /// The model's config.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// From volumes to slices, as this model takes them.
    ///
    /// # Errors
    /// When the patient's sequences aren't the model's, or a volume can't be used.
    pub fn slices(&self, patient: &Patient) -> Result<PatientSlices> {
        let got: Vec<&str> = patient
            .sequences
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        if got != self.config.sequences {
            return Err(Error::Input {
                what: format!("sequences of patient {}", patient.id),
                expected: self.config.sequences.join(", "),
                got: got.join(", "),
            });
        }
        Ok(self.config.preprocess.apply(patient)?)
    }

    /// Examines a patient with the model's own settings for the whole method.
    ///
    /// # Errors
    /// As [`Detector::slices`].
    pub fn detect(&self, patient: &Patient) -> Result<Detection> {
        self.detect_with(
            patient,
            &self.config.detect_config(Method::Fndm),
            &mut |_| {},
        )
    }

    /// Examines a patient. `progress` is told the share that is done, 0 to 1.
    ///
    /// # Errors
    /// As [`Detector::slices`], or when the settings make no sense.
    pub fn detect_with(
        &self,
        patient: &Patient,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Detection> {
        config.check()?;
        let slices = self.slices(patient)?;
        let maps = self.examine(&slices, config, progress)?;
        Ok(Detection {
            mask: slices.to_mask(&maps.mask)?,
            anomaly: slices.to_volume(&maps.anomaly)?,
            slices,
            maps,
        })
    }

    /// Examines slices. `progress` is told the share that is done, 0 to 1.
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
        let (n, c, h, w) = slices.images.dim();
        let size = self.config.preprocess.image_size;
        if (c, h, w) != (self.config.sequences.len(), size, size) {
            return Err(Error::Input {
                what: format!("slices of {}", slices.id),
                expected: format!("(N, {}, {size}, {size})", self.config.sequences.len()),
                got: format!("{:?}", slices.images.dim()),
            });
        }
        if slices.z.len() != n || slices.head.dim() != (n, h, w) {
            return Err(Error::Input {
                what: format!("slices of {}", slices.id),
                expected: format!("{n} positions, and a head of {:?}", (n, h, w)),
                got: format!("{} and {:?}", slices.z.len(), slices.head.dim()),
            });
        }
        check_finite(&slices.images, "the image", slices)?;
        let start = Instant::now();
        let (unet, unet_file) = self.unet(config);
        let classifier_file = self.named(names::CLASSIFIER);
        let trip = RoundTrip::new(
            unet,
            &self.features.classifier,
            &self.schedule,
            self.config.prediction,
            config,
        )?;
        let (coarse, x_seg) = if config.parts.memory_bank {
            let found = self.coarse_map(slices, config)?;
            (found.soft, found.x_seg)
        } else {
            (
                Array3::zeros((n, h, w)),
                Array3::from_elem((n, h, w), false),
            )
        };
        let total = n * trip.evaluations();
        let mut done = 0;
        let mut healthy = Vec::new();
        for first in (0..n).step_by(config.batch) {
            let range = first..(first + config.batch).min(n);
            let size = range.len();
            let images = batch_tensor(
                &slices.images.slice(s![range.clone(), .., .., ..]),
                &self.device,
            )?;
            let region = x_seg
                .slice(s![range.clone(), .., ..])
                .mapv(|inside| f32::from(u8::from(inside)))
                .insert_axis(Axis(1));
            let region = batch_tensor(&region.view(), &self.device)?;
            let place = Place {
                unet: &unet_file,
                classifier: &classifier_file,
                patient: &slices.id,
                z: &slices.z[range],
            };
            let batch = trip.run(&images, &region, place, &mut || {
                done += size;
                progress(done as f64 / total as f64);
            })?;
            healthy.push(to_array(&batch)?);
        }
        let views: Vec<_> = healthy.iter().map(|batch| batch.view()).collect();
        let healthy = concatenate(Axis(0), &views).map_err(|e| shape_error(&slices.id, &e))?;
        let mut anomaly = anomaly::anomaly_map(slices.images.view(), healthy.view(), config)?;
        if config.parts.memory_bank && config.coarse_weight > 0. {
            let threshold = self.coarse_threshold(config)?;
            anomaly::weigh_by_coarse(&mut anomaly, &coarse, threshold, config.coarse_weight);
        }
        if config.map_power != 1. {
            anomaly::raise(&mut anomaly, config.map_power);
        }
        let inner_head = slices.eroded_head(config.head_erosion);
        anomaly::keep_inside(&mut anomaly, &inner_head);
        check_finite(&anomaly, "the anomaly map", slices)?;
        let found = anomaly::threshold(anomaly.view(), inner_head.view(), config.threshold)?;
        Ok(SliceMaps {
            healthy,
            coarse,
            x_seg,
            anomaly,
            inner_head,
            mask: found.mask,
            thresholds: found.thresholds,
            evaluations: trip.evaluations(),
            gradient_evaluations: trip.gradient_evaluations(),
            milliseconds: start.elapsed().as_secs_f64() * 1e3,
        })
    }

    /// The model that the coarse map comes from.
    fn coarse_model(&self, config: &DetectConfig) -> Result<&dyn HealthyModel> {
        match (config.coarse_source, &self.contrast) {
            (CoarseSource::Bank, _) => Ok(&self.bank),
            (CoarseSource::Contrast, Some(contrast)) => Ok(contrast),
            (CoarseSource::Contrast, None) => Err(Error::option(
                "coarse source",
                "bank, for a model folder without contrast.safetensors",
                "contrast",
            )),
        }
    }

    /// The threshold of the soft map: the settings' own, or the one calibrated on healthy slices.
    fn coarse_threshold(&self, config: &DetectConfig) -> Result<f32> {
        let calibrated = match config.coarse_threshold {
            Some(threshold) => return Ok(threshold),
            None => self.coarse_model(config)?.threshold()?,
        };
        if calibrated.is_finite() {
            return Ok(calibrated);
        }
        Err(Error::Input {
            what: format!("threshold in {}", self.coarse_file(config)),
            expected: "a finite number".into(),
            got: calibrated.to_string(),
        })
    }

    /// The file of the model that the coarse map comes from.
    fn coarse_file(&self, config: &DetectConfig) -> String {
        self.named(match config.coarse_source {
            CoarseSource::Bank => names::MEMORY,
            CoarseSource::Contrast => names::CONTRAST,
        })
    }

    /// The soft map of the settings' source, and x_seg, without any diffusion.
    ///
    /// # Errors
    /// As [`Detector::examine`].
    pub fn coarse_map(&self, slices: &PatientSlices, config: &DetectConfig) -> Result<CoarseMaps> {
        config.check()?;
        let images = batch_tensor(&slices.images.view(), &self.device)?;
        let head = slices.head.view();
        let model = self.coarse_model(config)?;
        check_finite(&slices.images, "the image", slices)?;
        let (soft, file) = match config.coarse_source {
            CoarseSource::Bank => (
                model.score_maps(&self.features, &images, Some(head)),
                // Features that aren't finite are the classifier's.
                self.named(names::CLASSIFIER),
            ),
            CoarseSource::Contrast => (
                model.score_maps(&intensities, &images, Some(head)),
                self.named(names::CONTRAST),
            ),
        };
        let soft = soft.map_err(|source| Error::Coarse {
            network: file,
            patient: slices.id.clone(),
            slice: match &source {
                fndm_memory::Error::NonFinite {
                    image: Some(image), ..
                } => slices.z.get(*image).copied(),
                _ => None,
            },
            source,
        })?;
        let what = format!("{}: the coarse map", self.coarse_file(config));
        check_finite(&soft, &what, slices)?;
        let calibrated = self.coarse_threshold(config)?;
        let settings = CoarseConfig {
            dilation: config.coarse_dilation,
            ..model.coarse_config().clone()
        };
        let scope = match config.coarse_rule {
            CoarseRule::Calibrated => {
                let x_seg = settings.binarise(soft.view(), head, calibrated)?;
                return Ok(CoarseMaps {
                    thresholds: vec![calibrated; x_seg.len_of(Axis(0))],
                    soft,
                    x_seg,
                });
            }
            CoarseRule::Slice => ThresholdScope::Slice,
            CoarseRule::Volume => ThresholdScope::Volume,
        };
        let inner = slices.eroded_head(settings.head_erosion);
        let otsu = anomaly::threshold(soft.view(), inner.view(), scope)?;
        let mut x_seg = Array3::from_elem(soft.dim(), false);
        let thresholds = otsu.thresholds.iter().map(|t| t.max(calibrated));
        let thresholds: Vec<f32> = thresholds.collect();
        for (i, &threshold) in thresholds.iter().enumerate() {
            let one = s![i..i + 1, .., ..];
            let mask = settings.binarise(soft.slice(one), slices.head.slice(one), threshold)?;
            x_seg.slice_mut(one).assign(&mask);
        }
        Ok(CoarseMaps {
            soft,
            x_seg,
            thresholds,
        })
    }
}

fn file_in(folder: &Path, file: &str) -> Result<PathBuf> {
    let path = folder.join(file);
    if !path.is_file() {
        return Err(Error::MissingModelFile {
            folder: folder.to_path_buf(),
            file: file.to_string(),
        });
    }
    Ok(path)
}

/// The tensors of a network's file, read within limits. They are stored in half precision; who builds the network widens them,
/// and refuses those that it doesn't know. Errors name the file.
fn tensors(folder: &Path, file: &str) -> Result<StateDict> {
    let path = names::file(folder, file)?;
    Ok(StateDict::read(path, &Limits::default())?)
}

/// Fails on the first slice of `(N, ...)` with a value that is NaN or infinite.
fn check_finite<D: RemoveAxis>(
    array: &Array<f32, D>,
    what: &str,
    slices: &PatientSlices,
) -> Result<()> {
    for (i, slice) in array.axis_iter(Axis(0)).enumerate() {
        if let Some(&value) = slice.iter().find(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                what: what.to_owned(),
                patient: slices.id.clone(),
                slice: slices.z.get(i).copied().unwrap_or(i),
                value,
            });
        }
    }
    Ok(())
}

fn to_array(images: &Tensor) -> Result<Array4<f32>> {
    let dims = images.dims4()?;
    let values = images.flatten_all()?.to_vec1::<f32>()?;
    Array4::from_shape_vec(dims, values).map_err(|e| shape_error("a batch", &e))
}

fn shape_error(what: &str, error: &ndarray::ShapeError) -> Error {
    Error::Input {
        what: what.to_string(),
        expected: "arrays of one shape".into(),
        got: error.to_string(),
    }
}
