//! Tensor operations that candle lacks or does slowly, forward and backward.
//!
//! Tensors are `(B, C, H, W)`. Every function is differentiable unless it says otherwise.
//! This is the first, plain form: every operation by candle alone.

mod plain;

pub use plain::{
    attention, avg_pool_2x, group_norm, group_norm_silu, linear_combination, silu,
    upsample_nearest_2x,
};

use candle_core::{Result, Tensor};

/// A 3x3 or 1x1 convolution with same padding (`k / 2`), stride 1 or 2, and its packed weights.
///
/// A weight that is a variable is packed at every call, since training changes it; any other weight is packed once.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
}

impl Conv2d {
    /// `weight` is `(O, I, k, k)` with k of 1 or 3, `bias` is `(O)`.
    ///
    /// # Errors
    /// When the shapes don't fit, k is neither 1 nor 3, or the stride is neither 1 nor 2.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize) -> Result<Self> {
        let (o, _, kh, kw) = weight.dims4()?;
        if kh != kw || !(kh == 1 || kh == 3) || !(stride == 1 || stride == 2) {
            candle_core::bail!(
                "conv2d: expected a 1x1 or 3x3 kernel and stride 1 or 2, got {kh}x{kw} and {stride}"
            );
        }
        if let Some(b) = &bias {
            if b.dims1()? != o {
                candle_core::bail!("conv2d: expected a bias of {o} values, got {:?}", b.dims());
            }
        }
        Ok(Self { weight, bias, stride })
    }

    /// The weight, `(O, I, k, k)`.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `(O)`.
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `(B, I, H, W)` to `(B, O, ceil(H / stride), ceil(W / stride))`.
    ///
    /// # Errors
    /// When the channels of `x` aren't the weight's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        plain::conv2d(x, &self.weight, self.bias.as_ref(), self.stride)
    }
}
