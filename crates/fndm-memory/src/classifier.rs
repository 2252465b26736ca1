use candle_core::Tensor;
use fndm_models::Classifier;

use crate::{Error, FeatureExtractor, Result};

/// The encoder of the guiding classifier as feature extractor: no outside weights are needed.
#[derive(Debug, Clone)]
pub struct ClassifierFeatures {
    /// The trained classifier, built for inference.
    pub classifier: Classifier,
    /// The input blocks whose outputs are the maps, the finest first.
    pub blocks: Vec<usize>,
    /// The model time that the classifier is told, 0 for a clean image.
    pub t: f64,
    /// The fingerprint of its weights ([`fndm_models::StateDict::fingerprint`]), so that a bank built on others is refused.
    pub weights: Option<String>,
}

impl FeatureExtractor for ClassifierFeatures {
    fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        if self.blocks.is_empty() {
            return Err(Error::Empty {
                what: "the list of classifier blocks",
            });
        }
        let count = images.dim(0)?;
        let t = Tensor::full(self.t as f32, count, images.device())?;
        Ok(self.classifier.feature_maps(images, &t, &self.blocks)?)
    }

    fn fingerprint(&self) -> Option<String> {
        let weights = self.weights.as_ref()?;
        Some(format!(
            "classifier {weights}, blocks {:?}, time {}",
            self.blocks, self.t
        ))
    }
}
