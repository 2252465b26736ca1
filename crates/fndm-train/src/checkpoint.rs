//! Checkpoints: one safetensors file each, whose metadata holds the rest of the state as JSON.
//!
//! A checkpoint is one file, so that it is there whole or not at all: it is written under a temporary name, synced, and renamed.
//! The same JSON stands beside it for people to read; nothing reads it back. Random generators and the order of the data are
//! functions of the seed and the iteration, so these two numbers are all of their state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_data::corrupt::Donors;
use fndm_files::{write_atomic, write_by};
use safetensors::tensor::Metadata;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result, hash};

const FORMAT: u32 = 1;
const METADATA_KEY: &str = "fndm_train";
const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";
/// Most bytes of a file's head: safetensors' own limit.
const MAX_HEAD: u64 = 100_000_000;

/// Everything of a training run that isn't a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckpointState {
    /// Version of this layout.
    pub format: u32,
    /// What is trained, by [`Setup::kind`](crate::Setup::kind): `diffusion`, `classifier`, `remover` or `student`.
    pub kind: String,
    /// Iterations made.
    pub iteration: u64,
    /// Optimiser steps made: fewer than iterations where some were skipped.
    pub optimizer_steps: u64,
    /// Iterations skipped in a row up to this one.
    #[serde(default)]
    pub skipped_in_a_row: u32,
    /// Seconds of training so far, over all sessions of the run.
    pub elapsed_s: f64,
    /// The run's seed.
    pub seed: u64,
    /// The training config.
    pub config: Value,
    /// The network's config.
    pub model: Value,
    /// What the data are known by.
    pub data: Fingerprint,
}

/// What the data of a run are known by, so that a resumed run is sure to go on with the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Number of slices, or of other samples.
    pub slices: usize,
    /// Number of different patients; 0 where there are none.
    pub patients: usize,
    /// Channels, height, width of each.
    pub shape: [usize; 3],
    /// A hash (FNV-1a, 64 bits, hexadecimal) of all intensities and labels, or of other values.
    pub hash: String,
    /// A hash of the heads, and of the patient and the place of each slice; none of other data, and in checkpoints of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<String>,
    /// The patients; empty in checkpoints of older versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
}

impl Fingerprint {
    /// Of the images and labels of slices.
    #[must_use]
    pub fn of_slices(set: &SliceSet) -> Self {
        let (slices, c, h, w) = set.images.dim();
        let intensities = set.images.iter().map(|value| value.to_bits());
        let labels = set.labels.iter().map(|&label| u32::from(label));
        let heads = set.head.iter().map(|&inside| u32::from(inside));
        let places = set.patient.iter().zip(&set.z);
        let places = places.flat_map(|(&patient, &z)| [patient as u32, z as u32]);
        Self {
            places: Some(format!("{:016x}", hash::of_words(heads.chain(places)))),
            ids: set.ids.clone(),
            patients: set.patient.iter().collect::<BTreeSet<_>>().len(),
            ..Self::of_words(slices, [c, h, w], intensities.chain(labels))
        }
    }

    /// Of the images and labels of slices, and of the lesions that are pasted into them, where there are any.
    #[must_use]
    pub(crate) fn with_donors(set: &SliceSet, donors: Option<&Donors>) -> Self {
        let slices = Self::of_slices(set);
        let Some(donors) = donors else {
            return slices;
        };
        let of_slices = slices.hash.bytes().map(u32::from);
        let words = of_slices.chain(donors.values().map(f32::to_bits));
        Self {
            hash: Self::of_words(0, slices.shape, words).hash,
            ..slices
        }
    }

    /// Of other data: how many samples, the shape of each, and all values.
    pub fn of(samples: usize, shape: [usize; 3], values: impl IntoIterator<Item = f32>) -> Self {
        Self::of_words(samples, shape, values.into_iter().map(f32::to_bits))
    }

    fn of_words(slices: usize, shape: [usize; 3], words: impl Iterator<Item = u32>) -> Self {
        let hash = hash::of_words(words);
        Self {
            slices,
            patients: 0,
            shape,
            hash: format!("{hash:016x}"),
            places: None,
            ids: Vec::new(),
        }
    }
}

/// Training state in memory: what [`save`] writes and [`load`] reads.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) state: CheckpointState,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

impl CheckpointState {
    pub(crate) const fn format() -> u32 {
        FORMAT
    }
}

