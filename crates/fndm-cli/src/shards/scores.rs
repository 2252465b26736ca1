//! What an evaluation keeps of one patient, so that the figures over all can be made later.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fndm_files::{OutputFolder, read_json};
use fndm_study::{BitScores, MaskScores, NextPixels, PatientBits};
use safetensors::tensor::{Dtype, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
            bytes.push((name(arm.method(), "values"), Dtype::F32, values.collect()));
            let truth = truth.iter().map(|&lesion| u8::from(lesion));
            bytes.push((name(arm.method(), "truth"), Dtype::U8, truth.collect()));
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

    /// Those in a patient's folder, without the pixels: see [`go_through`].
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        Ok(read_json(folder.join(FILE), "scores of a patient")?)
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

fn name(arm: &str, what: &str) -> String {
    format!("{arm}.{what}")
}

/// No header of ours is longer.
const LONGEST_HEADER: u64 = 1 << 20;

/// Hands on values and truth of the pixels of one arm in a patient's folder. Those of the other arms aren't read.
pub(crate) fn go_through(folder: &Path, arm: &str, next: &mut NextPixels<'_>) -> Result<()> {
    let path = folder.join(PIXELS);
    let (values, truth) = read_arm(&path, arm).with_context(|| path.display().to_string())?;
    let values = values.as_chunks().0.iter();
    let values: Vec<f32> = values.map(|&four| f32::from_le_bytes(four)).collect();
    let truth: Vec<bool> = truth.into_iter().map(|lesion| lesion != 0).collect();
    ensure!(
        values.len() == truth.len(),
        "{}: expected a truth for each value",
        path.display()
    );
    Ok(next(&values, &truth)?)
}

fn read_arm(path: &Path, arm: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let mut file = File::open(path)?;
    let whole = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let header = u64::from_le_bytes(length);
    ensure!(
        header <= LONGEST_HEADER.min(whole),
        "expected a header of at most {LONGEST_HEADER} bytes, got {header}"
    );
    let mut text = vec![0; usize::try_from(header)?];
    file.read_exact(&mut text)?;
    let tensors: BTreeMap<String, Value> = serde_json::from_slice(&text)?;
    let mut read = |what: &str, dtype: Dtype| -> Result<Vec<u8>> {
        let name = name(arm, what);
        let tensor = tensors.get(&name);
        let tensor = tensor.with_context(|| format!("expected a tensor {name}"))?;
        let tensor: TensorInfo = serde_json::from_value(tensor.clone())?;
        ensure!(
            tensor.dtype == dtype,
            "{name}: expected {dtype:?}, got {:?}",
            tensor.dtype
        );
        let (from, to) = tensor.data_offsets;
        let begin = 8 + header + from as u64;
        ensure!(
            from <= to && 8 + header + to as u64 <= whole,
            "{name}: expected bytes of the file, got {from} to {to}"
        );
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = vec![0; to - from];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    Ok((read("values", Dtype::F32)?, read("truth", Dtype::U8)?))
}
