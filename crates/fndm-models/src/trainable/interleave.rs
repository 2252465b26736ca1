//! Four maps as the four pixels of every square of a larger one, on the CPU: candle's strided copy goes value by value.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// `(B, 4 O, H, W)`, of which map `4 o + 2 dy + dx` has the pixels `(2 y + dy, 2 x + dx)` of map `o`, to `(B, O, 2H, 2W)`.
///
/// # Errors
/// Those of candle.
pub(crate) fn interleave(x: &Tensor) -> Result<Tensor> {
    let (b, maps, h, w) = x.dims4()?;
    if x.device().is_cpu() && x.dtype() == candle_core::DType::F32 {
        return x.contiguous()?.apply_op1(Interleave);
    }
    x.reshape(&[b, maps / 4, 2, 2, h, w][..])?
        .permute([0, 1, 4, 2, 5, 3])?
        .contiguous()?
        .reshape((b, maps / 4, 2 * h, 2 * w))
}

struct Interleave;

impl CustomOp1 for Interleave {
    fn name(&self) -> &'static str {
        "interleave"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, maps, h, w) = layout.shape().dims4()?;
        let x = values(x, layout)?;
        let mut out = vec![0f32; x.len()];
        // A row of the output takes its pixels from two maps in turn.
        for (at, row) in out.chunks_exact_mut((2 * w).max(1)).enumerate() {
            let (square, line) = (at / (2 * h), at % (2 * h));
            let start = ((square * 4 + line % 2 * 2) * h + line / 2) * w;
            let (even, odd) = (&x[start..][..w], &x[start + h * w..][..w]);
            for ((pair, even), odd) in row.chunks_exact_mut(2).zip(even).zip(odd) {
                (pair[0], pair[1]) = (*even, *odd);
            }
        }
        let shape = Shape::from((b, maps / 4, 2 * h, 2 * w));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        gradient.apply_op1_no_bwd(&Separate).map(Some)
    }
}

/// The way back.
struct Separate;

impl CustomOp1 for Separate {
    fn name(&self) -> &'static str {
        "separate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, maps, h, w) = layout.shape().dims4()?;
        let x = values(x, layout)?;
        let (h, w) = (h / 2, w / 2);
        let mut out = vec![0f32; x.len()];
        for (at, row) in out.chunks_exact_mut(w.max(1)).enumerate() {
            let (map, y) = (at / h, at % h);
            let (square, dy, dx) = (map / 4, map / 2 % 2, map % 2);
            let line = &x[((square * h + y) * 2 + dy) * 2 * w..][..2 * w];
            for (v, pair) in row.iter_mut().zip(line.chunks_exact(2)) {
                *v = pair[dx];
            }
        }
        Ok((CpuStorage::F32(out), Shape::from((b, 4 * maps, h, w))))
    }
}

fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&values[from..to]),
        None => candle_core::bail!("interleave: expected contiguous tensors"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};

    use super::interleave;

    /// By candle's own strided copy, forward and backward.
    #[test]
    fn equals_a_permutation_of_axes() -> candle_core::Result<()> {
        let device = Device::Cpu;
        let x = Var::rand(-1f32, 1., (2, 12, 3, 5), &device)?;
        let permuted = |x: &Tensor| {
            x.reshape(&[2, 3, 2, 2, 3, 5][..])?
                .permute([0, 1, 4, 2, 5, 3])?
                .contiguous()?
                .reshape((2, 3, 6, 10))
        };
        let weights = Tensor::rand(-1f32, 1., (2, 3, 6, 10), &device)?;
        let of = |y: &Tensor| -> candle_core::Result<(Vec<f32>, Vec<f32>)> {
            let gradients = (y * &weights)?.sum_all()?.backward()?;
            let gradient = gradients.get(&x).unwrap();
            Ok((
                y.flatten_all()?.to_vec1()?,
                gradient.flatten_all()?.to_vec1()?,
            ))
        };
        assert_eq!(of(&interleave(&x)?)?, of(&permuted(&x)?)?);
        Ok(())
    }
}
