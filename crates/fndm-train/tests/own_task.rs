//! A network that isn't of this project is a `Task` like any other: trained, stopped, resumed to the same bits.

mod common;
#[path = "common/threads.rs"]
mod threads;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use common::bits;
use fndm_train::{
    Batch, Draw, Ended, Error, Fingerprint, LoopConfig, Loss, Result, RunConfig, Setup, StepReport,
    StopFlag, Task, Trainer, check_resume, part_of, read_checkpoint_ema, run,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

const INPUTS: usize = 3;
const TRUTH: ([f32; INPUTS], f32) = ([2.0, -1.0, 0.5], 0.25);

/// Linear regression, on targets whose noise is lowered while it trains.
struct Regression {
    config: Config,
    inputs: Vec<[f32; INPUTS]>,
    /// How often the noise was lowered: this task's own state.
    lowered: f32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(flatten)]
    common: LoopConfig,
    noise: f32,
    /// Iterations between two lowerings.
    lower_every: u64,
}

struct Rows {
    x: Vec<f32>,
    y: Vec<f32>,
    rows: Vec<usize>,
}

impl Batch for Rows {
    fn samples(&self) -> &[usize] {
        &self.rows
    }

    fn part(self, rank: usize, size: usize) -> Self {
        Self {
            x: part_of(self.x, rank, size),
            y: part_of(self.y, rank, size),
            rows: part_of(self.rows, rank, size),
        }
    }
}

impl Task for Regression {
    type Network = Linear;
    type Config = Config;
    type Model = usize;
    type Batch = Rows;

    fn setup(&self) -> Setup<Config, usize> {
        let values = self.inputs.iter().flatten().copied();
        let data = Fingerprint::of(self.inputs.len(), [INPUTS, 1, 1], values);
        let config = self.config.clone();
        let common = config.common.clone();
        Setup::new("regression", config, INPUTS, common, data)
    }

    fn network(&self, vb: VarBuilder<'_>) -> Result<Linear> {
        Ok(linear(INPUTS, 1, vb.pp("fit"))?)
    }

    fn batches(&self, seed: u64) -> Result<Draw<Rows>> {
        let (inputs, batch) = (self.inputs.clone(), self.config.common.batch);
        let noise = self.config.noise / (1.0 + self.lowered);
        Ok(Box::new(move |n| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(n);
            let mut drawn = Rows {
                x: Vec::new(),
                y: Vec::new(),
                rows: Vec::new(),
            };
            for _ in 0..batch {
                let row = rng.random_range(0..inputs.len());
                let x = &inputs[row];
                let clean: f32 = x.iter().zip(TRUTH.0).map(|(x, w)| x * w).sum();
                drawn.x.extend(x);
                drawn
                    .y
                    .push(clean + TRUTH.1 + noise * (rng.random::<f32>() - 0.5));
                drawn.rows.push(row);
            }
            Ok(drawn)
        }))
    }

    fn loss(&self, fit: &Linear, rows: Rows, device: &Device, _: Option<u64>) -> Result<Loss> {
        let n = rows.rows.len();
        let x = Tensor::from_vec(rows.x, (n, INPUTS), device)?;
        let y = Tensor::from_vec(rows.y, (n, 1), device)?;
        Loss::mean(&(fit.forward(&x)? - y)?.sqr()?.squeeze(1)?)
    }

    fn after_step(&mut self, report: &mut StepReport, _: &[f32]) -> bool {
        let due = report.iteration.is_multiple_of(self.config.lower_every);
        if due {
            self.lowered += 1.0;
        }
        due
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let lowered = Tensor::new(self.lowered, &Device::Cpu)?;
        Ok(BTreeMap::from([("lowered".to_owned(), lowered)]))
    }

    fn restore(&mut self, path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let lowered = tensors.get("lowered").ok_or_else(|| Error::Checkpoint {
            path: path.to_owned(),
            reason: "expected a tensor lowered, found none".to_owned(),
        })?;
        self.lowered = lowered.to_scalar()?;
        Ok(())
    }

    fn names(&self, rows: &[usize]) -> Vec<String> {
        rows.iter().map(|row| format!("row {row}")).collect()
    }
}

fn config(iterations: u64) -> Config {
    let mut common = LoopConfig {
        batch: 8,
        accumulation: 2,
        iterations: Some(iterations),
        ..LoopConfig::default()
    };
    common.optimizer.lr = 0.02;
    common.optimizer.ema.decays = vec![0.9];
    Config {
        common,
        noise: 0.2,
        lower_every: 7,
    }
}

fn new(config: &Config) -> Trainer<Regression> {
    let inputs = (0..50_u8).map(|i| {
        let i = f32::from(i);
        [i.sin(), (1.7 * i).cos(), (0.3 * i + 1.0).sin()]
    });
    let task = Regression {
        config: config.clone(),
        inputs: inputs.collect(),
        lowered: 0.0,
    };
    Trainer::with_task(task, 5, &Device::Cpu).unwrap()
}

fn losses(trainer: &mut Trainer<Regression>, n: usize) -> Vec<u64> {
    (0..n)
        .map(|_| trainer.step().unwrap().loss.to_bits())
        .collect()
}

