//! Residual blocks (He et al. 2016), from fine to coarse and, for decoders, back.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::{BatchNorms, Border, ConvNorm, Mode};
use crate::Result;

/// The kind of residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residual {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1; the outer width is four times `planes`.
    Bottleneck {
        /// Channels of the 3x3 convolution for each 64 of `planes`: 64, or 128 in WideResNet-50-2.
        base_width: usize,
    },
}

impl Residual {
    /// Channels that come out for each of `planes`.
    #[must_use]
    pub fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck { .. } => 4,
        }
    }
}

/// What a block does to the image's sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Nothing.
    Keep,
    /// Halves them, by a 3x3 convolution at stride 2.
    Down,
    /// Doubles them, by a transposed 2x2 convolution.
    Up,
}

/// Convolutions with ReLU between them; plus the input; ReLU. Names are torchvision's; the shortcut of a block that doubles the
/// sides is `upsample`.
#[derive(Clone, Debug)]
pub struct ResidualBlock {
    convs: Vec<ConvNorm>,
    shortcut: Option<ConvNorm>,
}

impl ResidualBlock {
    /// A block from `i` channels to `planes` times the kind's expansion.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or has it in another shape.
    pub fn new(
        kind: Residual,
        (i, planes): (usize, usize),
        sampling: Sampling,
        (border, eps): (Border, f64),
        vb: &VarBuilder<'_>,
        norms: &BatchNorms,
    ) -> Result<Self> {
        let o = planes * kind.expansion();
        let stride = 1 + usize::from(sampling == Sampling::Down);
        let conv = |name: (&str, &str), channels, k, stride| {
            ConvNorm::named(name, channels, (k, stride), (border, eps), vb, norms)
        };
        // The one convolution of the block that changes the sides.
        let resampling = |name: (&str, &str), channels| match sampling {
            Sampling::Up => ConvNorm::up(name, channels, eps, vb, norms),
            Sampling::Keep | Sampling::Down => conv(name, channels, 3, stride),
        };
        let convs = match kind {
            Residual::Basic => vec![
                resampling(("conv1", "bn1"), (i, planes))?,
                conv(("conv2", "bn2"), (planes, o), 3, 1)?,
            ],
            Residual::Bottleneck { base_width } => {
                let middle = planes * base_width / 64;
                vec![
                    conv(("conv1", "bn1"), (i, middle), 1, 1)?,
                    resampling(("conv2", "bn2"), (middle, middle))?,
                    conv(("conv3", "bn3"), (middle, o), 1, 1)?,
                ]
            }
        };
        let shortcut = match sampling {
            Sampling::Up => {
                let name = ("upsample.0", "upsample.1");
                Some(ConvNorm::up(name, (i, o), eps, vb, norms)?)
            }
            Sampling::Keep if i == o => None,
            Sampling::Keep | Sampling::Down => {
                Some(conv(("downsample.0", "downsample.1"), (i, o), 1, stride)?)
            }
        };
        Ok(Self { convs, shortcut })
    }

    /// So many blocks, numbered below `vb`; the first one changes the sides.
    ///
    /// # Errors
    /// As [`ResidualBlock::new`].
    pub fn stage(
        count: usize,
        kind: Residual,
        (i, planes): (usize, usize),
        sampling: Sampling,
        settings: (Border, f64),
        vb: &VarBuilder<'_>,
        norms: &BatchNorms,
    ) -> Result<Vec<Self>> {
        let o = planes * kind.expansion();
        (0..count)
            .map(|n| {
                let (i, sampling) = match n {
                    0 => (i, sampling),
                    _ => (o, Sampling::Keep),
                };
                Self::new(kind, (i, planes), sampling, settings, &vb.pp(n), norms)
            })
            .collect()
    }

    /// `(B, I, H, W)` to `(B, O, H', W')`.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let mut h = x.clone();
        for (n, conv) in self.convs.iter().enumerate() {
            if n > 0 {
                h = fndm_kernels::relu(&h)?;
            }
            h = conv.forward(&h, mode)?;
        }
        let sum = match &self.shortcut {
            Some(shortcut) => fndm_kernels::add(&shortcut.forward(x, mode)?, &h)?,
            None => fndm_kernels::add(x, &h)?,
        };
        Ok(fndm_kernels::relu(&sum)?)
    }

    /// The same for inference: see [`ConvNorm::folded`].
    ///
    /// # Errors
    /// Those of candle.
    pub fn folded(&self) -> Result<Self> {
        let shortcut = self.shortcut.as_ref().map(ConvNorm::folded).transpose()?;
        let convs = self.convs.iter().map(ConvNorm::folded);
        Ok(Self {
            convs: convs.collect::<Result<_>>()?,
            shortcut,
        })
    }
}
