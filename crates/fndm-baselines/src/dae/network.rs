use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};
use fndm_kernels::{Conv2d, avg_pool_2x, cat_channels, group_norm, silu};
use fndm_models::{BatchNorm, BatchNorms, Mode, UpConvolution, reflect};
use serde::{Deserialize, Serialize};

use crate::enlarge::{Corners, enlarge};
use crate::{Error, Result};

/// Added to the variances of the norms, and to the deviation of a standardised weight.
const EPS: f64 = 1e-5;

/// The norm after each activation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DaeNorm {
    /// Group norm, as many groups as the middle divisor of the channels.
    #[default]
    Group,
    /// Batch norm.
    Batch,
}

/// How a map is enlarged in the decoder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upsampling {
    /// A transposed 2x2 convolution.
    #[default]
    Transposed,
    /// Bilinearly, then a 1x1 convolution.
    Bilinear,
}

/// The shape of a [`UNet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Sequences of a slice.
    pub in_channels: usize,
    /// Maps that come out.
    pub out_channels: usize,
    /// Levels; sides must be divisible by 2 to the power of one less.
    pub depth: usize,
    /// The first level has 2 to this power of channels, each further one twice as many.
    pub width_log2: usize,
    /// The norm.
    pub norm: DaeNorm,
    /// How the decoder enlarges.
    pub up: Upsampling,
}

impl Default for UNetConfig {
    /// The authors' for four sequences.
    fn default() -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            depth: 4,
            width_log2: 6,
            norm: DaeNorm::Group,
            up: Upsampling::Transposed,
        }
    }
}

impl UNetConfig {
    /// Whether the options make sense.
    ///
    /// # Errors
    /// Names the first that doesn't.
    pub fn check(&self) -> Result<()> {
        for (field, value, most) in [
            ("in_channels", self.in_channels, 4096),
            ("out_channels", self.out_channels, 4096),
            ("depth", self.depth, 10),
            ("width_log2 + depth", self.width_log2 + self.depth, 15),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::config(field, format!("1 to {most}"), value));
            }
        }
        Ok(())
    }
}

/// The middle divisor of a number of channels: how many groups their norm has.
fn groups(channels: usize) -> usize {
    let divisors: Vec<usize> = (1..=channels)
        .filter(|d| channels.is_multiple_of(*d))
        .collect();
    divisors[divisors.len() / 2]
}

/// A weight with mean 0 and deviation 1 for each output channel (Qiao et al. 2019).
fn standardised(weight: &Tensor) -> Result<Tensor> {
    let rows = weight.flatten_from(1)?;
    let n = rows.dim(1)? as f64;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
    let variance = (centred.sqr()?.sum_keepdim(D::Minus1)? / (n - 1.0))?;
    let scaled = centred.broadcast_div(&(variance.sqrt()? + EPS)?)?;
    Ok(scaled.reshape(weight.shape())?)
}

/// Mirrored edge, 3x3 convolution by a standardised weight, swish, norm.
#[derive(Debug, Clone)]
struct Step {
    weight: Tensor,
    bias: Tensor,
    /// The packed convolution, where the weight isn't trained.
    ready: Option<Conv2d>,
    norm: Norm,
}

#[derive(Debug, Clone)]
enum Norm {
    Group(Tensor, Tensor),
    Batch(BatchNorm),
}

/// PyTorch's first values of a convolution.
fn start(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    Init::Uniform {
        lo: -bound,
        up: bound,
    }
}

