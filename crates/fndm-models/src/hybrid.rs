//! The input under the paper's hybrid conditions.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which conditions stand beside the noisy state in a network's input (Table 2 of the paper: NM is the image, MB the
/// coarse map).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditions {
    /// The conditioning image, as many channels as the state.
    pub image: bool,
    /// The coarse map of the lesion, one channel.
    pub coarse: bool,
}

impl Conditions {
    /// Input channels of a network for images of `channels` channels.
    ///
    /// ```
    /// use fndm_models::Conditions;
    /// assert_eq!(Conditions { image: true, coarse: true }.in_channels(4), 9);
    /// ```
    #[must_use]
    pub fn in_channels(self, channels: usize) -> usize {
        channels * (1 + usize::from(self.image)) + usize::from(self.coarse)
    }
}

/// The parts of a network's input, which are joined in the order state, image, coarse map.
#[derive(Clone, Debug)]
pub struct HybridInput {
    /// The noisy state, `(B, C, H, W)`.
    pub state: Tensor,
    /// The conditioning image, `(B, C, H, W)` in [-1, 1].
    pub image: Option<Tensor>,
    /// The coarse map of the lesion, `(B, 1, H, W)` or `(B, H, W)` in [0, 1].
    pub coarse: Option<Tensor>,
}

impl HybridInput {
    /// The state alone.
    #[must_use]
    pub fn new(state: Tensor) -> Self {
        Self {
            state,
            image: None,
            coarse: None,
        }
    }

    /// Which conditions are there.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        Conditions {
            image: self.image.is_some(),
            coarse: self.coarse.is_some(),
        }
    }

    /// The joined input, `(B, C [+ C] [+ 1], H, W)`.
    ///
    /// # Errors
    /// When a condition's shape doesn't fit the state's.
    pub fn concat(&self) -> Result<Tensor> {
        let (b, c, h, w) = self.state.dims4()?;
        let mut parts = vec![self.state.clone()];
        if let Some(image) = &self.image {
            if image.dims() != [b, c, h, w] {
                return Err(Error::input(
                    "image",
                    format!("({b}, {c}, {h}, {w}) as the state"),
                    image.dims(),
                ));
            }
            parts.push(image.to_dtype(self.state.dtype())?);
        }
        if let Some(coarse) = &self.coarse {
            let coarse = match coarse.rank() {
                3 => coarse.unsqueeze(1)?,
                _ => coarse.clone(),
            };
            if coarse.dims() != [b, 1, h, w] {
                return Err(Error::input(
                    "coarse",
                    format!("({b}, 1, {h}, {w}) or ({b}, {h}, {w})"),
                    coarse.dims(),
                ));
            }
            parts.push(coarse.to_dtype(self.state.dtype())?);
        }
        match parts.as_slice() {
            [state] => Ok(state.clone()),
            parts => Ok(Tensor::cat(parts, 1)?),
        }
    }
}
