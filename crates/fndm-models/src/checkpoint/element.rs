//! The types of values that checkpoints hold, and their bytes.

use std::io::{Read, Result as IoResult, Write};

use candle_core::{DType, Device, Result, Tensor, WithDType};

use half::vec::{HalfBitsVecExt, HalfFloatVecExt};
use half::{bf16, f16};

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

impl Values {
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

/// The number of elements of a shape and their bytes, unless they overflow.
pub(crate) fn size(shape: &[usize], dtype: DType) -> Option<(usize, u64)> {
    let elements = shape
        .iter()
        .try_fold(1usize, |n, &side| n.checked_mul(side))?;
    let bytes = elements.checked_mul(dtype.size_in_bytes())?;
    Some((elements, bytes as u64))
}
