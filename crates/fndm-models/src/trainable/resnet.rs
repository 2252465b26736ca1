//! ResNet (He et al. 2016) and WideResNet (Zagoruyko and Komodakis 2016) as torchvision has them, of any width and depth.

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::{BatchNorms, Border, ConvNorm, Mode, Residual, ResidualBlock, Sampling};
use crate::{Error, Result};

const MAX_CHANNELS: usize = 1 << 14;
const MAX_BLOCKS: usize = 1 << 10;

/// The shape of a [`ResNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// The kind of block.
    pub block: Residual,
    /// Width of each layer, the first also that of the stem. One layer or more.
    pub planes: Vec<usize>,
    /// Blocks of each layer.
    pub blocks: Vec<usize>,
    /// Channels of the image.
    #[serde(default = "colours")]
    pub in_channels: usize,
    /// How 3x3 and 7x7 convolutions see the edge.
    #[serde(default)]
    pub border: Border,
    /// Added to the variances of the norms.
    pub norm_eps: f64,
    /// Classes of the last layer; none for a network without it.
    #[serde(default)]
    pub classes: Option<usize>,
}

fn colours() -> usize {
    3
}

impl ResNetConfig {
    /// ResNet-18 without its last layer.
    #[must_use]
    pub fn resnet18() -> Self {
        Self {
            block: Residual::Basic,
            planes: vec![64, 128, 256, 512],
            blocks: vec![2, 2, 2, 2],
            in_channels: colours(),
            border: Border::Zeros,
            norm_eps: 1e-5,
            classes: None,
        }
    }

    /// ResNet-50 without its last layer.
    #[must_use]
    pub fn resnet50() -> Self {
        Self {
            block: Residual::Bottleneck { base_width: 64 },
            blocks: vec![3, 4, 6, 3],
            ..Self::resnet18()
        }
    }

    /// WideResNet-50-2 without its last layer.
    #[must_use]
    pub fn wide_resnet50_2() -> Self {
        Self {
            block: Residual::Bottleneck { base_width: 128 },
            ..Self::resnet50()
        }
    }

    /// The same with the first so many layers alone, and no classes.
    #[must_use]
    pub fn layers(mut self, count: usize) -> Self {
        self.planes.truncate(count);
        self.blocks.truncate(count);
        self.classes = None;
        self
    }

    /// Channels of the output of each layer.
    #[must_use]
    pub fn channels(&self) -> Vec<usize> {
        let expansion = self.block.expansion();
        self.planes.iter().map(|p| p * expansion).collect()
    }

    /// Whether the options fit together.
    ///
    /// # Errors
    /// The first that can't be built, with what would fit.
    pub fn check(&self) -> Result<()> {
        let (planes, blocks) = (&self.planes, &self.blocks);
        if !(1..=MAX_CHANNELS).contains(&self.in_channels) {
            return Err(Error::config(format!(
                "in_channels: expected 1 to {MAX_CHANNELS}, got {}",
                self.in_channels
            )));
        }
        if planes.is_empty() || planes.len() != blocks.len() || planes.len() > 16 {
            return Err(Error::config(format!(
                "planes and blocks: expected 1 to 16 layers each, got {} and {}",
                planes.len(),
                blocks.len()
            )));
        }
        for (name, values, most) in [
            ("planes", planes, MAX_CHANNELS),
            ("blocks", blocks, MAX_BLOCKS),
        ] {
            if let Some(value) = values.iter().find(|v| !(1..=most).contains(*v)) {
                return Err(Error::config(format!(
                    "{name}: expected 1 to {most}, got {value}"
                )));
            }
        }
        if let Residual::Bottleneck { base_width } = self.block
            && (!(1..=MAX_CHANNELS).contains(&base_width)
                || planes.iter().any(|p| p * base_width < 64))
        {
            return Err(Error::config(format!(
                "base_width: expected one channel or more for each of planes {planes:?}, got {base_width}"
            )));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return Err(Error::config(format!(
                "norm_eps: expected a number above 0, got {}",
                self.norm_eps
            )));
        }
        match self.classes {
            Some(classes) if !(1..=1 << 20).contains(&classes) => Err(Error::config(format!(
                "classes: expected 1 to {}, got {classes}",
                1 << 20
            ))),
            _ => Ok(()),
        }
    }
}

