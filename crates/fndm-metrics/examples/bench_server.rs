//! Times the metrics on arrays that another program wrote, for comparison on equal inputs.
//!
//! ```text
//! bench_server FILE REPEATS
//! ```
//!
//! FILE is a safetensors file with `result` and `reference` (U8, 2 or 3 axes) and `spacing` (F64),
//! or with `scores` (F32) and `labels` (U8), or with both. Prints one JSON object: for each metric
//! its value and the seconds of the fastest repeat. The number of threads is `RAYON_NUM_THREADS`.

use fndm_metrics::{
    BorderDistances, Connectivity, Ranking, Score, SurfelDistances, VoxelDistances,
};
use ndarray::{ArrayD, IxDyn};
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("expected: FILE REPEATS")?;
    let repeats: usize = arguments.next().ok_or("expected: FILE REPEATS")?.parse()?;
    let bytes = std::fs::read(file)?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let mut timed = Map::new();
    if tensors.tensor("result").is_ok() {
        distances(&tensors, repeats, &mut timed)?;
    }
    if tensors.tensor("scores").is_ok() {
        ranking(&tensors, repeats, &mut timed)?;
    }
    println!("{}", Value::from(timed));
    Ok(())
}

/// Runs a metric and notes its value and the fastest time.
fn time(
    timed: &mut Map<String, Value>,
    name: &str,
    repeats: usize,
    metric: impl Fn() -> Result<Value, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut seconds = f64::INFINITY;
    let mut value = Value::Null;
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        value = metric()?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    timed.insert(name.to_owned(), json!({"value": value, "seconds": seconds}));
    Ok(())
}

fn distances(
    tensors: &SafeTensors<'_>,
    repeats: usize,
    timed: &mut Map<String, Value>,
) -> Result<(), Box<dyn Error>> {
    let mask = |name: &str| -> Result<ArrayD<bool>, Box<dyn Error>> {
        let tensor = tensors.tensor(name)?;
        let voxels = tensor.data().iter().map(|&voxel| voxel != 0).collect();
        Ok(ArrayD::from_shape_vec(IxDyn(tensor.shape()), voxels)?)
    };
    let (result, reference) = (mask("result")?, mask("reference")?);
    let (result, reference) = (result.view(), reference.view());
    let spacing: Vec<f64> = tensors
        .tensor("spacing")?
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f64::from_le_bytes(bytes))
        .collect();
    let empty = |reason| format!("no distance: {reason}");
    time(timed, "medpy_hd95_assd", repeats, || {
        let found = BorderDistances::of(&result, &reference, &spacing, Connectivity::Faces)?;
        let found = found.map_err(empty)?;
        Ok(json!([found.percentile(95.0)?, found.average_symmetric()]))
    })?;
    time(timed, "surface_distance_hd95_averages", repeats, || {
        let found = SurfelDistances::of(&result, &reference, &spacing)?.map_err(empty)?;
        let averages = [found.average_to_result(), found.average_to_reference()];
        Ok(json!([found.percentile(95.0)?, averages[0], averages[1]]))
    })?;
    time(timed, "simpleitk_hausdorff_average", repeats, || {
        let found = VoxelDistances::of(&result, &reference, &spacing)?.map_err(empty)?;
        Ok(json!([found.hausdorff(), found.average()]))
    })
}

fn ranking(
    tensors: &SafeTensors<'_>,
    repeats: usize,
    timed: &mut Map<String, Value>,
) -> Result<(), Box<dyn Error>> {
    let scores: Vec<f32> = tensors
        .tensor("scores")?
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes))
        .collect();
    let labels = tensors.tensor("labels")?;
    let labels: Vec<bool> = labels.data().iter().map(|&label| label != 0).collect();
    let number = |score: Score| score.value().map_or(Value::Null, Value::from);
    time(timed, "auroc_average_precision", repeats, || {
        let ranking = Ranking::of(&scores, &labels)?;
        let both = [ranking.auroc(), ranking.average_precision()];
        Ok(Value::from(both.map(number).to_vec()))
    })
}
