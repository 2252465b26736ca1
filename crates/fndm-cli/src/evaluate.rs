//! Compares a model, its ablations and plain FLAIR thresholding with the lesion masks of a data set.
//!
//! fndm evaluate --model out/model --data DIR --split val

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm::Method;
use fndm::data::PatientSlices;
use fndm_files::{Inputs, OutputFolder};
use fndm_study::{Report, Source, TrainingRecord, table, write_csv};

use crate::common::{self, Cohort, place};

/// Score a model against lesion masks: per slice with a lesion and per volume.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder that `train` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR", conflicts_with = "phantom")]
    data: Option<PathBuf>,
    /// Evaluate on this many patients of the phantom instead
    #[arg(long, value_name = "N")]
    phantom: Option<u64>,
    /// Seed of the phantom's first patient
    #[arg(long, value_name = "N", default_value_t = 9000)]
    phantom_seed: u64,
    /// Which patients: train, val or test of the split file, or all
    #[arg(long, default_value = "val")]
    split: String,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder
    #[arg(long, value_name = "FILE")]
    split_file: Option<PathBuf>,
    /// Rows of the table: fndm, cg_nm, cg, diffano, flair, memory (the coarse map alone)
    #[arg(long, value_delimiter = ',', default_value = "fndm,cg_nm,cg,flair")]
    methods: Vec<String>,
    /// Where report.json, report.csv, cases.json and sheet.png go
    #[arg(long, value_name = "DIR", default_value = "out/evaluate")]
    output: PathBuf,
    /// Slices on the picture
    #[arg(long, value_name = "N", default_value_t = 16)]
    sheet_rows: usize,
    #[command(flatten)]
    device: common::DeviceOptions,
    #[command(flatten)]
    method: common::RunOptions,
}

fn source(options: &Options) -> Result<Source> {
    match (&options.data, options.phantom) {
        (Some(path), None) => common::folder(path, &options.split, options.split_file.as_deref()),
        (None, Some(patients)) => match &TrainingRecord::read(&options.model)?.plan.source {
            Source::Phantom { config, .. } => Ok(Source::Phantom {
                config: config.clone(),
                first_seed: options.phantom_seed,
                patients,
            }),
            Source::Folder { .. } | Source::Sides { .. } => {
                bail!("--phantom: expected a model of the phantom")
            }
        },
        _ => bail!("expected --data DIR or --phantom N"),
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let methods = options
        .methods
        .iter()
        .map(
            |key| match Method::ALL.into_iter().find(|m| m.key() == key) {
                Some(method) => Ok(method),
                None => {
                    bail!("--methods: expected fndm, cg_nm, cg, diffano, flair, memory, got {key}")
                }
            },
        )
        .collect::<Result<Vec<Method>>>()?;
    let source = source(options)?;
    let passed_over = common::passed_over(&source, &options.split)?;
    let mut inputs = Inputs::new().whole(&options.model);
    inputs = common::add_source(inputs, &source, options.split_file.as_deref());
    let maker = place::maker("evaluate", "report");
    place::check_output(&options.output, &maker, &inputs)?;
    let detector = options.device.load(&options.model)?;
    for &method in &methods {
        common::settings(&detector, method, &options.method).check()?;
    }
    let mut folder = OutputFolder::create(&options.output, &maker, &inputs)?;

    let cohort = Cohort::read(&detector, &source, passed_over)?;
    let (words, lesions) = (cohort.words(), cohort.lesions());
    say!("{words}");

    let all: Vec<&PatientSlices> = cohort.patients.iter().collect();
    let found = common::compare(&detector, &all, &methods, &options.method)?;
    let report = Report::new(
        &common::command(),
        &words,
        &found.evaluations,
        found.settings,
        cohort.left_out.clone(),
    );
    folder.write_json("report.json", &report)?;
    let rows = [report.rows.clone(), report.volumes.clone()].concat();
    write_csv(&rows, &folder.file("report.csv")?)?;
    folder.write_json("cases.json", &found.evaluations)?;
    if !found.maps.is_empty() {
        let pairs = all.into_iter().zip(&found.maps);
        common::save_sheet(pairs, options.sheet_rows, &folder.file("sheet.png")?)?;
    }
    folder.finish()?;
    say!(
        "\nPer slice with a lesion ({lesions}):\n{}",
        table(&report.rows)
    );
    say!(
        "Per volume ({}):\n{}",
        cohort.patients.len(),
        table(&report.volumes)
    );
    say!(
        "wrote report.json, report.csv, cases.json and sheet.png to {}",
        options.output.display()
    );
    cohort.tell_left_out();
    Ok(cohort.code())
}
