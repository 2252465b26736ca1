//! Limits on the predicted clean image.

use candle_core::{DType, Device, Tensor};
use fndm_kernels::linear_combination;

use crate::{Clip, Result};

impl Clip {
    /// `x0` is `(B, ...)`.
    pub(crate) fn apply(self, x0: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x0.clone()),
            Self::Static { max } => limit(x0, max),
            Self::Dynamic { ratio, least, most } => {
                let samples = x0.dim(0)?;
                let mut limited = Vec::with_capacity(samples);
                for i in 0..samples {
                    let sample = x0.narrow(0, i, 1)?;
                    let s = bounded(quantile(&sample, ratio)?, least, most);
                    limited.push(linear_combination(&[(
                        1.0 / s,
                        &limit(&sample, s)?.contiguous()?,
                    )])?);
                }
                Ok(Tensor::cat(&limited, 0)?)
            }
        }
    }
}

/// `x` limited to `[-max, max]`; a NaN stays one.
fn limit(x: &Tensor, max: f64) -> Result<Tensor> {
    let limited = x.clamp(-max, max)?;
    if x.device().is_cpu() {
        return Ok(limited);
    }
    // The smaller and larger of two on a GPU are those of C, which prefer the number to the NaN.
    Ok(x.ne(x)?.where_cond(x, &limited)?)
}

/// `s`, at least `least` and at most `most`; a NaN stays one, unlike with `f64::max`.
fn bounded(s: f64, least: f64, most: Option<f64>) -> f64 {
    let s = if s < least { least } else { s };
    match most {
        Some(most) if s > most => most,
        _ => s,
    }
}

/// The `ratio` quantile of |x|, linear between order statistics; NaN when a value is.
fn quantile(x: &Tensor, ratio: f64) -> Result<f64> {
    let mut values: Vec<f64> = x
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    if values.iter().any(|v| v.is_nan()) {
        return Ok(f64::NAN);
    }
    for v in &mut values {
        *v = v.abs();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample with a NaN is all NaN under a dynamic threshold, as its quantile is; the others stay what they are.
    #[test]
    fn nan_is_never_limited_away() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let x = [[3.0, f64::NAN, -0.5, 0.25], [3.0, 1.0, -0.5, 0.25]];
            let x = Tensor::new(&x, &Device::Cpu)?.to_dtype(dtype)?;
            for (clip, kept) in [
                (Clip::Static { max: 1.0 }, vec![1.0, -0.5, 0.25]),
                (
                    Clip::Dynamic {
                        ratio: 1.0,
                        least: 1.0,
                        most: Some(2.0),
                    },
                    vec![],
                ),
            ] {
                let rows = clip.apply(&x)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
                assert!(rows[0][1].is_nan(), "{clip:?} {rows:?}");
                let others: Vec<f64> = rows[0].iter().copied().filter(|v| !v.is_nan()).collect();
                assert_eq!(others, kept, "{clip:?}");
                assert!(rows[1].iter().all(|v| v.abs() <= 1.0), "{clip:?} {rows:?}");
            }
        }
        Ok(())
    }
}
