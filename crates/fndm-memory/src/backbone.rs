use candle_core::Tensor;
use fndm_models::Backbone;
use serde::{Deserialize, Serialize};

use crate::tensor::check_images;
use crate::{Error, FeatureExtractor, Result};

/// How images of several sequences become the red, green and blue that a backbone expects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Each sequence by itself, as a grey picture. The maps of all sequences are joined, channel after channel.
    #[default]
    Each,
    /// Three sequences as one colour picture.
    Colour,
}

impl Channels {
    /// Images `(B, C, H, W)` as pictures `(N, 1, H, W)` or `(N, 3, H, W)`.
    pub(crate) fn pictures(self, images: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = images.dims4()?;
        match self {
            Self::Each => Ok(images.reshape((b * c, 1, h, w))?),
            Self::Colour if c == 3 => Ok(images.clone()),
            Self::Colour => Err(Error::shape("images", "(B, 3, H, W)", (b, c, h, w))),
        }
    }
}

/// The maps `(N, C_l, H_l, W_l)` of the pictures of `b` images, those of one image joined: `(B, N / B C_l, H_l, W_l)`.
pub(crate) fn joined(map: &Tensor, b: usize) -> Result<Tensor> {
    let (n, k, h, w) = map.dims4()?;
    Ok(map.contiguous()?.reshape((b, n / b.max(1) * k, h, w))?)
}

/// An `ImageNet` backbone as feature extractor: EfficientNet-Lite0, `ResNet` or `WideResNet`.
///
/// ```no_run
/// use candle_core::Device;
/// use fndm_memory::BackboneFeatures;
/// use fndm_models::{Backbone, BackboneKind, Limits};
///
/// let kind = BackboneKind::EfficientNetLite0;
/// let file = "efficientnet_lite0.safetensors";
/// let backbone = Backbone::load(file, kind, &Limits::default(), &Device::Cpu)?;
/// // Slices of 64 px are enlarged to 256 px: maps of 32 x 32 and 16 x 16 cells.
/// let extractor = BackboneFeatures::new(backbone).enlarged_to(256, 256);
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct BackboneFeatures {
    /// The network.
    pub backbone: Backbone,
    /// Names of its maps, the finest first; [`fndm_models::BackboneKind::maps`] has them.
    pub maps: Vec<String>,
    /// What becomes of the sequences.
    pub channels: Channels,
    /// Height and width to which images are resized bilinearly first, if any: the maps are an eighth and a sixteenth of that.
    pub size: Option<(usize, usize)>,
    /// The fingerprint of its weights ([`fndm_models::StateDict::fingerprint`]), so that what was fitted to others is refused.
    pub weights: Option<String>,
}

impl BackboneFeatures {
    /// The two maps that `PatchCore` takes, each sequence by itself, images as they are.
    #[must_use]
    pub fn new(backbone: Backbone) -> Self {
        let maps = backbone.kind().patch_maps().map(String::from).to_vec();
        Self {
            backbone,
            maps,
            channels: Channels::Each,
            size: None,
            weights: None,
        }
    }

    /// Resizes images to this height and width first.
    #[must_use]
    pub fn enlarged_to(mut self, height: usize, width: usize) -> Self {
        self.size = Some((height, width));
        self
    }
}

impl FeatureExtractor for BackboneFeatures {
    fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        if self.maps.is_empty() {
            return Err(Error::Empty {
                what: "the list of the backbone's maps",
            });
        }
        let (b, h, w) = check_images(images, None)?;
        let images = match self.size {
            Some((0, _) | (_, 0)) => {
                return Err(Error::config("size", "expected sides of 1 or more, got 0"));
            }
            Some((height, width)) if (height, width) != (h, w) => {
                images.upsample_bilinear2d(height, width, false)?
            }
            _ => images.clone(),
        };
        let pictures = self.channels.pictures(&images)?;
        let names: Vec<&str> = self.maps.iter().map(String::as_str).collect();
        let maps = self
            .backbone
            .maps(&self.backbone.prepare(&pictures)?, &names)?;
        maps.iter().map(|map| joined(map, b)).collect()
    }

    fn fingerprint(&self) -> Option<String> {
        let weights = self.weights.as_ref()?;
        Some(format!(
            "{:?} {weights}, maps {:?}, {:?}, size {:?}",
            self.backbone.kind(),
            self.maps,
            self.channels,
            self.size
        ))
    }
}
