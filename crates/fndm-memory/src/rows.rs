//! The rows of a bank: owned, or a part of a mapped file.

use std::ops::Range;
use std::sync::Arc;

use fndm_kernels::MappedFile;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// How the rows of a bank are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// 4 bytes per value.
    #[default]
    F32,
    /// 2 bytes per value: about three digits. Values beyond 65504 are an error.
    F16,
}

impl Storage {
    /// Bytes of one value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Values `(N, D)`, f32 or f16. A copy of this is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    data: Data,
    count: usize,
    dimension: usize,
}

#[derive(Debug, Clone)]
enum Data {
    F32(Arc<Vec<f32>>),
    F16(Arc<Vec<f16>>),
    /// These bytes of a file are the values, aligned and of this machine's byte order.
    Mapped(Arc<MappedFile>, Range<usize>, Storage),
}

/// All values in the type that they are kept in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
}

impl Rows {
    pub(crate) fn new(rows: Array2<f32>, storage: Storage) -> Self {
        let (count, dimension) = rows.dim();
        let rows = if rows.is_standard_layout() {
            rows
        } else {
            rows.as_standard_layout().into_owned()
        };
        let (mut values, offset) = rows.into_raw_vec_and_offset();
        // An array can be a part of the vector that it owns.
        values.truncate(offset.unwrap_or(0) + count * dimension);
        values.drain(..offset.unwrap_or(0));
        let data = match storage {
            Storage::F32 => Data::F32(Arc::new(values)),
            Storage::F16 => {
                let mut half = vec![f16::ZERO; values.len()];
                half.convert_from_f32_slice(&values);
                Data::F16(Arc::new(half))
            }
        };
        Self {
            data,
            count,
            dimension,
        }
    }

    /// Rows from little-endian bytes, whose number must be that of the values.
    pub(crate) fn from_le_bytes(
        bytes: &[u8],
        storage: Storage,
        count: usize,
        dimension: usize,
    ) -> Self {
        let data = match storage {
            Storage::F32 => {
                let values = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                Data::F32(Arc::new(values.collect()))
            }
            Storage::F16 => {
                let values = bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b));
                Data::F16(Arc::new(values.collect()))
            }
        };
        Self {
            data,
            count,
            dimension,
        }
    }

    /// Rows that stay in a file, where they lie so that this machine can use them as they are; else they are copied.
    pub(crate) fn mapped(
        file: &Arc<MappedFile>,
        bytes: Range<usize>,
        storage: Storage,
        count: usize,
        dimension: usize,
    ) -> Self {
        let part = file.get(bytes.clone()).unwrap_or_default();
        let usable = match storage {
            Storage::F32 => bytemuck::try_cast_slice::<u8, f32>(part).is_ok(),
            Storage::F16 => bytemuck::try_cast_slice::<u8, u16>(part).is_ok(),
        };
        if cfg!(target_endian = "big") || !usable {
            return Self::from_le_bytes(part, storage, count, dimension);
        }
        Self {
            data: Data::Mapped(file.clone(), bytes, storage),
            count,
            dimension,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self.data, Data::Mapped(..))
    }

    pub(crate) fn values(&self) -> Values<'_> {
        match &self.data {
            Data::F32(values) => Values::F32(values),
            Data::F16(values) => Values::F16(values),
            Data::Mapped(file, bytes, storage) => {
                let part = file.get(bytes.clone()).unwrap_or_default();
                // Whether it can be seen so was found when the rows were made.
                match storage {
                    Storage::F32 => Values::F32(bytemuck::try_cast_slice(part).unwrap_or_default()),
                    Storage::F16 => {
                        let bits: &[u16] = bytemuck::try_cast_slice(part).unwrap_or_default();
                        Values::F16(bits.reinterpret_cast())
                    }
                }
            }
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<f32> {
        match self.values() {
            Values::F32(values) => values.to_vec(),
            Values::F16(values) => values.to_f32_vec(),
        }
    }
}

impl Values<'_> {
    /// The values in `range` as f32; `out` is as long as the range.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut [f32]) {
        match self {
            Self::F32(values) => out.copy_from_slice(&values[range]),
            Self::F16(values) => values[range].convert_to_f32_slice(out),
        }
    }
}
