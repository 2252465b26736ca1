//! Convolutions without bias of any odd size, padded by zeros or by reflection.

use candle_core::Tensor;
use candle_nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What lies beyond the edge of an image that is convolved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Border {
    /// Zeros.
    #[default]
    Zeros,
    /// The image mirrored, the edge not repeated.
    Reflect,
}

/// A convolution without bias, of an odd kernel, stride 1 or 2, padded by half the kernel: `(B, I, H, W)` to
/// `(B, O, ceil(H / stride), ceil(W / stride))`.
#[derive(Clone, Debug)]
pub struct Convolution {
    weight: Tensor,
    stride: usize,
    border: Border,
    /// The weights as a product's, ordered once where no training changes them.
    product: Option<Conv2d>,
}

impl Convolution {
    /// A `k` x `k` convolution from `i` to `o` channels, whose weight is `weight` below `vb`. It begins as torchvision's residual
    /// networks do (He et al. 2015, by the outputs).
    ///
    /// # Errors
    /// When `k` is even, the stride neither 1 nor 2, or `vb` lacks the tensor.
    pub fn new(
        (i, o): (usize, usize),
        k: usize,
        stride: usize,
        border: Border,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let start = Init::Kaiming {
            dist: NormalOrUniform::Normal,
            fan: FanInOut::FanOut,
            non_linearity: NonLinearity::ReLU,
        };
        Self::of_weight(
            vb.get_with_hints((o, i, k, k), "weight", start)?,
            stride,
            border,
        )
    }

    /// The convolution with this weight `(O, I, k, k)`.
    ///
    /// # Errors
    /// When `k` is even or the stride neither 1 nor 2.
    pub fn of_weight(weight: Tensor, stride: usize, border: Border) -> Result<Self> {
        let (_, _, k, _) = weight.dims4()?;
        if k % 2 == 0 || weight.dim(3)? != k || !(1..=2).contains(&stride) {
            return Err(Error::input(
                "convolution",
                "an odd square kernel and stride 1 or 2",
                format!("{:?}, stride {stride}", weight.dims()),
            ));
        }
        let ordered = k > 3 && !weight.track_op();
        let product = ordered.then(|| product(&weight, None)).transpose()?;
        Ok(Self {
            weight,
            stride,
            border,
            product,
        })
    }

    pub(crate) fn parts(&self) -> (&Tensor, usize, Border) {
        (&self.weight, self.stride, self.border)
    }

    /// See the type.
    ///
    /// # Errors
    /// When the channels differ, or the image is too small to be mirrored.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let k = self.weight.dim(2)?;
        match &self.product {
            Some(product) => Ok(product.forward(&columns(x, k, self.stride, self.border)?)?),
            None => convolve(x, &self.weight, None, self.stride, self.border),
        }
    }
}

/// The convolution of `x` by `weight` `(O, I, k, k)`, plus `bias` `(O)`, padded by half the odd kernel.
pub(crate) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    border: Border,
) -> Result<Tensor> {
    let k = weight.dim(2)?;
    if k == 1 || (k == 3 && border == Border::Zeros) {
        return Ok(Conv2d::new(weight.clone(), bias.cloned(), stride)?.forward(x)?);
    }
    if k == 3 {
        return reflected_3x3(x, weight, bias, stride);
    }
    Ok(product(weight, bias)?.forward(&columns(x, k, stride, border)?)?)
}

/// The convolution as a product with [`columns`].
fn product(weight: &Tensor, bias: Option<&Tensor>) -> Result<Conv2d> {
    let (o, i, k, _) = weight.dims4()?;
    let rows = weight.permute((0, 2, 3, 1))?.reshape((o, k * k * i, 1))?;
    Ok(Conv2d::new(rows, bias.cloned(), 1)?)
}

/// What [`product`] is multiplied with: the padded image, unfolded.
fn columns(x: &Tensor, k: usize, stride: usize, border: Border) -> Result<Tensor> {
    let (x, pad) = match border {
        Border::Zeros => (x.clone(), k / 2),
        Border::Reflect => (reflect(x, k / 2)?, 0),
    };
    Ok(fndm_kernels::unfold(&x, k, stride, [(pad, pad); 2])?)
}

/// The kernels pad by zeros, so the mirrored image is convolved and its edge cut off. At stride 2 a line of zeros moves the
/// image's own pixels, which are the centres, to even places.
fn reflected_3x3(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let mut padded = reflect(x, 1)?;
    if stride == 2 {
        padded = padded.pad_with_zeros(2, 1, 0)?.pad_with_zeros(3, 1, 0)?;
    }
    let y = Conv2d::new(weight.clone(), bias.cloned(), stride)?.forward(&padded)?;
    Ok(y.narrow(2, 1, h.div_ceil(stride))?
        .narrow(3, 1, w.div_ceil(stride))?
        .contiguous()?)
}

/// The image with `n` mirrored lines on every side, the edge not repeated: `(B, C, H, W)` to `(B, C, H + 2n, W + 2n)`.
///
/// # Errors
/// When a side isn't longer than `n`.
pub fn reflect(x: &Tensor, n: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    if h <= n || w <= n {
        return Err(Error::input(
            "image",
            format!("more than {n} pixels a side, to be mirrored"),
            x.dims(),
        ));
    }
    let mut x = x.clone();
    for (axis, side) in [(2, h), (3, w)] {
        let before = (1..=n).rev();
        let after = (side - 1 - n..side - 1).rev();
        let lines: Vec<Tensor> = before
            .map(|at| x.narrow(axis, at, 1))
            .chain([Ok(x.clone())])
            .chain(after.map(|at| x.narrow(axis, at, 1)))
            .collect::<candle_core::Result<_>>()?;
        x = Tensor::cat(&lines, axis)?;
    }
    Ok(x)
}
