//! Maps as tensors and as arrays.

use candle_core::{DType, Device, Tensor};
use fndm_memory::{Edge, gaussian_blur};
use ndarray::Array3;

use crate::{Error, Result};

/// Maps `(B, H, W)` or `(B, 1, H, W)` as an array.
pub(crate) fn to_array(maps: &Tensor) -> Result<Array3<f32>> {
    let maps = match maps.dims() {
        [_, 1, _, _] => maps.squeeze(1)?,
        [_, _, _] => maps.clone(),
        other => return Err(Error::shape("maps", "(B, H, W)", other)),
    };
    let shape = maps.dims3()?;
    let values = maps
        .detach()
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?
        .flatten_all()?
        .to_vec1()?;
    Array3::from_shape_vec(shape, values).map_err(|e| Error::shape("maps", "(B, H, W)", e))
}

/// An array of maps as a tensor.
pub(crate) fn to_tensor(maps: &Array3<f32>, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = maps.iter().copied().collect();
    Ok(Tensor::from_vec(values, maps.dim(), device)?)
}

/// Maps smoothed by a Gaussian of so many pixels, cut at 4 sigma.
pub(crate) fn blurred(maps: &Tensor, sigma: f64, edge: Edge) -> Result<Tensor> {
    let mut array = to_array(maps)?;
    gaussian_blur(&mut array, sigma, edge)?;
    to_tensor(&array, maps.device())
}

/// The largest value of each map.
pub(crate) fn largest(maps: &Tensor) -> Result<Vec<f32>> {
    let rows = maps.detach().flatten_from(1)?.max(1)?;
    Ok(rows.to_dtype(DType::F32)?.to_vec1()?)
}

/// The smallest difference that a norm is taken to have, as a length: `max(|x|, least)` over the channels, `(B, 1, H, W)`. At 0 its
/// gradient is none.
pub(crate) fn norm_at_least(x: &Tensor, axis: usize, least: f64) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(axis)?;
    // The root has no gradient at 0, so the limit comes first.
    let floor = Tensor::new((least * least) as f32, x.device())?.to_dtype(squares.dtype())?;
    Ok(squares.broadcast_maximum(&floor)?.sqrt()?)
}
