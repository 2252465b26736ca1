//! Updates of all parameters in one launch.

use super::super::program::optim as program;
use super::tensors::all_views;
use crate::optim::AdamConstants;
use candle_core::{Result, Tensor};

/// Parameter, first moment, second moment and gradient of each: contiguous, f32, of one CUDA device.
pub(crate) fn adam(tensors: &[[&Tensor; 4]], constants: &AdamConstants) -> Result<()> {
    let all: Vec<&Tensor> = tensors.iter().flatten().copied().collect();
    all_views(&all, |gpu, views| {
        let table: Vec<_> = views
            .as_chunks::<4>()
            .0
            .iter()
            .zip(tensors)
            .map(|(views, t)| (*views, t[0].elem_count()))
            .collect();
        program::adam(gpu, &table, constants)
    })
}

/// Average and parameter of each: contiguous, f32, of one CUDA device.
pub(crate) fn ema(tensors: &[[&Tensor; 2]], decay: f64) -> Result<()> {
    let all: Vec<&Tensor> = tensors.iter().flatten().copied().collect();
    all_views(&all, |gpu, views| {
        let table: Vec<_> = views
            .as_chunks::<2>()
            .0
            .iter()
            .zip(tensors)
            .map(|(views, t)| (*views, t[0].elem_count()))
            .collect();
        program::ema(gpu, &table, (1. - decay) as f32)
    })
}
