//! Farthest-point selection: exact in its choices, in O(N) memory, with most of the work in matrix products.
//!
//! The plain way updates all N distances after every choice and is bound by memory. Here a block of choices is made
//! among the farthest points alone: distances only shrink, so as long as the best candidate is farther than
//! every other point was at the start of the block, it is the farthest of all. At the end of a block all points meet its choices in one
//! matrix product. The choices are those of the plain way; only rounding can tell them apart.

use std::cmp::Ordering;

use candle_core::Tensor;
use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::distance::{squared_distance, squared_norm};
use crate::progress::{OnProgress, report};
use crate::tensor::{matrix, row_values, with_slice};
use crate::{Result, Stage};

/// Most choices in one block.
const BLOCK: usize = 512;
/// Rows in one matrix product.
const TILE: usize = 1024;
/// Below this part of the norms an expanded square has lost its digits and is computed directly.
const CANCELLED: f32 = 1e-4;

/// Points to choose among, and how far each is from what was chosen already.
pub(crate) struct Greedy {
    points: Tensor,
    norms: Vec<f32>,
    dimension: usize,
    /// Squared distances to the nearest chosen point.
    nearest: Vec<f32>,
    /// Whether a point is chosen already.
    started: bool,
}

/// The first choice.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// The point with the largest root sum of squared distances to all others.
    Farthest,
    /// The point with the largest mean distance to these points, which stand for all; the mean counts as a distance later, too.
    Points(&'a [usize]),
    /// The first points are chosen already.
    Chosen(usize),
}

impl Greedy {
    /// Points `(N, D)`, finite and not empty.
    pub(crate) fn new(points: ArrayView2<'_, f32>, start: Start<'_>) -> Result<Self> {
        let (n, dimension) = points.dim();
        // Distances don't change with the origin; small norms round less.
        let mut mean = vec![0f64; dimension];
        for row in points.rows() {
            for (m, &v) in mean.iter_mut().zip(row) {
                *m += f64::from(v);
            }
        }
        let mean: Vec<f32> = mean.iter().map(|m| (m / n as f64) as f32).collect();
        let mut values = row_values(&points).into_owned();
        values
            .par_chunks_mut(dimension)
            .with_min_len(256)
            .for_each(|row| {
                for (v, m) in row.iter_mut().zip(&mean) {
                    *v -= m;
                }
            });
        let norms: Vec<f32> = values
            .par_chunks(dimension)
            .with_min_len(256)
            .map(squared_norm)
            .collect();
        let nearest = match start {
            Start::Farthest => {
                let mut sum = vec![0f64; dimension];
                for row in values.chunks(dimension) {
                    for (s, &v) in sum.iter_mut().zip(row) {
                        *s += f64::from(v);
                    }
                }
                let all: f64 = norms.iter().map(|&n| f64::from(n)).sum();
                let count = n as f64;
                values
                    .par_chunks(dimension)
                    .zip(&norms)
                    .map(|(row, &norm)| {
                        let product: f64 =
                            row.iter().zip(&sum).map(|(&v, s)| f64::from(v) * s).sum();
                        (count * f64::from(norm) + all - 2.0 * product).max(0.0) as f32
                    })
                    .collect()
            }
            Start::Points(starts) => values
                .par_chunks(dimension)
                .map(|row| {
                    let sum: f64 = starts
                        .iter()
                        .filter_map(|&s| values.get(s * dimension..(s + 1) * dimension))
                        .map(|s| f64::from(squared_distance(row, s)).sqrt())
                        .sum();
                    (sum / starts.len().max(1) as f64).powi(2) as f32
                })
                .collect(),
            Start::Chosen(_) => vec![f32::INFINITY; n],
        };
        let points = matrix(values, n, dimension)?;
        let mut greedy = Self {
            points,
            norms,
            dimension,
            nearest,
            started: false,
        };
        if let Start::Chosen(count) = start {
            let chosen: Vec<usize> = (0..count.min(n)).collect();
            for block in chosen.chunks(BLOCK) {
                greedy.update(block, &[])?;
            }
        }
        Ok(greedy)
    }

