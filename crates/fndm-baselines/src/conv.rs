use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;
use fndm_models::Border;

use crate::Result;

/// A convolution with bias and zeros of k / 2 around: by the project's kernels where they have the size.
#[derive(Debug, Clone)]
pub(crate) enum Convolution {
    Kernel(Conv2d),
    General {
        conv: fndm_models::Convolution,
        bias: Tensor,
    },
}

impl Convolution {
    /// `(O, I, k, k)` and `(O)` under `weight` and `bias`, drawn as `PyTorch` does where they are new.
    pub(crate) fn new(
        (inputs, outputs): (usize, usize),
        kernel: usize,
        stride: usize,
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let bound = 1.0 / ((inputs * kernel * kernel) as f64).sqrt();
        let init = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let weight = vb.get_with_hints((outputs, inputs, kernel, kernel), "weight", init)?;
        let bias = vb.get_with_hints(outputs, "bias", init)?;
        Ok(match kernel {
            1 | 3 => Self::Kernel(Conv2d::new(weight, Some(bias), stride)?),
            _ => Self::General {
                conv: fndm_models::Convolution::of_weight(weight, stride, Border::Zeros)?,
                bias,
            },
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Kernel(conv) => conv.forward(x)?,
            Self::General { conv, bias } => {
                let bias = bias.reshape((1, (), 1, 1))?;
                conv.forward(x)?.broadcast_add(&bias)?
            }
        })
    }
}
