//! What an evaluation keeps of one patient, so that the figures over all can be made later.

use std::path::Path;

use anyhow::{Context, Result, bail};
use fndm_files::{OutputFolder, read_json};
use fndm_study::{BitScores, MaskScores, PatientBits};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

/// Names in a patient's folder.
const FILE: &str = "scores.json";
const PIXELS: &str = "pixels.safetensors";

/// The scores of every arm. Its JSON has no tag inside, so that numbers are read as exactly as they are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scores {
    Masks(Vec<MaskScores>),
    Bits(Vec<BitScores>),
}

/// What a report counts of a patient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) slices: usize,
    pub(crate) diseased: usize,
    /// Where bits were asked for.
    pub(crate) bits: Option<PatientBits>,
}

impl Scores {
    /// Puts them into a patient's folder.
    pub(crate) fn write(&self, folder: &mut OutputFolder) -> Result<()> {
        folder.write_json(FILE, self)?;
        let Self::Masks(arms) = self else {
            return Ok(());
        };
        let mut bytes: Vec<(String, Dtype, Vec<u8>)> = Vec::new();
        for arm in arms {
            let (values, truth) = arm.pixels();
            let values = values.iter().flat_map(|value| value.to_le_bytes());
            bytes.push((name(arm, "values"), Dtype::F32, values.collect()));
            let truth = truth.iter().map(|&lesion| u8::from(lesion));
            bytes.push((name(arm, "truth"), Dtype::U8, truth.collect()));
        }
        let mut tensors = Vec::new();
        for (name, dtype, bytes) in &bytes {
            let width = if *dtype == Dtype::F32 { 4 } else { 1 };
            tensors.push((
                name,
                TensorView::new(*dtype, vec![bytes.len() / width], bytes)?,
            ));
        }
        folder.write(PIXELS, safetensors::serialize(tensors, None)?)?;
        Ok(())
    }

    /// Those in a patient's folder.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let scores: Self = read_json(folder.join(FILE), "scores of a patient")?;
        let Self::Masks(arms) = scores else {
            return Ok(scores);
        };
        let path = folder.join(PIXELS);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let tensors =
            SafeTensors::deserialize(&bytes).with_context(|| path.display().to_string())?;
        let with_pixels = |arm: MaskScores| -> Result<MaskScores> {
            let data = |what: &str| {
                let tensor = tensors.tensor(&name(&arm, what));
                let tensor = tensor.with_context(|| path.display().to_string())?;
                Ok::<_, anyhow::Error>(tensor.data().to_vec())
            };
            let values = data("values")?;
            let values = values
                .as_chunks()
                .0
                .iter()
                .map(|&four| f32::from_le_bytes(four));
            let (values, truth): (Vec<f32>, _) = (values.collect(), data("truth")?);
            if values.len() != truth.len() {
                bail!("{}: expected a truth for each value", path.display());
            }
            let truth = truth.into_iter().map(|lesion| lesion != 0).collect();
            Ok(arm.with_pixels(values, truth))
        };
        let arms = arms.into_iter().map(with_pixels);
        Ok(Self::Masks(arms.collect::<Result<_>>()?))
    }

    /// Adds another patient's.
    pub(crate) fn join(&mut self, other: Self) -> Result<()> {
        match (self, other) {
            (Self::Masks(all), Self::Masks(more)) if all.len() == more.len() => {
                for (all, more) in all.iter_mut().zip(more) {
                    all.join(more)?;
                }
            }
            (Self::Bits(all), Self::Bits(more)) if all.len() == more.len() => {
                for (all, more) in all.iter_mut().zip(more) {
                    all.join(more)?;
                }
            }
            _ => bail!("scores of other arms"),
        }
        Ok(())
    }

    /// Wall time of each arm, by its key, in milliseconds.
    pub(crate) fn milliseconds(&self) -> Vec<(String, f64)> {
        let time = |key: &str, ms: Option<f64>| Some((key.to_owned(), ms?));
        match self {
            Self::Masks(arms) => {
                let times = arms.iter().map(|a| time(a.method(), a.milliseconds()));
                times.flatten().collect()
            }
            Self::Bits(arms) => {
                let times = arms.iter().map(|a| time(a.method(), a.milliseconds()));
                times.flatten().collect()
            }
        }
    }
}

fn name(arm: &MaskScores, what: &str) -> String {
    format!("{}.{what}", arm.method())
}
