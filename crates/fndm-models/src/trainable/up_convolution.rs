//! Transposed convolution of 2x2 at stride 2: every pixel becomes a square of its own.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;

use super::interleave::interleave;
use crate::Result;

/// A transposed 2x2 convolution at stride 2: `(B, I, H, W)` to `(B, O, 2H, 2W)`. Windows don't overlap, so it is a product and a
/// rearrangement.
#[derive(Clone, Debug)]
pub struct UpConvolution {
    /// `(I, O, 2, 2)`
    weight: Tensor,
    /// `(O)`
    bias: Option<Tensor>,
}

impl UpConvolution {
    /// From `i` to `o` channels, with `weight` and, where asked for, `bias` below `vb`. They begin as PyTorch's do.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or has it in another shape.
    pub fn new((i, o): (usize, usize), bias: bool, vb: &VarBuilder<'_>) -> Result<Self> {
        // PyTorch counts the inputs of a transposed weight by its second axis.
        let bound = 1. / (4. * o.max(1) as f64).sqrt();
        let start = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let bias = bias.then(|| vb.get_with_hints(o, "bias", start));
        Ok(Self {
            weight: vb.get_with_hints((i, o, 2, 2), "weight", start)?,
            bias: bias.transpose()?,
        })
    }

    /// The weights of the product, `(4 O, I)`.
    pub(crate) fn product(&self) -> Result<Tensor> {
        let (i, o, ..) = self.weight.dims4()?;
        Ok(self.weight.reshape((i, 4 * o))?.t()?.contiguous()?)
    }

    /// See the type.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, o, ..) = self.weight.dims4()?;
        let y = interleave(&Conv2d::new(self.product()?, None, 1)?.forward(x)?)?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, o, 1, 1))?)?,
            None => y,
        })
    }
}