/// A residual network that can be trained or only run, and gives the maps of its layers.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fndm_models::{BatchNorms, Mode, Parameters, ResNet, ResNetConfig};
///
/// let config = ResNetConfig { planes: vec![8, 16, 32], blocks: vec![1, 1, 1], ..ResNetConfig::resnet18() };
/// let (parameters, norms) = (Parameters::new(0, DType::F32, &Device::Cpu), BatchNorms::fresh());
/// let net = ResNet::new(&config, parameters.builder(), &norms)?;
/// let x = Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(net.forward(&x, Mode::Train)?.layers[2].dims(), [2, 32, 2, 2]);
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ResNet {
    stem: ConvNorm,
    layers: Vec<Vec<ResidualBlock>>,
    last: Option<(Tensor, Tensor)>,
}

/// What a [`ResNet`] computes on its way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResNetMaps {
    /// The stem after its norm, before ReLU: half the image's sides.
    pub stem: Tensor,
    /// After ReLU and pooling: a quarter.
    pub pooled: Tensor,
    /// The layers: a quarter, an eighth, and so on.
    pub layers: Vec<Tensor>,
}

impl ResNet {
    /// Builds the network under torchvision's names. `norms` says where the running statistics come from.
    ///
    /// # Errors
    /// When the options don't fit together, or `vb` lacks a tensor or has it in another shape.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a `VarBuilder` is passed by value, as is usual with candle"
    )]
    pub fn new(config: &ResNetConfig, vb: VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        config.check()?;
        let settings = (config.border, config.norm_eps);
        let mut c = config.planes[0];
        let stem = ConvNorm::named(
            ("conv1", "bn1"),
            (config.in_channels, c),
            (7, 2),
            settings,
            &vb,
            norms,
        )?;
        let mut layers = Vec::with_capacity(config.planes.len());
        for (l, (&planes, &count)) in config.planes.iter().zip(&config.blocks).enumerate() {
            let sampling = match l {
                0 => Sampling::Keep,
                _ => Sampling::Down,
            };
            let vb = vb.pp(format!("layer{}", l + 1));
            let channels = (c, planes);
            let layer = ResidualBlock::stage(
                count,
                config.block,
                channels,
                sampling,
                settings,
                &vb,
                norms,
            )?;
            c = planes * config.block.expansion();
            layers.push(layer);
        }
        let last = match config.classes {
            Some(n) => Some((vb.get((n, c), "fc.weight")?, vb.get(n, "fc.bias")?)),
            None => None,
        };
        Ok(Self { stem, layers, last })
    }

    /// All maps of normalised images `(B, C, H, W)`, of three channels as a rule.
    ///
    /// # Errors
    /// When the images don't fit.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<ResNetMaps> {
        self.first_layers(x, self.layers.len(), mode)
    }

    /// The same with the first `count` layers alone.
    ///
    /// # Errors
    /// When the images don't fit.
    pub fn first_layers(&self, x: &Tensor, count: usize, mode: Mode) -> Result<ResNetMaps> {
        let stem = self.stem.forward(x, mode)?;
        // After ReLU nothing is below the zeros that pad.
        let h = fndm_kernels::relu(&stem)?;
        let h = h.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
        let pooled = fndm_kernels::max_pool_3x3(&h)?;
        let mut h = pooled.clone();
        let mut layers = Vec::with_capacity(count.min(self.layers.len()));
        for layer in self.layers.iter().take(count) {
            for block in layer {
                h = block.forward(&h, mode)?;
            }
            layers.push(h.clone());
        }
        Ok(ResNetMaps {
            stem,
            pooled,
            layers,
        })
    }

    /// The first convolution alone, before its norm: `(B, C, H / 2, W / 2)`; none where both are one.
    ///
    /// # Errors
    /// When the images don't fit.
    pub fn first_convolution(&self, x: &Tensor) -> Result<Option<Tensor>> {
        self.stem.before_norm(x)
    }

    /// The logits `(B, classes)` from the last layer's map.
    ///
    /// # Errors
    /// When the network has no classes, or the map isn't its own.
    pub fn logits(&self, last: &Tensor) -> Result<Tensor> {
        let Some((weight, bias)) = &self.last else {
            return Err(Error::input("network", "classes", "none"));
        };
        Ok(last
            .flatten_from(2)?
            .mean(D::Minus1)?
            .matmul(&weight.t()?)?
            .broadcast_add(bias)?)
    }

    /// The same for inference, with today's weights and running statistics folded into the convolutions: faster, and deaf to
    /// later training.
    ///
    /// # Errors
    /// Those of candle.
    pub fn folded(&self) -> Result<Self> {
        let layer =
            |blocks: &Vec<ResidualBlock>| blocks.iter().map(ResidualBlock::folded).collect();
        Ok(Self {
            stem: self.stem.folded()?,
            layers: self.layers.iter().map(layer).collect::<Result<_>>()?,
            last: self.last.clone(),
        })
    }
}
