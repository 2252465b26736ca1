use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;

use crate::Result;

/// A convolution with bias and zeros of k / 2 around: by the project's kernels where they have the size.
#[derive(Debug, Clone)]
pub(crate) enum Convolution {
    Kernel(Conv2d),
    General {
        weight: Tensor,
        bias: Tensor,
        stride: usize,
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
                weight,
                bias,
                stride,
            },
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Kernel(conv) => conv.forward(x)?,
            Self::General {
                weight,
                bias,
                stride,
            } => {
                let padding = weight.dim(2)? / 2;
                x.conv2d(weight, padding, *stride, 1, 1)?
                    .broadcast_add(&bias.reshape((1, (), 1, 1))?)?
            }
        })
    }
}
