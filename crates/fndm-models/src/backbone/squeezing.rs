//! EfficientNet with squeeze-excitation (Tan and Le 2019) as torchvision has it, of any width and depth.

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use super::norm_conv::{NormConv, Padding, Spec};
use crate::{Error, Result};

/// B0's stages: repeats, kernel, stride of the first, expansion, channels.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];
const STEM: usize = 32;
/// Widths are multiples of this.
const DIVISOR: usize = 8;
/// Channels of a block's input for each of its squeeze.
const SQUEEZE: usize = 4;

/// Name, channels, and how many times smaller than the input.
pub(crate) const B5_MAPS: &[(&str, usize, usize)] = &[
    ("features.0", 48, 2),
    ("features.1", 24, 2),
    ("features.2", 40, 4),
    ("features.3", 64, 8),
    ("features.4", 128, 16),
    ("features.5", 176, 16),
    ("features.6", 304, 32),
    ("features.7", 512, 32),
    ("features.8", 2048, 32),
];

/// The shape of an [`EfficientNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EfficientNetConfig {
    /// Channels, relative to B0.
    pub width_mult: f64,
    /// Blocks of each stage, relative to B0.
    pub depth_mult: f64,
    /// Channels of the last convolution; four times the last stage's where none are given.
    #[serde(default)]
    pub last_channels: Option<usize>,
    /// Added to the variances of the norms.
    pub norm_eps: f64,
    /// Whether the stride-2 convolutions are padded unevenly, as `TensorFlow` and `efficientnet_pytorch` do, whose names are others, though.
    #[serde(default)]
    pub same_padding: bool,
    /// Classes of the last layer; none for a network without it.
    #[serde(default)]
    pub classes: Option<usize>,
}

impl EfficientNetConfig {
    /// EfficientNet-B5 with ImageNet's classes.
    #[must_use]
    pub fn b5() -> Self {
        Self {
            width_mult: 1.6,
            depth_mult: 2.2,
            last_channels: None,
            norm_eps: 1e-3,
            same_padding: false,
            classes: Some(super::CLASSES),
        }
    }

    /// Whether the options make sense.
    ///
    /// # Errors
    /// The first that can't be built, with what would fit.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("width_mult", self.width_mult),
            ("depth_mult", self.depth_mult),
        ] {
            if !(value > 0.0 && value <= 16.0) {
                return Err(Error::config(format!(
                    "{name}: expected a number above 0, up to 16, got {value}"
                )));
            }
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            return Err(Error::config(format!(
                "norm_eps: expected a number above 0, got {}",
                self.norm_eps
            )));
        }
        if self.last_channels == Some(0) || self.classes == Some(0) {
            return Err(Error::config(
                "last_channels and classes: expected 1 or more, got 0",
            ));
        }
        Ok(())
    }

    /// The channels nearest to `channels` times the width.
    fn width(&self, channels: usize) -> usize {
        let exact = channels as f64 * self.width_mult;
        let rounded = (exact + DIVISOR as f64 / 2.) as usize / DIVISOR * DIVISOR;
        let rounded = rounded.max(DIVISOR);
        // Never more than a tenth narrower than asked for.
        if (rounded as f64) < 0.9 * exact {
            rounded + DIVISOR
        } else {
            rounded
        }
    }

    /// The stages as they are built: blocks, kernel, stride of the first, expansion, channels.
    #[must_use]
    pub fn stages(&self) -> Vec<[usize; 5]> {
        STAGES
            .iter()
            .map(|&(repeats, kernel, stride, expansion, channels)| {
                let blocks = (repeats as f64 * self.depth_mult).ceil() as usize;
                [blocks, kernel, stride, expansion, self.width(channels)]
            })
            .collect()
    }
}

/// An EfficientNet for inference: norms are folded into the convolutions when it is built. Names are torchvision's.
#[derive(Clone, Debug)]
pub struct EfficientNet {
    stem: NormConv,
    stages: Vec<Vec<Inverted>>,
    head: NormConv,
    last: Option<(Tensor, Tensor)>,
}

/// What an [`EfficientNet`] computes on its way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EfficientNetMaps {
    /// `features.0` (the stem), `features.1` to `features.7` (the stages), `features.8` (the last convolution).
    pub stages: Vec<Tensor>,
    /// The blocks of each stage, in the order of the stages.
    pub blocks: Vec<Vec<Tensor>>,
}

/// Expansion, depthwise convolution, squeeze-excitation, projection; plus the input where shapes allow.
#[derive(Clone, Debug)]
struct Inverted {
    expand: Option<NormConv>,
    depthwise: NormConv,
    squeeze: Squeeze,
    project: NormConv,
    residual: bool,
}

/// Weighs channels by what their means say.
#[derive(Clone, Debug)]
struct Squeeze {
    narrow: (Tensor, Tensor),
    widen: (Tensor, Tensor),
}

