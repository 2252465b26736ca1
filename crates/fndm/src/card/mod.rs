//! What a model is for, in words: `metadata.json`, after that of MONAI's bundles.

mod markdown;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ModelConfig, Result, model_folder};

/// A model's `metadata.json`.
///
/// The keys are those of the MONAI bundle specification, as far as they apply. `monai_version`, `pytorch_version` and `numpy_version`,
/// which it asks for, are versions of programs that made nothing here; `fndm_version` stands in their place. `licence`,
/// `training_data`, `limits` and `labels` are added. Keys that this library doesn't know are kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelCard {
    /// The model's name.
    pub name: String,
    /// The model's own version.
    pub version: String,
    /// What changed in which version.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub changelog: BTreeMap<String, String>,
    /// The library that wrote the folder.
    pub fndm_version: String,
    /// What the model does, in a line.
    pub task: String,
    /// What it is, at more length.
    pub description: String,
    /// Who made it.
    pub authors: String,
    /// Who has the copyright.
    pub copyright: String,
    /// What it may be used under.
    pub licence: String,
    /// What it is for, and what not.
    pub intended_use: String,
    /// What it can't do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
    /// Where the training data can be had.
    pub data_source: String,
    /// What kind of files these are.
    pub data_type: String,
    /// Who was trained on, in words and numbers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub training_data: BTreeMap<String, Value>,
    /// What the labels are and where they came from.
    pub labels: String,
    /// Figures, by name; a name says on which patients, and `eval_command` how they were measured.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub eval_metrics: BTreeMap<String, f64>,
    /// The command that prints these figures.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub eval_command: String,
    /// Publications.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// What the networks take and what comes out.
    pub network_data_format: DataFormat,
    /// Keys of others.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Tensors in and out, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataFormat {
    /// In.
    pub inputs: BTreeMap<String, TensorFormat>,
    /// Out.
    pub outputs: BTreeMap<String, TensorFormat>,
}

/// A tensor's meaning, as in the MONAI bundle specification.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TensorFormat {
    /// "image" or "probabilities".
    #[serde(rename = "type")]
    pub kind: String,
    /// "magnitude", "segmentation", ...
    pub format: String,
    /// "MR".
    pub modality: String,
    /// Channels; they are the first axis after the batch.
    pub num_channels: usize,
    /// Height and width in pixels.
    pub spatial_shape: Vec<usize>,
    /// "float32".
    pub dtype: String,
    /// Lowest and highest value; empty where there is no bound.
    pub value_range: Vec<f64>,
    /// Whether it is a part of a larger image.
    pub is_patch_data: bool,
    /// What each channel is.
    pub channel_def: ChannelFormat,
}

/// Meaning of each channel, by its number.
pub type ChannelFormat = BTreeMap<String, String>;

/// Keys that the MONAI bundle specification asks for, but for the versions of its own programs.
const NEEDED: [&str; 7] = [
    "version",
    "task",
    "description",
    "authors",
    "copyright",
    "intended_use",
    "network_data_format",
];

impl ModelCard {
    /// What can be said of a model by its config.
    #[must_use]
    pub fn of(config: &ModelConfig) -> Self {
        let sequences = config.sequences.join(", ");
        let size = config.preprocess.image_size;
        let plane = format!("{:?}", config.preprocess.plane).to_lowercase();
        Self {
            name: format!("fndm, {sequences}, {size} px"),
            version: "0.1.0".into(),
            fndm_version: config.fndm_version.clone(),
            task: format!("Find lesions pixel by pixel in {plane} slices of brain MR ({sequences})"),
            description: describe(config),
            authors: "not said".into(),
            copyright: "not said".into(),
            licence: "not said".into(),
            intended_use: "Research on methods. Not a medical device: no decision about a person may rest on it.".into(),
            data_source: "not said".into(),
            data_type: "NIfTI".into(),
            labels: "One bit a slice: healthy or diseased. No pixel label is used in training.".into(),
            network_data_format: DataFormat::of(config),
            ..Self::default()
        }
    }

    /// A card's file for a model that was changed from one config to another: words of the program's own are those of the new one, a user's stay.
    ///
    /// # Errors
    /// When the bytes aren't such a card.
    pub fn retold(bytes: &[u8], from: &ModelConfig, to: &ModelConfig) -> Result<Vec<u8>> {
        let path = Path::new(model_folder::METADATA);
        let mut card: Self =
            serde_json::from_slice(bytes).map_err(fndm_files::Error::json(path, "model card"))?;
        if card.description == describe(from) {
            card.description = describe(to);
        }
        card.to_bytes()
    }

