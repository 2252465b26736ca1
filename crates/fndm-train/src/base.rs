//! What both trainers are made of: one iteration, saving, resuming.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_models::Parameters;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::batch::Batch;
use crate::checkpoint::{self, Checkpoint, CheckpointState, Fingerprint};
use crate::clock::Clock;
use crate::error::check;
use crate::group::{agree, same};
use crate::learner::{Blame, Gradients, Learner};
use crate::prefetch::Prefetch;
use crate::slices::{fingerprint, names};
use crate::{Alone, Error, Group, OptimizerConfig, RateSchedule, Result, StepReport};

/// Bytes that a checkpoint may have beyond its weights, moments and averages.
const MORE: u64 = 1 << 26;

/// The state of a run and the settings that both trainers have.
#[derive(Debug)]
pub(crate) struct Base<B> {
    pub(crate) settings: Settings,
    pub(crate) set: Arc<SliceSet>,
    data: Fingerprint,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    pub(crate) group: Arc<dyn Group>,
    pub(crate) parameters: Parameters,
    pub(crate) learner: Learner,
    pub(crate) batches: Prefetch<B>,
    clock: Clock,
}

/// Settings in the form that both trainers have them.
#[derive(Debug)]
pub(crate) struct Settings {
    /// `diffusion` or `classifier`.
    pub(crate) kind: &'static str,
    pub(crate) config: Value,
    pub(crate) model: Value,
    pub(crate) optimizer: OptimizerConfig,
    pub(crate) batch: usize,
    pub(crate) accumulation: usize,
    pub(crate) iterations: Option<u64>,
    pub(crate) time_budget_s: Option<f64>,
    pub(crate) dropout: bool,
}

/// What a forward pass gave.
pub(crate) struct Answer {
    /// The scalar to differentiate.
    pub(crate) loss: Tensor,
    /// Unweighted loss of each sample.
    pub(crate) plain: Vec<f32>,
    /// A second number of each sample: its weighted loss, or whether the answer was right.
    pub(crate) second: Vec<f32>,
}

/// What a forward and a backward pass gave.
pub(crate) struct Pass {
    pub(crate) loss: f64,
    pub(crate) plain: Vec<f32>,
    pub(crate) second: Vec<f32>,
    /// None where the loss isn't finite.
    pub(crate) gradients: Option<GradStore>,
}

/// The passes of one iteration, of this process or of all.
#[derive(Debug, Default)]
struct Passes {
    loss: f64,
    plain: Vec<f32>,
    second: Vec<f32>,
}

/// Differentiates what `forward` gives, divided by the number of passes of an iteration.
pub(crate) fn differentiate(
    passes: usize,
    forward: impl FnOnce() -> Result<Answer>,
) -> Result<Pass> {
    let tape = fndm_kernels::Tape::start()?;
    let answer = forward()?;
    let share = answer.loss.affine(1.0 / passes as f64, 0.0)?;
    let loss = f64::from(share.to_scalar::<f32>()?);
    let gradients = match loss.is_finite() {
        true => Some(tape.backward(&share)?),
        false => None,
    };
    Ok(Pass {
        loss,
        plain: answer.plain,
        second: answer.second,
        gradients,
    })
}

/// As [`differentiate`], where the network computes its gradients itself: `run` makes an answer of the network's output, and
/// lets the network differentiate what its argument gives for it.
pub(crate) fn recomputed(
    passes: usize,
    run: impl FnOnce(
        &mut dyn FnMut(Answer) -> candle_core::Result<Tensor>,
    ) -> Result<(Tensor, GradStore)>,
) -> Result<Pass> {
    let (mut plain, mut second) = (Vec::new(), Vec::new());
    let (share, gradients) = run(&mut |answer| {
        (plain, second) = (answer.plain, answer.second);
        answer.loss.affine(1.0 / passes as f64, 0.0)
    })?;
    let loss = f64::from(share.to_scalar::<f32>()?);
    Ok(Pass {
        loss,
        plain,
        second,
        gradients: loss.is_finite().then_some(gradients),
    })
}

