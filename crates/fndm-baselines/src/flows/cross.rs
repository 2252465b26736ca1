use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

use super::Flowed;
use crate::arctangent::arctangent;
use crate::conv::Convolution;
use crate::enlarge::{Corners, enlarge};
use crate::{Error, Result};

/// Scales that a block couples.
pub const SCALES: usize = 3;
/// Slope of the leaky ReLU.
const SLOPE: f64 = 0.1;
/// The factor of the logarithm of a scale: the peers write it so, and not as 2 / pi.
const ARC: f64 = 0.636;
/// No output is beyond this.
const BOUND: f64 = 1e6;

/// The sizes of a [`CrossBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossConfig {
    /// Channels C of the features of every scale, 2 or more.
    pub channels: usize,
    /// Channels between the convolutions.
    pub hidden: usize,
    /// Side of the kernels, odd.
    pub kernel: usize,
    /// Whether each scale's output is multiplied by a trained number that begins at 0.
    pub gamma: bool,
    /// The largest logarithm of a scale is about this.
    pub clamp: f64,
}

impl CrossConfig {
    fn check(&self) -> Result<()> {
        if self.channels < 2 {
            return Err(Error::config("channels", "2 or more", self.channels));
        }
        if self.hidden == 0 {
            return Err(Error::config("hidden", "1 or more", self.hidden));
        }
        if self.kernel.is_multiple_of(2) || self.kernel > 31 {
            return Err(Error::config("kernel", "odd, at most 31", self.kernel));
        }
        if !(self.clamp > 0.0 && self.clamp.is_finite()) {
            return Err(Error::config("clamp", "above 0", self.clamp));
        }
        Ok(())
    }
}

/// Convolutions of three scales, the finest first and each half as large as the one before, that look at their neighbours (CS-Flow,
/// Rudolph et al. 2022).
#[derive(Debug, Clone)]
pub struct CrossConvolutions {
    first: Vec<Convolution>,
    own: Vec<Convolution>,
    /// From the coarser neighbour, after enlarging; of scales 0 and 1.
    up: Vec<Convolution>,
    /// From the finer neighbour; of scales 1 and 2.
    down: Vec<Convolution>,
    gamma: Option<Vec<Tensor>>,
}

impl CrossConvolutions {
    /// From `inputs` channels to `outputs`, under the peer's names.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn new(
        config: &CrossConfig,
        (inputs, outputs): (usize, usize),
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let CrossConfig { hidden, kernel, .. } = *config;
        let conv = |name: String, i: usize, o: usize, stride: usize| {
            Convolution::new((i, o), kernel, stride, &vb.pp(name))
        };
        let all = |names: Vec<String>, i: usize, o: usize, stride: usize| {
            let each = names.into_iter().map(|name| conv(name, i, o, stride));
            each.collect::<Result<Vec<_>>>()
        };
        let of_scales = |part: usize| {
            (0..SCALES)
                .map(|s| format!("conv_scale{s}_{part}"))
                .collect()
        };
        // The numbers are in a file whether they are used or not.
        let gamma = (0..SCALES)
            .map(|s| Ok(vb.get_with_hints(1, &format!("gamma{s}"), Init::Const(0.0))?))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            first: all(of_scales(0), inputs, hidden, 1)?,
            own: all(of_scales(1), hidden, outputs, 1)?,
            up: all(
                vec!["up_conv10".into(), "up_conv21".into()],
                hidden,
                outputs,
                1,
            )?,
            down: all(
                vec!["down_conv01".into(), "down_conv12".into()],
                hidden,
                outputs,
                2,
            )?,
            gamma: config.gamma.then_some(gamma),
        })
    }

    /// Maps `(B, I, H, W)`, `(B, I, H/2, W/2)`, `(B, I, H/4, W/4)` to as many with O channels.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        if x.len() != SCALES {
            return Err(Error::shape("maps", "those of three scales", x.len()));
        }
        let hidden = x
            .iter()
            .zip(&self.first)
            .map(|(x, conv)| leaky(&conv.forward(x)?))
            .collect::<Result<Vec<_>>>()?;
        (0..SCALES)
            .map(|scale| {
                let mut out = self.own[scale].forward(&hidden[scale])?;
                if let (Some(finer), Some(conv)) = (
                    scale.checked_sub(1).and_then(|s| hidden.get(s)),
                    scale.checked_sub(1).and_then(|s| self.down.get(s)),
                ) {
                    out = fndm_kernels::add(&out, &conv.forward(finer)?)?;
                }
                if let (Some(coarser), Some(conv)) = (hidden.get(scale + 1), self.up.get(scale)) {
                    let (_, _, h, w) = hidden[scale].dims4()?;
                    let enlarged = enlarge(coarser, (h, w), Corners::Free)?;
                    out = fndm_kernels::add(&out, &conv.forward(&enlarged)?)?;
                }
                Ok(match &self.gamma {
                    Some(gamma) => out.broadcast_mul(&gamma[scale])?,
                    None => out,
                })
            })
            .collect()
    }
}

