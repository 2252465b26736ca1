use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;
use serde::{Deserialize, Serialize};

use super::{Flowed, Source};
use crate::{Error, Result};

/// The raw value of a scale of 1: `0.1 * 2 ln(1 + exp(v / 2))` is 1 for it.
fn neutral_scale() -> f64 {
    2.0 * 5f64.exp_m1().ln()
}

/// What computes shift and scale of an [`AffineBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Subnet {
    /// Two linear layers with ReLU between them, for rows `(N, C)`.
    Linear {
        /// Width between the layers.
        hidden: usize,
    },
    /// Two convolutions with ReLU between them, for maps `(B, C, H, W)`; zeros beyond the edge.
    Convolution {
        /// Width between the convolutions.
        hidden: usize,
        /// 1 or 3.
        kernel: usize,
    },
}

/// The sizes of an [`AffineBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AffineConfig {
    /// Channels C of the features, 2 or more.
    pub channels: usize,
    /// Channels of the condition; 0 for none.
    pub condition: usize,
    /// The largest logarithm of a scale.
    pub clamp: f64,
    /// What computes shift and scale.
    pub subnet: Subnet,
}

impl AffineConfig {
    /// Channels that pass through a block's coupling as they are: the larger half.
    #[must_use]
    pub fn passive(&self) -> usize {
        self.channels - self.channels / 2
    }

    fn check(&self) -> Result<()> {
        let (hidden, kernel) = match self.subnet {
            Subnet::Linear { hidden } => (hidden, 1),
            Subnet::Convolution { hidden, kernel } => (hidden, kernel),
        };
        if self.channels < 2 {
            return Err(Error::config("channels", "2 or more", self.channels));
        }
        if !(self.clamp > 0.0 && self.clamp.is_finite()) {
            return Err(Error::config("clamp", "above 0", self.clamp));
        }
        if hidden == 0 {
            return Err(Error::config("hidden", "1 or more", hidden));
        }
        if kernel != 1 && kernel != 3 {
            return Err(Error::config("kernel", "1 or 3", kernel));
        }
        Ok(())
    }
}

/// One layer of a [`Subnet`].
#[derive(Debug, Clone)]
enum Layer {
    Linear { weight: Tensor, bias: Tensor },
    Convolution(Conv2d),
}