impl<B: Batch> Base<B> {
    pub(crate) fn new(
        settings: Settings,
        set: Arc<SliceSet>,
        seed: u64,
        device: &Device,
        parameters: Parameters,
        batches: Prefetch<B>,
    ) -> Result<Self> {
        Ok(Self {
            learner: Learner::new(
                &settings.optimizer,
                settings.iterations,
                parameters.iter().collect(),
            )?,
            data: fingerprint(&set),
            settings,
            set,
            seed,
            device: device.clone(),
            group: Arc::new(Alone),
            parameters,
            batches,
            clock: Clock::default(),
        })
    }

    /// Counts something beside the slices as data: a checkpoint made with another `hash` of it is refused.
    pub(crate) fn join_to_data(&mut self, hash: u64) {
        self.data.hash = format!("{}-{hash:016x}", self.data.hash);
    }

    pub(crate) fn join(&mut self, group: Arc<dyn Group>) -> Result<()> {
        let (batch, size) = (self.settings.batch, group.size());
        check(
            batch.is_multiple_of(size),
            "batch",
            &format!("a multiple of the {size} processes"),
            batch,
        )?;
        let settings = serde_json::to_vec(&(&self.settings.config, &self.settings.model));
        let words = [
            self.seed as u32,
            (self.seed >> 32) as u32,
            hash(settings.unwrap_or_default().as_slice()),
            hash(self.data.hash.as_bytes()),
        ];
        same(group.as_ref(), "seed, config and data", &words)?;
        self.group = group;
        Ok(())
    }

    /// One iteration, with `pass` for the forward and backward passes of this process' part of a batch. Its second argument is
    /// the seed of the dropout masks. Also gives the second numbers of all samples.
    pub(crate) fn step(
        &mut self,
        mut pass: impl FnMut(B, Option<u64>) -> Result<Pass>,
    ) -> Result<(StepReport, Vec<f32>)> {
        self.clock.start();
        let start = Instant::now();
        let (rank, size) = (self.group.rank(), self.group.size());
        let count = self.settings.accumulation;
        let mut gradients = Gradients::new();
        let mut blame = Blame::default();
        let mut own = Passes::default();
        let mut wait_s = 0.0;
        let outcome = (0..count).try_for_each(|number| {
            let waiting = Instant::now();
            let batch = self.batches.next()?;
            wait_s += waiting.elapsed().as_secs_f64();
            blame.slices.extend_from_slice(batch.slices());
            blame.timesteps.extend_from_slice(batch.timesteps());
            let dropout = self.settings.dropout.then(|| {
                let index = self.learner.iteration * count as u64 + number as u64;
                dropout_seed(self.seed, index, rank)
            });
            let done = pass(batch.part(rank, size), dropout)?;
            own.loss += done.loss;
            own.plain.extend(done.plain);
            own.second.extend(done.second);
            match &done.gradients {
                Some(found) if own.loss.is_finite() => {
                    self.learner.accumulate(found, &mut gradients)
                }
                _ => Ok(()),
            }
        });
        let talking = Instant::now();
        let all = self.gather(outcome, own)?;
        if all.loss.is_finite() {
            self.learner.average(&mut gradients, self.group.as_ref())?;
        }
        let sync_s = match size {
            1 => 0.0,
            _ => talking.elapsed().as_secs_f64(),
        };
        let optimizing = Instant::now();
        let timesteps = blame.timesteps.clone();
        blame.names = names(&self.set, &blame.slices);
        let applied = self.learner.apply(&gradients, all.loss, blame.clone())?;
        let report = StepReport {
            iteration: self.learner.iteration,
            loss: all.loss,
            accuracy: None,
            gradient_norm: applied.gradient_norm,
            rate: applied.rate,
            skipped: applied.skipped,
            step_s: start.elapsed().as_secs_f64(),
            wait_s,
            optimizer_s: optimizing.elapsed().as_secs_f64(),
            sync_s,
            elapsed_s: self.elapsed_s(),
            timesteps,
            losses: all.plain,
            batch: match applied.skipped {
                true => blame.names,
                false => Vec::new(),
            },
        };
        Ok((report, all.second))
    }

