//! Feature backbones with weights of ImageNet: what patch features are taken from.

mod efficientnet;
mod norm_conv;
mod squeezing;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

pub use squeezing::{EfficientNet, EfficientNetConfig, EfficientNetMaps};

use crate::checkpoint::{Limits, StateDict, build_strictly};
use crate::trainable::{BatchNorms, Border, Mode, ResNet, ResNetConfig};
use crate::{Error, Result};

/// ImageNet's.
const CLASSES: usize = 1000;

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackboneKind {
    /// EfficientNet-Lite0, names as timm's `tf_efficientnet_lite0`.
    #[serde(rename = "efficientnet_lite0")]
    EfficientNetLite0,
    /// EfficientNet-B5, names as torchvision.
    #[serde(rename = "efficientnet_b5")]
    EfficientNetB5,
    /// ResNet-18, names as torchvision and timm.
    #[serde(rename = "resnet18")]
    ResNet18,
    /// ResNet-50, names as torchvision and timm.
    #[serde(rename = "resnet50")]
    ResNet50,
    /// WideResNet-50-2, names as torchvision and timm.
    #[serde(rename = "wide_resnet50_2")]
    WideResNet50,
}

impl BackboneKind {
    /// The maps that the network can give, in the order in which it computes them, with their channels and how many
    /// times smaller than the input they are.
    #[must_use]
    pub fn maps(self) -> &'static [(&'static str, usize, usize)] {
        const RESNET18: &[(&str, usize, usize)] = &[
            ("stem", 64, 4),
            ("layer1", 64, 4),
            ("layer2", 128, 8),
            ("layer3", 256, 16),
            ("layer4", 512, 32),
        ];
        const RESNET50: &[(&str, usize, usize)] = &[
            ("stem", 64, 4),
            ("layer1", 256, 4),
            ("layer2", 512, 8),
            ("layer3", 1024, 16),
            ("layer4", 2048, 32),
        ];
        match self {
            Self::EfficientNetLite0 => efficientnet::MAPS,
            Self::EfficientNetB5 => squeezing::B5_MAPS,
            Self::ResNet18 => RESNET18,
            Self::ResNet50 | Self::WideResNet50 => RESNET50,
        }
    }

    /// The network's shape, where it is a residual one: without its last layer.
    #[must_use]
    pub fn residual(self) -> Option<ResNetConfig> {
        match self {
            Self::EfficientNetLite0 | Self::EfficientNetB5 => None,
            Self::ResNet18 => Some(ResNetConfig::resnet18()),
            Self::ResNet50 => Some(ResNetConfig::resnet50()),
            Self::WideResNet50 => Some(ResNetConfig::wide_resnet50_2()),
        }
    }

    /// The two maps that PatchCore takes, the finer first: at an eighth and a sixteenth of the input.
    #[must_use]
    pub fn patch_maps(self) -> [&'static str; 2] {
        match self {
            Self::EfficientNetLite0 => ["blocks.2", "blocks.4"],
            Self::EfficientNetB5 => ["features.3", "features.5"],
            Self::ResNet18 | Self::ResNet50 | Self::WideResNet50 => ["layer2", "layer3"],
        }
    }

    /// Mean and standard deviation per channel of RGB in [0, 1] that the weights were trained with.
    #[must_use]
    pub fn normalisation(self) -> ([f32; 3], [f32; 3]) {
        match self {
            Self::EfficientNetLite0 => ([0.5; 3], [0.5; 3]),
            Self::EfficientNetB5 | Self::ResNet18 | Self::ResNet50 | Self::WideResNet50 => {
                ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            }
        }
    }

    /// Slices in [-1, 1] as the network's input: to [0, 1], one channel repeated as red, green and blue, then the
    /// normalisation of the training. `(B, 1, H, W)` or `(B, 3, H, W)` to `(B, 3, H, W)`.
    ///
    /// # Errors
    /// For any other number of channels: run the sequences one by one, or pick three.
    pub fn prepare(self, images: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = images.dims4()?;
        let rgb = match c {
            1 => images.broadcast_as((b, 3, h, w))?,
            3 => images.clone(),
            _ => {
                return Err(Error::input(
                    "images",
                    "(B, 1, H, W) or (B, 3, H, W)",
                    images.dims(),
                ));
            }
        };
        let (mean, std) = self.normalisation();
        let scale: Vec<f32> = std.iter().map(|s| 0.5 / s).collect();
        let shift: Vec<f32> = mean.iter().zip(&std).map(|(m, s)| (0.5 - m) / s).collect();
        let as_channels = |v: Vec<f32>| Tensor::from_vec(v, (1, 3, 1, 1), images.device());
        Ok(rgb
            .to_dtype(DType::F32)?
            .broadcast_mul(&as_channels(scale)?)?
            .broadcast_add(&as_channels(shift)?)?)
    }
}

/// A classification network that gives its intermediate maps. For inference only: batch norms are those of evaluation,
/// folded into the convolutions when the network is built.
///
/// # Example
/// ```no_run
/// use candle_core::{DType, Device, Tensor};
/// use fndm_models::{Backbone, BackboneKind, Limits};
///
/// let kind = BackboneKind::EfficientNetLite0;
/// let net = Backbone::load(
///     "efficientnet_lite0.safetensors",
///     kind,
///     &Limits::default(),
///     &Device::Cpu,
/// )?;
/// let slices = Tensor::zeros((2, 1, 128, 128), DType::F32, &Device::Cpu)?;
/// let maps = net.maps(&net.prepare(&slices)?, &kind.patch_maps())?;
/// assert_eq!(maps[0].dims(), [2, 40, 16, 16]);
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Backbone {
    kind: BackboneKind,
    net: Net,
    device: Device,
}

