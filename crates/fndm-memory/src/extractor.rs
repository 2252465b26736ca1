use candle_core::Tensor;

use crate::Result;

/// Anything that turns images into feature maps.
///
/// A closure `Fn(&Tensor) -> candle_core::Result<Vec<Tensor>>` is an extractor too.
pub trait FeatureExtractor {
    /// Images `(B, C, H, W)`, f32, scaled to [-1, 1], to maps `(B, C_l, H_l, W_l)`.
    ///
    /// The first map should be the finest: its grid is the grid of the patches. Two or more maps are usual, one is enough.
    /// The number of maps and their shapes must be the same at every call with images of one size.
    ///
    /// # Errors
    /// When the images don't fit the network.
    fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>>;

    /// What tells these features from those of another extractor: weights and settings. A model that was built with an extractor
    /// keeps this, and refuses another. `None`, as of a closure, is never refused.
    fn fingerprint(&self) -> Option<String> {
        None
    }
}

impl<F> FeatureExtractor for F
where
    F: Fn(&Tensor) -> candle_core::Result<Vec<Tensor>>,
{
    fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        Ok(self(images)?)
    }
}
