//! Compares a model, its ablations and plain FLAIR thresholding with the lesion masks of a data set, or with the bits of its slices.
//!
//! fndm evaluate --model out/model --data DIR --split val

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm::data::PatientSlices;
use fndm::{Detector, Method};
use fndm_files::{Inputs, OutputFolder};
use fndm_study::{
    BIT_DEFINITIONS, BitCase, BitReport, LabelRecord, LabelSource, LeftOut, Report, Source,
    TrainingRecord, bit_table, copies, evaluate_bits, method_map, table, write_csv,
};

use crate::common::labels::TableOptions;
use crate::common::{self, Cohort, place};

/// Score a model against lesion masks, per slice with a lesion and per volume; or, with --labels, against one bit per slice.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder that `train` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR", conflicts_with = "phantom")]
    data: Option<PathBuf>,
    #[command(flatten)]
    labels: TableOptions,
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
    /// Rows of the table: fndm, cg_nm, cg, diffano, flair, memory (the coarse map alone), student; default: fndm, cg_nm, cg, flair, and
    /// student where the model has one
    #[arg(long, value_delimiter = ',', value_name = "KEYS")]
    methods: Option<Vec<String>>,
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
            Source::Folder { .. } | Source::Sides { .. } | Source::Given { .. } => {
                bail!("--phantom: expected a model of the phantom")
            }
        },
        _ => bail!("expected --data DIR or --phantom N"),
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let asked = match &options.methods {
        Some(keys) => {
            let known = keys.iter().map(|key| common::method("--methods", key));
            Some(known.collect::<Result<Vec<Method>>>()?)
        }
        None => None,
    };
    let source = source(options)?;
    let passed_over = common::passed_over(&source, &options.split)?;
    let mut inputs = Inputs::new().whole(&options.model);
    inputs = common::add_source(inputs, &source, options.split_file.as_deref());
    if let Some(table) = options.labels.file() {
        inputs = inputs.file(table);
    }
    let maker = place::maker("evaluate", "report");
    place::check_output(&options.output, &maker, &inputs)?;
    let detector = options.device.load(&options.model)?;
    let methods = asked.unwrap_or_else(|| common::usual_methods(&detector));
    for &method in &methods {
        let config = common::settings(&detector, method, &options.method);
        detector.config().check_row(method, &config)?;
    }
    let mut folder = OutputFolder::create(&options.output, &maker, &inputs)?;

    if let Some(labels) = options.labels.source() {
        return by_bits(
            options,
            &detector,
            &methods,
            &source,
            &labels,
            passed_over,
            folder,
        );
    }
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

/// The evaluation without masks.
fn by_bits(
    options: &Options,
    detector: &Detector,
    methods: &[Method],
    source: &Source,
    labels: &LabelSource,
    mut left_out: Vec<LeftOut>,
    mut folder: OutputFolder,
) -> Result<ExitCode> {
    let labelling = labels.open(source)?;
    let mut failed = left_out.len();
    let mut record = LabelRecord {
        source: labels.words(),
        patients: Vec::new(),
    };
    let mut patients = Vec::new();
    let config = detector.config();
    for (index, id) in source.ids().iter().enumerate() {
        let read = labelling
            .patient(source, index, &config.sequences)
            .and_then(|patient| match copies(&patient) {
                Some(reason) => Ok(Err(reason)),
                None => labelling.apply(&patient, &config.preprocess).map(Ok),
            });
        let reason = match read {
            Ok(Ok((slices, bits))) => {
                record.patients.push(bits);
                let none = slices.is_empty();
                if !none {
                    patients.push(slices);
                }
                none.then(|| "no slice with a label".to_string())
            }
            Ok(Err(reason)) => Some(reason),
            Err(error) if error.is_of_the_table() => return Err(error.into()),
            Err(error) => {
                failed += 1;
                Some(fndm_files::chain(&error))
            }
        };
        left_out.extend(reason.map(|reason| LeftOut {
            patient: id.clone(),
            reason,
        }));
    }
    if patients.is_empty() {
        for LeftOut { patient, reason } in &left_out {
            tell!("left out {patient}: {reason}");
        }
        bail!("none of {} patients can be evaluated", source.ids().len());
    }
    let total: usize = patients.iter().map(PatientSlices::len).sum();
    let diseased: usize = patients.iter().map(common::diseased).sum();
    let words = format!(
        "{} patients, {total} slices with a label, {diseased} diseased",
        patients.len()
    );
    say!("{words}");
    let (mut rows, mut settings, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for &method in methods {
        let config = common::settings(detector, method, &options.method);
        let bar = common::bar(total as u64, method.title());
        let mut cases = Vec::new();
        let mut maps = Vec::new();
        for slices in &patients {
            let mut found = method_map(detector, method, &config, slices, &mut |_| {})?;
            maps.extend(found.maps.take());
            cases.push(BitCase::new(slices, found)?);
            bar.inc(slices.len() as u64);
        }
        bar.finish();
        rows.push(evaluate_bits(method.key(), &cases, config.threshold)?);
        settings.push((method, config));
        if shown.is_empty() {
            shown = maps;
        }
    }
    let report = BitReport {
        command: common::command(),
        fndm_version: env!("CARGO_PKG_VERSION").to_string(),
        cohort: words,
        labels: record,
        rows,
        settings,
        left_out,
        definitions: BIT_DEFINITIONS.map(String::from).to_vec(),
    };
    folder.write_json("report.json", &report)?;
    if !shown.is_empty() {
        let pairs = patients.iter().zip(&shown);
        common::save_sheet(pairs, options.sheet_rows, &folder.file("sheet.png")?)?;
    }
    folder.finish()?;
    say!(
        "\nNo masks: by {}\n{}",
        report.labels.source,
        bit_table(&report.rows)
    );
    say!(
        "wrote report.json and sheet.png to {}",
        options.output.display()
    );
    for LeftOut { patient, reason } in &report.left_out {
        tell!("left out {patient}: {reason}");
    }
    Ok(ExitCode::from(if failed == 0 { 0 } else { 2 }))
}
