//! Nearest rows of a matrix, on the GPU.

use candle_core::{Result, Tensor};

/// The most rows that [`nearest_rows`] lists for a query.
pub const NEAREST_ROWS: usize = 64;

/// For each query `(Q, D)` the `k` rows of `(N, D)` with the smallest key, the smallest first: keys `(Q, k)` in f32 and row numbers
/// `(Q, k)` in u32. The key is half the row's squared norm less its product with the query, so half the squared distance less
/// half the query's squared norm. Of equal keys the lower row comes first; where there are fewer rows than k, the key is
/// infinite and the number `u32::MAX`. Keys that are NaN come before all others.
///
/// Keys are f32 sums of products: a caller that needs the exact order takes a few more than it needs, and sorts them by exact
/// distances. For tensors on a CUDA device; the CPU has [`panel_products`](crate::panel_products).
///
/// # Errors
/// When shapes or types don't fit, k isn't 1 to [`NEAREST_ROWS`], or the tensors aren't f32 on one CUDA device.
pub fn nearest_rows(queries: &Tensor, rows: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let ((_, d), (_, width)) = (queries.dims2()?, rows.dims2()?);
    if d != width {
        candle_core::bail!("nearest_rows: expected rows of {d} values, got {width}");
    }
    if k == 0 || k > NEAREST_ROWS {
        candle_core::bail!("nearest_rows: expected k of 1 to {NEAREST_ROWS}, got {k}");
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[queries, rows]) && queries.dtype() == candle_core::DType::F32 {
        return crate::cuda::nearest(queries, rows, k);
    }
    candle_core::bail!(
        "nearest_rows: expected f32 tensors with values on one CUDA device, got {:?} on {:?}",
        queries.dtype(),
        queries.device().location()
    )
}