fn leaky(x: &Tensor) -> Result<Tensor> {
    // max(x, slope x), for a slope below 1.
    Ok(fndm_kernels::linear_combination(&[
        (1.0 - SLOPE, &fndm_kernels::relu(x)?),
        (SLOPE, x),
    ])?)
}

/// A permutation of the channels of each scale, then two affine couplings by [`CrossConvolutions`] (CS-Flow, Rudolph et al. 2022).
///
/// With x1 the first floor(C / 2) channels and x2 the rest, x1 is moved by what the convolutions make of x2, and then x2 by what
/// they make of the new x1.
#[derive(Debug, Clone)]
pub struct CrossBlock {
    config: CrossConfig,
    orders: Vec<Tensor>,
    back: Vec<Tensor>,
    first: CrossConvolutions,
    second: CrossConvolutions,
}

/// Which way through a block.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Direction {
    Forward,
    Back,
}

/// Logarithms of scales, and shifts, of each of the three maps.
struct Coupling {
    log_scale: Vec<Tensor>,
    shift: Vec<Tensor>,
}

impl CrossBlock {
    /// Builds the block under the peer's names, `s1.` and `s2.`. `orders` are the permutations of the three scales: channel c of the
    /// permuted features is channel `order[c]`.
    ///
    /// # Errors
    /// When sizes don't make sense, an order isn't a permutation, or a tensor is missing or has another shape.
    pub fn new(config: &CrossConfig, orders: &[Vec<usize>], vb: &VarBuilder<'_>) -> Result<Self> {
        config.check()?;
        let channels = config.channels;
        if orders.len() != SCALES {
            return Err(Error::config(
                "orders",
                "one for each of three scales",
                orders.len(),
            ));
        }
        let mut back = Vec::with_capacity(SCALES);
        for order in orders {
            let mut inverse = vec![None; channels];
            for (to, &from) in order.iter().enumerate() {
                if let Some(place) = inverse.get_mut(from) {
                    *place = Some(to);
                }
            }
            let inverse: Option<Vec<usize>> = inverse.into_iter().collect();
            match inverse {
                Some(inverse) if order.len() == channels => back.push(inverse),
                _ => {
                    let expected = format!("a permutation of {channels} channels");
                    return Err(Error::config("orders", expected, format!("{order:?}")));
                }
            }
        }
        let indices = |orders: &[Vec<usize>]| {
            let tensor = |order: &Vec<usize>| {
                let order: Vec<u32> = order.iter().map(|&c| c as u32).collect();
                Tensor::new(order, vb.device())
            };
            orders
                .iter()
                .map(tensor)
                .collect::<candle_core::Result<Vec<_>>>()
        };
        let (small, large) = (channels / 2, channels - channels / 2);
        Ok(Self {
            config: *config,
            orders: indices(orders)?,
            back: indices(&back)?,
            first: CrossConvolutions::new(config, (large, 2 * small), &vb.pp("s2"))?,
            second: CrossConvolutions::new(config, (small, 2 * large), &vb.pp("s1"))?,
        })
    }

    /// The convolutions that see the second part of the channels.
    #[must_use]
    pub fn seeing_the_rest(&self) -> &CrossConvolutions {
        &self.first
    }

