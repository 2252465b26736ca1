//! Nearest rows by Euclidean distance: matrix products of queries and rows, and a running list per query.

use super::super::machine::{Kind, Launch, Machine, Matrix, Product, View, size};
use candle_core::Result;

const THREADS: u32 = 256;
/// The longest list, `NEAREST_LISTED` of the kernel.
pub(crate) const LISTED: usize = 64;
/// Rows of a tile, and queries that share one.
const ROWS: usize = 8192;
const QUERIES: usize = 8192;

/// The `k` rows of smallest key for each query, the smallest first: the key is half the row's squared norm less its product with
/// the query. Of equal keys the lower row comes first; where there are fewer than k rows, the key is infinite and the row `u32::MAX`.
/// Keys that are NaN come before all others.
///
/// `queries` is `(count, d)` and `rows` `(n, d)` in f32; `keys` in f32 and `found` in u32 are `(count, k)`.
pub(crate) fn nearest<M: Machine>(
    machine: &M,
    (queries, count): (View, usize),
    (rows, n): (View, usize),
    d: usize,
    k: usize,
    (keys, found): (View, View),
) -> Result<()> {
    nearest_tiled(
        machine,
        (queries, count),
        (rows, n),
        d,
        k,
        (keys, found),
        (QUERIES, ROWS),
    )
}

/// [`nearest`] with tiles of so many queries and rows.
pub(crate) fn nearest_tiled<M: Machine>(
    machine: &M,
    (queries, count): (View, usize),
    (rows, n): (View, usize),
    d: usize,
    k: usize,
    (keys, found): (View, View),
    tile: (usize, usize),
) -> Result<()> {
    if k == 0 || k > LISTED {
        candle_core::bail!("nearest: expected 1 to {LISTED} neighbours, got {k}");
    }
    let norms_there = machine.alloc(Kind::F32, n)?;
    let norms = machine.view(&norms_there);
    machine.launch(&Launch {
        kernel: "half_norms",
        blocks: size(n)?,
        threads: THREADS,
        args: &[rows.into(), norms.into(), size(d)?.into()],
    })?;
    let products_there = machine.alloc(Kind::F32, tile.0.min(count) * tile.1.min(n))?;
    let products = machine.view(&products_there);
    for query in (0..count).step_by(tile.0) {
        let some = tile.0.min(count - query);
        for first in (0..n).step_by(tile.1) {
            let few = tile.1.min(n - first);
            let matrix = |at: View, transposed| Matrix {
                at,
                column: d,
                step: 0,
                transposed,
            };
            machine.product(&Product {
                m: few,
                n: some,
                k: d,
                batch: 1,
                alpha: 1.,
                a: matrix(rows.offset(first * d), true),
                b: matrix(queries.offset(query * d), false),
                c: Matrix {
                    at: products,
                    column: few,
                    step: 0,
                    transposed: false,
                },
            })?;
            machine.launch(&Launch {
                kernel: "nearest",
                blocks: size(some)?,
                threads: THREADS,
                args: &[
                    products.into(),
                    norms.into(),
                    keys.offset(query * k).into(),
                    found.offset(query * k).into(),
                    size(few)?.into(),
                    size(first)?.into(),
                    size(k)?.into(),
                    (first == 0).into(),
                ],
            })?;
        }
    }
    Ok(())
}