impl Layer {
    fn new(
        (i, o): (usize, usize),
        kernel: Option<usize>,
        vb: &VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        let fan = i * kernel.unwrap_or(1).pow(2);
        let bound = 1.0 / (fan as f64).sqrt();
        let init = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let bias = vb.get_with_hints(o, "bias", init)?;
        Ok(match kernel {
            None => Self::Linear {
                weight: vb.get_with_hints((o, i), "weight", init)?,
                bias,
            },
            Some(k) => {
                let weight = vb.get_with_hints((o, i, k, k), "weight", init)?;
                Self::Convolution(Conv2d::new(weight, Some(bias), 1)?)
            }
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Linear { weight, bias } => fndm_kernels::linear(x, weight, bias),
            Self::Convolution(conv) => conv.forward(x),
        }
    }
}

/// How the channels are mixed after a coupling.
#[derive(Debug, Clone)]
enum Mixing {
    /// Output channel o is input channel `order[o]`; and back.
    Order { order: Tensor, back: Tensor },
    /// `y_o = sum_c matrix[o, c] x_c`, `(C, C)`; and back.
    Matrix { matrix: Tensor, back: Tensor },
}

impl Mixing {
    fn new(matrix: &Tensor, back: &Tensor) -> Result<Self> {
        Ok(match (order_of(matrix)?, order_of(back)?) {
            (Some(order), Some(back)) => Self::Order { order, back },
            _ => Self::Matrix {
                matrix: matrix.clone(),
                back: back.clone(),
            },
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Order { order, .. } => x.index_select(order, 1),
            Self::Matrix { matrix, .. } => mix(x, matrix),
        }
    }

    fn inverse(&self, y: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Order { back, .. } => y.index_select(back, 1),
            Self::Matrix { back, .. } => mix(y, back),
        }
    }
}

/// Rows or maps with their channels mixed.
fn mix(x: &Tensor, matrix: &Tensor) -> candle_core::Result<Tensor> {
    if x.rank() == 2 {
        return x.matmul(&matrix.t()?);
    }
    let (b, c, h, w) = x.dims4()?;
    let flat = x.contiguous()?.reshape((b, c, h * w))?;
    matrix
        .broadcast_left(b)?
        .contiguous()?
        .matmul(&flat)?
        .reshape((b, c, h, w))
}

/// For every row of a permutation matrix the column that its 1 is in. None where it isn't one.
fn order_of(matrix: &Tensor) -> Result<Option<Tensor>> {
    if !matrix.is_contiguous() {
        return Ok(None);
    }
    let device = matrix.device().clone();
    let rows = matrix.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let mut order = Vec::with_capacity(rows.len());
    for row in &rows {
        let ones: Vec<usize> = (0..row.len()).filter(|&c| row[c] == 1.0).collect();
        let zeros = row.iter().filter(|&&v| v == 0.0).count();
        match ones[..] {
            [one] if zeros + 1 == row.len() => order.push(one as u32),
            _ => return Ok(None),
        }
    }
    Ok(Some(Tensor::new(order, &device)?))
}

/// An affine coupling of two halves, then a scale and a shift of every channel, then a mixing of the channels (`FrEIA`'s
/// `AllInOneBlock`, of version 0.2).
///
/// The first half x1, the larger one, passes. With a = 0.1 subnet(x1, condition), s = clamp tanh(first half of a) and t = the second
/// half, the other half becomes x2 exp(s) + t. The log-determinant is the sum of s and of the logarithms of the scales at every pixel;
/// the mixing, a rotation, adds nothing.
#[derive(Debug, Clone)]
pub struct AffineBlock {
    config: AffineConfig,
    layers: [Layer; 2],
    scale: Tensor,
    offset: Tensor,
    mixing: Mixing,
}

/// The parts of a coupling.
struct Coupling {
    log_scale: Tensor,
    shift: Tensor,
}

impl AffineBlock {
    /// Builds the block, under `FrEIA`'s names.
    ///
    /// # Errors
    /// When sizes don't make sense, or a tensor is missing or has another shape.
    pub fn new(config: &AffineConfig, source: &Source<'_>) -> Result<Self> {
        config.check()?;
        let c = config.channels;
        let (hidden, kernel, tail): (usize, Option<usize>, &[usize]) = match config.subnet {
            Subnet::Linear { hidden } => (hidden, None, &[]),
            Subnet::Convolution { hidden, kernel } => (hidden, Some(kernel), &[1, 1]),
        };
        let one = [&[1, c][..], tail].concat();
        let square = [&[c, c][..], tail].concat();
        let vb = &source.trained;
        // Not reshaped, which copies what a strict reader gives in place of a tensor that isn't there.
        let fixed = |name: &str| {
            let mut matrix = source.fixed.get(square.clone(), name)?;
            for _ in tail {
                matrix = matrix.squeeze(2)?;
            }
            candle_core::Result::Ok(matrix)
        };
        let inputs = config.passive() + config.condition;
        let net = vb.pp("subnet");
        let scale = Init::Const(neutral_scale());
        Ok(Self {
            config: *config,
            layers: [
                Layer::new((inputs, hidden), kernel, &net.pp(0))?,
                Layer::new((hidden, c / 2 * 2), kernel, &net.pp(2))?,
            ],
            scale: vb.get_with_hints(one.clone(), "global_scale", scale)?,
            offset: vb.get_with_hints(one, "global_offset", Init::Const(0.0))?,
            mixing: Mixing::new(&fixed("w_perm")?, &fixed("w_perm_inv")?)?,
        })
    }

    /// The sizes.
    #[must_use]
    pub fn config(&self) -> &AffineConfig {
        &self.config
    }

    /// What the subnet gives for features `(N, C)` or `(B, C, H, W)`, of which it sees the first half, and a condition with as many
    /// rows or pixels.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn subnet(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.check(x, condition)?;
        let passive = x.narrow(1, 0, self.config.passive())?;
        self.subnet_of(&passive, condition)
    }

