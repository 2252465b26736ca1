//! Where a rival's features come from.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use fndm::{ModelConfig, model_folder};
use fndm_baselines::Extractor;
use fndm_memory::{BackboneFeatures, Channels, ClassifierFeatures};
use fndm_models::{Backbone, BackboneKind, Classifier, Limits, StateDict};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which network gives a rival's features, and which of its maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureSettings {
    /// A network with weights of ImageNet.
    Pretrained {
        /// How many times smaller than its input each map is, the finest first: the last map of that size.
        strides: Vec<usize>,
        /// What becomes of the sequences.
        channels: Channels,
        /// The side in pixels to which slices are enlarged first; none for slices as they come.
        #[serde(default)]
        size: Option<usize>,
    },
    /// The encoder of the model folder's guiding classifier.
    Classifier {
        /// Input blocks whose outputs are the maps, the finest first.
        blocks: Vec<usize>,
    },
    /// None: the method sees the slices themselves.
    None,
}

/// A network with weights of ImageNet, from a user's file.
#[derive(Debug, Clone)]
pub struct Pretrained {
    /// Its name in keys and tables.
    pub name: String,
    backbone: Backbone,
    weights: String,
}

impl Pretrained {
    /// Reads the weights, by timm's or torchvision's names.
    ///
    /// # Errors
    /// When the file can't be read or its tensors aren't those of the network.
    pub fn read(kind: BackboneKind, path: &Path, device: &Device) -> Result<Self> {
        let state = StateDict::read(path, &Limits::default())?;
        Ok(Self {
            name: Self::name(kind),
            backbone: Backbone::from_state_dict(kind, &state, device)?,
            weights: state.fingerprint()?,
        })
    }

    /// The name of a kind, as settings have it.
    #[must_use]
    pub fn name(kind: BackboneKind) -> String {
        match serde_json::to_value(kind) {
            Ok(serde_json::Value::String(name)) => name,
            _ => format!("{kind:?}"),
        }
    }

    /// The names of the maps of these strides.
    fn maps(&self, strides: &[usize]) -> Result<Vec<String>> {
        let all = self.backbone.kind().maps();
        let map = |&stride: &usize| {
            let found = all.iter().rev().find(|(_, _, s)| *s == stride);
            found.map(|(name, _, _)| (*name).to_owned()).ok_or_else(|| {
                let known: Vec<String> = all.iter().map(|(_, _, s)| s.to_string()).collect();
                Error::option("strides", known.join(", "), stride)
            })
        };
        strides.iter().map(map).collect()
    }
}

/// Features, with the name that a table has them under.
#[derive(Clone)]
pub struct Features {
    /// The name.
    pub name: String,
    /// The features.
    pub extractor: Extractor,
}

impl std::fmt::Debug for Features {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Features")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Features {
    /// Of a network with weights of ImageNet.
    ///
    /// # Errors
    /// When it has no map of such a stride.
    pub fn pretrained(
        network: &Pretrained,
        strides: &[usize],
        channels: Channels,
        size: Option<usize>,
    ) -> Result<Self> {
        Ok(Self {
            name: network.name.clone(),
            extractor: Arc::new(BackboneFeatures {
                maps: network.maps(strides)?,
                channels,
                size: size.map(|side| (side, side)),
                weights: Some(network.weights.clone()),
                ..BackboneFeatures::new(network.backbone.clone())
            }),
        })
    }

    /// Of the encoder of a model folder's classifier.
    ///
    /// # Errors
    /// When the folder has none, or it can't be read.
    pub fn classifier(folder: &Path, blocks: &[usize], device: &Device) -> Result<Self> {
        let config = ModelConfig::read(&folder.join(model_folder::CONFIG))?;
        let Some(network) = &config.classifier else {
            let expected = "a model with a classifier";
            return Err(Error::option("model", expected, folder.display()));
        };
        let path = model_folder::file(folder, model_folder::CLASSIFIER)?;
        let state = StateDict::read(path, &Limits::default())?;
        Ok(Self {
            name: "classifier".into(),
            extractor: Arc::new(ClassifierFeatures {
                classifier: Classifier::from_state_dict(network, &state, DType::F32, device)?,
                blocks: blocks.to_vec(),
                t: config.features.model_time,
                weights: Some(state.fingerprint()?),
            }),
        })
    }
}
