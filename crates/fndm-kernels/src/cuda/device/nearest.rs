//! Nearest rows on a GPU.

use super::super::machine::{Kind, Machine};
use super::super::program::nearest as program;
use super::tensors::{device, tensor, with_views};
use crate::tensor::contiguous;
use candle_core::{Result, Tensor};

/// Keys (f32) and rows (u32), `(Q, k)` each, of queries `(Q, D)` among rows `(N, D)`; f32.
pub(crate) fn nearest(queries: &Tensor, rows: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
    let ((q, d), (n, _)) = (queries.dims2()?, rows.dims2()?);
    let (queries, rows) = (contiguous(queries)?, contiguous(rows)?);
    let there = device(&queries)?;
    with_views([&queries, &rows], |gpu, [qv, rv]| {
        let keys = gpu.alloc(Kind::F32, q * k)?;
        let found = gpu.alloc(Kind::U32, q * k)?;
        let out = (gpu.view(&keys), gpu.view(&found));
        program::nearest(gpu, (qv, q), (rv, n), d, k, out)?;
        Ok((tensor(keys, there, (q, k))?, tensor(found, there, (q, k))?))
    })
}
