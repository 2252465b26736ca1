//! The layers that every block is made of, with PyTorch's first values.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;

use crate::dropout::Pass;

/// Groups of every norm of guided-diffusion.
pub(crate) const GROUPS: usize = 32;
const EPS: f64 = 1e-5;

/// First values of a layer's weight and bias.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// PyTorch's default for convolutions and linear layers: uniform within `1 / sqrt(fan_in)`.
    Default,
    /// All zero: the last layer of every residual branch.
    Zero,
}

impl Start {
    fn hint(self, fan_in: usize) -> Init {
        match self {
            Self::Default => {
                let bound = 1. / (fan_in.max(1) as f64).sqrt();
                Init::Uniform {
                    lo: -bound,
                    up: bound,
                }
            }
            Self::Zero => Init::Const(0.),
        }
    }
}

/// A convolution whose weight may be stored with two spatial axes, one, or none.
#[derive(Clone, Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    /// Absent when the weight is computed from a variable, since a packed copy would miss its changes.
    ready: Option<Conv2d>,
}

impl Conv {
    /// A `k` x `k` convolution.
    pub(crate) fn new(
        (i, o): (usize, usize),
        k: usize,
        stride: usize,
        start: Start,
        vb: &VarBuilder,
    ) -> Result<Self> {
        Self::with_shape(&[o, i, k, k], stride, start, vb)
    }

    /// A 1x1 convolution stored as PyTorch's `Conv1d`, `(O, I, 1)`.
    pub(crate) fn new_1d((i, o): (usize, usize), start: Start, vb: &VarBuilder) -> Result<Self> {
        Self::with_shape(&[o, i, 1], 1, start, vb)
    }

    /// A linear layer, `(O, I)`, for [`Conv::forward_rows`].
    pub(crate) fn new_linear(
        (i, o): (usize, usize),
        start: Start,
        vb: &VarBuilder,
    ) -> Result<Self> {
        Self::with_shape(&[o, i], 1, start, vb)
    }

    fn with_shape(shape: &[usize], stride: usize, start: Start, vb: &VarBuilder) -> Result<Self> {
        // CPUs have no arithmetic of 16 bits that is fast, and candle has none of bf16 at all.
        let vb = if vb.device().is_cpu() {
            vb.to_dtype(wide(vb.dtype()))
        } else {
            vb.clone()
        };
        let fan_in = shape[1..].iter().product();
        let weight = vb.get_with_hints(shape, "weight", start.hint(fan_in))?;
        let bias = vb.get_with_hints(shape[0], "bias", start.hint(fan_in))?;
        let ready = if weight.track_op() && !weight.is_variable() {
            None
        } else {
            Some(Conv2d::new(weight.clone(), Some(bias.clone()), stride)?)
        };
        Ok(Self {
            weight,
            bias,
            stride,
            ready,
        })
    }

    /// In the type of `x`, whatever the weights' is.
    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.run(x, pass, Conv2d::forward)
    }

    /// [`Conv::forward`] of `x` upsampled to twice its size.
    pub(crate) fn forward_upsampled(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.run(x, pass, Conv2d::forward_upsampled)
    }

    /// [`Conv::forward`] plus `shift` `(B, O)` on every pixel.
    pub(crate) fn forward_shifted(&self, x: &Tensor, shift: &Tensor, pass: Pass) -> Result<Tensor> {
        let shift = shift.to_dtype(self.weight.dtype())?;
        self.run(x, pass, |conv, x| conv.forward_shifted(x, &shift))
    }

    /// [`Conv::forward`] plus `base`, a tensor of the result's shape.
    pub(crate) fn forward_onto(&self, x: &Tensor, base: &Tensor, pass: Pass) -> Result<Tensor> {
        let base = base.to_dtype(self.weight.dtype())?;
        self.run(x, pass, |conv, x| conv.forward_onto(x, &base))
    }

    fn run(
        &self,
        x: &Tensor,
        pass: Pass,
        f: impl FnOnce(&Conv2d, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (wide, dtype) = (x.to_dtype(self.weight.dtype())?, x.dtype());
        let constant = pass.constant_weights && self.weight.track_op();
        match &self.ready {
            Some(conv) if !constant => f(conv, &wide),
            _ => {
                let weight = pass.weight(&self.weight);
                let bias = Some(pass.weight(&self.bias));
                f(&Conv2d::new(weight, bias, self.stride)?, &wide)
            }
        }?
        .to_dtype(dtype)
    }

    /// A 1x1 convolution as a linear layer: `(B, I)` to `(B, O)`. Unlike a product of candle's, it leaves out the
    /// gradient of the weight where no one wants it.
    pub(crate) fn forward_rows(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let (b, i) = x.dims2()?;
        let y = self.forward(&x.t()?.contiguous()?.reshape((1, i, 1, b))?, pass)?;
        y.reshape(((), b))?.t()?.contiguous()
    }
}

/// `x W^T + b` on `(B, I)`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(crate) fn new((i, o): (usize, usize), start: Start, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints((o, i), "weight", start.hint(i))?,
            bias: vb.get_with_hints(o, "bias", start.hint(i))?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        fndm_kernels::linear(x, &pass.weight(&self.weight), &pass.weight(&self.bias))
    }
}

/// Group norm with 32 groups, computed in f32 whatever the input is.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    pub(crate) fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.to_dtype(wide(vb.dtype()));
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.))?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        fndm_kernels::group_norm(
            x,
            GROUPS,
            &pass.weight(&self.weight),
            &pass.weight(&self.bias),
            EPS,
        )
    }

    /// The norm, then `* (1 + scale) + shift` where given, then SiLU.
    pub(crate) fn forward_silu(
        &self,
        x: &Tensor,
        scale_shift: Option<(&Tensor, &Tensor)>,
        pass: Pass,
    ) -> Result<Tensor> {
        fndm_kernels::group_norm_silu(
            x,
            GROUPS,
            &pass.weight(&self.weight),
            &pass.weight(&self.bias),
            EPS,
            scale_shift,
        )
    }
}

/// The type that norms, embeddings and softmax are computed in: at least f32.
pub(crate) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
