//! Checkpoints: one safetensors file each, whose metadata holds the rest of the state as JSON.
//!
//! A checkpoint is one file, so that it is there whole or not at all: it is written under a temporary name, synced, and renamed.
//! The same JSON stands beside it for people to read; nothing reads it back.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

const FORMAT: u32 = 1;
const METADATA_KEY: &str = "fndm_train";
const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

/// Everything of a training run that isn't a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Version of this layout.
    pub format: u32,
    /// What is trained: `diffusion` or `classifier`.
    pub kind: String,
    /// Iterations made.
    pub iteration: u64,
    /// Optimiser steps made: fewer than iterations where some were skipped.
    pub optimizer_steps: u64,
    /// Seconds of training so far, over all sessions of the run.
    pub elapsed_s: f64,
    /// The run's seed.
    pub seed: u64,
    /// The training config.
    pub config: Value,
    /// The network's config.
    pub model: Value,
    /// What the slice set is known by.
    pub data: Fingerprint,
}

/// What a slice set is known by, so that a resumed run is sure to go on with the same data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Number of slices.
    pub slices: usize,
    /// Number of different patients.
    pub patients: usize,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// A hash (FNV-1a, 64 bits, hexadecimal) of all intensities and labels.
    pub hash: String,
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
pub(crate) fn save(folder: &Path, checkpoint: &Checkpoint, keep: usize) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join(format!("{PREFIX}{:08}{SUFFIX}", checkpoint.state.iteration));
    let json = serde_json::to_string_pretty(&checkpoint.state)
        .map_err(|e| Error::checkpoint(&path, e.to_string()))?;
    let metadata = HashMap::from([(METADATA_KEY.to_owned(), json.clone())]);
    let bytes = safetensors::serialize(&checkpoint.tensors, Some(metadata))
        .map_err(|e| Error::checkpoint(&path, e.to_string()))?;
    write_whole(&path.with_extension("json"), json.as_bytes())?;
    write_whole(&path, &bytes)?;
    remove_old(folder, keep.max(1))?;
    Ok(path)
}

/// Writes a file so that its name shows the old content or the new, whatever happens in between.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let temporary = folder.join(format!(".{name}.tmp"));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself must reach the disk; not every system lets a folder be opened for that.
        if let Ok(opened) = File::open(folder) {
            let _ = opened.sync_all();
        }
        Ok(())
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        Error::io(path, e)
    })
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

/// What a checkpoint file, or the newest one of a folder, says of its run.
///
/// # Errors
/// When there is none, or it isn't a checkpoint of this crate.
pub fn read_checkpoint_state(path: &Path) -> Result<CheckpointState> {
    let path = find(path)?;
    let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
    state_of(&path, &bytes)
}

fn state_of(path: &Path, bytes: &[u8]) -> Result<CheckpointState> {
    let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::checkpoint(path, format!("not a whole safetensors file: {e}")))?;
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
    Ok(state)
}

/// Reads a checkpoint file, or the newest one of a folder.
pub(crate) fn load(path: &Path, device: &Device) -> Result<(PathBuf, Checkpoint)> {
    let path = find(path)?;
    let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let state = state_of(&path, &bytes)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, device)
        .map_err(|e| Error::checkpoint(&path, e.to_string()))?;
    let tensors = tensors.into_iter().collect();
    Ok((path, Checkpoint { state, tensors }))
}

/// Compares the settings that must not change over a run's life.
pub(crate) fn check_same(
    path: &Path,
    saved: &CheckpointState,
    current: &CheckpointState,
    may_change: &[&str],
) -> Result<()> {
    let pair = |field: &str, a: Value, b: Value| compare(path, field, &a, &b, may_change);
    pair(
        "kind",
        saved.kind.clone().into(),
        current.kind.clone().into(),
    )?;
    pair("model", saved.model.clone(), current.model.clone())?;
    pair("config", saved.config.clone(), current.config.clone())?;
    pair("seed", saved.seed.into(), current.seed.into())?;
    let data = |f: &Fingerprint| serde_json::to_value(f).unwrap_or(Value::Null);
    pair("data", data(&saved.data), data(&current.data))
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
        let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
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