#[test]
fn it_learns_what_made_its_data() {
    let mut trainer = new(&config(600));
    while !trainer.finished() {
        trainer.step().unwrap();
    }
    assert_eq!(trainer.budget_used(), 1.0);
    let fit = trainer.ema_network().unwrap();
    let weight = fit
        .weight()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let bias = fit.bias().unwrap().to_vec1::<f32>().unwrap();
    let wanted = TRUTH.0.iter().chain([&TRUTH.1]);
    for (got, wanted) in weight.iter().chain(&bias).zip(wanted) {
        assert!((got - wanted).abs() < 2e-3, "{got} {wanted}");
    }
}

#[test]
fn a_run_that_was_stopped_and_resumed_has_the_same_bits() {
    let config = config(40);
    let mut whole = new(&config);
    let expected = losses(&mut whole, 40);
    let folder = tempfile::tempdir().unwrap();
    let place = RunConfig {
        folder: folder.path().to_owned(),
        ..RunConfig::default()
    };
    let mut got = Vec::new();
    // Before, at and after a change of the task's own state.
    for until in [5, 7, 24, 40] {
        let stop = StopFlag::new();
        let mut trainer = new(&config);
        let ended = run(&mut trainer, &place, &stop, |trainer, report| {
            got.push(report.loss.to_bits());
            assert_eq!(trainer.budget_used(), report.iteration as f64 / 40.0);
            if report.iteration == until {
                stop.stop();
            }
        });
        let wanted = match until {
            40 => Ended::Finished,
            _ => Ended::Stopped,
        };
        assert_eq!(ended.unwrap(), wanted);
        assert_eq!(trainer.iteration(), until);
        if until == 40 {
            assert_eq!(
                bits(&trainer.weights().unwrap()),
                bits(&whole.weights().unwrap())
            );
        }
    }
    assert_eq!(got, expected);
    let averages = read_checkpoint_ema(folder.path(), &Device::Cpu).unwrap();
    assert_eq!(bits(&averages), bits(&whole.ema_tensors().unwrap()));
    assert!(averages.contains_key("fit.weight"));
}

#[test]
fn what_differs_from_the_checkpoint_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = new(&config(9));
    losses(&mut trainer, 8);
    trainer.checkpoint(folder.path(), 1).unwrap();
    let told = |result: Result<()>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let place = folder.path();
    let mut other = config(9);
    other.noise = 0.5;
    told(new(&other).resume(place), "config.noise");
    told(
        check_resume(place, "regression", &other, &INPUTS, 5),
        "config.noise",
    );
    told(
        check_resume(place, "regression", &config(9), &(INPUTS + 1), 5),
        "model = 3",
    );
    told(
        check_resume(place, "other", &config(9), &INPUTS, 5),
        "kind = \"regression\"",
    );
    // More iterations at a constant rate, and another number of batches ahead.
    other = config(20);
    other.common.prefetch = 1;
    check_resume(place, "regression", &other, &INPUTS, 5).unwrap();
    let mut resumed = new(&other);
    resumed.resume(place).unwrap();
    assert_eq!(losses(&mut resumed, 3), losses(&mut trainer, 3));

    // A state of the task that is missing leaves weights and iteration alone.
    let path = fndm_train::list_checkpoints(place).unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().clone();
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    tensors.remove("lowered").unwrap();
    std::fs::write(&path, safetensors::serialize(tensors, metadata).unwrap()).unwrap();
    let mut fresh = new(&config(9));
    let before = bits(&fresh.weights().unwrap());
    told(fresh.resume(place), "a tensor lowered");
    assert_eq!(fresh.iteration(), 0);
    assert_eq!(bits(&fresh.weights().unwrap()), before);
}

#[test]
fn two_processes_train_it_together() {
    let mut alone = new(&config(20));
    losses(&mut alone, 20);
    let groups = threads::ThreadGroup::all(2);
    let weights: Vec<_> = std::thread::scope(|scope| {
        let started: Vec<_> = groups
            .into_iter()
            .map(|group| {
                scope.spawn(move || {
                    let mut trainer = new(&config(20)).in_group(Arc::new(group)).unwrap();
                    losses(&mut trainer, 20);
                    trainer.weights().unwrap()
                })
            })
            .collect();
        started.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(bits(&weights[0]), bits(&weights[1]));
    let worst = common::largest_difference(&weights[0], &alone.weights().unwrap());
    assert!(worst < 1e-5, "{worst}");
}

/// A config whose record hides the loop's settings could never tell that they changed.
#[test]
fn a_record_without_the_loops_settings_is_refused() {
    struct Hidden(Regression);

    impl Task for Hidden {
        type Network = Linear;
        type Config = f32;
        type Model = usize;
        type Batch = Rows;

        fn setup(&self) -> Setup<f32, usize> {
            let of = self.0.setup();
            Setup::new(of.kind, of.config.noise, of.model, of.common, of.data)
        }

        fn network(&self, vb: VarBuilder<'_>) -> Result<Linear> {
            self.0.network(vb)
        }

        fn batches(&self, seed: u64) -> Result<Draw<Rows>> {
            self.0.batches(seed)
        }

        fn loss(&self, fit: &Linear, rows: Rows, device: &Device, d: Option<u64>) -> Result<Loss> {
            self.0.loss(fit, rows, device, d)
        }
    }

    let hidden = Hidden(Regression {
        config: config(9),
        inputs: vec![[0.0; INPUTS]],
        lowered: 0.0,
    });
    let error = Trainer::with_task(hidden, 1, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("the loop's settings"), "{error}");
}
