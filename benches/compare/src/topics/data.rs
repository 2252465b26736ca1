//! Reading a `NIfTI` volume to a float32 array.

use super::Case;
use anyhow::{Context, Result};
use fndm_data::{Limits, Volume, nifti};
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

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let file = spec["file"].as_str();
    let file = file.context("spec: expected a \"file\"")?.to_string();
    Ok(Box::new(Read { file, volume: None }))
}