impl Squeeze {
    fn new(channels: usize, squeezed: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let layer = |name: &str, i: usize, o: usize| -> Result<(Tensor, Tensor)> {
            let vb = vb.pp(name);
            let weight = vb.get((o, i, 1, 1), "weight")?.reshape((o, i))?;
            Ok((weight, vb.get(o, "bias")?))
        };
        Ok(Self {
            narrow: layer("fc1", channels, squeezed)?,
            widen: layer("fc2", squeezed, channels)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = fndm_kernels::channel_means(x)?;
        let h = fndm_kernels::linear(&mean, &self.narrow.0, &self.narrow.1)?;
        let h = fndm_kernels::silu(&h)?;
        let h = fndm_kernels::linear(&h, &self.widen.0, &self.widen.1)?;
        Ok(fndm_kernels::scale_channels(
            x,
            &candle_nn::ops::sigmoid(&h)?,
        )?)
    }
}

impl EfficientNetConfig {
    fn spec(&self, channels: (usize, usize), kernel: usize, stride: usize) -> Spec<'static> {
        Spec {
            conv: "0",
            norm: "1",
            channels,
            kernel,
            stride,
            depthwise: false,
            padding: match self.same_padding {
                true => Padding::Same,
                false => Padding::Half,
            },
            eps: self.norm_eps,
        }
    }
}

impl Inverted {
    fn new(
        config: &EfficientNetConfig,
        (i, o): (usize, usize),
        (kernel, stride): (usize, usize),
        expansion: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let middle = i * expansion;
        let vb = vb.pp("block");
        // A block without expansion has one part less.
        let first = usize::from(expansion != 1);
        let expand = match first {
            0 => None,
            _ => Some(NormConv::new(config.spec((i, middle), 1, 1), &vb.pp(0))?),
        };
        let depthwise = Spec {
            depthwise: true,
            ..config.spec((middle, middle), kernel, stride)
        };
        let project = config.spec((middle, o), 1, 1);
        Ok(Self {
            expand,
            depthwise: NormConv::new(depthwise, &vb.pp(first))?,
            squeeze: Squeeze::new(middle, (i / SQUEEZE).max(1), &vb.pp(first + 1))?,
            project: NormConv::new(project, &vb.pp(first + 2))?,
            residual: stride == 1 && i == o,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = match &self.expand {
            Some(expand) => fndm_kernels::silu(&expand.forward(x)?)?,
            None => x.clone(),
        };
        let h = fndm_kernels::silu(&self.depthwise.forward(&h)?)?;
        let h = self.project.forward(&self.squeeze.forward(&h)?)?;
        Ok(if self.residual {
            fndm_kernels::add(x, &h)?
        } else {
            h
        })
    }
}

impl EfficientNet {
    /// Builds the network.
    ///
    /// # Errors
    /// When the options make no sense, or `vb` lacks a tensor or has it in another shape.
    pub fn new(config: &EfficientNetConfig, vb: &VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let features = vb.pp("features");
        let mut c = config.width(STEM);
        let stem = NormConv::new(config.spec((3, c), 3, 2), &features.pp(0))?;
        let mut stages = Vec::new();
        for (s, [count, kernel, stride, expansion, o]) in (1..).zip(config.stages()) {
            let mut blocks = Vec::with_capacity(count);
            for n in 0..count {
                let stride = if n == 0 { stride } else { 1 };
                let vb = features.pp(s).pp(n);
                let shape = (kernel, stride);
                blocks.push(Inverted::new(config, (c, o), shape, expansion, &vb)?);
                c = o;
            }
            stages.push(blocks);
        }
        let wide = config.last_channels.unwrap_or(4 * c);
        let head = NormConv::new(config.spec((c, wide), 1, 1), &features.pp(stages.len() + 1))?;
        let last = match config.classes {
            Some(n) => {
                let vb = vb.pp("classifier").pp(1);
                Some((vb.get((n, wide), "weight")?, vb.get(n, "bias")?))
            }
            None => None,
        };
        Ok(Self {
            stem,
            stages,
            head,
            last,
        })
    }

    /// All maps of normalised images `(B, 3, H, W)`.
    ///
    /// # Errors
    /// When the images don't fit.
    pub fn forward(&self, x: &Tensor) -> Result<EfficientNetMaps> {
        self.first_stages(x, self.stages.len() + 2)
    }

    /// The same with the first `count` of `features` alone.
    ///
    /// # Errors
    /// When the images don't fit.
    pub fn first_stages(&self, x: &Tensor, count: usize) -> Result<EfficientNetMaps> {
        let (mut maps, mut blocks) = (Vec::new(), Vec::new());
        if count > 0 {
            let mut h = fndm_kernels::silu(&self.stem.forward(x)?)?;
            maps.push(h.clone());
            for stage in self.stages.iter().take(count - 1) {
                let mut inside = Vec::with_capacity(stage.len());
                for block in stage {
                    h = block.forward(&h)?;
                    inside.push(h.clone());
                }
                maps.push(h.clone());
                blocks.push(inside);
            }
            if count > self.stages.len() + 1 {
                maps.push(fndm_kernels::silu(&self.head.forward(&h)?)?);
            }
        }
        Ok(EfficientNetMaps {
            stages: maps,
            blocks,
        })
    }

    /// The logits `(B, classes)` from the last map.
    ///
    /// # Errors
    /// When the network has no classes, or the map isn't its own.
    pub fn logits(&self, last: &Tensor) -> Result<Tensor> {
        let Some((weight, bias)) = &self.last else {
            return Err(Error::input("network", "classes", "none"));
        };
        let mean = last.flatten_from(2)?.mean(D::Minus1)?;
        Ok(fndm_kernels::linear(&mean, weight, bias)?)
    }
}
