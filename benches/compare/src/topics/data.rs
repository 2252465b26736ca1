//! Reading a `NIfTI` volume to a float32 array, and batches of slices from memory.

use std::sync::Arc;

use super::{Case, number};
use crate::inputs::floats;
use anyhow::{Context, Result};
use fndm_data::loading::{Batch, Batches, LoadConfig, SliceCache};
use fndm_data::{Limits, SliceSet, Volume, nifti};
use ndarray::{Array3, Array4};
use serde_json::Value;

struct Read {
    file: String,
    volume: Option<Volume>,
}

impl Case for Read {
    fn run(&mut self) -> Result<()> {
        self.volume = None;
        self.volume = Some(nifti::read(&self.file, &Limits::default())?);
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        let volume = self.volume.as_ref().context("nothing has run")?;
        // First axis fastest.
        let data = volume.data.t();
        let mut values: Vec<f64> = data
            .iter()
            .step_by(9973 * 13)
            .map(|v| f64::from(*v))
            .collect();
        let sum: f64 = data.iter().map(|v| f64::from(*v)).sum();
        values.push(sum / data.len() as f64);
        Ok(values)
    }
}

/// Every slice of a cache once, in a new order each time.
struct Epoch {
    batches: Batches,
    /// Batches of an epoch.
    count: u64,
    next: u64,
    slices: usize,
    last: Vec<Batch>,
}

impl Epoch {
    fn new(slices: usize, batch: usize, channels: usize, size: usize) -> Result<Self> {
        let shape = (slices, channels, size, size);
        let values = floats(31, slices * channels * size * size);
        let set = SliceSet {
            images: Array4::from_shape_vec(shape, values)?,
            labels: (0..slices).map(|n| u8::from(n % 3 == 0)).collect(),
            head: Array3::from_shape_fn((slices, size, size), |(n, y, x)| {
                (7 * n + 3 * y + x) % 5 != 0
            }),
            patient: vec![0; slices],
            z: (0..slices).collect(),
            ids: vec!["made".into()],
            sequences: (0..channels).map(|n| n.to_string()).collect(),
        };
        let config = LoadConfig {
            batch,
            ..LoadConfig::default()
        };
        Ok(Self {
            batches: Batches::new(Arc::new(SliceCache::new(&set)?), &config)?,
            count: (slices / batch) as u64,
            next: 0,
            slices,
            last: Vec::new(),
        })
    }
}

impl Case for Epoch {
    fn run(&mut self) -> Result<()> {
        for _ in 0..self.count {
            // The batch before is dropped, as in training.
            self.last.clear();
            self.last.push(self.batches.at(self.next));
            self.next += 1;
        }
        Ok(())
    }

    /// For every slice of an epoch, in the order of the cache: mean, pixels of the head, label.
    fn check(&mut self) -> Result<Vec<f64>> {
        let mut values = vec![0.0; 3 * self.slices];
        for _ in 0..self.count {
            let batch = self.batches.at(self.next);
            self.next += 1;
            for (n, &slice) in batch.slices.iter().enumerate() {
                let image = batch.images.index_axis(ndarray::Axis(0), n);
                let head = batch.head.index_axis(ndarray::Axis(0), n);
                let sum: f64 = image.iter().map(|v| f64::from(*v)).sum();
                values[3 * slice] = sum / image.len() as f64;
                let inside = head.iter().filter(|b| **b).count();
                values[3 * slice + 1] = inside as f64 / head.len() as f64;
                values[3 * slice + 2] = f64::from(batch.labels[n]);
            }
        }
        Ok(values)
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    if let Some(file) = spec["file"].as_str() {
        return Ok(Box::new(Read {
            file: file.to_string(),
            volume: None,
        }));
    }
    let number = |key| number(spec, key).context("spec: expected a \"file\", or sizes of batches");
    let (slices, batch) = (number("slices")?, number("batch")?);
    let (channels, size) = (number("channels")?, number("size")?);
    Ok(Box::new(Epoch::new(slices, batch, channels, size)?))
}
