use candle_core::{DType, Tensor};
use half::f16;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::distance::{exact_squared_distance, squared_norm};
use crate::tensor::{matrix, row_values, with_slice};
use crate::{Error, Result};

/// Queries and rows that one matrix product takes: its result stays within the cache.
const QUERY_TILE: usize = 512;
const ROW_TILE: usize = 1024;
/// Candidates kept beyond the asked number, since the expanded square that ranks them is rounded.
const SPARE: usize = 4;

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

    pub(crate) fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

/// Exact nearest neighbours by Euclidean distance: matrix products over tiles, with a running list per query.
///
/// The products rank the candidates; the distances of those that are handed out are summed directly in f64.
#[derive(Debug, Clone)]
pub struct NearestNeighbours {
    rows: Tensor,
    /// What is subtracted from rows and queries before they are multiplied.
    center: Vec<f32>,
    /// Squared norms of the rows about the center.
    norms: Vec<f32>,
    dimension: usize,
}

/// The nearest rows of each query, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Squared Euclidean distances `(Q, k)`; infinite where there is no such neighbour.
    pub distances: Array2<f32>,
    /// Row numbers `(Q, k)`; `None` where the bank has fewer than k rows, and for a query with NaN.
    pub indices: Array2<Option<usize>>,
}

#[derive(Clone, Copy)]
struct Candidate {
    key: f32,
    row: usize,
}

impl NearestNeighbours {
    /// Takes the rows `(N, D)`.
    ///
    /// # Errors
    /// When there are no rows, or a value is NaN or infinite (in f16: too large).
    pub fn new(rows: Array2<f32>, storage: Storage) -> Result<Self> {
        let (n, dimension) = rows.dim();
        let rows = rows.as_standard_layout().into_owned();
        let (values, _) = rows.into_raw_vec_and_offset();
        if n * dimension == 0 {
            return Err(Error::Empty { what: "the bank" });
        }
        Self::from_tensor(matrix(values, n, dimension)?.to_dtype(storage.dtype())?)
    }

    /// Takes rows `(N, D)`, f32 or f16, on the CPU.
    pub(crate) fn from_tensor(rows: Tensor) -> Result<Self> {
        let (n, dimension) = rows.dims2()?;
        if n * dimension == 0 {
            return Err(Error::Empty { what: "the bank" });
        }
        let center = center(&rows)?;
        let mut index = Self {
            rows,
            center,
            norms: Vec::with_capacity(n),
            dimension,
        };
        for start in (0..n).step_by(ROW_TILE) {
            let tile = index.tile(start, ROW_TILE.min(n - start))?;
            index
                .norms
                .extend(tile.chunks_exact(dimension).map(squared_norm));
        }
        if index.norms.iter().all(|n| n.is_finite()) {
            Ok(index)
        } else {
            Err(Error::NonFinite {
                what: "the bank".to_owned(),
            })
        }
    }

    /// Some rows about the center, as f32.
    fn tile(&self, start: usize, rows: usize) -> Result<Vec<f32>> {
        let tile = self.rows.narrow(0, start, rows)?.to_dtype(DType::F32)?;
        with_slice::<f32, _>(&tile, |values| self.centered(values))
    }

    fn centered(&self, values: &[f32]) -> Vec<f32> {
        let rows = values.chunks_exact(self.dimension);
        rows.flat_map(|row| row.iter().zip(&self.center).map(|(v, c)| v - c))
            .collect()
    }

    /// The rows `(N, D)`, f32 or f16.
    pub(crate) fn rows(&self) -> &Tensor {
        &self.rows
    }

