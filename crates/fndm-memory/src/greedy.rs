//! Farthest-point selection: exact in its choices, with most of the work in matrix products.
//!
//! The plain way updates all N distances after every choice and is bound by memory. Here a block of choices is made
//! among the farthest points alone: distances only shrink, so as long as the best candidate is farther than
//! every other point was at the start of the block, it is the farthest of all. At the end of a block all points meet its choices in one
//! matrix product. The choices are those of the plain way; only rounding can tell them apart.
//!
//! The points are read where they lie. Beside them this holds a few numbers per point and one block of choices.

use std::borrow::Cow;
use std::cmp::Ordering;

use fndm_kernels::{PANEL_ROWS, pack_panel, panel_products};
use ndarray::ArrayView2;
use rayon::prelude::*;

use crate::candidates::Rounding;
use crate::distance::{shifted_squared_distance, squared_distance};
use crate::progress::{OnProgress, report};
use crate::tensor::row_values;
use crate::{Error, Result, Stage};

/// Most choices in one block.
const BLOCK: usize = 512;
/// Points that one task compares with a block's choices.
const TILE: usize = 64;
/// Candidates that one task compares with a choice.
const CANDIDATES: usize = 256;
/// Below this part of the norms an expanded square has lost its digits, and distances are taken directly.
const CANCELLED: f32 = 1e-2;

/// Points to choose among, and how far each is from what was chosen already.
pub(crate) struct Greedy<'a> {
    points: Points<'a>,
    /// Squared norms about the mean.
    norms: Vec<f32>,
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

/// Points `(N, D)`, seen from their mean: distances don't change with the origin, and small norms round less.
struct Points<'a> {
    values: Cow<'a, [f32]>,
    mean: Vec<f32>,
}

impl<'a> Points<'a> {
    fn new(points: ArrayView2<'a, f32>) -> Self {
        let (n, dimension) = points.dim();
        let mut mean = vec![0f64; dimension];
        for row in points.rows() {
            for (m, &v) in mean.iter_mut().zip(row) {
                *m += f64::from(v);
            }
        }
        Self {
            values: row_values(points),
            mean: mean.iter().map(|m| (m / n as f64) as f32).collect(),
        }
    }

    fn dimension(&self) -> usize {
        self.mean.len()
    }

    /// A point as it was given.
    fn raw(&self, i: usize) -> &[f32] {
        let d = self.dimension();
        &self.values[i * d..(i + 1) * d]
    }

    fn iter(&self, i: usize) -> impl Iterator<Item = f32> {
        self.raw(i).iter().zip(&self.mean).map(|(v, m)| v - m)
    }

    /// Writes points about the mean, one after the other.
    fn read(&self, points: impl Iterator<Item = usize>, out: &mut [f32]) {
        for (i, out) in points.zip(out.chunks_exact_mut(self.dimension())) {
            for (o, v) in out.iter_mut().zip(self.iter(i)) {
                *o = v;
            }
        }
    }

    fn vector(&self, i: usize) -> Vec<f32> {
        self.iter(i).collect()
    }
}

