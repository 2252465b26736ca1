//! All networks of a model folder.

use std::path::{Path, PathBuf};

use fndm::solver::Prediction;
use fndm::{ModelConfig, model_folder as names};
use fndm_models::{Limits, StateDict, UNetConfig};
use serde_json::json;

use crate::{Error, Network, Result, Stored, classifier, segmenter, unet};

/// Every network of a model folder, beside the name of the file that it is for: `student.onnx`, `unet.onnx`, `classifier.onnx`, and
/// those of rows that have their own. What goes in and how it is made stands in the metadata, as JSON under keys that begin with
/// `fndm.`; docs/formats.md has the list.
///
/// # Errors
/// When the folder can't be read, has no network, or a network's weights aren't its own.
pub fn model_folder(folder: impl AsRef<Path>, stored: Stored) -> Result<Vec<(String, Network)>> {
    let folder = folder.as_ref();
    let path = folder.join(names::CONFIG);
    if !path.is_file() {
        let (folder, file) = (folder.to_path_buf(), names::CONFIG.to_owned());
        return Err(fndm::Error::MissingModelFile { folder, file }.into());
    }
    let source = Source {
        folder,
        stored,
        config: ModelConfig::read(&path)?,
    };
    let config = &source.config;
    let mut networks = Vec::new();
    if config.student.is_some() {
        networks.extend(source.student()?);
    }
    if let Some(network) = &config.unet {
        let given = (config.prediction, config.from_image);
        networks.push(source.unet(names::UNET, network, given)?);
        if config.distilled.as_ref().is_some_and(|d| d.encoder) {
            networks.push(source.unet(names::ENCODER, network, given)?);
        }
    }
    for (method, own) in &config.separate {
        let given = own.prediction.unwrap_or(config.prediction);
        let name = names::separate(*method);
        networks.push(source.unet(&name, &own.unet, (given, own.from_image))?);
    }
    networks.extend(source.classifier()?);
    if networks.is_empty() {
        return Err(Error::NoNetwork {
            folder: folder.to_path_buf(),
        });
    }
    Ok(networks)
}

struct Source<'a> {
    folder: &'a Path,
    stored: Stored,
    config: ModelConfig,
}

impl Source<'_> {
    fn weights(&self, name: &str) -> Result<StateDict> {
        let path = names::file(self.folder, name)?;
        Ok(StateDict::read(path, &Limits::default())?)
    }

    fn student(&self) -> Result<Option<(String, Network)>> {
        let Some(student) = &self.config.student else {
            return Ok(None);
        };
        let weights = self.weights(names::STUDENT)?;
        let network = segmenter(&student.network, &weights, self.stored, true)?
            .with_metadata("fndm.student", serde_json::to_string(student)?);
        let words = "Each pixel's probability of a lesion, from a slice and its neighbours.";
        self.finished(names::STUDENT, network, words).map(Some)
    }

    fn unet(
        &self,
        name: &str,
        config: &UNetConfig,
        (prediction, from_image): (Prediction, bool),
    ) -> Result<(String, Network)> {
        let given = json!({ "prediction": prediction, "from_image": from_image });
        let schedule = serde_json::to_string(&self.config.schedule)?;
        let network = unet(config, &self.weights(name)?, self.stored)?
            .with_metadata("fndm.prediction", given.to_string())
            .with_metadata("fndm.schedule", schedule);
        let words = "The noise-prediction network of a diffusion model.";
        self.finished(name, network, words)
    }

    fn classifier(&self) -> Result<Option<(String, Network)>> {
        let Some(config) = &self.config.classifier else {
            return Ok(None);
        };
        let schedule = serde_json::to_string(&self.config.schedule)?;
        let weights = self.weights(names::CLASSIFIER)?;
        let network =
            classifier(config, &weights, self.stored)?.with_metadata("fndm.schedule", schedule);
        let words = "Whether a slice is diseased, from the slice with noise; forward.";
        self.finished(names::CLASSIFIER, network, words).map(Some)
    }

    /// With what all networks of the folder share.
    fn finished(&self, name: &str, network: Network, words: &str) -> Result<(String, Network)> {
        let network = network
            .with_description(format!("{words} Not a medical device."))
            .with_metadata(
                "fndm.sequences",
                serde_json::to_string(&self.config.sequences)?,
            )
            .with_metadata(
                "fndm.preprocess",
                serde_json::to_string(&self.config.preprocess)?,
            )
            .with_metadata("fndm.values", "[-1, 1], each sequence by itself");
        let file = PathBuf::from(name).with_extension("onnx");
        Ok((file.display().to_string(), network))
    }
}
