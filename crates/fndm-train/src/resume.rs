//! Which checkpoints a run can go on from.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::{self, CheckpointState};
use crate::{Error, LoopConfig, RateSchedule, Result};

/// Settings that can't change the weights of a given iteration.
const MAY_CHANGE: &[&str] = &[
    "config.time_budget_s",
    "config.prefetch",
    "config.optimizer.non_finite",
];

/// Fails unless the settings of `current`, whose configs are of the types `C` and `M`, may follow on those of `saved`.
pub(crate) fn check_settings<C, M>(
    path: &Path,
    saved: &CheckpointState,
    current: &CheckpointState,
) -> Result<()>
where
    C: Serialize + DeserializeOwned,
    M: Serialize + DeserializeOwned,
{
    let saved = CheckpointState {
        config: with_defaults::<C>(&saved.config),
        model: with_defaults::<M>(&saved.model),
        ..saved.clone()
    };
    let mut may_change = MAY_CHANGE.to_vec();
    // These rates don't look at the number of iterations either.
    let rate = &current.config["optimizer"]["rate"];
    if let Ok(RateSchedule::Constant | RateSchedule::EpochCosine { .. }) =
        RateSchedule::deserialize(rate)
    {
        may_change.push("config.iterations");
    }
    checkpoint::check_settings(path, &saved, current, &may_change)
}

/// Whether a run of a task of this kind with these configs can go on from the newest checkpoint in `folder`, as far as that can
/// be told without its data. A folder without checkpoints, or none at all, is a new run.
///
/// # Errors
/// As [`Trainer::resume`](crate::Trainer::resume).
pub fn check_resume<C, M>(folder: &Path, kind: &str, config: &C, model: &M, seed: u64) -> Result<()>
where
    C: Serialize + DeserializeOwned,
    M: Serialize + DeserializeOwned,
{
    if !folder.is_dir() {
        return Ok(());
    }
    let Some(path) = crate::list_checkpoints(folder)?.pop() else {
        return Ok(());
    };
    let saved = crate::read_checkpoint_state(&path)?;
    let current = CheckpointState {
        kind: kind.to_owned(),
        seed,
        config: record(config)?,
        model: record(model)?,
        ..saved.clone()
    };
    check_settings::<C, M>(&path, &saved, &current)
}

/// A config as an older version saved it, with today's defaults for the settings that it didn't know.
fn with_defaults<C: Serialize + DeserializeOwned>(saved: &Value) -> Value {
    let known = C::deserialize(saved).ok();
    known
        .and_then(|config| serde_json::to_value(config).ok())
        // What isn't understood is compared as it stands, and named.
        .unwrap_or_else(|| saved.clone())
}

/// A config as JSON.
pub(crate) fn record(config: &impl Serialize) -> Result<Value> {
    serde_json::to_value(config).map_err(|e| Error::Config {
        field: "config",
        expected: "values that JSON can hold".to_owned(),
        got: e.to_string(),
    })
}

/// Fails unless a config's record has the loop's settings among its own: resuming looks for them there.
pub(crate) fn check_record(config: &Value, settings: &LoopConfig) -> Result<()> {
    let settings = record(settings)?;
    let fields = settings.as_object().into_iter().flatten();
    for (name, value) in fields {
        if config.get(name) != Some(value) {
            return Err(Error::Config {
                field: "config",
                expected: format!("a record with the loop's settings in it, {name} = {value}"),
                got: format!("{:?}", config.get(name)),
            });
        }
    }
    Ok(())
}
