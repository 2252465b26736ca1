//! Checks of the tensors that callers hand in.

use candle_core::{DType, Tensor};
use fndm_kernels::first_non_finite;

use crate::{Error, Result};

/// A state has a batch axis and a floating-point type.
pub(crate) fn check_state(x: &Tensor) -> Result<()> {
    let wrong = |expected: &str, got: String| {
        Err(Error::Tensor {
            what: "the state".into(),
            expected: expected.into(),
            got,
        })
    };
    match x.dtype() {
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 => {}
        other => return wrong("a type of f64, f32, f16 or bf16", format!("{other:?}")),
    }
    if x.rank() == 0 {
        return wrong("a batch axis", "a scalar".into());
    }
    Ok(())
}

/// The first sample of the batch `x` (B, ...) that has a NaN or an infinity, and that value.
pub(crate) fn not_finite(x: &Tensor) -> Result<Option<(usize, f64)>> {
    let Some(at) = first_non_finite(x)? else {
        return Ok(None);
    };
    let batch = x.dims().first().copied().unwrap_or(1).max(1);
    let each = (x.elem_count() / batch).max(1);
    let value = x.flatten_all()?.get(at)?.to_dtype(DType::F64)?;
    Ok(Some((at / each, value.to_scalar::<f64>()?)))
}

/// `tensor` has the shape and type of the state `like`.
pub(crate) fn expect_like(what: &str, tensor: &Tensor, like: &Tensor) -> Result<()> {
    if tensor.dims() == like.dims() && tensor.dtype() == like.dtype() {
        return Ok(());
    }
    Err(Error::Tensor {
        what: what.to_string(),
        expected: format!("the state's {:?} {:?}", like.dims(), like.dtype()),
        got: format!("{:?} {:?}", tensor.dims(), tensor.dtype()),
    })
}

/// A network's output at the state `x`, without its variance half, cut off from any gradient.
pub(crate) fn network_output(
    output: &Tensor,
    x: &Tensor,
    learned_variance: bool,
) -> Result<Tensor> {
    let output = if learned_variance {
        match (x.dims().get(1), output.dims().get(1)) {
            (Some(&channels), Some(&got)) if got == 2 * channels => {
                output.narrow(1, 0, channels)?
            }
            _ => {
                return Err(Error::Tensor {
                    what: "the network's output (learned_variance is set)".into(),
                    expected: format!("twice the channels of {:?}", x.dims()),
                    got: format!("{:?}", output.dims()),
                });
            }
        }
    } else {
        output.clone()
    };
    expect_like("the network's output", &output, x)?;
    Ok(output.detach().contiguous()?)
}
