use std::sync::Arc;

use candle_core::Tensor;
use fndm_memory::FeatureExtractor;

use crate::{Error, Result};

/// The maps on the finest one's grid, channel after channel: each value of a coarser map stands for a block. `(B, C_l, H_l, W_l)` to
/// `(B, C, H, W)`.
///
/// # Errors
/// When there are no maps, or a coarser one's sides don't divide the finest one's.
pub fn embedding(maps: &[Tensor]) -> Result<Tensor> {
    let Some(first) = maps.first() else {
        return Err(Error::shape("feature maps", "one or more", "none"));
    };
    let (b, _, h, w) = first.dims4()?;
    let mut joined = Vec::with_capacity(maps.len());
    for map in maps {
        let (own, _, mh, mw) = map.dims4()?;
        if own != b || mh == 0 || mw == 0 || h % mh != 0 || w % mw != 0 {
            return Err(Error::shape(
                "feature maps",
                format!("{b} images, and sides that divide {h} x {w}"),
                map.dims(),
            ));
        }
        joined.push(match (mh, mw) == (h, w) {
            true => map.clone(),
            false => map.upsample_nearest2d(h, w)?,
        });
    }
    Ok(Tensor::cat(&joined, 1)?)
}

/// An extractor, behind an [`Arc`], whose maps are joined to one by [`embedding`].
#[derive(Debug, Clone)]
pub struct Joined<E>(pub E);

/// The same as an extractor gives it.
fn join(maps: &[Tensor]) -> fndm_memory::Result<Vec<Tensor>> {
    let joined = embedding(maps).map_err(candle_core::Error::wrap)?;
    Ok(vec![joined])
}

impl<E: FeatureExtractor + ?Sized> FeatureExtractor for Joined<Arc<E>> {
    fn maps(&self, images: &Tensor) -> fndm_memory::Result<Vec<Tensor>> {
        join(&self.0.maps(images)?)
    }

    fn fingerprint(&self) -> Option<String> {
        self.0.fingerprint()
    }
}