/// Writes `step-XXXXXXXX.safetensors` into `folder`, and removes all but the newest `keep` checkpoints there.
pub(crate) fn save(folder: &Path, checkpoint: &Checkpoint, keep: usize) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = file_in(folder, checkpoint.state.iteration);
    save_as(&path, checkpoint)?;
    remove_old(folder, keep.max(1))
}

/// The checkpoint of an iteration.
pub(crate) fn file_in(folder: &Path, iteration: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{iteration:08}{SUFFIX}"))
}

/// Writes a checkpoint under this name, and its state as JSON beside it.
pub(crate) fn save_as(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let json = serde_json::to_string_pretty(&checkpoint.state)
        .map_err(|e| Error::checkpoint(path, e.to_string()))?;
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json.clone())]);
    write_by(path, |temporary| {
        // Tensor by tensor: no second copy of all of them in memory.
        safetensors::serialize_to_file(&checkpoint.tensors, Some(metadata), temporary).map_err(
            |e| match e {
                safetensors::SafeTensorError::IoError(e) => Error::io(path, e),
                other => Error::io(path, std::io::Error::other(other)),
            },
        )
    })?;
    write_atomic(path.with_extension("json"), json)?;
    let iteration = checkpoint.state.iteration;
    tracing::info!(iteration, path = %path.display(), "checkpoint written");
    Ok(())
}

/// The checkpoints in `folder`, oldest first.
///
/// # Errors
/// When the folder can't be read.
pub fn list_checkpoints(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let iteration = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX))
            .and_then(|number| number.parse::<u64>().ok());
        if let Some(iteration) = iteration {
            found.push((iteration, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn remove_old(folder: &Path, keep: usize) -> Result<()> {
    let all = list_checkpoints(folder)?;
    for path in &all[..all.len().saturating_sub(keep)] {
        fs::remove_file(path).map_err(|e| Error::io(path, e))?;
        let _ = fs::remove_file(path.with_extension("json"));
    }
    // What a killed process was writing.
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        if name.is_some_and(|n| n.starts_with(&format!(".{PREFIX}")) && n.ends_with(".tmp")) {
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        }
    }
    Ok(())
}

/// The checkpoint file that `path` means: itself, or the newest one where it is a folder.
fn find(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    list_checkpoints(path)?.pop().ok_or_else(|| {
        Error::checkpoint(
            path,
            format!("expected a file {PREFIX}NUMBER{SUFFIX}, found none"),
        )
    })
}

/// What a checkpoint file, or the newest one of a folder, says of its run. Only the file's head is read.
///
/// # Errors
/// When there is none, or it isn't a whole checkpoint of this crate.
pub fn read_checkpoint_state(path: &Path) -> Result<CheckpointState> {
    let path = find(path)?;
    Ok(read_head(&path)?.0)
}

/// The state in the head of a file, and the length that the file has.
fn read_head(path: &Path) -> Result<(CheckpointState, u64)> {
    let io = |e| Error::io(path, e);
    let broken =
        |reason: String| Error::checkpoint(path, format!("not a whole safetensors file: {reason}"));
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut head = vec![0; 8];
    if length < 8 {
        return Err(broken(format!("{length} bytes")));
    }
    file.read_exact(&mut head).map_err(io)?;
    let announced = head.iter().rev().fold(0_u64, |n, &b| n << 8 | u64::from(b));
    if announced > MAX_HEAD || announced > length - 8 {
        return Err(broken(format!(
            "a head of {announced} bytes in a file of {length}"
        )));
    }
    let mut rest = vec![0; announced as usize];
    file.read_exact(&mut rest).map_err(io)?;
    let metadata: Metadata = serde_json::from_slice(&rest).map_err(|e| broken(e.to_string()))?;
    let expected = 8 + announced + metadata.data_len() as u64;
    if expected != length {
        return Err(broken(format!("expected {expected} bytes, got {length}")));
    }
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(METADATA_KEY))
        .ok_or_else(|| {
            Error::checkpoint(
                path,
                format!("expected the metadata key {METADATA_KEY}, found none"),
            )
        })?;
    let state: CheckpointState = serde_json::from_str(json)
        .map_err(|e| Error::checkpoint(path, format!("metadata {METADATA_KEY}: {e}")))?;
    if state.format != FORMAT {
        return Err(Error::checkpoint(
            path,
            format!("expected format {FORMAT}, got {}", state.format),
        ));
    }
    Ok((state, length))
}

/// Reads a checkpoint file, or the newest one of a folder, once `fits` has agreed with its state. A file of more than
/// `limit` bytes is refused before its tensors are read.
pub(crate) fn load(
    path: &Path,
    device: &Device,
    limit: u64,
    fits: impl FnOnce(&Path, &CheckpointState) -> Result<()>,
) -> Result<(PathBuf, Checkpoint)> {
    let path = find(path)?;
    let (state, length) = read_head(&path)?;
    fits(&path, &state)?;
    if length > limit {
        return Err(Error::checkpoint(
            &path,
            format!("limit: expected at most {limit} bytes for this network, got {length}"),
        ));
    }
    let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, device)
        .map_err(|e| Error::checkpoint(&path, e.to_string()))?;
    let tensors = tensors.into_iter().collect();
    Ok((path, Checkpoint { state, tensors }))
}