impl Step {
    fn new(
        (i, o): (usize, usize),
        norm: DaeNorm,
        (conv, norm_vb): (&VarBuilder<'_>, &VarBuilder<'_>),
        norms: &BatchNorms,
    ) -> Result<Self> {
        let weight = conv.get_with_hints((o, i, 3, 3), "weight", start(9 * i))?;
        let bias = conv.get_with_hints(o, "bias", start(9 * i))?;
        let ready = match weight.track_op() {
            true => None,
            false => Some(Conv2d::new(standardised(&weight)?, Some(bias.clone()), 1)?),
        };
        let norm = match norm {
            DaeNorm::Group => Norm::Group(
                norm_vb.get_with_hints(o, "weight", Init::Const(1.0))?,
                norm_vb.get_with_hints(o, "bias", Init::Const(0.0))?,
            ),
            DaeNorm::Batch => Norm::Batch(BatchNorm::new(o, EPS, norm_vb, norms)?),
        };
        Ok(Self {
            weight,
            bias,
            ready,
            norm,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let padded = reflect(x, 1)?;
        let y = match &self.ready {
            Some(conv) => conv.forward(&padded)?,
            None => {
                let weight = standardised(&self.weight)?;
                Conv2d::new(weight, Some(self.bias.clone()), 1)?.forward(&padded)?
            }
        };
        // The kernels pad by zeros: what they make of the edge is cut off.
        let y = silu(&y.narrow(2, 1, h)?.narrow(3, 1, w)?.contiguous()?)?;
        match &self.norm {
            Norm::Group(weight, bias) => Ok(group_norm(&y, groups(y.dim(1)?), weight, bias, EPS)?),
            Norm::Batch(norm) => Ok(norm.forward(&y, mode)?),
        }
    }
}

/// Two steps.
#[derive(Debug, Clone)]
struct Block([Step; 2]);

impl Block {
    fn new(
        (i, o): (usize, usize),
        norm: DaeNorm,
        vb: &VarBuilder<'_>,
        norms: &BatchNorms,
    ) -> Result<Self> {
        // The authors' list also counts the padding and the activation.
        let vb = vb.pp("block");
        let step = |channels, conv: usize, place: usize| {
            Step::new(channels, norm, (&vb.pp(conv), &vb.pp(place)), norms)
        };
        Ok(Self([step((i, o), 1, 3)?, step((o, o), 5, 7)?]))
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let [first, second] = &self.0;
        second.forward(&first.forward(x, mode)?, mode)
    }
}

#[derive(Debug, Clone)]
enum Up {
    Transposed(UpConvolution),
    Bilinear(Conv2d),
}

/// Encoder and decoder with skip connections. Names are the authors'.
#[derive(Debug, Clone)]
pub struct UNet {
    down: Vec<Block>,
    up: Vec<(Up, Block)>,
    last: Conv2d,
}

/// What a [`UNet`] computes on its way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UNetMaps {
    /// The encoder's levels, the finest first.
    pub down: Vec<Tensor>,
    /// The decoder's levels, the coarsest first.
    pub up: Vec<Tensor>,
    /// The output.
    pub output: Tensor,
}

impl UNet {
    /// Builds the network. `norms` says where running statistics come from, where there are batch norms.
    ///
    /// # Errors
    /// When the options make no sense, or `vb` lacks a tensor or has it in another shape.
    pub fn new(config: &UNetConfig, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        config.check()?;
        let width = |level: usize| 1usize << (config.width_log2 + level);
        let pointwise = |vb: VarBuilder<'_>, i: usize, o: usize| -> Result<Conv2d> {
            let weight = vb.get_with_hints((o, i, 1, 1), "weight", start(i))?;
            let bias = vb.get_with_hints(o, "bias", start(i))?;
            Ok(Conv2d::new(weight, Some(bias), 1)?)
        };
        let mut i = config.in_channels;
        let mut down = Vec::with_capacity(config.depth);
        for level in 0..config.depth {
            let vb = vb.pp("down_path").pp(level);
            down.push(Block::new((i, width(level)), config.norm, &vb, norms)?);
            i = width(level);
        }
        let mut up = Vec::with_capacity(config.depth - 1);
        for (n, level) in (0..config.depth - 1).rev().enumerate() {
            let (vb, o) = (vb.pp("up_path").pp(n), width(level));
            let enlarge = match config.up {
                Upsampling::Transposed => {
                    Up::Transposed(UpConvolution::new((i, o), true, &vb.pp("up"))?)
                }
                Upsampling::Bilinear => Up::Bilinear(pointwise(vb.pp("up").pp(1), i, o)?),
            };
            let block = Block::new((i, o), config.norm, &vb.pp("conv_block"), norms)?;
            up.push((enlarge, block));
            i = o;
        }
        Ok(Self {
            down,
            up,
            last: pointwise(vb.pp("last"), i, config.out_channels)?,
        })
    }

    /// Slices `(B, C, H, W)` with the noise taken out, `(B, C, H, W)`.
    ///
    /// # Errors
    /// When the channels differ, or a side can't be halved as often as the network does.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(self.maps(x, mode)?.output)
    }

    /// The same with everything on the way.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn maps(&self, x: &Tensor, mode: Mode) -> Result<UNetMaps> {
        let (_, _, h, w) = x.dims4()?;
        let step = 1usize << self.up.len();
        if h == 0 || w == 0 || !h.is_multiple_of(step) || !w.is_multiple_of(step) {
            return Err(Error::shape(
                "slices",
                format!("sides that are multiples of {step}"),
                x.dims(),
            ));
        }
        let mut down = Vec::with_capacity(self.down.len());
        let mut h = x.clone();
        for (level, block) in self.down.iter().enumerate() {
            if level > 0 {
                h = avg_pool_2x(&h)?;
            }
            h = block.forward(&h, mode)?;
            down.push(h.clone());
        }
        let mut up = Vec::with_capacity(self.up.len());
        for ((enlarged, block), skip) in self.up.iter().zip(down.iter().rev().skip(1)) {
            let large = match enlarged {
                Up::Transposed(conv) => conv.forward(&h)?,
                Up::Bilinear(conv) => {
                    let (_, _, height, width) = skip.dims4()?;
                    conv.forward(&enlarge(&h, (height, width), Corners::Free)?)?
                }
            };
            h = block.forward(&cat_channels(&large, skip)?, mode)?;
            up.push(h.clone());
        }
        let output = self.last.forward(&h)?;
        Ok(UNetMaps { down, up, output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_divisor() {
        for (channels, expected) in [
            (4, 2),
            (8, 4),
            (16, 4),
            (32, 8),
            (64, 8),
            (128, 16),
            (256, 16),
            (512, 32),
        ] {
            assert_eq!(groups(channels), expected, "{channels}");
        }
    }
}