impl<'a> Greedy<'a> {
    /// Points `(N, D)`, finite and not empty.
    pub(crate) fn new(points: ArrayView2<'a, f32>, start: Start<'_>) -> Result<Self> {
        let n = points.nrows();
        let points = Points::new(points);
        let norms: Vec<f32> = (0..n)
            .into_par_iter()
            .with_min_len(256)
            .map(|i| points.iter(i).map(|v| f64::from(v).powi(2)).sum::<f64>() as f32)
            .collect();
        // Squares beyond f32 would make every distance infinite, or NaN, which `min` hides.
        if norms.iter().any(|v| !v.is_finite()) {
            return Err(Error::non_finite("squares of the features", None));
        }
        let nearest = match start {
            Start::Farthest => from_all(&points, &norms),
            Start::Points(starts) => from_some(&points, n, starts),
            Start::Chosen(_) => vec![f32::INFINITY; n],
        };
        if !matches!(start, Start::Chosen(_)) && nearest.iter().any(|v| !v.is_finite()) {
            return Err(Error::non_finite("squared distances of the features", None));
        }
        let mut greedy = Self {
            points,
            norms,
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
        order.shrink_to_fit();
        order.sort_unstable();
        let points = &self.points;
        let mut keys: Vec<f32> = order.iter().map(|&i| self.nearest[i]).collect();
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
            let center = points.vector(index);
            best = keys
                .par_chunks_mut(CANDIDATES)
                .zip(order.par_chunks(CANDIDATES))
                .enumerate()
                .map(|(chunk, (keys, order))| {
                    for (key, &i) in keys.iter_mut().zip(order) {
                        let distance =
                            shifted_squared_distance(points.raw(i), &points.mean, &center);
                        *key = key.min(distance);
                    }
                    farthest(keys).map(|(i, key)| (chunk * CANDIDATES + i, key))
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
        let d = self.points.dimension();
        let (points, own) = (&self.points, &self.norms);
        let norms: Vec<f32> = chosen.iter().map(|&i| own[i]).collect();
        let largest = norms.iter().copied().fold(0.0, f32::max);
        let rounding = Rounding::new(d);
        let mut panels = vec![0f32; chosen.len().div_ceil(PANEL_ROWS) * PANEL_ROWS * d];
        let mut buffer = vec![0f32; PANEL_ROWS * d];
        for (panel, chosen) in panels
            .chunks_exact_mut(PANEL_ROWS * d)
            .zip(chosen.chunks(PANEL_ROWS))
        {
            let rows = &mut buffer[..chosen.len() * d];
            points.read(chosen.iter().copied(), rows);
            pack_panel(rows, d, panel)?;
        }
        self.nearest
            .par_chunks_mut(TILE)
            .enumerate()
            .try_for_each_init(
                || (vec![0f32; TILE * d], vec![0f32; TILE * PANEL_ROWS]),
                |(rows, products), (tile, nearest)| {
                    let first = tile * TILE;
                    let rows = &mut rows[..nearest.len() * d];
                    points.read(first.., rows);
                    let products = &mut products[..nearest.len() * PANEL_ROWS];
                    let mut best = [(f32::INFINITY, 0); TILE];
                    for (p, panel) in panels.chunks_exact(PANEL_ROWS * d).enumerate() {
                        panel_products(rows, panel, d, products)?;
                        let from = p * PANEL_ROWS;
                        let norms = &norms[from..norms.len().min(from + PANEL_ROWS)];
                        for (best, products) in
                            best.iter_mut().zip(products.chunks_exact(PANEL_ROWS))
                        {
                            closest(best, products, norms, from);
                        }
                    }
                    let mut cancelled = [false; TILE];
                    for (i, (nearest, (key, at))) in nearest.iter_mut().zip(best).enumerate() {
                        let own = own[first + i];
                        let distance = (key + own).max(0.0);
                        cancelled[i] = distance < CANCELLED * (own + norms[at]);
                        if !cancelled[i] {
                            *nearest = nearest.min(distance);
                        }
                    }
                    if !cancelled.contains(&true) {
                        return Ok(());
                    }
                    // Again, for those alone: directly to every choice that may be the closest.
                    for (panel, chosen) in panels
                        .chunks_exact(PANEL_ROWS * d)
                        .zip(chosen.chunks(PANEL_ROWS).zip(norms.chunks(PANEL_ROWS)))
                    {
                        panel_products(rows, panel, d, products)?;
                        let each = nearest.iter_mut().zip(rows.chunks_exact(d)).enumerate();
                        for (i, (nearest, row)) in each.filter(|(i, _)| cancelled[*i]) {
                            let margin = rounding.of(own[first + i]) + rounding.of(largest);
                            let limit = best[i].0 + 2.0 * margin;
                            let products = &products[i * PANEL_ROWS..];
                            for ((center, norm), product) in
                                chosen.0.iter().zip(chosen.1).zip(products)
                            {
                                if norm - 2.0 * product <= limit {
                                    let center = points.raw(*center);
                                    let distance =
                                        shifted_squared_distance(center, &points.mean, row);
                                    *nearest = nearest.min(distance);
                                }
                            }
                        }
                    }
                    Ok::<(), Error>(())
                },
            )?;
        for &(i, key) in settled {
            self.nearest[i] = key;
        }
        Ok(())
    }
}

/// The sum of squared distances of each point to all others.
fn from_all(points: &Points<'_>, norms: &[f32]) -> Vec<f32> {
    let n = norms.len();
    let mut sum = vec![0f64; points.dimension()];
    for i in 0..n {
        for (s, v) in sum.iter_mut().zip(points.iter(i)) {
            *s += f64::from(v);
        }
    }
    let all: f64 = norms.iter().map(|&n| f64::from(n)).sum();
    let count = n as f64;
    (0..n)
        .into_par_iter()
        .with_min_len(256)
        .map(|i| {
            let product: f64 = points
                .iter(i)
                .zip(&sum)
                .map(|(v, s)| f64::from(v) * s)
                .sum();
            (count * f64::from(norms[i]) + all - 2.0 * product).max(0.0) as f32
        })
        .collect()
}

/// The squared mean distance of each point to the starts.
fn from_some(points: &Points<'_>, n: usize, starts: &[usize]) -> Vec<f32> {
    let centers: Vec<Vec<f32>> = starts.iter().map(|&s| points.vector(s)).collect();
    (0..n)
        .into_par_iter()
        .with_min_len(64)
        .map_init(
            || vec![0f32; points.dimension()],
            |row, i| {
                points.read(i..=i, row);
                let distances = centers
                    .iter()
                    .map(|c| f64::from(squared_distance(row, c)).sqrt());
                (distances.sum::<f64>() / centers.len().max(1) as f64).powi(2) as f32
            },
        )
        .collect()
}

/// Lowers the best (|center|^2 - 2 row.center, number) by those of one panel. Of equal ones the first counts.
fn closest(best: &mut (f32, usize), products: &[f32], norms: &[f32], from: usize) {
    const LANES: usize = 16;
    // What a panel lacks has a product, but no norm.
    let (blocks, rest) = products[..norms.len()].as_chunks::<LANES>();
    let (norm_blocks, norm_rest) = norms.as_chunks::<LANES>();
    let mut at = from;
    for (products, norms) in blocks.iter().zip(norm_blocks) {
        let mut keys = [0f32; LANES];
        let mut any = 0u32;
        for ((key, p), norm) in keys.iter_mut().zip(products).zip(norms) {
            *key = norm - 2.0 * p;
            any |= u32::from(*key < best.0);
        }
        // Most blocks hold nothing closer, which one comparison of all lanes tells.
        if any != 0 {
            lower(best, keys, at);
        }
        at += LANES;
    }
    lower(
        best,
        rest.iter().zip(norm_rest).map(|(p, norm)| norm - 2.0 * p),
        at,
    );
}

fn lower(best: &mut (f32, usize), keys: impl IntoIterator<Item = f32>, from: usize) {
    for (lane, key) in keys.into_iter().enumerate() {
        if key < best.0 {
            *best = (key, from + lane);
        }
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
