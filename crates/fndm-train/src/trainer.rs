use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Debug};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_models::Parameters;

use crate::checkpoint::{self, Checkpoint, CheckpointState};
use crate::clock::Clock;
use crate::error::check;
use crate::group::{agree, same};
use crate::learner::{Blame, Gradients, Learner};
use crate::prefetch::Prefetch;
use crate::resume::{check_record, check_settings, record};
use crate::{Alone, Batch, Compute, Error, Group, Result, Setup, StepReport, Task, hash};

/// Bytes that a checkpoint may have beyond its weights, moments and averages.
const MORE: u64 = 1 << 26;

/// A training run of a [`Task`]'s network that can go one iteration on, be saved, and be resumed to the same bits.
///
/// The same task and seed give the same weights, bit for bit, whatever the number of threads and however often the run was
/// stopped and resumed in between (on a CPU).
pub struct Trainer<T: Task> {
    pub(crate) task: T,
    setup: Setup<T::Config, T::Model>,
    network: T::Network,
    seed: u64,
    pub(crate) device: Device,
    group: Arc<dyn Group>,
    parameters: Parameters,
    learner: Learner,
    batches: Prefetch<T::Batch>,
    clock: Clock,
}

/// The passes of one iteration, of this process or of all.
#[derive(Debug, Default)]
struct Passes {
    loss: f64,
    plain: Vec<f32>,
    second: Vec<f32>,
}

impl<T: Task> Trainer<T> {
    /// A trainer at iteration 0, with weights drawn from `seed`.
    ///
    /// # Errors
    /// When a setting is out of its range, or the task's parts don't fit together.
    pub fn with_task(task: T, seed: u64, device: &Device) -> Result<Self> {
        let setup = task.setup();
        let common = &setup.common;
        common.check()?;
        check_record(&record(&setup.config)?, common)?;
        let draw = task.batches(seed)?;
        let parameters = Parameters::new(seed, DType::F32, device);
        let network = task.network(parameters.builder())?;
        if let Some(weights) = task.initial() {
            parameters.set(weights)?;
        }
        Ok(Self {
            learner: Learner::new(
                &common.optimizer,
                common.iterations,
                parameters.iter().collect(),
            )?,
            network,
            seed,
            device: device.clone(),
            group: Arc::new(Alone),
            parameters,
            batches: Prefetch::new(0, common.prefetch, draw),
            setup,
            clock: Clock::default(),
            task,
        })
    }

    /// The same trainer as one of several processes, each of which trains on its part of every batch.
    ///
    /// # Errors
    /// When the batch can't be divided evenly, or the processes differ in config, seed or data.
    pub fn in_group(mut self, group: Arc<dyn Group>) -> Result<Self> {
        let (batch, size) = (self.setup.common.batch, group.size());
        check(
            batch.is_multiple_of(size),
            "batch",
            &format!("a multiple of the {size} processes"),
            batch,
        )?;
        let settings =
            serde_json::to_vec(&(record(&self.setup.config)?, record(&self.setup.model)?));
        let words = [
            self.seed as u32,
            (self.seed >> 32) as u32,
            hash::of_bytes(settings.unwrap_or_default().as_slice()) as u32,
            hash::of_bytes(self.setup.data.hash.as_bytes()) as u32,
        ];
        same(group.as_ref(), "seed, config and data", &words)?;
        self.group = group;
        Ok(self)
    }

    /// What is trained.
    #[must_use]
    pub fn task(&self) -> &T {
        &self.task
    }

    /// The training's config.
    #[must_use]
    pub fn config(&self) -> &T::Config {
        &self.setup.config
    }

    /// The network's config.
    #[must_use]
    pub fn model_config(&self) -> &T::Model {
        &self.setup.model
    }

