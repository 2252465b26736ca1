//! A convolution and the batch norm that follows it: two steps in training, one for inference.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use fndm_kernels::Conv2d;

use super::convolution::convolve;
use super::interleave::interleave;
use super::{BatchNorm, BatchNorms, Border, Convolution, Mode, UpConvolution};
use crate::Result;

/// A convolution, or a transposed 2x2 one, with the batch norm that follows it.
#[derive(Clone, Debug)]
pub struct ConvNorm(Parts);

#[derive(Clone, Debug)]
enum Parts {
    Conv(Convolution, BatchNorm),
    Up(UpConvolution, BatchNorm),
    /// The norm of evaluation is in the weights.
    Folded(Folded),
    /// The same of a transposed one: the product, before its rearrangement.
    FoldedUp(Conv2d),
}

#[derive(Clone, Debug)]
struct Folded {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    border: Border,
    /// For what the kernels have as it is: weights are packed once.
    ready: Option<Conv2d>,
}

impl ConvNorm {
    /// The two together.
    #[must_use]
    pub fn new(conv: Convolution, norm: BatchNorm) -> Self {
        Self(Parts::Conv(conv, norm))
    }

    /// A `k` x `k` convolution from `i` to `o` channels named `conv` and its norm named `norm`, both below `vb`.
    ///
    /// # Errors
    /// As [`Convolution::new`] and [`BatchNorm::new`].
    pub fn named(
        (conv, norm): (&str, &str),
        (i, o): (usize, usize),
        (k, stride): (usize, usize),
        (border, eps): (Border, f64),
        vb: &VarBuilder<'_>,
        norms: &BatchNorms,
    ) -> Result<Self> {
        Ok(Self::new(
            Convolution::new((i, o), k, stride, border, &vb.pp(conv))?,
            BatchNorm::new(o, eps, &vb.pp(norm), norms)?,
        ))
    }

    /// A transposed 2x2 convolution without bias, named likewise.
    ///
    /// # Errors
    /// As [`UpConvolution::new`] and [`BatchNorm::new`].
    pub fn up(
        (conv, norm): (&str, &str),
        (i, o): (usize, usize),
        eps: f64,
        vb: &VarBuilder<'_>,
        norms: &BatchNorms,
    ) -> Result<Self> {
        Ok(Self(Parts::Up(
            UpConvolution::new((i, o), false, &vb.pp(conv))?,
            BatchNorm::new(o, eps, &vb.pp(norm), norms)?,
        )))
    }

    /// `(B, I, H, W)` to `(B, O, H', W')`.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match &self.0 {
            Parts::Conv(conv, norm) => norm.forward(&conv.forward(x)?, mode),
            Parts::Up(conv, norm) => norm.forward(&conv.forward(x)?, mode),
            Parts::Folded(folded) => folded.forward(x),
            Parts::FoldedUp(product) => Ok(interleave(&product.forward(x)?)?),
        }
    }

    /// The convolution's output alone, before the norm; none where both are one.
    ///
    /// # Errors
    /// When the channels differ.
    pub fn before_norm(&self, x: &Tensor) -> Result<Option<Tensor>> {
        Ok(match &self.0 {
            Parts::Conv(conv, _) => Some(conv.forward(x)?),
            Parts::Up(conv, _) => Some(conv.forward(x)?),
            Parts::Folded(_) | Parts::FoldedUp(_) => None,
        })
    }

    /// The same for inference, with today's weights and running statistics: whatever mode it is asked for, it evaluates.
    ///
    /// # Errors
    /// Those of candle.
    pub fn folded(&self) -> Result<Self> {
        let (conv, norm) = match &self.0 {
            Parts::Conv(conv, norm) => (conv, norm),
            Parts::Up(conv, norm) => {
                // Every output channel is four of the product.
                let (scale, bias) = norm.affine()?;
                let four = |t: &Tensor| t.unsqueeze(1)?.repeat((1, 4))?.flatten_all();
                let (weight, bias) = fold(&conv.product()?, &four(&scale)?, &four(&bias)?)?;
                let product = Conv2d::new(weight, Some(bias), 1)?;
                return Ok(Self(Parts::FoldedUp(product)));
            }
            Parts::Folded(_) | Parts::FoldedUp(_) => return Ok(self.clone()),
        };
        let (weight, stride, border) = conv.parts();
        let (scale, bias) = norm.affine()?;
        let (folded, bias) = fold(weight, &scale, &bias)?;
        let k = weight.dim(2)?;
        let fits = k == 1 || (k == 3 && border == Border::Zeros);
        let ready = fits.then(|| Conv2d::new(folded.clone(), Some(bias.clone()), stride));
        Ok(Self(Parts::Folded(Folded {
            ready: ready.transpose()?,
            weight: folded,
            bias,
            stride,
            border,
        })))
    }
}

/// Weights `(O, …)` times the norm's scales `(O)`, and its shifts, in the weights' type. In f64, so that the fold itself costs no precision.
fn fold(weight: &Tensor, scale: &Tensor, bias: &Tensor) -> Result<(Tensor, Tensor)> {
    let mut per_output = vec![1; weight.rank()];
    per_output[0] = scale.elem_count();
    let folded = weight
        .detach()
        .to_dtype(DType::F64)?
        .broadcast_mul(&scale.detach().reshape(per_output)?)?
        .to_dtype(weight.dtype())?;
    Ok((folded, bias.detach().to_dtype(weight.dtype())?))
}

impl Folded {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.ready {
            Some(conv) => Ok(conv.forward(x)?),
            None => convolve(x, &self.weight, Some(&self.bias), self.stride, self.border),
        }
    }
}
