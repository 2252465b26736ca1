use std::collections::BTreeMap;
use std::path::Path;

use fndm_data::Preprocess;
use fndm_models::{ClassifierConfig, UNetConfig};
use fndm_solver::{Prediction, ScheduleConfig};
use serde::{Deserialize, Serialize};

use crate::model_folder as file_names;
use crate::round_trip::{self, Given};
use crate::{
    CoarseSource, DetectConfig, Error, Method, ResidualSide, Result, Start, StudentConfig,
    ThresholdScope, VolumeScale,
};

/// The config file of a model folder, `model.json`: all that is needed to use the networks.
///
/// What the model was trained on and how stands beside it in `training.json`, which inference never reads: a renamed field of a
/// training's settings breaks no published model.
///
/// Format 1 had both in one file. It is still read; its record of the training is passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Version of the folder's layout.
    pub format: u32,
    /// Version of the library that wrote it.
    pub fndm_version: String,
    /// The sequences, in the order of the images' channels.
    pub sequences: Vec<String>,
    /// From volumes to slices.
    pub preprocess: Preprocess,
    /// The noise schedule of both networks.
    pub schedule: ScheduleConfig,
    /// What the UNet predicts.
    pub prediction: Prediction,
    /// Whether what it gives is the change from the conditioning image to x0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_image: bool,
    /// The noise-prediction network. Its input channels are state, image, coarse map; or state and image alone, and then the coarse map
    /// counts in the anomaly map only. A model of a student alone has none, and no classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unet: Option<UNetConfig>,
    /// The time-dependent classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierConfig>,
    /// The classifier's features that the memory bank holds.
    pub features: FeatureConfig,
    /// How each row of the ablation is run by default.
    pub detect: BTreeMap<Method, DetectConfig>,
    /// Whether the folder has `contrast.safetensors`, the Gaussians of healthy and of diseased slices.
    pub contrast: bool,
    /// The student in `student.safetensors`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<StudentConfig>,
    /// The row that patients are examined by where none is asked for: what the validation found best.
    #[serde(default)]
    pub method: Method,
    /// The rows of the ablation that have a noise-prediction network of their own, trained apart.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub separate: BTreeMap<Method, SeparateModel>,
    /// Said of a model whose networks were taught to take another model's steps, several at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distilled: Option<Distilled>,
    /// Whether the folder has `data.json`: what the training's patients are like, which others are compared with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub data_statistics: bool,
    /// Whether the folder has `metadata.json`: what the model is for, in words.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metadata: bool,
}

/// What networks were taught that take long steps. Each direction has its own, and they serve one row with its settings: the
/// classifier's gradient, x_seg and the steps' number are in what they learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distilled {
    /// The row.
    pub row: Method,
    /// Steps in each direction, of order 1.
    pub steps: usize,
    /// Whether there is a network for the encoding, `unet_encode.safetensors`. Sampling that begins with fresh noise has none.
    pub encoder: bool,
}

impl Distilled {
    /// Whether these settings are the ones that the networks were taught.
    fn check_settings(&self, config: &DetectConfig) -> Result<()> {
        let row = self.row.key();
        let parts = self.row.parts();
        let checks = [
            ("method", parts == Some(config.parts), row.to_owned()),
            ("steps", config.steps == self.steps, self.steps.to_string()),
            ("order", config.order == 1, "1".into()),
            (
                "encode steps",
                config.encode_steps.is_none_or(|n| n == self.steps),
                self.steps.to_string(),
            ),
            (
                "guidance scale",
                config.guidance_scale == 0.,
                "0, for the gradient is in the networks".into(),
            ),
            (
                "start",
                (config.start == Start::Encoded) == self.encoder,
                "the one that the networks were taught".into(),
            ),
        ];
        match checks.into_iter().find(|(_, right, _)| !right) {
            Some((name, _, expected)) => {
                let expected = format!("{expected}, for networks of long steps");
                Err(Error::option(name, expected, "another"))
            }
            None => Ok(()),
        }
    }
}

/// A noise-prediction network of one row of the ablation, in `unet_<row>.safetensors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeparateModel {
    /// The network. Its input channels are the state's, and the image's where the row shows it.
    pub unet: UNetConfig,
    /// What it predicts; none in files of before networks could differ in that, and then as the first network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<Prediction>,
    /// Whether what it gives is the change from the conditioning image to x0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_image: bool,
}

