//! Labels, checked before they index anything.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// The labels `y` `(batch)` as `u32`, each below `classes`. Candle takes the largest number of a type for "nothing",
/// so -1 would pass as a row of zeros.
pub(crate) fn checked(y: &Tensor, batch: usize, classes: usize) -> Result<Tensor> {
    if y.dims() != [batch] {
        return Err(Error::input("y", format!("({batch}) labels"), y.dims()));
    }
    if !y.dtype().is_int() {
        return Err(Error::input("y", "whole numbers", y.dtype()));
    }
    let values: Vec<i64> = y.to_dtype(DType::I64)?.to_vec1()?;
    match values.iter().find(|v| !(0..classes as i64).contains(v)) {
        Some(label) => Err(Error::input("y", format!("labels below {classes}"), label)),
        None => Ok(y.to_dtype(DType::U32)?.contiguous()?),
    }
}
