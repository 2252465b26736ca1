//! A convolution with the batch norm that follows it, as one convolution.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use fndm_kernels::Conv2d;

/// How a convolution treats the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// PyTorch's `k / 2` on every side.
    Half,
    /// TensorFlow's "SAME": what makes the output `ceil(n / stride)`, the smaller half before.
    Same,
}

/// Shape and names of a convolution and its norm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) conv: &'a str,
    pub(crate) norm: &'a str,
    pub(crate) channels: (usize, usize),
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) depthwise: bool,
    pub(crate) padding: Padding,
    pub(crate) eps: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct NormConv {
    weight: Tensor,
    bias: Tensor,
    /// For shapes that the project's own kernels have.
    fast: Option<Conv2d>,
    kernel: usize,
    stride: usize,
    depthwise: bool,
    padding: Padding,
}

impl NormConv {
    pub(crate) fn new(spec: Spec<'_>, vb: &VarBuilder) -> Result<Self> {
        let ((i, o), k) = (spec.channels, spec.kernel);
        let per_group = if spec.depthwise { 1 } else { i };
        let weight = vb.get((o, per_group, k, k), &format!("{}.weight", spec.conv))?;
        let norm = vb.pp(spec.norm);
        let get = |name: &str| norm.get(o, name)?.to_dtype(DType::F64);
        let (gamma, beta) = (get("weight")?, get("bias")?);
        let (mean, variance) = (get("running_mean")?, get("running_var")?);
        // Folded in f64, so that the fold itself costs no precision.
        let scale = (gamma / (variance + spec.eps)?.sqrt()?)?;
        let bias = (beta - (mean * &scale)?)?.to_dtype(weight.dtype())?;
        let weight = weight
            .to_dtype(DType::F64)?
            .broadcast_mul(&scale.reshape((o, 1, 1, 1))?)?
            .to_dtype(weight.dtype())?;
        let fits = match spec.padding {
            Padding::Half => k == 1 || k == 3,
            Padding::Same => k == 1 || (k == 3 && spec.stride == 1),
        };
        let fast = if fits && !spec.depthwise {
            Some(Conv2d::new(
                weight.clone(),
                Some(bias.clone()),
                spec.stride,
            )?)
        } else {
            None
        };
        Ok(Self {
            weight,
            bias,
            fast,
            kernel: k,
            stride: spec.stride,
            depthwise: spec.depthwise,
            padding: spec.padding,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(conv) = &self.fast {
            return conv.forward(x);
        }
        let (_, _, h, w) = x.dims4()?;
        let (rows, columns) = (self.pad(h), self.pad(w));
        if self.depthwise {
            let pads = [rows, columns];
            return fndm_kernels::depthwise(x, &self.weight, &self.bias, self.stride, pads);
        }
        let padded = x
            .pad_with_zeros(2, rows.0, rows.1)?
            .pad_with_zeros(3, columns.0, columns.1)?;
        padded
            .conv2d(&self.weight, 0, self.stride, 1, 1)?
            .broadcast_add(&self.bias.reshape((1, (), 1, 1))?)
    }

    /// Zeros before and after a side of `n`.
    fn pad(&self, n: usize) -> (usize, usize) {
        match self.padding {
            Padding::Half => (self.kernel / 2, self.kernel / 2),
            Padding::Same => {
                let total =
                    ((n.div_ceil(self.stride) - 1) * self.stride + self.kernel).saturating_sub(n);
                (total / 2, total - total / 2)
            }
        }
    }
}
