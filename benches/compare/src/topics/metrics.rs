//! Surface distances of a pair of masks of 240 x 240 x 155 voxels; AUROC and average precision of as
//! many pixels.

use super::{Case, number};
use crate::inputs::floats;
use anyhow::{Context, Result, anyhow, bail};
use fndm_metrics::{
    BorderDistances, Connectivity, Ranking, Score, SurfelDistances, VoxelDistances,
};
use ndarray::{Array3, ArrayView3};
use serde_json::Value;

const SHAPE: (usize, usize, usize) = (240, 240, 155);
const SPACING: [f64; 3] = [1.; 3];

type Metric = fn(&ArrayView3<'_, bool>, &ArrayView3<'_, bool>) -> Result<Vec<f64>>;

struct Distances {
    result: Array3<bool>,
    reference: Array3<bool>,
    metric: Metric,
    values: Vec<f64>,
}

impl Case for Distances {
    fn run(&mut self) -> Result<()> {
        self.values = (self.metric)(&self.result.view(), &self.reference.view())?;
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(self.values.clone())
    }
}

/// HD95 and ASSD over border voxels.
fn border(
    result: &ArrayView3<'_, bool>,
    reference: &ArrayView3<'_, bool>,
    connectivity: Connectivity,
) -> Result<Vec<f64>> {
    let found = BorderDistances::of(result, reference, &SPACING, connectivity)?;
    let found = found.map_err(|why| anyhow!("no distance: {why}"))?;
    Ok(vec![found.percentile(95.)?, found.average_symmetric()])
}

fn surfels(result: &ArrayView3<'_, bool>, reference: &ArrayView3<'_, bool>) -> Result<Vec<f64>> {
    let found = SurfelDistances::of(result, reference, &SPACING)?;
    let found = found.map_err(|why| anyhow!("no distance: {why}"))?;
    let averages = [found.average_to_result(), found.average_to_reference()];
    Ok(vec![found.percentile(95.)?, averages[0], averages[1]])
}

fn voxels(result: &ArrayView3<'_, bool>, reference: &ArrayView3<'_, bool>) -> Result<Vec<f64>> {
    let found = VoxelDistances::of(result, reference, &SPACING)?;
    let found = found.map_err(|why| anyhow!("no distance: {why}"))?;
    Ok(vec![found.hausdorff(), found.average()])
}

/// An ellipsoid with a rough surface, in integers alone: `peers/metrics.py` has the same.
fn mask(axes: [i64; 3], centre: i64) -> Array3<bool> {
    let [a, b, c] = axes.map(|axis| axis * axis);
    Array3::from_shape_fn(SHAPE, |(x, y, z)| {
        let (x, y, z) = (x as i64, y as i64, z as i64);
        let squared =
            (x - centre).pow(2) * b * c + (y - 120).pow(2) * a * c + (z - 77).pow(2) * a * b;
        let rough = (x / 5 * 31 + y / 7 * 17 + z / 3 * 13) % 11;
        squared * (100 + rough) < a * b * c * 105
    })
}

struct Pixels {
    scores: Vec<f32>,
    labels: Vec<bool>,
    values: Vec<f64>,
}

impl Case for Pixels {
    fn run(&mut self) -> Result<()> {
        let ranking = Ranking::of(&self.scores, &self.labels)?;
        let value = |score: Score| score.value().context("no value");
        self.values = vec![value(ranking.auroc())?, value(ranking.average_precision())?];
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(self.values.clone())
    }
}

fn pixels(levels: usize) -> Pixels {
    let count = SHAPE.0 * SHAPE.1 * SHAPE.2;
    let labels: Vec<bool> = floats(2, count).into_iter().map(|x| x > 0.96).collect();
    let mut scores = floats(1, count);
    for (score, &label) in scores.iter_mut().zip(&labels) {
        *score += if label { 0.5 } else { 0. };
        if levels > 0 {
            *score = (*score * (levels as f32 / 2.)).floor();
        }
    }
    Pixels {
        scores,
        labels,
        values: vec![],
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let metric: Metric = match spec["metric"].as_str() {
        Some("ranking") => return Ok(Box::new(pixels(number(spec, "levels")?))),
        Some("medpy") => |a: &_, b: &_| border(a, b, Connectivity::Faces),
        Some("simpleitk_contours") => |a: &_, b: &_| border(a, b, Connectivity::Corners),
        Some("surface_distance") => |a: &_, b: &_| surfels(a, b),
        Some("simpleitk") => |a: &_, b: &_| voxels(a, b),
        other => bail!("spec: unknown metric {other:?}"),
    };
    let axes: Vec<i64> = serde_json::from_value(spec["axes"].clone())?;
    let axes: [i64; 3] = axes
        .try_into()
        .map_err(|axes| anyhow!("spec: expected 3 axes, got {axes:?}"))?;
    Ok(Box::new(Distances {
        result: mask(axes, number(spec, "result")? as i64),
        reference: mask(axes, number(spec, "reference")? as i64),
        metric,
        values: vec![],
    }))
}
