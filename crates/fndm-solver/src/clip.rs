//! Limits on the predicted clean image.

use candle_core::{DType, Device, Tensor};
use fndm_kernels::linear_combination;

use crate::{Clip, Result};

impl Clip {
    /// `x0` is `(B, ...)`.
    pub(crate) fn apply(self, x0: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x0.clone()),
            Self::Static { max } => Ok(x0.clamp(-max, max)?),
            Self::Dynamic { ratio, least, most } => {
                let samples = x0.dim(0)?;
                let mut limited = Vec::with_capacity(samples);
                for i in 0..samples {
                    let sample = x0.narrow(0, i, 1)?;
                    let s = quantile(&sample, ratio)?
                        .max(least)
                        .min(most.unwrap_or(f64::INFINITY));
                    limited.push(linear_combination(&[(
                        1.0 / s,
                        &sample.clamp(-s, s)?.contiguous()?,
                    )])?);
                }
                Ok(Tensor::cat(&limited, 0)?)
            }
        }
    }
}

/// The `ratio` quantile of |x|, linear between order statistics. A NaN among the values counts as infinite.
fn quantile(x: &Tensor, ratio: f64) -> Result<f64> {
    let mut values: Vec<f64> = x
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    for v in &mut values {
        *v = if v.is_nan() { f64::INFINITY } else { v.abs() };
    }
    if values.is_empty() {
        return Ok(0.0);
    }
    let position = ratio * (values.len() - 1) as f64;
    let below = (position.floor() as usize).min(values.len() - 1);
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = above.iter().copied().fold(f64::INFINITY, f64::min);
    let part = position - below as f64;
    Ok(if part > 0.0 && !above.is_empty() {
        low + part * (high - low)
    } else {
        low
    })
}