    /// Chooses up to `count` points, in order. Fewer only when all others equal a chosen one.
    pub(crate) fn choose(
        &mut self,
        count: usize,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<usize>> {
        let n = self.nearest.len();
        let count = count.min(n);
        let mut chosen = Vec::with_capacity(count);
        report(on_progress, Stage::Coreset, 0, count)?;
        while chosen.len() < count {
            let block = self.block((count - chosen.len()).min(BLOCK))?;
            if block.is_empty() {
                break;
            }
            chosen.extend(block);
            report(on_progress, Stage::Coreset, chosen.len(), count)?;
        }
        Ok(chosen)
    }

    /// Larger first, then the lower number.
    fn order(&self, a: usize, b: usize) -> Ordering {
        self.nearest[b].total_cmp(&self.nearest[a]).then(a.cmp(&b))
    }

    /// Makes one block of choices and brings all distances up to date.
    fn block(&mut self, most: usize) -> Result<Vec<usize>> {
        let n = self.nearest.len();
        let size = (n / 16).clamp(512, 8192).min(n);
        let mut order: Vec<usize> = (0..n).collect();
        let bound = if size < n {
            let (_, &mut bound, _) = order.select_nth_unstable_by(size, |&a, &b| self.order(a, b));
            Some((self.nearest[bound], bound))
        } else {
            None
        };
        order.truncate(size);
        order.sort_unstable();
        let dimension = self.dimension;
        let mut keys: Vec<f32> = order.iter().map(|&i| self.nearest[i]).collect();
        let chosen = with_slice::<f32, _>(&self.points, |points| {
            let row = |i: usize| &points[i * dimension..][..dimension];
            let rows: Vec<f32> = order.iter().flat_map(|&i| row(i).iter().copied()).collect();
            let mut chosen = Vec::new();
            let mut best = farthest(&keys);
            while chosen.len() < most {
                let Some((at, key)) = best else { break };
                let index = order[at];
                let farther = match bound {
                    Some((bound, other)) => key > bound || (key == bound && index < other),
                    None => true,
                };
                // A point at distance 0 repeats a chosen one.
                let started = self.started || !chosen.is_empty();
                if !farther || (key <= 0.0 && started) {
                    break;
                }
                chosen.push(index);
                let center = row(index);
                best = keys
                    .par_chunks_mut(256)
                    .zip(rows.par_chunks(256 * dimension))
                    .enumerate()
                    .map(|(chunk, (keys, rows))| {
                        for (key, row) in keys.iter_mut().zip(rows.chunks_exact(dimension)) {
                            *key = key.min(squared_distance(row, center));
                        }
                        farthest(keys).map(|(i, key)| (chunk * 256 + i, key))
                    })
                    .reduce(
                        || None,
                        |a, b| match (a, b) {
                            (Some(a), Some(b)) if b.1 > a.1 || (b.1 == a.1 && b.0 < a.0) => Some(b),
                            (None, b) => b,
                            (a, _) => a,
                        },
                    );
            }
            chosen
        })?;
        let settled: Vec<(usize, f32)> = order.into_iter().zip(keys).collect();
        self.update(&chosen, &settled)?;
        Ok(chosen)
    }

    /// Lowers every point's distance by the new choices. Those in `settled` have theirs already.
    fn update(&mut self, chosen: &[usize], settled: &[(usize, f32)]) -> Result<()> {
        if chosen.is_empty() {
            return Ok(());
        }
        self.started = true;
        let n = self.nearest.len();
        let dimension = self.dimension;
        let centers = with_slice::<f32, _>(&self.points, |points| {
            chosen
                .iter()
                .flat_map(|&i| points[i * dimension..][..dimension].iter().copied())
                .collect::<Vec<f32>>()
        })?;
        let norms: Vec<f32> = chosen.iter().map(|&i| self.norms[i]).collect();
        let right = matrix(centers.clone(), chosen.len(), dimension)?.t()?;
        for start in (0..n).step_by(TILE) {
            let count = TILE.min(n - start);
            let tile = self.points.narrow(0, start, count)?;
            let products = tile.matmul(&right)?;
            let own = &self.norms[start..start + count];
            let nearest = &mut self.nearest[start..start + count];
            with_slice::<f32, _>(&products, |products| {
                with_slice::<f32, _>(&tile, |rows| {
                    nearest
                        .par_iter_mut()
                        .zip(own)
                        .zip(rows.par_chunks_exact(dimension))
                        .zip(products.par_chunks_exact(chosen.len()))
                        .with_min_len(32)
                        .for_each(|(((nearest, &own), row), products)| {
                            let mut key = f32::INFINITY;
                            let mut at = 0;
                            for (i, (p, norm)) in products.iter().zip(&norms).enumerate() {
                                let k = norm - 2.0 * p;
                                if k < key {
                                    (key, at) = (k, i);
                                }
                            }
                            let mut distance = (key + own).max(0.0);
                            if distance < CANCELLED * (own + norms[at]) {
                                let center = &centers[at * dimension..][..dimension];
                                distance = squared_distance(row, center);
                            }
                            *nearest = nearest.min(distance);
                        });
                })
            })??;
        }
        for &(i, key) in settled {
            self.nearest[i] = key;
        }
        Ok(())
    }
}

/// The first of the largest values.
fn farthest(keys: &[f32]) -> Option<(usize, f32)> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &key) in keys.iter().enumerate() {
        if best.is_none_or(|b| key > b.1) {
            best = Some((i, key));
        }
    }
    best
}