#[derive(Clone, Debug)]
enum Net {
    Lite0(efficientnet::EfficientNetLite0),
    Squeezing(EfficientNet),
    ResNet(ResNet),
}

impl Backbone {
    /// Builds the network on plain tensors in f32.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or has it in another shape.
    pub fn new(kind: BackboneKind, vb: VarBuilder) -> Result<Self> {
        Self::with_border(kind, Border::Zeros, vb)
    }

    /// The same with another border of the 3x3 and 7x7 convolutions of a residual network: CFlow-AD's mirrors the image there.
    ///
    /// # Errors
    /// As [`Backbone::new`], and when the network isn't a residual one but is to mirror.
    pub fn with_border(kind: BackboneKind, border: Border, vb: VarBuilder) -> Result<Self> {
        let vb = vb.set_dtype(DType::F32);
        let device = vb.device().clone();
        let zeros = border == Border::Zeros;
        let net = match (kind, kind.residual()) {
            (BackboneKind::EfficientNetLite0, _) if zeros => {
                Net::Lite0(efficientnet::EfficientNetLite0::new(&vb)?)
            }
            (BackboneKind::EfficientNetB5, _) if zeros => {
                Net::Squeezing(EfficientNet::new(&EfficientNetConfig::b5(), &vb)?)
            }
            (_, Some(config)) => {
                let config = ResNetConfig {
                    classes: Some(CLASSES),
                    border,
                    ..config
                };
                Net::ResNet(ResNet::new(&config, vb, &BatchNorms::from_weights())?.folded()?)
            }
            _ => {
                return Err(Error::input(
                    "border",
                    "zeros, but for residual networks",
                    border,
                ));
            }
        };
        Ok(Self { kind, net, device })
    }

    /// Builds the network on a checkpoint's tensors, which must be exactly those that it needs; counts of batches,
    /// which have no part in the result, may be there or not.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with everything that doesn't fit.
    pub fn from_state_dict(kind: BackboneKind, state: &StateDict, device: &Device) -> Result<Self> {
        let state = state.without(|name| name.ends_with("num_batches_tracked"));
        build_strictly(&state, DType::F32, device, |vb| Self::new(kind, vb))
    }

    /// Reads a file of weights, safetensors or PyTorch.
    ///
    /// # Errors
    /// When the file can't be read or its tensors aren't those of the network.
    pub fn load(
        path: impl AsRef<Path>,
        kind: BackboneKind,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        Self::from_state_dict(kind, &StateDict::read(path, limits)?, device)
    }

    /// Which network this is.
    #[must_use]
    pub fn kind(&self) -> BackboneKind {
        self.kind
    }

    /// Slices as the network's input, by [`BackboneKind::prepare`].
    ///
    /// # Errors
    /// For a number of channels other than 1 or 3.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        self.kind.prepare(images)
    }

    /// The maps of these names, in this order, of normalised images `(B, 3, H, W)`. Nothing beyond the last of them is
    /// computed. [`BackboneKind::maps`] has the names.
    ///
    /// # Errors
    /// When there is no such map, or the images don't fit.
    pub fn maps(&self, images: &Tensor, names: &[&str]) -> Result<Vec<Tensor>> {
        let all = self.kind.maps();
        let mut wanted = Vec::with_capacity(names.len());
        for name in names {
            match all.iter().position(|(known, _, _)| known == name) {
                Some(at) => wanted.push(at),
                None => {
                    let known: Vec<&str> = all.iter().map(|(known, _, _)| *known).collect();
                    return Err(Error::input("names", known.join(", "), name));
                }
            }
        }
        let depth = wanted.iter().max().map_or(0, |last| last + 1);
        let maps = self.run(images, depth)?;
        Ok(wanted.iter().map(|&at| maps[at].clone()).collect())
    }

    /// The logits of ImageNet's 1000 classes, `(B, 1000)`, of normalised images `(B, 3, H, W)`.
    ///
    /// # Errors
    /// When the images don't fit.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        let maps = self.run(images, self.kind.maps().len())?;
        let Some(last) = maps.last() else {
            return Err(Error::input("images", "(B, 3, H, W)", images.dims()));
        };
        Ok(match &self.net {
            Net::Lite0(net) => net.logits(last)?,
            Net::Squeezing(net) => net.logits(last)?,
            Net::ResNet(net) => net.logits(last)?,
        })
    }

    /// The device that the weights are on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn run(&self, images: &Tensor, depth: usize) -> Result<Vec<Tensor>> {
        match *images.dims() {
            [b, 3, h, w] if b > 0 && h > 0 && w > 0 => {}
            _ => return Err(Error::input("images", "(B, 3, H, W)", images.dims())),
        }
        Ok(match &self.net {
            Net::Lite0(net) => net.maps(images, depth)?,
            Net::Squeezing(net) => net.first_stages(images, depth)?.stages,
            Net::ResNet(_) if depth == 0 => Vec::new(),
            Net::ResNet(net) => {
                let maps = net.first_layers(images, depth - 1, Mode::Evaluate)?;
                [vec![maps.pooled], maps.layers].concat()
            }
        })
    }
}
