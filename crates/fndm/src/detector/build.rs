//! A detector from parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use fndm_memory::{ClassifierFeatures, Contrast, FeatureExtractor, MemoryBank, intensities};
use fndm_models::{Classifier, StateDict, UNet};

use super::{Detector, Diffusion, Parts};
use crate::{
    CoarseModel, CoarseSource, Error, Featured, Features, Method, ModelConfig, Result, Student,
    model_folder as names,
};

/// Makes a [`Detector`] of parts that are already there: networks as their weights, a memory bank, coarse maps of any kind.
///
/// What [`Detector::save`] writes into a folder is what was given here, but for extractors and coarse maps of one's own, which are
/// the calling program's to bring again.
#[derive(Default)]
pub struct DetectorBuilder {
    config: Option<ModelConfig>,
    networks: BTreeMap<String, StateDict>,
    separate: Vec<Method>,
    bank: Option<MemoryBank>,
    features: Option<Features>,
    contrast: Option<Contrast>,
    own: Option<Box<dyn CoarseModel>>,
    device: Option<Device>,
    dtype: Option<DType>,
    folder: Option<PathBuf>,
}

impl std::fmt::Debug for DetectorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DetectorBuilder")
            .field("networks", &self.networks.keys())
            .field("own", &self.own)
            .finish_non_exhaustive()
    }
}

impl Detector {
    /// A detector from parts that are already there.
    #[must_use]
    pub fn builder(config: ModelConfig) -> DetectorBuilder {
        DetectorBuilder {
            config: Some(config),
            ..DetectorBuilder::default()
        }
    }
}

impl DetectorBuilder {
    fn network(mut self, file: &str, weights: StateDict) -> Self {
        self.networks.insert(file.to_owned(), weights);
        self
    }

    /// The noise-prediction network.
    #[must_use]
    pub fn unet(self, weights: StateDict) -> Self {
        self.network(names::UNET, weights)
    }

    /// The network of the encoding, where the config speaks of networks of long steps.
    #[must_use]
    pub fn encoder(self, weights: StateDict) -> Self {
        self.network(names::ENCODER, weights)
    }

    /// The classifier that guides the sampling, and whose encoder the memory bank sees unless there are other features.
    #[must_use]
    pub fn classifier(self, weights: StateDict) -> Self {
        self.network(names::CLASSIFIER, weights)
    }

    /// The noise-prediction network of one row of the ablation, where the config has one.
    #[must_use]
    pub fn separate(mut self, method: Method, weights: StateDict) -> Self {
        self.separate.push(method);
        self.network(&names::separate(method), weights)
    }

    /// The student, where the config has one.
    #[must_use]
    pub fn student(self, weights: StateDict) -> Self {
        self.network(names::STUDENT, weights)
    }

    /// The memory bank, for [`CoarseSource::Bank`].
    #[must_use]
    pub fn bank(mut self, bank: MemoryBank) -> Self {
        self.bank = Some(bank);
        self
    }

    /// The features that the bank was built with, where they aren't the classifier's.
    #[must_use]
    pub fn features(mut self, features: impl FeatureExtractor + Send + Sync + 'static) -> Self {
        self.features = Some(Box::new(features));
        self
    }

    /// The Gaussians of healthy and of diseased slices, for [`CoarseSource::Contrast`].
    #[must_use]
    pub fn contrast(mut self, contrast: Contrast) -> Self {
        self.contrast = Some(contrast);
        self
    }

    /// A coarse map of one's own, for [`CoarseSource::Own`].
    #[must_use]
    pub fn coarse(mut self, model: impl CoarseModel + 'static) -> Self {
        self.own = Some(Box::new(model));
        self
    }

    /// Where the networks run; the CPU by default.
    #[must_use]
    pub fn device(mut self, device: &Device) -> Self {
        self.device = Some(device.clone());
        self
    }

    /// What the UNet computes in; f32 by default.
    #[must_use]
    pub fn precision(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// The folder that names the parts in messages.
    pub(super) fn named_by(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_path_buf());
        self
    }

    fn weights(&self, file: &str) -> Result<&StateDict> {
        self.networks.get(file).ok_or_else(|| missing(file))
    }

