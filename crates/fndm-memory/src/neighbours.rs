use std::ops::Range;

use fndm_kernels::{PANEL_ROWS, pack_panel, panel_products};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::candidates::{Candidates, Neighbour, Rounding};
use crate::distance::{exact_squared_distance, squared_norm};
use crate::rows::{Rows, Storage, Values};
use crate::tensor::row_values;
use crate::{Error, Result};

/// Rows that are packed at a time.
const ROW_TILE: usize = 32 * PANEL_ROWS;
/// Queries that one task compares with a tile of rows, at most.
const QUERY_TILE: usize = 64;

/// Exact nearest neighbours by Euclidean distance: matrix products over tiles, with a running list per query.
///
/// A product in f32 tells which rows may be among the nearest; the bound of its rounding error decides, so that none is missed. The
/// distances of those are summed in f64. Beside the rows this holds two numbers a row; a search holds one tile of rows, and a few row
/// numbers per query.
#[derive(Debug, Clone)]
pub struct NearestNeighbours {
    rows: Rows,
    /// What is subtracted from rows and queries before they are multiplied.
    center: Vec<f32>,
    /// Squared norms of the rows about the center, and the lower part of each row's key.
    norms: Vec<f32>,
    lowers: Vec<f32>,
    largest_norm: f32,
    rounding: Rounding,
}

/// The nearest rows of each query, nearest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Squared Euclidean distances `(Q, k)`; infinite where there is no such neighbour.
    pub distances: Array2<f32>,
    /// Row numbers `(Q, k)`; `None` where the bank has fewer than k rows, and for a query with a NaN or infinite value.
    pub indices: Array2<Option<usize>>,
}

impl NearestNeighbours {
    /// Takes the rows `(N, D)`.
    ///
    /// # Errors
    /// When there are no rows, or a value is NaN or infinite (in f16: too large).
    pub fn new(rows: Array2<f32>, storage: Storage) -> Result<Self> {
        Self::from_rows(Rows::new(rows, storage))
    }

    pub(crate) fn from_rows(rows: Rows) -> Result<Self> {
        let dimension = rows.dimension();
        if rows.count() * dimension == 0 {
            return Err(Error::Empty { what: "the bank" });
        }
        let rounding = Rounding::new(dimension);
        let mut index = Self {
            center: center(&rows),
            rows,
            norms: Vec::new(),
            lowers: Vec::new(),
            largest_norm: 0.0,
            rounding,
        };
        let values = index.rows.values();
        let norms: Vec<f32> = (0..index.rows.count())
            .into_par_iter()
            .with_min_len(64)
            .map_init(
                || vec![0f32; dimension],
                |row, i| {
                    index.read(values, i..i + 1, row);
                    squared_norm(row)
                },
            )
            .collect();
        if !norms.iter().all(|n| n.is_finite()) {
            return Err(Error::non_finite("the bank", None));
        }
        index.lowers = norms.iter().map(|n| rounding.lower(*n)).collect();
        index.largest_norm = norms.iter().copied().fold(0.0, f32::max);
        index.norms = norms;
        Ok(index)
    }

    /// Rows about the center.
    fn read(&self, values: Values<'_>, rows: Range<usize>, out: &mut [f32]) {
        let d = self.dimension();
        values.read(rows.start * d..rows.end * d, out);
        self.shift(out);
    }

