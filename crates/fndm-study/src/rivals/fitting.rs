//! A rival fitted to healthy slices, or taken from an earlier run.

use std::hash::Hasher;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fndm_baselines::{Baseline, Fit};
use fndm_data::SliceSet;
use fndm_models::Limits;
use fndm_train::{Fingerprint, RunConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::RivalRow;
use crate::{Error, Result, TrainingPlace};

/// What says that a fit is whole, and what it is of.
const RECORD: &str = "fit.json";
/// Where a training keeps its checkpoints.
const RUN: &str = "run";

/// What is kept beside a fitted method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FitRecord {
    /// Settings, features, slices and seed, as one number.
    pub fingerprint: String,
    /// All settings of the method.
    pub settings: Value,
    /// What the features are known by.
    pub features: Option<String>,
    /// The slices.
    pub slices: Fingerprint,
    /// The seed.
    pub seed: u64,
    /// Wall time of the fit in seconds, of all sessions.
    pub seconds: f64,
    /// Bytes of the saved files, without those of the backbone.
    pub bytes: u64,
}

/// A fitted method, and how it was fitted.
#[derive(Debug)]
pub struct FittedRival {
    /// The method.
    pub baseline: Box<dyn Baseline>,
    /// How it was fitted.
    pub record: FitRecord,
    /// Whether an earlier run had fitted it.
    pub reused: bool,
}

/// Fits a row to the healthy slices of a set, in a folder of its own below the place's; one that an earlier run has fitted to the same
/// slices by the same settings is read. A training that was stopped or killed goes on from its newest checkpoint.
///
/// Gives nothing where the place's flag was set before the end.
///
/// # Errors
/// When the fit fails, or the folder can't be read or written.
pub fn fit_or_load(
    row: &RivalRow,
    set: &SliceSet,
    seed: u64,
    place: TrainingPlace<'_>,
) -> Result<Option<FittedRival>> {
    let slices = Fingerprint::of_slices(set);
    // Fits of older versions are known by a name without it.
    let named = Fingerprint {
        places: None,
        ..slices.clone()
    };
    let fingerprint = fingerprint(row, &named, seed)?;
    let folder = place.folder.join(format!("{}-{fingerprint}", row.key));
    if let Some(record) = read_record(&folder)? {
        if record.fingerprint != fingerprint {
            return Err(Error::Input {
                what: folder.join(RECORD).display().to_string(),
                expected: fingerprint,
                got: record.fingerprint,
            });
        }
        let baseline = row.method.load(&folder, &Limits::default(), place.device)?;
        return Ok(Some(FittedRival {
            baseline,
            record,
            reused: true,
        }));
    }
    let run = folder.join(RUN);
    std::fs::create_dir_all(&run).map_err(Error::io(&run))?;
    let fit = Fit {
        seed,
        device: place.device.clone(),
        run: Some(RunConfig {
            folder: run.clone(),
            checkpoint_every: 100,
            keep: 1,
            log_every: 20,
            ..RunConfig::default()
        }),
        stop: place.stop.clone(),
    };
    let start = Instant::now();
    let baseline = match row.method.fit(set, &fit) {
        Err(fndm_baselines::Error::Stopped) => return Ok(None),
        found => found?,
    };
    let seconds = start.elapsed().as_secs_f64().max(logged_seconds(&run));
    baseline.save(&folder)?;
    let record = FitRecord {
        fingerprint,
        settings: row.settings.clone(),
        features: row.fingerprint.clone(),
        slices,
        seed,
        seconds,
        bytes: bytes(&folder)?,
    };
    fndm_files::write_json(folder.join(RECORD), &record)?;
    Ok(Some(FittedRival {
        baseline,
        record,
        reused: false,
    }))
}

/// One number for all that a fit depends on.
fn fingerprint(row: &RivalRow, slices: &Fingerprint, seed: u64) -> Result<String> {
    let all = (&row.key, &row.settings, &row.fingerprint, slices, seed);
    let text = serde_json::to_string(&all).map_err(fndm_files::Error::json(
        Path::new(RECORD),
        "record of a fit",
    ))?;
    let mut hash = fnv::FnvHasher::default();
    hash.write(text.as_bytes());
    Ok(format!("{:016x}", hash.finish()))
}

fn read_record(folder: &Path) -> Result<Option<FitRecord>> {
    let path = folder.join(RECORD);
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&path)(error)),
        Ok(_) => Ok(Some(fndm_files::read_json(&path, "record of a fit")?)),
    }
}

/// The seconds that the training's own log counts, earlier sessions included.
fn logged_seconds(run: &Path) -> f64 {
    #[derive(Deserialize)]
    struct Line {
        elapsed_s: f64,
    }
    let text = std::fs::read_to_string(run.join("log.jsonl")).unwrap_or_default();
    let last = text.lines().last().map(serde_json::from_str::<Line>);
    last.and_then(std::result::Result::ok)
        .map_or(0., |line| line.elapsed_s)
}

/// Bytes of the files of a folder, without those below it.
fn bytes(folder: &Path) -> Result<u64> {
    let read = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut total = 0;
    for entry in read {
        let path: PathBuf = entry.map_err(Error::io(folder))?.path();
        let found = std::fs::symlink_metadata(&path).map_err(Error::io(&path))?;
        if found.is_file() {
            total += found.len();
        }
    }
    Ok(total)
}