/// Input channels of a network that serves one row alone.
///
/// # Errors
/// For rows that have no network of their own.
pub fn separate_channels(method: Method, channels: usize) -> Result<usize> {
    match method {
        Method::CgNm => Ok(2 * channels),
        Method::Cg => Ok(channels),
        other => Err(Error::option("separate", "rows cg_nm and cg", other.key())),
    }
}

/// Whether both networks are for slices of so many sequences and this size.
fn check_networks(
    unet: &UNetConfig,
    classifier: &ClassifierConfig,
    channels: usize,
    size: usize,
) -> Result<()> {
    if unet.in_channels != 2 * channels && unet.in_channels != 2 * channels + 1 {
        let (without, with) = (2 * channels, 2 * channels + 1);
        let expected = format!("{without}, or {with} with x_seg, for {channels} sequences");
        return Err(Error::option(
            "unet.in_channels",
            expected,
            unet.in_channels,
        ));
    }
    let fits = [
        ("classifier.in_channels", channels, classifier.in_channels),
        ("unet.image_size", size, unet.image_size),
        ("classifier.image_size", size, classifier.image_size),
    ];
    for (name, expected, got) in fits {
        if expected != got {
            let expected = format!("{expected} for {channels} sequences at {size} px");
            return Err(Error::option(name, expected, got));
        }
    }
    if unet.out_channels != channels && unet.out_channels != 2 * channels {
        let expected = format!("{channels}, or {} with learned sigma", 2 * channels);
        return Err(Error::option(
            "unet.out_channels",
            expected,
            unet.out_channels,
        ));
    }
    unet.check()?;
    Ok(classifier.check()?)
}

/// Which features of the classifier the memory bank sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureConfig {
    /// Input blocks of the classifier whose outputs are the feature maps; the finer first.
    pub blocks: Vec<usize>,
    /// The model time at which the classifier sees the clean slice.
    pub model_time: f64,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        Self {
            blocks: vec![2, 3, 4],
            model_time: 0.,
        }
    }
}

/// Turns format 1 into format 2: the record of the training goes, and whether there is a contrast is said in its own field.
fn without_training(value: &mut serde_json::Value) {
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    let training = fields.remove("training");
    let plan = training.as_ref().and_then(|record| record.get("plan"));
    let contrast = plan.and_then(|plan| plan.get("contrast"));
    let contrast = contrast.is_some_and(|config| !config.is_null());
    fields.insert("contrast".into(), contrast.into());
    fields.insert("format".into(), ModelConfig::FORMAT.into());
    if let Some(rows) = fields.get_mut("separate").and_then(|v| v.as_object_mut()) {
        for row in rows.values_mut().filter_map(|row| row.as_object_mut()) {
            row.remove("training");
        }
    }
}

impl ModelConfig {
    /// The version of the model folder's layout that this library writes.
    pub const FORMAT: u32 = 2;

    /// The config of networks for these sequences, everything else by default: slices of the networks' size, `ScheduleConfig`'s
    /// own schedule, a network that predicts v, features of the classifier's blocks 2, 3 and 4.
    #[must_use]
    pub fn new(sequences: &[&str], unet: UNetConfig, classifier: ClassifierConfig) -> Self {
        let preprocess = Preprocess {
            image_size: unet.image_size,
            ..Preprocess::default()
        };
        let sequences = sequences.iter().map(|&name| name.to_owned()).collect();
        Self {
            unet: Some(unet),
            classifier: Some(classifier),
            ..Self::without_diffusion(sequences, preprocess)
        }
    }

    /// What has to be read of a patient, in this order: the sequences, and the brain mask where the model takes one.
    #[must_use]
    pub fn names_to_read(&self) -> Vec<String> {
        self.preprocess.names_to_read(&self.sequences)
    }

    /// The config of a model of a student alone, still without it.
    #[must_use]
    pub fn without_diffusion(sequences: Vec<String>, preprocess: Preprocess) -> Self {
        Self {
            format: Self::FORMAT,
            fndm_version: env!("CARGO_PKG_VERSION").to_owned(),
            sequences,
            preprocess,
            schedule: ScheduleConfig::default(),
            prediction: Prediction::V,
            from_image: false,
            unet: None,
            classifier: None,
            features: FeatureConfig::default(),
            detect: BTreeMap::new(),
            contrast: false,
            student: None,
            method: Method::default(),
            separate: BTreeMap::new(),
            distilled: None,
            data_statistics: false,
            metadata: false,
        }
    }

