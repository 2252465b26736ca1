//! Adds the statistics of the training data to a model that has none, for `fndm check`.
//!
//! fndm describe --model out/model --data DIR

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use fndm_study::{CohortEvent, LeftOut, Source, TrainingRecord, describe};
use serde_json::Value;

use crate::common;

/// Add the statistics of its training data to a model folder: what `check` compares patients with.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder; data.json is added to it, or replaced
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of the training's patients. Those that the model says it was trained on are taken, unless --split is given. Default:
    /// where the record of the training says they are
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Patients of this side of the split in place of those of the record: train, val, test, all
    #[arg(long, value_name = "SIDE", requires = "data")]
    split: Option<String>,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder
    #[arg(long, value_name = "FILE", requires = "split")]
    split_file: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let source = source(options)?;
    let bar = common::bar(source.ids().len() as u64, "patients");
    let mut left_out = Vec::new();
    let learned = describe(&options.model, &source, &mut |event| {
        match event {
            CohortEvent::Done(done, _) => bar.set_position(done as u64),
            CohortEvent::LeftOut(LeftOut { patient, reason }) => {
                left_out.push(format!("left out {patient}: {reason}"));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    });
    bar.finish();
    for line in &left_out {
        tell!("{line}");
    }
    let learned = learned?;
    let alarms = &learned.false_alarms;
    say!(
        "{} measured, {} left out; statistics are in {}",
        fndm_files::counted(learned.patients, "patient"),
        left_out.len(),
        options.model.join(fndm::model_folder::DATA).display()
    );
    say!(
        "each of {} judged by the others: {} green, {} yellow, {} red",
        alarms.patients,
        alarms.patients - alarms.yellow - alarms.red,
        alarms.yellow,
        alarms.red
    );
    Ok(ExitCode::SUCCESS)
}

fn source(options: &Options) -> Result<Source> {
    if let (Some(data), Some(split)) = (&options.data, &options.split) {
        return common::folder(data, split, options.split_file.as_deref());
    }
    let record = record(&options.model).with_context(|| {
        format!(
            "{} doesn't say who it was trained on: give --data DIR --split train (or all)",
            options.model.display()
        )
    })?;
    match (&options.data, record) {
        (None, (Some(source), _)) => Ok(source),
        (None, (None, _)) => bail!("expected --data DIR: the record names patients, and no folder"),
        (Some(path), (_, patients)) => Ok(Source::Folder {
            path: path.clone(),
            patients,
        }),
    }
}

/// Where the training's patients were, and who was used.
fn record(model: &Path) -> Result<(Option<Source>, Vec<String>)> {
    if let Ok(record) = TrainingRecord::read(model) {
        let source = match record.plan.source {
            Source::Folder { path, .. } => Source::Folder {
                path,
                patients: record.patients.clone(),
            },
            other => other,
        };
        return Ok((Some(source), record.patients));
    }
    // Of a student alone.
    let path = fndm::model_folder::file(model, fndm::model_folder::TRAINING)?;
    let whole: Value = fndm_files::read_json(&path, "record of a training")?;
    let patients = whole.pointer("/student/patients").cloned();
    let patients = patients.context("training.json names no patients")?;
    Ok((None, serde_json::from_value(patients)?))
}
