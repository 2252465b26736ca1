//! Building a network from a state dict so that every difference is found, and all are told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::StateDict;
use crate::error::Mismatch;
use crate::{Error, Result};

#[derive(Debug, Default)]
struct Record {
    used: BTreeSet<String>,
    mismatch: Mismatch,
}

/// Gives tensors by name. In place of one that doesn't fit it gives zeros of the right shape, and keeps a record.
#[derive(Debug)]
struct Strict {
    tensors: BTreeMap<String, Tensor>,
    record: Arc<Mutex<Record>>,
}

/// Runs `build` on the tensors of `state`.
///
/// # Errors
/// Those of `build`, or all missing, unexpected, wrongly shaped and wrongly typed tensors together.
pub(crate) fn build_strictly<T>(
    state: &StateDict,
    dtype: DType,
    device: &Device,
    build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
) -> Result<T> {
    let record = Arc::new(Mutex::new(Record::default()));
    let backend = Strict {
        tensors: state.tensors().clone(),
        record: record.clone(),
    };
    let network = build(VarBuilder::from_backend(
        Box::new(backend),
        dtype,
        device.clone(),
    ))?;
    let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
    let mut mismatch = std::mem::take(&mut record.mismatch);
    mismatch.unexpected = state
        .tensors()
        .keys()
        .filter(|name| !record.used.contains(*name))
        .cloned()
        .collect();
    mismatch.missing.sort();
    mismatch.shapes.sort();
    mismatch.types.sort();
    if mismatch.is_empty() {
        return Ok(network);
    }
    Err(Error::Mismatch {
        file: state.source().to_owned(),
        mismatch: Box::new(mismatch),
    })
}

impl SimpleBackend for Strict {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        record.used.insert(name.to_owned());
        let tensor = match self.tensors.get(name) {
            Some(tensor) if tensor.shape() != &shape => {
                let entry = (
                    name.to_owned(),
                    shape.dims().to_vec(),
                    tensor.dims().to_vec(),
                );
                record.mismatch.shapes.push(entry);
                None
            }
            Some(tensor) if !tensor.dtype().is_float() => {
                let entry = (name.to_owned(), format!("{:?}", tensor.dtype()));
                record.mismatch.types.push(entry);
                None
            }
            Some(tensor) => Some(tensor),
            None => {
                let entry = (name.to_owned(), shape.dims().to_vec());
                record.mismatch.missing.push(entry);
                None
            }
        };
        match tensor {
            Some(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            // One zero, seen as a whole tensor: no memory is spent on what is thrown away.
            None => Tensor::zeros(1, dtype, device)?.broadcast_as(shape),
        }
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            None => candle_core::bail!("{name}: not in the checkpoint, and its shape is unknown"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}