    /// Reads `model.json`.
    ///
    /// # Errors
    /// When the file is missing, isn't valid, or is of a newer format; when a value in it makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let mut value: serde_json::Value = fndm_files::read_json(path, "model config")?;
        let found = value.get("format").and_then(serde_json::Value::as_u64);
        if let Some(found) = found
            && found > u64::from(Self::FORMAT)
        {
            return Err(Error::FormatVersion {
                path: path.to_path_buf(),
                found: u32::try_from(found).unwrap_or(u32::MAX),
                supported: Self::FORMAT,
            });
        }
        if found == Some(1) {
            without_training(&mut value);
        }
        crate::replace::take_staged(path, &mut value)?;
        let config: Self =
            serde_json::from_value(value).map_err(fndm_files::Error::json(path, "model config"))?;
        config.check()?;
        Ok(config)
    }

    /// Writes `model.json`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(fndm_files::write_json(path, self)?)
    }

    /// The settings of one row of the ablation; those of FNDM with fewer parts where the folder has none for it.
    #[must_use]
    pub fn detect_config(&self, method: Method) -> DetectConfig {
        let mut config = self
            .detect
            .get(&method)
            .or_else(|| self.detect.get(&Method::Fndm))
            .cloned()
            .unwrap_or_default();
        let no_residual = matches!(method, Method::Flair | Method::Memory);
        if no_residual && !self.detect.contains_key(&method) {
            // The scale was chosen for residuals, the smoothing for maps of a network.
            config.volume_scale = None;
            config.guided_smoothing = None;
            if method == Method::Flair {
                config.smoothing = 0.;
            }
        }
        if method == Method::Student && !self.detect.contains_key(&method) {
            config = DetectConfig::student();
        }
        if method == Method::FndmStudent && !self.detect.contains_key(&method) {
            config.coarse_source = CoarseSource::Student;
            // That of another coarse map has another unit.
            config.coarse_threshold = None;
            // A student is sure of healthy tissue, and darkens it more than the residual's own scale expects.
            config.volume_scale = config.volume_scale.map(|scale| VolumeScale {
                least: scale.least / 2.,
                ..scale
            });
            // As the student's own row.
            config.threshold = ThresholdScope::Volume;
            config.empty_when_healthy = true;
        }
        if method == Method::Diffano && !self.detect.contains_key(&method) {
            config.order = 1;
            config.label_condition = false;
        }
        if let Some(parts) = method.parts() {
            config.parts = parts;
        }
        config
    }

    /// The network that serves these settings, where the folder has one of the row's own.
    pub(crate) fn row_of(&self, config: &DetectConfig) -> Option<Method> {
        let row = match config.parts {
            parts if parts.memory_bank => return None,
            parts if parts.image_condition => Method::CgNm,
            _ => Method::Cg,
        };
        self.separate.contains_key(&row).then_some(row)
    }

    /// What the network that serves these settings gives.
    pub(crate) fn given_by(&self, config: &DetectConfig) -> Given {
        let own = self.row_of(config).and_then(|row| self.separate.get(&row));
        let first = Given {
            prediction: self.prediction,
            from_image: self.from_image,
        };
        own.map_or(first, |own| Given {
            prediction: own.prediction.unwrap_or(first.prediction),
            from_image: own.from_image,
        })
    }

    /// Whether the model has the networks that this row runs on, where the row takes any: a network that adds to the image that it is
    /// shown serves no row that shows none.
    #[must_use]
    pub fn has_network(&self, method: Method) -> bool {
        let Some(parts) = method.parts() else {
            return true;
        };
        if let Some(distilled) = &self.distilled
            && distilled.row != method
        {
            return false;
        }
        if method == Method::FndmStudent && self.student.is_none() {
            return false;
        }
        let config = DetectConfig {
            parts,
            ..DetectConfig::default()
        };
        self.unet.is_some() && (parts.image_condition || !self.given_by(&config).from_image)
    }

    /// Whether a patient can be examined with these settings, as far as that can be told without networks and patients.
    ///
    /// # Errors
    /// The first thing that can't be.
    pub fn check_settings(&self, config: &DetectConfig) -> Result<()> {
        let (Some(unet), Some(classifier)) = (&self.unet, &self.classifier) else {
            return Err(Self::no_diffusion());
        };
        let own = self.row_of(config).and_then(|row| self.separate.get(&row));
        let unet = own.map_or(unet, |own| &own.unet);
        let schedule = self.schedule.build()?;
        ResidualSide::check(&config.residual_sides, self.sequences.len())?;
        let given = self.given_by(config);
        round_trip::check_settings(unet, classifier, &schedule, given, config)?;
        if let Some(distilled) = &self.distilled {
            distilled.check_settings(config)?;
        }
        if config.parts.memory_bank {
            self.check_coarse(config.coarse_source)?;
        }
        self.check_empty(config)
    }

    pub(crate) fn no_diffusion() -> Error {
        let expected = "student or flair, for a model without a diffusion";
        Error::option("method", expected, "one with a diffusion")
    }

    /// Whether the folder has what this coarse map comes from.
    pub(crate) fn check_coarse(&self, source: CoarseSource) -> Result<()> {
        let lacking = match source {
            CoarseSource::Contrast if !self.contrast => file_names::CONTRAST,
            CoarseSource::Student if self.student.is_none() => file_names::STUDENT,
            CoarseSource::Bank if self.classifier.is_none() => file_names::MEMORY,
            _ => return Ok(()),
        };
        Err(Error::option(
            "coarse source",
            format!("another one, for a model folder without {lacking}"),
            source.name(),
        ))
    }

    /// Whether the model has the student that a row takes.
    fn check_method(&self, method: Method) -> Result<()> {
        match method.takes_student() && self.student.is_none() {
            true => Err(Self::no_student(method)),
            false => Ok(()),
        }
    }

    pub(crate) fn no_student(method: Method) -> Error {
        let expected = "another one, for a model without student.safetensors";
        Error::option("method", expected, method.key())
    }

    fn check_empty(&self, config: &DetectConfig) -> Result<()> {
        if config.empty_when_healthy && self.student.is_none() {
            let expected = "false, for a model without student.safetensors";
            return Err(Error::option("empty when healthy", expected, true));
        }
        Ok(())
    }

    /// Whether patients can be examined by this row with these settings, as far as that can be told without networks and
    /// patients.
    ///
    /// # Errors
    /// The first thing that can't be.
    pub fn check_row(&self, method: Method, config: &DetectConfig) -> Result<()> {
        self.check_method(method)?;
        if method.parts().is_some() {
            return self.check_settings(config);
        }
        config.check()?;
        if method == Method::Memory {
            self.check_coarse(config.coarse_source)?;
        }
        self.check_empty(config)
    }

    /// Checks every value, and that the parts fit each other.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn check(&self) -> Result<()> {
        self.preprocess.check()?;
        self.schedule.build()?;
        let channels = self.sequences.len();
        let size = self.preprocess.image_size;
        match (&self.unet, &self.classifier) {
            (Some(unet), Some(classifier)) => {
                check_networks(unet, classifier, channels, size)?;
            }
            (None, None) if self.student.is_some() && !self.contrast => {}
            (None, None) => {
                let expected = "true, or else a student";
                return Err(Error::option("a diffusion", expected, false));
            }
            (unet, _) => {
                let what = "both of unet and classifier, or none";
                let got = if unet.is_some() { "unet" } else { "classifier" };
                return Err(Error::option("networks", what, got));
            }
        }
        for (method, model) in &self.separate {
            let conditions = separate_channels(*method, channels)?;
            if model.unet.in_channels != conditions
                || model.unet.image_size != size
                || ![channels, 2 * channels].contains(&model.unet.out_channels)
            {
                return Err(Error::option(
                    "separate.unet",
                    format!("{conditions} channels in, {channels} out, at {size} px"),
                    format!(
                        "{} in, {} out, at {} px",
                        model.unet.in_channels, model.unet.out_channels, model.unet.image_size
                    ),
                ));
            }
            model.unet.check()?;
        }
        if let Some(distilled) = &self.distilled {
            let fits = self.unet.is_some() && self.separate.is_empty();
            if !(fits && distilled.row.parts().is_some() && distilled.steps > 0) {
                let expected =
                    "a row with diffusion, 1 step or more, and no networks of other rows";
                return Err(Error::option(
                    "distilled",
                    expected,
                    format!("{distilled:?}"),
                ));
            }
        }
        if let Some(student) = &self.student {
            student.check_slices(channels, size)?;
        }
        self.check_method(self.method)?;
        self.detect.values().try_for_each(DetectConfig::check)
    }
}
