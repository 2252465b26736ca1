//! The sinusoidal embedding of time, and the network that follows it.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use crate::dropout::Pass;
use crate::layers::{Linear, Start, wide};

/// Sinusoidal embedding of times `t` (B) as `(B, dim)` in f32: cosines first, then sines, and one zero column
/// when `dim` is odd. Frequency i is `max_period^(-i / (dim / 2))`.
///
/// Times may be fractional. Source: guided-diffusion, after Vaswani et al. 2017.
///
/// # Errors
/// When `t` isn't one-dimensional.
pub fn timestep_embedding(t: &Tensor, dim: usize, max_period: f64) -> Result<Tensor> {
    Sinusoids::new(dim, max_period, t.device())?.forward(t)
}

#[derive(Clone, Debug)]
struct Sinusoids {
    frequencies: Tensor,
    odd: bool,
}

impl Sinusoids {
    fn new(dim: usize, max_period: f64, device: &Device) -> Result<Self> {
        let half = dim / 2;
        // Every step is rounded to f32 as in the original: at t = 1000 its rounding is visible in the angle.
        let log_period = -max_period.ln() as f32;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| f64::from(log_period * i as f32 / half as f32).exp() as f32)
            .collect();
        Ok(Self {
            frequencies: Tensor::from_vec(frequencies, (1, half), device)?,
            odd: dim % 2 == 1,
        })
    }

    fn forward(&self, t: &Tensor) -> Result<Tensor> {
        let angles = t
            .to_dtype(DType::F32)?
            .unsqueeze(1)?
            .broadcast_mul(&self.frequencies)?;
        let both = Tensor::cat(&[angles.cos()?, angles.sin()?], D::Minus1)?;
        if self.odd {
            both.pad_with_zeros(D::Minus1, 0, 1)
        } else {
            Ok(both)
        }
    }
}

/// Sinusoids, linear, SiLU, linear: `(B)` to `(B, 4 * model_channels)`.
#[derive(Clone, Debug)]
pub(crate) struct TimeEmbedding {
    sinusoids: Sinusoids,
    first: Linear,
    second: Linear,
    dtype: DType,
}

impl TimeEmbedding {
    pub(crate) fn new(model_channels: usize, vb: &VarBuilder) -> Result<Self> {
        let dtype = wide(vb.dtype());
        let vb = vb.pp("time_embed").to_dtype(dtype);
        let width = 4 * model_channels;
        Ok(Self {
            sinusoids: Sinusoids::new(model_channels, 10_000., vb.device())?,
            first: Linear::new((model_channels, width), Start::Default, &vb.pp(0))?,
            second: Linear::new((width, width), Start::Default, &vb.pp(2))?,
            dtype,
        })
    }

    pub(crate) fn forward(&self, t: &Tensor, pass: Pass) -> Result<Tensor> {
        let h = self.sinusoids.forward(t)?.to_dtype(self.dtype)?;
        let h = fndm_kernels::silu(&self.first.forward(&h, pass)?)?;
        self.second.forward(&h, pass)
    }
}