    /// The rows `(N, D)` as f32.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn to_array(&self) -> Result<Array2<f32>> {
        let values = self.rows.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Array2::from_shape_vec((self.len(), self.dimension), values)
            .map_err(|e| Error::shape("the bank", "rows of one length", e))
    }

    /// One row `(1, D)` as f32.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Result<Array2<f32>> {
        let values = self
            .rows
            .narrow(0, row, 1)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        Array2::from_shape_vec((1, self.dimension), values)
            .map_err(|e| Error::shape("the bank", "rows of one length", e))
    }

    /// Number of rows, N.
    #[must_use]
    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// Always false: an empty bank can't be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.norms.is_empty()
    }

    /// Values per row, D.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The `k` nearest rows of every query `(Q, D)`. Of equal distances the lower row number comes first.
    ///
    /// # Errors
    /// When `k` is 0 or the queries are of another dimension.
    pub fn search(&self, queries: ArrayView2<'_, f32>, k: usize) -> Result<Neighbours> {
        let (q, dimension) = queries.dim();
        if dimension != self.dimension {
            return Err(Error::Dimension {
                expected: self.dimension,
                got: dimension,
            });
        }
        if k == 0 {
            return Err(Error::config("neighbours", "expected 1 or more, got 0"));
        }
        let queries = row_values(&queries);
        let kept = k.min(self.len());
        let mut found = self.candidates(&queries, (k + SPARE).min(self.len()))?;
        self.settle(&mut found, &queries)?;
        let mut distances = Array2::from_elem((q, k), f32::INFINITY);
        let mut indices = Array2::from_elem((q, k), None);
        for (i, found) in found.iter().enumerate() {
            for (j, candidate) in found.iter().take(kept).enumerate() {
                distances[(i, j)] = candidate.key;
                indices[(i, j)] = Some(candidate.row);
            }
        }
        Ok(Neighbours { distances, indices })
    }

    /// For every query the rows that rank first, by rounded keys.
    fn candidates(&self, queries: &[f32], kept: usize) -> Result<Vec<Vec<Candidate>>> {
        let dimension = self.dimension;
        let tiles = queries
            .chunks(QUERY_TILE * dimension)
            .map(|tile| matrix(self.centered(tile), tile.len() / dimension, dimension))
            .collect::<Result<Vec<_>>>()?;
        let mut found = vec![Vec::with_capacity(kept + 1); queries.len() / dimension];
        for start in (0..self.len()).step_by(ROW_TILE) {
            let rows = ROW_TILE.min(self.len() - start);
            let right = matrix(self.tile(start, rows)?, rows, dimension)?.t()?;
            let norms = &self.norms[start..start + rows];
            for (found, tile) in found.chunks_mut(QUERY_TILE).zip(&tiles) {
                let products = tile.matmul(&right)?;
                with_slice::<f32, _>(&products, |products| {
                    found
                        .par_iter_mut()
                        .zip(products.par_chunks_exact(rows))
                        .with_min_len(16)
                        .for_each(|(found, products)| scan(found, kept, products, norms, start));
                })?;
            }
        }
        Ok(found)
    }

    /// Puts the direct distances in place of the ranking keys and sorts by them.
    fn settle(&self, found: &mut [Vec<Candidate>], queries: &[f32]) -> Result<()> {
        let dimension = self.dimension;
        if self.rows.dtype() == DType::F16 {
            with_slice::<f16, _>(&self.rows, |rows| {
                settle(found, queries, dimension, |i| {
                    rows[i * dimension..][..dimension]
                        .iter()
                        .map(|v| f64::from(v.to_f32()))
                });
            })
        } else {
            with_slice::<f32, _>(&self.rows, |rows| {
                settle(found, queries, dimension, |i| {
                    rows[i * dimension..][..dimension]
                        .iter()
                        .map(|&v| f64::from(v))
                });
            })
        }
    }
}

/// A point amid the rows: far from the origin an expanded square would lose its digits.
///
/// It is the mean rounded to a power of two near the deviation, so that whole numbers stay whole and ties stay ties.
fn center(rows: &Tensor) -> Result<Vec<f32>> {
    let (n, dimension) = rows.dims2()?;
    let mut sums = vec![(0f64, 0f64); dimension];
    for start in (0..n).step_by(ROW_TILE) {
        let tile = rows
            .narrow(0, start, ROW_TILE.min(n - start))?
            .to_dtype(DType::F32)?;
        with_slice::<f32, _>(&tile, |values| {
            for row in values.chunks_exact(dimension) {
                for ((sum, squares), &v) in sums.iter_mut().zip(row) {
                    *sum += f64::from(v);
                    *squares += f64::from(v).powi(2);
                }
            }
        })?;
    }
    let center = sums.iter().map(|(sum, squares)| {
        let mean = sum / n as f64;
        let deviation = (squares / n as f64 - mean * mean).max(0.0).sqrt();
        let step = deviation.log2().ceil().exp2();
        if step > 0.0 {
            ((mean / step).round() * step) as f32
        } else {
            mean as f32
        }
    });
    Ok(center.collect())
}

/// Merges one tile of products into a query's list, which stays sorted by (key, row).
///
/// The key is |row|^2 - 2 row.query: the query's own norm is the same for all.
fn scan(
    found: &mut Vec<Candidate>,
    kept: usize,
    products: &[f32],
    norms: &[f32],
    first_row: usize,
) {
    const LANES: usize = 16;
    let mut worst = if found.len() == kept {
        found[kept - 1].key
    } else {
        f32::INFINITY
    };
    for (block, (products, norms)) in products.chunks(LANES).zip(norms.chunks(LANES)).enumerate() {
        let mut keys = [f32::INFINITY; LANES];
        let mut any = false;
        for ((key, p), n) in keys.iter_mut().zip(products).zip(norms) {
            *key = n - 2.0 * p;
            any |= *key < worst;
        }
        if !any {
            continue;
        }
        for (lane, &key) in keys.iter().enumerate() {
            if key < worst {
                let at = found.partition_point(|c| c.key <= key);
                found.insert(
                    at,
                    Candidate {
                        key,
                        row: first_row + block * LANES + lane,
                    },
                );
                found.truncate(kept);
                if found.len() == kept {
                    worst = found[kept - 1].key;
                }
            }
        }
    }
}

/// Puts the direct distances in place of the ranking keys and sorts by them.
fn settle<I: Iterator<Item = f64>>(
    found: &mut [Vec<Candidate>],
    queries: &[f32],
    dimension: usize,
    row: impl Fn(usize) -> I + Sync,
) {
    found
        .par_iter_mut()
        .zip(queries.par_chunks_exact(dimension))
        .for_each(|(found, query)| {
            for candidate in &mut *found {
                candidate.key = exact_squared_distance(query, row(candidate.row));
            }
            found.sort_by(|a, b| a.key.total_cmp(&b.key).then(a.row.cmp(&b.row)));
        });
}