    /// The trainable parameters.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The moving average (of the first decay) of the parameters, by name: what a model is saved with.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn ema_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.ema_tensors_of(0)
    }

    /// The moving average of decay number `i` of the config.
    ///
    /// # Errors
    /// When the config has no such decay.
    pub fn ema_tensors_of(&self, i: usize) -> Result<BTreeMap<String, Tensor>> {
        self.learner.ema_tensors_of(i)
    }

    /// A copy of the weights as they are, by name.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.learner.weights()
    }

    /// The network with the averaged weights, for inference.
    ///
    /// # Errors
    /// When it can't be built.
    pub fn ema_network(&self) -> Result<T::Network> {
        let tensors: HashMap<String, Tensor> = self.ema_tensors()?.into_iter().collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &self.device);
        self.task.network(builder)
    }

    /// Iterations made.
    #[must_use]
    pub fn iteration(&self) -> u64 {
        self.learner.iteration
    }

    /// Seconds since the first iteration, plus those of earlier sessions.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        self.clock.elapsed_s()
    }

    /// Iterations of the whole run, where the config says so.
    #[must_use]
    pub fn iterations(&self) -> Option<u64> {
        self.setup.common.iterations
    }

    /// The share, from 0 to 1, of the config's iterations or time that is used: the larger of the two. 0 where it has neither.
    #[must_use]
    pub fn budget_used(&self) -> f64 {
        let by_iteration = self.setup.common.iterations;
        let by_iteration = by_iteration.map_or(0.0, |n| self.iteration() as f64 / n as f64);
        let by_time = self.setup.common.time_budget_s;
        let by_time = by_time.map_or(0.0, |s| self.elapsed_s() / s);
        by_iteration.max(by_time).clamp(0.0, 1.0)
    }

    /// Whether the config's number of iterations or its time has been reached.
    #[must_use]
    pub fn finished(&self) -> bool {
        let (iterations, time) = (
            self.setup.common.iterations,
            self.setup.common.time_budget_s,
        );
        iterations.is_some_and(|n| self.iteration() >= n)
            || time.is_some_and(|s| self.elapsed_s() >= s)
    }

    /// The processes that train together: [`Alone`] where there is one.
    #[must_use]
    pub fn group(&self) -> &Arc<dyn Group> {
        &self.group
    }

    /// One iteration: forward and backward passes, optimiser, moving averages.
    ///
    /// # Errors
    /// [`Error::NonFinite`] by policy; [`Error::NoGradient`]; a failed tensor operation. The weights are then as they were.
    pub fn step(&mut self) -> Result<StepReport> {
        self.clock.start();
        let start = Instant::now();
        let (rank, size) = (self.group.rank(), self.group.size());
        let count = self.setup.common.accumulation;
        let mut gradients = Gradients::new();
        let mut blame = Blame::default();
        let mut own = Passes::default();
        let mut wait_s = 0.0;
        let outcome = (0..count).try_for_each(|number| {
            let waiting = Instant::now();
            let batch = self.batches.next()?;
            wait_s += waiting.elapsed().as_secs_f64();
            blame.slices.extend_from_slice(batch.samples());
            blame.timesteps.extend_from_slice(batch.timesteps());
            let dropout = self.setup.dropout.then(|| {
                let index = self.learner.iteration * count as u64 + number as u64;
                dropout_seed(self.seed, index, rank)
            });
            let narrow;
            let network = match self.setup.compute {
                Compute::F32 => &self.network,
                compute @ Compute::Bf16 => {
                    // Narrow copies of the weights, through which the gradients reach the weights themselves.
                    let parameters = Box::new(self.parameters.clone());
                    let device = self.device.clone();
                    let builder = VarBuilder::from_backend(parameters, compute.dtype(), device);
                    narrow = self.task.network(builder)?;
                    &narrow
                }
            };
            let part = batch.part(rank, size);
            let done = self
                .task
                .differentiate(network, part, &self.device, dropout, count)?;
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
        blame.names = self.task.names(&blame.slices);
        let applied = self.learner.apply(&gradients, all.loss, blame.clone())?;
        if applied.skipped {
            let iteration = self.learner.iteration;
            tracing::warn!(iteration, loss = all.loss, batch = ?blame.names, "step skipped");
        }
        let mut report = StepReport {
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
        if self.task.after_step(&mut report, &all.second) {
            let draw = self.task.batches(self.seed)?;
            self.batches = self.prefetch(self.learner.iteration, draw);
        }
        Ok(report)
    }

    /// Prepares the batches of the iterations after so many.
    fn prefetch(&self, iteration: u64, draw: crate::Draw<T::Batch>) -> Prefetch<T::Batch> {
        let first = iteration * self.setup.common.accumulation as u64;
        Prefetch::new(first, self.setup.common.prefetch, draw)
    }

    /// The passes of all processes as those of one process with the joined batch.
    fn gather(&self, outcome: Result<()>, mut own: Passes) -> Result<Passes> {
        let size = self.group.size();
        if size == 1 {
            return outcome.map(|()| own);
        }
        let part = self.setup.common.batch / size;
        let samples = part * self.setup.common.accumulation;
        // A process that failed early has fewer.
        own.plain.resize(samples, 0.0);
        own.second.resize(samples, 0.0);
        let mut words = vec![f64::from(u8::from(outcome.is_err())), own.loss];
        words.extend(own.plain.iter().chain(&own.second).map(|&v| f64::from(v)));
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
        for pass in 0..self.setup.common.accumulation {
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

    fn state(&self) -> Result<CheckpointState> {
        Ok(CheckpointState {
            format: CheckpointState::format(),
            kind: self.setup.kind.to_owned(),
            iteration: self.learner.iteration,
            optimizer_steps: self.learner.optimizer_steps(),
            skipped_in_a_row: self.learner.skipped_in_a_row,
            elapsed_s: self.elapsed_s(),
            seed: self.seed,
            config: record(&self.setup.config)?,
            model: record(&self.setup.model)?,
            data: self.setup.data.clone(),
        })
    }

    /// Lets the first process write a checkpoint, once all are seen to have the same weights.
    fn write(&self, write: impl FnOnce(&Checkpoint) -> Result<()>) -> Result<()> {
        let group = self.group.as_ref();
        if group.size() > 1 {
            same(group, "weights", &self.learner.weights_hash()?)?;
        }
        let written = match group.rank() {
            0 => self.learner.check_finite().and_then(|()| {
                let mut tensors = self.learner.tensors();
                tensors.extend(self.task.state()?);
                let state = self.state()?;
                write(&Checkpoint { state, tensors })
            }),
            _ => Ok(()),
        };
        agree(group, written)
    }

    /// Saves everything into `folder` as `step-XXXXXXXX.safetensors`, and keeps the newest `keep` (at least 1) there.
    ///
    /// The file is complete or absent, whatever happens while it is written. In a group all processes call this, and the
    /// first one writes.
    ///
    /// # Errors
    /// When the folder can't be written, a full disk for one. Then the checkpoints that were there remain.
    pub fn checkpoint(&self, folder: &Path, keep: usize) -> Result<PathBuf> {
        self.write(|checkpoint| checkpoint::save(folder, checkpoint, keep))?;
        Ok(checkpoint::file_in(folder, self.learner.iteration))
    }

    /// Saves everything under a name of its own, as [`checkpoint`](Self::checkpoint) does.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn save(&self, path: &Path) -> Result<()> {
        self.write(|checkpoint| checkpoint::save_as(path, checkpoint))
    }

    /// What a checkpoint says of its run, where it is one that this trainer could go back to: of the same settings, network, seed and data.
    pub(crate) fn fitting(&self, path: &Path) -> Result<CheckpointState> {
        let saved = checkpoint::read_checkpoint_state(path)?;
        check_settings::<T::Config, T::Model>(path, &saved, &self.state()?)?;
        checkpoint::check_data(path, &saved.data, &self.setup.data)?;
        Ok(saved)
    }

    /// Goes back to a checkpoint file, or to the newest one in a folder.
    ///
    /// # Errors
    /// [`Error::Changed`] or [`Error::Patients`] when it was made with another config, network, seed or data. Only `iterations`
    /// (at a constant rate), `time_budget_s`, `prefetch` and `optimizer.non_finite` may differ. [`Error::Checkpoint`] when it
    /// can't be read. The trainer is then as before.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let limit = self.learner.checkpoint_limit(MORE);
        let current = self.state()?;
        let (path, saved) = checkpoint::load(path, &self.device, limit, |path, saved| {
            check_settings::<T::Config, T::Model>(path, saved, &current)?;
            checkpoint::check_data(path, &saved.data, &current.data)
        })?;
        let restored = self.learner.read(&path, &saved.tensors, &saved.state)?;
        self.task.restore(&path, &saved.tensors)?;
        let draw = self.task.batches(self.seed)?;
        self.learner.restore(&saved.state, restored)?;
        self.clock = Clock::after(saved.state.elapsed_s);
        self.batches = self.prefetch(saved.state.iteration, draw);
        let iteration = saved.state.iteration;
        tracing::info!(iteration, path = %path.display(), "training resumed");
        Ok(())
    }
}

impl<T: Task> Debug for Trainer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("kind", &self.setup.kind)
            .field("iteration", &self.iteration())
            .field("seed", &self.seed)
            .field("data", &self.setup.data.hash)
            .field("common", &self.setup.common)
            .finish_non_exhaustive()
    }
}

/// The seed of the dropout masks of one forward pass, numbered over the whole run. Processes have masks of their own.
fn dropout_seed(seed: u64, index: u64, rank: usize) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03)
        ^ (rank as u64).wrapping_mul(0x8cb9_2ba7_2f3d_8dd7)
}