    /// The passes of all processes as those of one process with the joined batch.
    fn gather(&self, outcome: Result<()>, own: Passes) -> Result<Passes> {
        let size = self.group.size();
        if size == 1 {
            return outcome.map(|()| own);
        }
        let part = self.settings.batch / size;
        let samples = part * self.settings.accumulation;
        let mut words = vec![f64::from(u8::from(outcome.is_err())), own.loss];
        words.extend(own.plain.iter().chain(&own.second).map(|&v| f64::from(v)));
        // A process that failed early has fewer.
        words.resize(2 + 2 * samples, 0.0);
        let words = self.group.gather(&words)?;
        let of: Vec<&[f64]> = words.chunks(2 + 2 * samples).collect();
        outcome?;
        if let Some(rank) = of.iter().position(|words| words[0] > 0.0) {
            return Err(Error::Group {
                reason: format!("process {rank} failed; its own message says why"),
            });
        }
        let mut all = Passes {
            loss: of.iter().map(|words| words[1]).sum::<f64>() / size as f64,
            ..Passes::default()
        };
        for pass in 0..self.settings.accumulation {
            for words in &of {
                let (plain, second) = words[2..].split_at(samples);
                let here = pass * part..(pass + 1) * part;
                let narrow = |&v: &f64| v as f32;
                all.plain.extend(plain[here.clone()].iter().map(narrow));
                all.second.extend(second[here].iter().map(narrow));
            }
        }
        Ok(all)
    }

    pub(crate) fn elapsed_s(&self) -> f64 {
        self.clock.elapsed_s()
    }

    pub(crate) fn finished(&self) -> bool {
        let settings = &self.settings;
        let made = settings.iterations;
        made.is_some_and(|n| self.learner.iteration >= n)
            || settings
                .time_budget_s
                .is_some_and(|s| self.elapsed_s() >= s)
    }

    fn state(&self) -> CheckpointState {
        CheckpointState {
            format: CheckpointState::format(),
            kind: self.settings.kind.to_owned(),
            iteration: self.learner.iteration,
            optimizer_steps: self.learner.optimizer_steps(),
            skipped_in_a_row: self.learner.skipped_in_a_row,
            elapsed_s: self.elapsed_s(),
            seed: self.seed,
            config: self.settings.config.clone(),
            model: self.settings.model.clone(),
            data: self.data.clone(),
        }
    }

    /// Lets the first process write a checkpoint, once all are seen to have the same weights.
    pub(crate) fn write(
        &self,
        more: BTreeMap<String, Tensor>,
        write: impl FnOnce(&Checkpoint) -> Result<()>,
    ) -> Result<()> {
        let group = self.group.as_ref();
        if group.size() > 1 {
            same(group, "weights", &self.learner.weights_hash()?)?;
        }
        let written = match group.rank() {
            0 => self.learner.check_finite().and_then(|()| {
                let mut tensors = self.learner.tensors();
                tensors.extend(more);
                let state = self.state();
                write(&Checkpoint { state, tensors })
            }),
            _ => Ok(()),
        };
        agree(group, written)
    }

    pub(crate) fn checkpoint(
        &self,
        folder: &Path,
        keep: usize,
        more: BTreeMap<String, Tensor>,
    ) -> Result<PathBuf> {
        self.write(more, |checkpoint| {
            checkpoint::save(folder, checkpoint, keep)
        })?;
        Ok(checkpoint::file_in(folder, self.learner.iteration))
    }