    /// Reads that of a model folder; what can be said by its config where it has none.
    ///
    /// # Errors
    /// When there is no model, or the file isn't such a card.
    pub fn read(folder: &Path) -> Result<Self> {
        let json = folder.join(model_folder::CONFIG);
        if !json.is_file() {
            return Err(Error::MissingModelFile {
                folder: folder.to_path_buf(),
                file: model_folder::CONFIG.to_owned(),
            });
        }
        let config = ModelConfig::read(&json)?;
        if !config.metadata {
            return Ok(Self::of(&config));
        }
        let path = model_folder::file(folder, model_folder::METADATA)?;
        Ok(fndm_files::read_json(&path, "model card")?)
    }

    /// With the values of a user's JSON object laid over it, key by key.
    ///
    /// # Errors
    /// When a value isn't of its key's type.
    pub fn with(&self, given: &Path) -> Result<Self> {
        let patch: BTreeMap<String, Value> = fndm_files::read_json(given, "model card")?;
        let invalid = fndm_files::Error::json(given, "model card");
        let lay = || -> std::result::Result<Self, serde_json::Error> {
            let mut whole = serde_json::to_value(self)?;
            if let Some(fields) = whole.as_object_mut() {
                fields.extend(patch);
            }
            serde_json::from_value(whole)
        };
        Ok(lay().map_err(invalid)?)
    }

    /// Whether every key that others rely on says something.
    ///
    /// # Errors
    /// The first one that is missing or empty.
    pub fn check(&self) -> Result<()> {
        let value = serde_json::to_value(self).unwrap_or_default();
        let said = |key: &&str| match value.get(*key) {
            Some(Value::String(text)) => !text.trim().is_empty(),
            Some(other) => !other.is_null(),
            None => false,
        };
        match NEEDED.iter().find(|key| !said(key)) {
            Some(key) => Err(Error::Input {
                what: format!("model card: {key}"),
                expected: "a text".into(),
                got: "none".into(),
            }),
            None => Ok(()),
        }
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// When it can't be written as JSON, which no card gives.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let path = Path::new(model_folder::METADATA);
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(fndm_files::Error::json(path, "model card"))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn describe(config: &ModelConfig) -> String {
    let mut parts = Vec::new();
    if config.unet.is_some() {
        parts.push("a diffusion model with its classifier and memory bank");
    }
    if config.contrast {
        parts.push("the Gaussians of healthy and of diseased slices");
    }
    if config.student.is_some() {
        parts.push("a student network");
    }
    format!(
        "{}. Patients are examined by {} where nothing else is asked for.",
        parts.join(", "),
        config.method.title()
    )
}

impl DataFormat {
    fn of(config: &ModelConfig) -> Self {
        let size = config.preprocess.image_size;
        let channels = config.sequences.iter().enumerate();
        let image = TensorFormat {
            kind: "image".into(),
            format: "magnitude".into(),
            modality: "MR".into(),
            num_channels: config.sequences.len(),
            spatial_shape: vec![size, size],
            dtype: "float32".into(),
            value_range: vec![-1., 1.],
            is_patch_data: false,
            channel_def: channels
                .map(|(n, name)| (n.to_string(), name.clone()))
                .collect(),
        };
        let one = |kind: &str, format: &str, range: Vec<f64>, what: &str| TensorFormat {
            kind: kind.into(),
            format: format.into(),
            num_channels: 1,
            value_range: range,
            channel_def: BTreeMap::from([("0".into(), what.into())]),
            ..image.clone()
        };
        let anomaly = one(
            "image",
            "magnitude",
            Vec::new(),
            "anomaly, higher is less healthy",
        );
        let mask = one("image", "segmentation", vec![0., 1.], "0 healthy, 1 lesion");
        Self {
            outputs: BTreeMap::from([("anomaly".into(), anomaly), ("mask".into(), mask)]),
            inputs: BTreeMap::from([("image".into(), image)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use fndm_data::Preprocess;

    use super::*;

    /// A model that gets a student is examined by it: its own words say so, and a user's aren't touched.
    #[test]
    fn words_of_a_changed_model_are_told_anew() {
        let from = ModelConfig::without_diffusion(vec!["flair".into()], Preprocess::default());
        let mut to = from.clone();
        to.contrast = true;
        let card = ModelCard::of(&from);
        let told = |card: &ModelCard| -> ModelCard {
            let bytes = ModelCard::retold(&card.to_bytes().unwrap(), &from, &to).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        assert!(!card.description.contains("Gaussians"));
        assert!(told(&card).description.contains("Gaussians"));
        let own = ModelCard {
            description: "Mine.".into(),
            ..card
        };
        assert_eq!(told(&own), own);
        assert!(ModelCard::retold(b"{", &from, &to).is_err());
    }
}
