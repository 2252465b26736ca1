//! Exact nearest neighbours, and greedy coresets.

use super::{Case, number};
use crate::inputs::floats;
use anyhow::{Context, Result, bail};
use fndm_memory::{
    Coreset, CoresetMethod, CoresetSize, NearestNeighbours, Neighbours, Storage, silent,
};
use ndarray::{Array2, Axis, s};
use serde_json::Value;

struct Search {
    index: NearestNeighbours,
    queries: Array2<f32>,
    k: usize,
    found: Option<Neighbours>,
}

impl Case for Search {
    fn run(&mut self) -> Result<()> {
        self.found = None;
        self.found = Some(self.index.search(self.queries.view(), self.k)?);
        Ok(())
    }

    /// Distances and row numbers of some queries.
    fn check(&mut self) -> Result<Vec<f64>> {
        let found = self.found.as_ref().context("nothing has run")?;
        let step = self.queries.nrows().div_ceil(32).max(1);
        let mut values = Vec::new();
        for (distances, rows) in found
            .distances
            .outer_iter()
            .zip(found.indices.outer_iter())
            .step_by(step)
        {
            for (distance, row) in distances.iter().zip(rows) {
                let row = row.context("a query has no neighbour")?;
                values.push(f64::from(*distance));
                // About as large as the distances, so that one wrong number is seen.
                values.push((row * 37 % 101) as f64);
            }
        }
        Ok(values)
    }
}

struct Selection {
    features: Array2<f32>,
    coreset: Coreset,
    chosen: Vec<usize>,
}

impl Case for Selection {
    fn run(&mut self) -> Result<()> {
        self.chosen = self
            .coreset
            .select(self.features.view(), usize::MAX, &mut silent)?;
        Ok(())
    }

    /// How far the features are from the chosen ones: on average, and at most; and the part that was chosen.
    fn check(&mut self) -> Result<Vec<f64>> {
        let chosen = self.features.select(Axis(0), &self.chosen);
        let part = chosen.nrows() as f64 / self.features.nrows() as f64;
        let index = NearestNeighbours::new(chosen, Storage::F32)?;
        let found = index.search(self.features.view(), 1)?;
        let distances = found.distances.mapv(|d| f64::from(d).sqrt());
        let mean = distances.mean().context("no features")?;
        let largest = distances.iter().copied().fold(0., f64::max);
        Ok(vec![mean, largest, part])
    }
}

/// Rows of `rank` smooth factors and a tenth of noise, as neighbouring patches are alike; rank 0 is noise alone.
fn features(seed: u32, rows: usize, columns: usize, rank: usize) -> Result<Array2<f32>> {
    let mut values = floats(seed, rows * columns);
    if rank > 0 {
        let (left, right) = (
            floats(seed + 1, rows * rank),
            floats(seed + 2, rank * columns),
        );
        for (row, factors) in values
            .chunks_exact_mut(columns)
            .zip(left.chunks_exact(rank))
        {
            for v in &mut *row {
                *v *= 0.1;
            }
            for (factor, right) in factors.iter().zip(right.chunks_exact(columns)) {
                for (v, r) in row.iter_mut().zip(right) {
                    *v += factor * r;
                }
            }
        }
    }
    Ok(Array2::from_shape_vec((rows, columns), values)?)
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let (rows, columns, rank) = (
        number(spec, "rows")?,
        number(spec, "columns")?,
        number(spec, "rank")?,
    );
    let bank = features(1, rows, columns, rank)?;
    Ok(match spec["what"].as_str() {
        Some("search") => Box::new(Search {
            index: NearestNeighbours::new(bank, Storage::F32)?,
            queries: features(4, number(spec, "queries")?, columns, rank)?,
            k: number(spec, "neighbours")?,
            found: None,
        }),
        Some("coreset") => {
            let coreset = Coreset {
                method: CoresetMethod::Approximate {
                    starts: number(spec, "starts")?,
                },
                size: CoresetSize::Rows(number(spec, "count")?),
                projection: spec["our projection"].as_u64().map(|p| p as usize),
                seed: 0,
            };
            // Threads and code that the first call loads aren't the selection's memory.
            coreset.select(bank.slice(s![..16, ..]), 8, &mut silent)?;
            Box::new(Selection {
                features: bank,
                coreset,
                chosen: Vec::new(),
            })
        }
        other => bail!("spec: unknown {other:?}"),
    })
}