    fn shift(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.dimension()) {
            for (v, c) in row.iter_mut().zip(&self.center) {
                *v -= c;
            }
        }
    }

    /// The rows as they are kept.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The rows `(N, D)` as f32.
    ///
    /// # Errors
    /// When the number of values isn't that of the rows, which is a mistake in this crate.
    pub fn to_array(&self) -> Result<Array2<f32>> {
        Array2::from_shape_vec((self.len(), self.dimension()), self.rows.to_vec())
            .map_err(|e| Error::shape("the bank", "rows of one length", e))
    }

    /// One row `(1, D)` as f32.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Result<Array2<f32>> {
        if row >= self.len() {
            return Err(Error::shape(
                "row",
                format!("a number below {}", self.len()),
                row,
            ));
        }
        let d = self.dimension();
        let mut out = Array2::zeros((1, d));
        if let Some(out) = out.as_slice_mut() {
            self.rows.values().read(row * d..(row + 1) * d, out);
        }
        Ok(out)
    }

    /// Number of rows, N.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.count()
    }

    /// Always false: an empty bank can't be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values per row, D.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.rows.dimension()
    }

    /// Whether the rows stay in the file that they were loaded from.
    #[must_use]
    pub fn is_mapped(&self) -> bool {
        self.rows.is_mapped()
    }

    /// The `k` nearest rows of every query `(Q, D)`. Of equal distances the lower row number comes first.
    ///
    /// # Errors
    /// When `k` is 0 or the queries are of another dimension.
    pub fn search(&self, queries: ArrayView2<'_, f32>, k: usize) -> Result<Neighbours> {
        let (q, dimension) = queries.dim();
        if dimension != self.dimension() {
            return Err(Error::Dimension {
                expected: self.dimension(),
                got: dimension,
            });
        }
        if k == 0 {
            return Err(Error::config("neighbours", "expected 1 or more, got 0"));
        }
        let queries = row_values(queries);
        let found = self.find(&queries, k.min(self.len()))?;
        let mut distances = Array2::from_elem((q, k), f32::INFINITY);
        let mut indices = Array2::from_elem((q, k), None);
        for (i, found) in found.iter().enumerate() {
            for (j, neighbour) in found.iter().enumerate() {
                distances[(i, j)] = neighbour.distance;
                indices[(i, j)] = Some(neighbour.row);
            }
        }
        Ok(Neighbours { distances, indices })
    }

    /// At most `k` neighbours of every query, nearest first.
    fn find(&self, queries: &[f32], k: usize) -> Result<Vec<Vec<Neighbour>>> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        let d = self.dimension();
        let values = self.rows.values();
        let distance = |query: &[f32], row: usize| match values {
            Values::F32(rows) => {
                let row = &rows[row * d..(row + 1) * d];
                exact_squared_distance(query, row.iter().map(|v| f64::from(*v)))
            }
            Values::F16(rows) => {
                let row = &rows[row * d..(row + 1) * d];
                exact_squared_distance(query, row.iter().map(|v| f64::from(v.to_f32())))
            }
        };
        let mut states: Vec<State> = queries
            .par_chunks_exact(d)
            .with_min_len(64)
            .map(|query| self.start(query, k))
            .collect();
        let by_product = states.iter().any(|s| matches!(s, State::Products(_)));
        let task = states.len().div_ceil(8).next_multiple_of(8).min(QUERY_TILE);
        let mut panels = vec![0f32; ROW_TILE.min(self.len().next_multiple_of(PANEL_ROWS)) * d];
        for start in (0..self.len()).step_by(ROW_TILE) {
            let rows = start..self.len().min(start + ROW_TILE);
            let panels = &mut panels[..rows.len().div_ceil(PANEL_ROWS) * PANEL_ROWS * d];
            if by_product {
                self.pack(values, rows.clone(), panels)?;
            }
            states
                .par_chunks_mut(task)
                .zip(queries.par_chunks(task * d))
                .try_for_each_init(
                    || (vec![0f32; task * d], vec![0f32; task * PANEL_ROWS]),
                    |(shifted, products), (states, queries)| {
                        let shifted = &mut shifted[..queries.len()];
                        shifted.copy_from_slice(queries);
                        self.shift(shifted);
                        let products = &mut products[..states.len() * PANEL_ROWS];
                        let mut first = rows.start;
                        for panel in panels.chunks_exact(PANEL_ROWS * d) {
                            let end = rows.end.min(first + PANEL_ROWS);
                            if by_product {
                                panel_products(shifted, panel, d, products)?;
                            }
                            let each = states
                                .iter_mut()
                                .zip(queries.chunks_exact(d))
                                .zip(products.chunks_exact(PANEL_ROWS));
                            for ((state, query), products) in each {
                                let distance = |row| distance(query, row);
                                match state {
                                    State::Products(candidates) => candidates.scan(
                                        &products[..end - first],
                                        &self.lowers[first..end],
                                        &self.norms[first..end],
                                        first,
                                        distance,
                                    ),
                                    State::Direct(candidates) => {
                                        (first..end).for_each(|row| candidates.take(row, distance));
                                    }
                                    State::None => {}
                                }
                            }
                            first = end;
                        }
                        Ok::<(), Error>(())
                    },
                )?;
        }
        Ok(states
            .into_par_iter()
            .zip(queries.par_chunks_exact(d))
            .map(|(state, query)| match state {
                State::Products(candidates) | State::Direct(candidates) => {
                    candidates.finish(|row| distance(query, row))
                }
                State::None => Vec::new(),
            })
            .collect())
    }

    fn start(&self, query: &[f32], k: usize) -> State {
        if query.iter().any(|v| !v.is_finite()) {
            return State::None;
        }
        let squares = query.iter().zip(&self.center).map(|(v, c)| v - c);
        let norm = squares.map(|v| f64::from(v).powi(2)).sum::<f64>() as f32;
        let candidates = Candidates::new(k, norm, self.rounding);
        if norm.max(self.largest_norm) <= Rounding::LARGEST_NORM {
            State::Products(candidates)
        } else {
            State::Direct(candidates)
        }
    }

    /// Rows about the center, a panel after the other.
    fn pack(&self, values: Values<'_>, rows: Range<usize>, panels: &mut [f32]) -> Result<()> {
        let d = self.dimension();
        panels
            .par_chunks_exact_mut(PANEL_ROWS * d)
            .enumerate()
            .try_for_each_init(
                || vec![0f32; PANEL_ROWS * d],
                |buffer, (i, panel)| {
                    let first = rows.start + i * PANEL_ROWS;
                    let part = first..rows.end.min(first + PANEL_ROWS);
                    let buffer = &mut buffer[..part.len() * d];
                    self.read(values, part, buffer);
                    Ok(pack_panel(buffer, d, panel)?)
                },
            )
    }
}

/// How a query's neighbours are found.
enum State {
    /// By products of f32.
    Products(Candidates),
    /// By direct distances, where squares would leave the range of f32.
    Direct(Candidates),
    /// It isn't a number and has none.
    None,
}

/// A point amid the rows: far from the origin an expanded square would lose its digits.
///
/// It is the mean rounded to a power of two near the deviation, so that whole numbers stay whole.
fn center(rows: &Rows) -> Vec<f32> {
    let (n, dimension) = (rows.count(), rows.dimension());
    let values = rows.values();
    let mut sums = vec![(0f64, 0f64); dimension];
    let mut row = vec![0f32; dimension];
    for i in 0..n {
        values.read(i * dimension..(i + 1) * dimension, &mut row);
        for ((sum, squares), &v) in sums.iter_mut().zip(&row) {
            *sum += f64::from(v);
            *squares += f64::from(v).powi(2);
        }
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
    center.collect()
}
