use candle_core::{DType, Device, Tensor};

use crate::Result;

/// Where the outer samples of both grids lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Corners {
    /// On each other: source = i (n - 1) / (o - 1).
    Aligned,
    /// Half a cell from the edge: source = (i + 1/2) n / o - 1/2, not below 0.
    Free,
}

/// Bilinear resizing of the last two dimensions as two products, so that it can be differentiated.
#[derive(Debug, Clone)]
pub(crate) struct Enlarge {
    from: (usize, usize),
    to: (usize, usize),
    /// `(H, h)`.
    rows: Tensor,
    /// `(w, W)`.
    columns: Tensor,
}

impl Enlarge {
    pub(crate) fn new(
        from: (usize, usize),
        to: (usize, usize),
        corners: Corners,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let matrix = |n, o| -> Result<Tensor> {
            let weights = Tensor::from_vec(weights(n, o, corners), (o, n), device)?;
            Ok(weights.to_dtype(dtype)?)
        };
        Ok(Self {
            from,
            to,
            rows: matrix(from.0, to.0)?,
            columns: matrix(from.1, to.1)?.t()?.contiguous()?,
        })
    }

    /// `(B, C, h, w)` to `(B, C, H, W)`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.from == self.to {
            return Ok(x.clone());
        }
        let (b, c, h, w) = x.dims4()?;
        let wide = x
            .contiguous()?
            .reshape((b * c * h, w))?
            .matmul(&self.columns)?
            .reshape((b * c, h, self.to.1))?;
        let whole = self
            .rows
            .broadcast_left(b * c)?
            .contiguous()?
            .matmul(&wide)?;
        Ok(whole.reshape((b, c, self.to.0, self.to.1))?)
    }
}

/// Maps `(B, C, h, w)` resized to this height and width.
pub(crate) fn enlarge(x: &Tensor, to: (usize, usize), corners: Corners) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    Enlarge::new((h, w), to, corners, x.dtype(), x.device())?.forward(x)
}

/// Row by row what each of the `o` outputs takes of the `n` inputs.
fn weights(n: usize, o: usize, corners: Corners) -> Vec<f64> {
    let mut all = vec![0.0; n * o];
    for (i, row) in all.chunks_exact_mut(n).enumerate() {
        let at = match corners {
            Corners::Aligned if o > 1 => i as f64 * (n - 1) as f64 / (o - 1) as f64,
            Corners::Aligned => 0.0,
            Corners::Free => ((i as f64 + 0.5) * n as f64 / o as f64 - 0.5).max(0.0),
        };
        let low = (at as usize).min(n - 1);
        let high = (low + 1).min(n - 1);
        let share = at - low as f64;
        row[low] += 1.0 - share;
        row[high] += share;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_stays_a_plane_between_the_outer_samples() {
        // f(y, x) = 2 y + 3 x is what bilinear interpolation gives back exactly.
        let plane = |h: usize, w: usize, sy: f64, sx: f64| -> Vec<f64> {
            (0..h * w)
                .map(|i| 2.0 * (i / w) as f64 * sy + 3.0 * (i % w) as f64 * sx)
                .collect()
        };
        let x = Tensor::from_vec(plane(3, 5, 1.0, 1.0), (1, 1, 3, 5), &Device::Cpu).unwrap();
        let y = enlarge(&x, (9, 13), Corners::Aligned).unwrap();
        let wanted = plane(9, 13, 2.0 / 8.0, 4.0 / 12.0);
        for (a, b) in y
            .flatten_all()
            .unwrap()
            .to_vec1::<f64>()
            .unwrap()
            .iter()
            .zip(&wanted)
        {
            assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn without_alignment_it_is_candles() {
        let values: Vec<f32> = (0..2 * 3 * 4 * 5).map(|i| ((i * 37) % 23) as f32).collect();
        let x = Tensor::from_vec(values, (2, 3, 4, 5), &Device::Cpu).unwrap();
        for (to, corners) in [
            ((8, 10), Corners::Free),
            ((7, 3), Corners::Free),
            ((9, 6), Corners::Aligned),
        ] {
            let aligned = corners == Corners::Aligned;
            let wanted = x.upsample_bilinear2d(to.0, to.1, aligned).unwrap();
            let off = (enlarge(&x, to, corners).unwrap() - wanted)
                .unwrap()
                .abs()
                .unwrap();
            let off = off
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap();
            assert!(off < 1e-4, "{to:?} {off}");
        }
    }
}