/// The averaged weights (of the first decay) in a checkpoint file, or in the newest one of a folder: what a model is saved
/// with.
///
/// # Errors
/// As [`read_checkpoint_state`], or when there is no average in it.
pub fn read_checkpoint_ema(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let (path, checkpoint) = load(path, device, u64::MAX, |_, _| Ok(()))?;
    let decay = checkpoint.state.config["optimizer"]["ema"]["decays"][0]
        .as_f64()
        .ok_or_else(|| Error::checkpoint(&path, "expected a decay of the averages, found none"))?;
    let prefix = crate::learner::ema_name(decay, "");
    let averages: BTreeMap<String, Tensor> = checkpoint
        .tensors
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor)))
        .collect();
    if averages.is_empty() {
        let reason = format!("expected tensors {prefix}..., found none");
        return Err(Error::checkpoint(&path, reason));
    }
    Ok(averages)
}

/// Compares the settings that must not change over a run's life.
pub(crate) fn check_settings(
    path: &Path,
    saved: &CheckpointState,
    current: &CheckpointState,
    may_change: &[&str],
) -> Result<()> {
    let compare = |field, a: &Value, b: &Value| compare(path, field, a, b, may_change);
    compare("kind", &saved.kind[..].into(), &current.kind[..].into())?;
    compare("model", &saved.model, &current.model)?;
    compare("config", &saved.config, &current.config)?;
    compare("seed", &saved.seed.into(), &current.seed.into())
}

/// Compares the slices.
pub(crate) fn check_data(path: &Path, saved: &Fingerprint, current: &Fingerprint) -> Result<()> {
    let lacking = |from: &Fingerprint, of: &Fingerprint| -> Vec<String> {
        let there: BTreeSet<&String> = of.ids.iter().collect();
        let lacks = from.ids.iter().filter(|id| !there.contains(id));
        lacks.cloned().collect()
    };
    let (missing, added) = (lacking(saved, current), lacking(current, saved));
    if !(saved.ids.is_empty() || missing.is_empty() && added.is_empty()) {
        return Err(Error::Patients {
            path: path.to_owned(),
            saved: saved.ids.len(),
            current: current.ids.len(),
            missing,
            added,
        });
    }
    let both = saved.places.is_some() && current.places.is_some();
    let data = |f: &Fingerprint| {
        let anonymous = Fingerprint {
            ids: Vec::new(),
            places: f.places.clone().filter(|_| both),
            ..f.clone()
        };
        serde_json::to_value(anonymous).unwrap_or(Value::Null)
    };
    compare(path, "data", &data(saved), &data(current), &[])
}

fn compare(
    path: &Path,
    field: &str,
    saved: &Value,
    current: &Value,
    may_change: &[&str],
) -> Result<()> {
    if may_change.contains(&field) {
        return Ok(());
    }
    if let (Value::Object(a), Value::Object(b)) = (saved, current) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let inner = format!("{field}.{name}");
            let of = |o: &serde_json::Map<String, Value>| {
                o.get(name.as_str()).cloned().unwrap_or(Value::Null)
            };
            compare(path, &inner, &of(a), &of(b), may_change)?;
        }
        return Ok(());
    }
    if saved == current {
        return Ok(());
    }
    Err(Error::Changed {
        path: path.to_owned(),
        field: field.to_owned(),
        saved: saved.to_string(),
        current: current.to_string(),
    })
}