    /// Reads a checkpoint that fits this run. `C` and `M` are the types of the training's and the network's config.
    pub(crate) fn load<C, M>(&self, path: &Path) -> Result<(PathBuf, Checkpoint)>
    where
        C: Serialize + DeserializeOwned,
        M: Serialize + DeserializeOwned,
    {
        let allowed = may_change(&self.settings.optimizer);
        let limit = self.learner.checkpoint_limit(MORE);
        checkpoint::load(path, &self.device, limit, |path, saved| {
            let saved = as_today::<C, M>(saved);
            let current = self.state();
            checkpoint::check_settings(path, &saved, &current, &allowed)?;
            checkpoint::check_data(path, &saved.data, &current.data)
        })
    }

    /// Takes a checkpoint over. The batches are the trainer's to set.
    pub(crate) fn restore(&mut self, path: &Path, saved: &Checkpoint) -> Result<()> {
        self.learner.restore(path, &saved.tensors, &saved.state)?;
        self.clock = Clock::after(saved.state.elapsed_s);
        Ok(())
    }

    /// The number of the next batch.
    pub(crate) fn next_batch(&self) -> u64 {
        self.learner.iteration * self.settings.accumulation as u64
    }
}

/// Settings that can't change the weights of a given iteration. A constant rate doesn't look at the number of iterations either.
const MAY_CHANGE: &[&str] = &[
    "config.time_budget_s",
    "config.prefetch",
    "config.optimizer.non_finite",
];

/// The settings that a resumed run may have otherwise than its checkpoint.
fn may_change(optimizer: &OptimizerConfig) -> Vec<&'static str> {
    let mut allowed = MAY_CHANGE.to_vec();
    if optimizer.rate == RateSchedule::Constant {
        allowed.push("config.iterations");
    }
    allowed
}

fn as_today<C, M>(saved: &CheckpointState) -> CheckpointState
where
    C: Serialize + DeserializeOwned,
    M: Serialize + DeserializeOwned,
{
    CheckpointState {
        config: with_defaults::<C>(&saved.config),
        model: with_defaults::<M>(&saved.model),
        ..saved.clone()
    }
}

/// Whether a run of these settings can go on from the newest checkpoint in `folder`, as far as that can be told without
/// slices. A folder without checkpoints, or none at all, is a new run.
pub(crate) fn check_resumable<C, M>(
    folder: &Path,
    kind: &'static str,
    (config, model, seed): (&C, &M, u64),
    optimizer: &OptimizerConfig,
) -> Result<()>
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
    let saved = as_today::<C, M>(&crate::read_checkpoint_state(&path)?);
    let current = CheckpointState {
        kind: kind.to_owned(),
        seed,
        config: config_value(config)?,
        model: config_value(model)?,
        ..saved.clone()
    };
    checkpoint::check_settings(&path, &saved, &current, &may_change(optimizer))
}

/// A config as an older version saved it, with today's defaults for the settings that it didn't know.
fn with_defaults<C: Serialize + DeserializeOwned>(saved: &Value) -> Value {
    let known: Option<C> = serde_json::from_value(saved.clone()).ok();
    known
        .and_then(|config| serde_json::to_value(config).ok())
        // What isn't understood is compared as it stands, and named.
        .unwrap_or_else(|| saved.clone())
}

/// A config as JSON.
pub(crate) fn config_value(config: &impl Serialize) -> Result<Value> {
    serde_json::to_value(config).map_err(|e| Error::Config {
        field: "config",
        expected: "values that JSON can hold".to_owned(),
        got: e.to_string(),
    })
}

/// FNV-1a, 32 bits.
fn hash(bytes: &[u8]) -> u32 {
    let start = 0x811c_9dc5_u32;
    bytes.iter().fold(start, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The seed of the dropout masks of one forward pass, numbered over the whole run. Processes have masks of their own.
fn dropout_seed(seed: u64, index: u64, rank: usize) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03)
        ^ (rank as u64).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7)
}