    fn subnet_of(&self, passive: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let input = match condition {
            Some(condition) => Tensor::cat(&[passive, condition], 1)?,
            None => passive.contiguous()?,
        };
        let hidden = fndm_kernels::relu(&self.layers[0].forward(&input)?)?;
        Ok(self.layers[1].forward(&hidden)?)
    }

    fn check(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        let c = &self.config;
        let rank = match c.subnet {
            Subnet::Linear { .. } => 2,
            Subnet::Convolution { .. } => 4,
        };
        let channels = |t: &Tensor| t.dims().get(1).copied();
        if x.rank() != rank || channels(x) != Some(c.channels) {
            let expected = format!("rank {rank} with {} channels", c.channels);
            return Err(Error::shape("features of a flow", expected, x.dims()));
        }
        let given = condition.map_or(Some(0), channels);
        if given != Some(c.condition) || condition.is_some_and(|t| t.dims()[0] != x.dims()[0]) {
            let expected = format!("{} channels, {:?} as the features", c.condition, x.dims());
            let got = condition.map(Tensor::dims);
            return Err(Error::shape("condition of a flow", expected, got));
        }
        Ok(())
    }

    fn coupling(&self, passive: &Tensor, condition: Option<&Tensor>) -> Result<Coupling> {
        let a = (self.subnet_of(passive, condition)? * 0.1)?;
        let half = self.config.channels / 2;
        Ok(Coupling {
            log_scale: (a.narrow(1, 0, half)?.tanh()? * self.config.clamp)?,
            shift: a.narrow(1, half, half)?,
        })
    }

    /// The scale of every channel: 0.1 times softplus with beta 1/2.
    fn channel_scale(&self) -> Result<Tensor> {
        // Written so that the exponential can't overflow.
        let half = (&self.scale * 0.5)?;
        let tail = (half.abs()?.neg()?.exp()? + 1.0)?.log()?;
        Ok(((half.relu()? + tail)? * 0.2)?)
    }

    /// The sum of the logarithms of the scales, over a sample's pixels.
    fn log_scales(&self, scale: &Tensor, x: &Tensor) -> Result<Tensor> {
        let pixels: usize = x.dims()[2..].iter().product();
        Ok((scale.log()?.sum_all()? * pixels as f64)?)
    }

    /// Features x to z, with the log-determinant of each sample.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Flowed> {
        self.check(x, condition)?;
        let passive = x.narrow(1, 0, self.config.passive())?;
        let active = x.narrow(1, self.config.passive(), self.config.channels / 2)?;
        let Coupling { log_scale, shift } = self.coupling(&passive, condition)?;
        let moved = ((active * log_scale.exp()?)? + shift)?;
        let joined = Tensor::cat(&[&passive, &moved], 1)?;
        let scale = self.channel_scale()?;
        let joined = joined.broadcast_mul(&scale)?.broadcast_add(&self.offset)?;
        let sums = log_scale.flatten_from(1)?.sum(1)?;
        Ok(Flowed {
            z: self.mixing.forward(&joined)?,
            log_det: sums.broadcast_add(&self.log_scales(&scale, x)?)?,
        })
    }

    /// z back to x, with the log-determinant of that direction.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn inverse(&self, z: &Tensor, condition: Option<&Tensor>) -> Result<Flowed> {
        self.check(z, condition)?;
        let scale = self.channel_scale()?;
        let joined = self
            .mixing
            .inverse(z)?
            .broadcast_sub(&self.offset)?
            .broadcast_div(&scale)?;
        let passive = joined.narrow(1, 0, self.config.passive())?;
        let moved = joined.narrow(1, self.config.passive(), self.config.channels / 2)?;
        let Coupling { log_scale, shift } = self.coupling(&passive, condition)?;
        let active = ((moved - shift)? * log_scale.neg()?.exp()?)?;
        let sums = log_scale.flatten_from(1)?.sum(1)?;
        Ok(Flowed {
            z: Tensor::cat(&[&passive, &active], 1)?,
            log_det: sums.broadcast_add(&self.log_scales(&scale, z)?)?.neg()?,
        })
    }
}