    /// The detector.
    ///
    /// # Errors
    /// When the config doesn't fit, a part that it speaks of is missing, a network has other weights, or the bank was built with
    /// other features.
    pub fn build(mut self) -> Result<Detector> {
        let config = self.config.take().ok_or_else(|| missing(names::CONFIG))?;
        config.check()?;
        let device = self.device.clone().unwrap_or(Device::Cpu);
        let dtype = self.dtype.unwrap_or(DType::F32);
        let named = |file: &str| match &self.folder {
            Some(folder) => folder.join(file).display().to_string(),
            None => file.to_owned(),
        };
        let diffusion = match (&config.unet, &config.classifier) {
            (Some(unet), Some(classifier)) => {
                let encoder = match config.distilled.as_ref().is_some_and(|d| d.encoder) {
                    true => {
                        let weights = self.weights(names::ENCODER)?;
                        Some(UNet::from_state_dict(unet, weights, dtype, &device)?)
                    }
                    false => None,
                };
                let unet = UNet::from_state_dict(unet, self.weights(names::UNET)?, dtype, &device)?;
                let weights = self.weights(names::CLASSIFIER)?;
                let classifier =
                    Classifier::from_state_dict(classifier, weights, DType::F32, &device)?;
                let mut separate = BTreeMap::new();
                for (&method, model) in &config.separate {
                    let weights = self.weights(&names::separate(method))?;
                    let network = UNet::from_state_dict(&model.unet, weights, dtype, &device)?;
                    separate.insert(method, network);
                }
                Some(Diffusion {
                    schedule: config.schedule.build()?,
                    unet,
                    encoder,
                    separate,
                    classifier,
                })
            }
            _ => None,
        };
        if let Some(method) = self
            .separate
            .iter()
            .find(|m| !config.separate.contains_key(m))
        {
            let expected = "rows of the config's own networks";
            return Err(Error::option("separate", expected, method.key()));
        }
        let student = match &config.student {
            Some(student) => {
                let weights = self.weights(names::STUDENT)?;
                let name = named(names::STUDENT);
                Some(Student::new(student, weights, &device, &name)?)
            }
            None if self.networks.contains_key(names::STUDENT) => {
                let expected = "one in the config, for the weights that were given";
                return Err(Error::option("student", expected, "none"));
            }
            None => None,
        };
        let mut coarse: BTreeMap<CoarseSource, Box<dyn CoarseModel>> = BTreeMap::new();
        if let Some(bank) = self.bank.clone() {
            let (features, name) = match (self.features.take(), &diffusion) {
                (Some(own), _) => (own, "the features of the program".to_owned()),
                (None, Some(diffusion)) => {
                    let weights = self.weights(names::CLASSIFIER)?.fingerprint()?;
                    let features: Features = Box::new(ClassifierFeatures {
                        classifier: diffusion.classifier.clone(),
                        blocks: config.features.blocks.clone(),
                        t: config.features.model_time,
                        weights: Some(weights),
                    });
                    (features, named(names::CLASSIFIER))
                }
                (None, None) => return Err(missing(names::CLASSIFIER)),
            };
            let model = Featured::new(bank, features, [&named(names::MEMORY), &name])?;
            coarse.insert(CoarseSource::Bank, Box::new(model));
        }
        match (config.contrast, self.contrast.clone()) {
            (true, Some(contrast)) => {
                let name = named(names::CONTRAST);
                let model = Featured::new(contrast, Box::new(intensities), [&name, &name])?;
                coarse.insert(CoarseSource::Contrast, Box::new(model));
            }
            (true, None) => return Err(missing(names::CONTRAST)),
            (false, Some(_)) => {
                let expected = "true, for the one that was given";
                return Err(Error::option("contrast", expected, false));
            }
            (false, None) => {}
        }
        if let Some(own) = self.own {
            coarse.insert(CoarseSource::Own, own);
        }
        Ok(Detector {
            config,
            diffusion,
            coarse,
            student,
            device,
            parts: Parts::Given {
                networks: self.networks,
                bank: self.bank.map(Box::new),
                contrast: self.contrast.map(Box::new),
            },
        })
    }
}

fn missing(file: &str) -> Error {
    Error::Input {
        what: "parts of a model".into(),
        expected: file.to_owned(),
        got: "none".into(),
    }
}
