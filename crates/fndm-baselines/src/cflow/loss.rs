use candle_core::Tensor;

use crate::Result;
use crate::flows::Flowed;

/// The logarithm of a standard normal density at 0.
const LOG_NORMAL: f64 = -0.918_938_533_204_672_7;

/// The log-likelihood `(N)` of rows whose flow gave `(N, C)`.
///
/// # Errors
/// Those of candle.
pub fn log_likelihood(flowed: &Flowed) -> Result<Tensor> {
    let channels = flowed.z.dim(1)?;
    let squares = flowed.z.sqr()?.sum(1)?;
    let constant = LOG_NORMAL * channels as f64;
    Ok(((squares * -0.5)? + constant)?.add(&flowed.log_det)?)
}

/// The log-likelihood per dimension, `(N)`.
///
/// # Errors
/// Those of candle.
pub fn per_dimension(flowed: &Flowed) -> Result<Tensor> {
    let channels = flowed.z.dim(1)? as f64;
    Ok((log_likelihood(flowed)? / channels)?)
}

/// The loss `(N)` of each row: minus the logarithm of the sigmoid of the log-likelihood per dimension. A batch's is the mean.
///
/// # Errors
/// Those of candle.
pub fn loss(flowed: &Flowed) -> Result<Tensor> {
    let x = per_dimension(flowed)?;
    // ln(1 + exp(-x)) = max(-x, 0) + ln(1 + exp(-|x|)), which can't overflow.
    let tail = (x.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok((x.neg()?.relu()? + tail)?)
}