    /// The features with their channels permuted.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn permute(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        self.check(x)?;
        select(x, &self.orders)
    }

    fn check(&self, x: &[Tensor]) -> Result<()> {
        let c = self.config.channels;
        let dims: Vec<&[usize]> = x.iter().map(Tensor::dims).collect();
        let fits = match dims[..] {
            [&[b, c0, h, w], second, third] => {
                c0 == c
                    && h.is_multiple_of(4)
                    && w.is_multiple_of(4)
                    && second == [b, c, h / 2, w / 2]
                    && third == [b, c, h / 4, w / 4]
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let expected =
            format!("(B, {c}, H, W), and half and a quarter of that, with sides of multiples of 4");
        Err(Error::shape("features of three scales", expected, dims))
    }

    fn coupling(&self, convolutions: &CrossConvolutions, seen: &[Tensor]) -> Result<Coupling> {
        let clamp = self.config.clamp;
        let (mut log_scale, mut shift) = (Vec::new(), Vec::new());
        for r in convolutions.forward(seen)? {
            let half = r.dim(1)? / 2;
            let arc = arctangent(&(r.narrow(1, 0, half)? / clamp)?)?;
            log_scale.push((arc * (clamp * ARC))?);
            shift.push(r.narrow(1, half, half)?);
        }
        Ok(Coupling { log_scale, shift })
    }

    /// Features of three scales to theirs, with the log-determinant `(B)` that each scale adds.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, x: &[Tensor]) -> Result<Vec<Flowed>> {
        let (mut x1, mut x2) = self.halves(&self.permute(x)?)?;
        let first = self.coupling(&self.first, &x2)?;
        first.apply(&mut x1, Direction::Forward)?;
        let second = self.coupling(&self.second, &x1)?;
        second.apply(&mut x2, Direction::Forward)?;
        let log_dets = log_dets(&first, &second)?;
        joined(&x1, &x2)?
            .into_iter()
            .zip(log_dets)
            .map(|(z, log_det)| {
                let z = z.clamp(-BOUND, BOUND)?;
                Ok(Flowed { z, log_det })
            })
            .collect()
    }

    /// The way back, with the log-determinants of that direction. What was cut at a million doesn't come back.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn inverse(&self, z: &[Tensor]) -> Result<Vec<Flowed>> {
        self.check(z)?;
        let (mut x1, mut x2) = self.halves(z)?;
        let second = self.coupling(&self.second, &x1)?;
        second.apply(&mut x2, Direction::Back)?;
        let first = self.coupling(&self.first, &x2)?;
        first.apply(&mut x1, Direction::Back)?;
        let log_dets = log_dets(&first, &second)?;
        select(&joined(&x1, &x2)?, &self.back)?
            .into_iter()
            .zip(log_dets)
            .map(|(z, log_det)| {
                let log_det = log_det.neg()?;
                Ok(Flowed { z, log_det })
            })
            .collect()
    }

    fn halves(&self, x: &[Tensor]) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let c = self.config.channels;
        let part = |from: usize, count: usize| -> Result<Vec<Tensor>> {
            x.iter().map(|x| Ok(x.narrow(1, from, count)?)).collect()
        };
        Ok((part(0, c / 2)?, part(c / 2, c - c / 2)?))
    }
}

impl Coupling {
    fn apply(&self, x: &mut [Tensor], direction: Direction) -> Result<()> {
        for ((x, log_scale), shift) in x.iter_mut().zip(&self.log_scale).zip(&self.shift) {
            *x = match direction {
                Direction::Forward => ((&*x * log_scale.exp()?)? + shift)?,
                Direction::Back => ((&*x - shift)? * log_scale.neg()?.exp()?)?,
            };
        }
        Ok(())
    }
}

fn log_dets(first: &Coupling, second: &Coupling) -> Result<Vec<Tensor>> {
    let sums = first.log_scale.iter().zip(&second.log_scale);
    sums.map(|(a, b)| Ok((a.flatten_from(1)?.sum(1)? + b.flatten_from(1)?.sum(1)?)?))
        .collect()
}

fn joined(x1: &[Tensor], x2: &[Tensor]) -> Result<Vec<Tensor>> {
    let pairs = x1.iter().zip(x2);
    pairs.map(|(a, b)| Ok(Tensor::cat(&[a, b], 1)?)).collect()
}

fn select(x: &[Tensor], orders: &[Tensor]) -> Result<Vec<Tensor>> {
    let pairs = x.iter().zip(orders);
    pairs
        .map(|(x, order)| Ok(x.index_select(order, 1)?))
        .collect()
}
