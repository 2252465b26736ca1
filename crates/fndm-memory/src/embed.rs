//! Patch features as a bank has them.

use candle_core::Tensor;
use ndarray::Array2;

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
    let mut embedding = config.patch.embed_standardised(&maps, standardisation)?;
    let count = images.dim(0)?;
    if embedding.images != count {
        return Err(Error::shape(
            "feature maps",
            format!("{count} images, as given"),
            embedding.images,
        ));
    }
    if config.position_weight > 0.0 {
        let (h, w) = embedding.grid;
        let d = embedding.features.ncols();
        let weight = config.position_weight * (d as f64).sqrt();
        let place = |i: usize, n: usize| (weight * ((2 * i + 1) as f64 / n as f64 - 1.0)) as f32;
        let old = embedding.features;
        embedding.features = Array2::from_shape_fn((old.nrows(), d + 2), |(row, column)| {
            if column < d {
                old[(row, column)]
            } else if column == d {
                place(row % w, w)
            } else {
                place(row / w % h, h)
            }
        });
    }
    Ok(embedding)
}
