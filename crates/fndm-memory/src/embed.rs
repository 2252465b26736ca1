//! Patch features as a bank has them.

use candle_core::Tensor;

use crate::config::MemoryConfig;
use crate::patch::PatchEmbedding;
use crate::standardise::Standardisation;
use crate::{Error, FeatureExtractor, Result};

/// Patch features with everything that the config adds.
pub(crate) fn embed(
    config: &MemoryConfig,
    standardisation: Option<&Standardisation>,
    extractor: &dyn FeatureExtractor,
    images: &Tensor,
) -> Result<PatchEmbedding> {
    let maps = extractor.maps(images)?;
    let embedding =
        config
            .patch
            .embed_standardised(&maps, standardisation, config.position_weight)?;
    let count = images.dim(0)?;
    if embedding.images != count {
        return Err(Error::shape(
            "feature maps",
            format!("{count} images, as given"),
            embedding.images,
        ));
    }
    Ok(embedding)
}
