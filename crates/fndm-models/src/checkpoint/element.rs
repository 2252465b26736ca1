//! The types of values that checkpoints hold, and their bytes.

use std::io::{Read, Result as IoResult, Write};

use candle_core::{DType, Device, Result, Tensor, WithDType};

use half::vec::{HalfBitsVecExt, HalfFloatVecExt};
use half::{bf16, f16};

/// Most axes of a tensor.
pub(crate) const MAX_AXES: usize = 16;

/// A fixed number of little-endian values, straight into the memory that the tensor keeps.
pub(crate) fn read(source: &mut dyn Read, dtype: DType, elements: usize) -> IoResult<Values> {
    fn plain<T: bytemuck::Pod>(source: &mut dyn Read, n: usize) -> IoResult<Vec<T>> {
        let mut values = vec![T::zeroed(); n];
        source.read_exact(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }
    Ok(match dtype {
        DType::F64 => Values::F64(plain(source, elements)?),
        DType::F16 => Values::F16(plain::<u16>(source, elements)?.reinterpret_into()),
        DType::BF16 => Values::BF16(plain::<u16>(source, elements)?.reinterpret_into()),
        DType::I64 => Values::I64(plain(source, elements)?),
        DType::U8 => Values::U8(plain(source, elements)?),
        _ => Values::F32(plain(source, elements)?),
    })
}

/// Values in memory, not yet of a shape.
#[derive(Debug)]
pub(crate) enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    U8(Vec<u8>),
}

/// A tensor's place among the values of a storage: the first, and the step along each axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) start: usize,
    pub(crate) shape: &'a [usize],
    pub(crate) strides: &'a [usize],
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F16(v) => v.len(),
            Self::BF16(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::U8(v) => v.len(),
        }
    }

    pub(crate) fn into_tensor(self, shape: &[usize]) -> Result<Tensor> {
        let device = &Device::Cpu;
        match self {
            Self::F64(v) => Tensor::from_vec(v, shape, device),
            Self::F32(v) => Tensor::from_vec(v, shape, device),
            Self::F16(v) => Tensor::from_vec(v, shape, device),
            Self::BF16(v) => Tensor::from_vec(v, shape, device),
            Self::I64(v) => Tensor::from_vec(v, shape, device),
            Self::U8(v) => Tensor::from_vec(v, shape, device),
        }
    }

    /// A copy of what a view shows. The view must lie within the values.
    pub(crate) fn copied(&self, view: View<'_>) -> Self {
        match self {
            Self::F64(v) => Self::F64(view.copy(v)),
            Self::F32(v) => Self::F32(view.copy(v)),
            Self::F16(v) => Self::F16(view.copy(v)),
            Self::BF16(v) => Self::BF16(view.copy(v)),
            Self::I64(v) => Self::I64(view.copy(v)),
            Self::U8(v) => Self::U8(view.copy(v)),
        }
    }
}

impl View<'_> {
    /// Whether the values stand in a row, in the order of the shape.
    pub(crate) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        for (side, stride) in self.shape.iter().zip(self.strides).rev() {
            if *side != 1 && *stride != expected {
                return false;
            }
            expected *= side;
        }
        true
    }

    fn copy<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let elements = self.shape.iter().product();
        if self.is_contiguous() {
            return values[self.start..][..elements].to_vec();
        }
        let mut out = Vec::with_capacity(elements);
        let mut at = vec![0; self.shape.len()];
        let mut position = self.start;
        for _ in 0..elements {
            out.push(values[position]);
            for axis in (0..at.len()).rev() {
                at[axis] += 1;
                position += self.strides[axis];
                if at[axis] < self.shape[axis] {
                    break;
                }
                position -= at[axis] * self.strides[axis];
                at[axis] = 0;
            }
        }
        out
    }
}

/// Writes a tensor's values, little-endian, in the order of its shape.
pub(crate) fn write(tensor: &Tensor, sink: &mut dyn Write) -> crate::Result<IoResult<()>> {
    fn values<T: WithDType>(tensor: &Tensor) -> Result<Vec<T>> {
        tensor.flatten_all()?.to_vec1()
    }
    Ok(match tensor.dtype() {
        DType::F64 => sink.write_all(bytemuck::cast_slice(&values::<f64>(tensor)?)),
        DType::F32 => sink.write_all(bytemuck::cast_slice(&values::<f32>(tensor)?)),
        DType::F16 => sink.write_all(bytemuck::cast_slice(
            &values::<f16>(tensor)?.reinterpret_into(),
        )),
        DType::BF16 => sink.write_all(bytemuck::cast_slice(
            &values::<bf16>(tensor)?.reinterpret_into(),
        )),
        DType::I64 => sink.write_all(bytemuck::cast_slice(&values::<i64>(tensor)?)),
        DType::U8 => sink.write_all(&values::<u8>(tensor)?),
        other => {
            return Err(crate::Error::Config(format!(
                "a checkpoint can't hold tensors of {other:?}"
            )));
        }
    })
}

/// The number of elements of a shape and their bytes, unless they overflow. Axes of no elements don't excuse the others:
/// whoever multiplies the sides in another order would overflow.
pub(crate) fn size(shape: &[usize], dtype: DType) -> Option<(usize, u64)> {
    let most = shape
        .iter()
        .try_fold(1usize, |n, &side| n.checked_mul(side.max(1)))?;
    let bytes = most.checked_mul(dtype.size_in_bytes())?;
    if shape.contains(&0) {
        return Some((0, 0));
    }
    Some((most, bytes as u64))
}
