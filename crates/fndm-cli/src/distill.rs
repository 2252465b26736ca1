//! A model of few steps, taught by a model of many.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm::data::phantom::PhantomConfig;
use fndm_files::{Inputs, WorkFolder};
use fndm_study::{DistillPlan, LeftOut, Source, TrainEvent, TrainingPlace, distill};

use crate::common::{self, place};
use crate::train::{line, step};

/// Teach networks to take a model's steps several at a time, one network for each direction, the classifier's gradient within. Takes
/// no masks and no labels. Stopped by Ctrl-C, it goes on when it is started again.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model that teaches
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of the patients that it is watched on
    #[arg(long, value_name = "DIR", required_unless_present = "phantom")]
    data: Option<PathBuf>,
    /// Which patients of the folder: train, val, test or all
    #[arg(long, default_value = "train", requires = "data")]
    split: String,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder
    #[arg(long, value_name = "FILE", requires = "data")]
    split_file: Option<PathBuf>,
    /// Watch it on so many patients of the phantom
    #[arg(long, value_name = "N", conflicts_with = "data")]
    phantom: Option<u64>,
    /// The row that is learned: fndm, cg_nm or cg
    #[arg(long, default_value = "fndm")]
    method: String,
    /// Steps in each direction, one distillation after the other; divisors of the model's steps
    #[arg(long, value_delimiter = ',', value_name = "N,N", default_value = "2,1")]
    steps: Vec<usize>,
    /// Most slices that it is watched on
    #[arg(long, value_name = "N", default_value_t = 1000)]
    slices: usize,
    /// Iterations of each network and each distillation
    #[arg(long, value_name = "N", default_value_t = 500)]
    iterations: u64,
    /// Slices per iteration
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Learning rate of Adam
    #[arg(long, value_name = "LR", default_value_t = 3e-4)]
    lr: f64,
    /// Seed of everything drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder of the new model; a run that was stopped goes on from there
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// cpu, or cuda where built with that feature
    #[arg(long, default_value = "cpu")]
    device: String,
}

fn source(options: &Options) -> Result<Source> {
    match (&options.data, options.phantom) {
        (Some(data), None) => {
            let source = common::folder(data, &options.split, options.split_file.as_deref())?;
            for LeftOut { patient, reason } in common::passed_over(&source, &options.split)? {
                tell!("left out {patient}: {reason}");
            }
            Ok(source)
        }
        (None, Some(patients)) => Ok(Source::Phantom {
            config: PhantomConfig::default(),
            first_seed: 1,
            patients,
        }),
        _ => bail!("expected --data DIR or --phantom N"),
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let device = common::device(&options.device)?;
    let method = common::method("--method", &options.method)?;
    let mut plan = DistillPlan::new(source(options)?, method, options.seed);
    plan.steps.clone_from(&options.steps);
    plan.slices = options.slices;
    plan.training.iterations = Some(options.iterations);
    plan.training.batch = options.batch;
    plan.training.optimizer.lr = options.lr;
    plan.check()?;
    let inputs = Inputs::new().whole(&options.model);
    let inputs = common::add_source(inputs, &plan.source, options.split_file.as_deref());
    let maker = place::maker("distill", "model");
    place::check_work(&options.output, &maker, &inputs)?;
    let _folder = WorkFolder::open(&options.output, &maker, &inputs)?;
    let stop = common::stop_by_ctrl_c()?;
    let (loading, watching) = (common::bar(0, "patients"), common::bar(0, "watched"));
    let bar = common::share_bar("networks");
    let mut last_line = std::time::Instant::now();
    let record = distill(
        &plan,
        &options.model,
        TrainingPlace::new(&options.output, &device, &stop),
        &common::command(),
        &mut |event| match event {
            TrainEvent::Note(note) => loading.suspend(|| tell!("{note}")),
            TrainEvent::Loaded(done, total) => {
                loading.set_length(total as u64);
                loading.set_position(done as u64);
            }
            TrainEvent::Watched(done, total) => {
                watching.set_length(total as u64);
                watching.set_position(done as u64);
            }
            TrainEvent::Distill(direction, steps, report, share) => {
                let what = format!("{} in {steps}", direction.name());
                bar.set_prefix(what.clone());
                step(&bar, report, share);
                line(&bar, &mut last_line, &what, report);
            }
            _ => {}
        },
    )?;
    for bar in [loading, watching, bar] {
        bar.abandon();
    }
    match record {
        None => say!("stopped; run the same command again to go on"),
        Some(record) => say!(
            "{}: {} in {} steps each way, learned on {} of {}",
            options.output.display(),
            method.title(),
            plan.steps.last().copied().unwrap_or_default(),
            fndm_files::counted(record.slices, "slice"),
            fndm_files::counted(record.patients.len(), "patient"),
        ),
    }
    Ok(ExitCode::SUCCESS)
}
