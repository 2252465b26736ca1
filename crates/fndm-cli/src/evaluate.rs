//! Compares a model, its ablations and plain FLAIR thresholding with the lesion masks of a data set, or with the bits of its slices.
//!
//! fndm evaluate --model out/model --data DIR --split val

mod bids;
pub(crate) mod parts;
mod spool;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use fndm::data::PatientSlices;
use fndm::{Detector, Method, ModelConfig, model_folder};
use fndm_files::{Inputs, OutputFolder};
use fndm_study::{
    Arm, BIT_DEFINITIONS, BitReport, Comparison, Gallery, LabelRecord, LabelSource, LeftOut, Level,
    MethodMap, Patients, Report, Source, TrainingRecord, Truth, bit_table, write_csv,
};

use crate::common::labels::TableOptions;
use crate::common::report::Pages;
use crate::common::{self, cohort, place};
use crate::shards::{ShardOptions, list};
use spool::Spool;

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
    #[command(flatten)]
    bids: bids::BidsOptions,
    /// Which patients: a file that names one a line, by its id below --data or --bids, instead of --split
    #[arg(long, value_name = "FILE", conflicts_with_all = ["phantom", "split_file"])]
    list: Option<PathBuf>,
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
    /// Rows of the table: fndm, cg_nm, cg, diffano, flair, memory (the coarse map alone), student, fndm_student; default: fndm, cg_nm, cg,
    /// flair, student where the model has one, and the row that the model was found best by
    #[arg(long, value_delimiter = ',', value_name = "KEYS")]
    methods: Option<Vec<String>>,
    /// Where report.html and its pages, report.json, report.csv, cases.json and sheet.png go; with --shard a folder for each patient
    #[arg(long, value_name = "DIR", default_value = "out/evaluate")]
    output: PathBuf,
    /// Slices on the picture
    #[arg(long, value_name = "N", default_value_t = 16)]
    sheet_rows: usize,
    #[command(flatten)]
    cohort: ShardOptions,
    /// Read the next patient while the networks compute, and keep the pixels that AUROC and AP are over on the disk. Memory for two
    /// patients and one batch, or four with --shard, however many there are
    #[arg(long, help_heading = "Cohorts: see docs/cohorts.md")]
    out_of_core: bool,
    #[command(flatten)]
    report: common::report::ReportOptions,
    #[command(flatten)]
    device: common::DeviceOptions,
    #[command(flatten)]
    method: common::RunOptions,
}

/// The patients, and who was passed over.
fn source(options: &Options) -> Result<(Source, Vec<LeftOut>)> {
    let listed = match &options.list {
        Some(file) => Some(list::read(file)?),
        None => None,
    };
    for id in listed.iter().flatten() {
        list::check_id(id).context("--list")?;
    }
    list::check_apart(listed.iter().flatten().map(String::as_str)).context("--list")?;
    if let Some(root) = &options.bids.bids {
        let config = ModelConfig::read(&options.model.join(model_folder::CONFIG))?;
        let (source, passed_over) = bids::source(root, &options.bids, &config.names_to_read())?;
        return Ok(match listed {
            Some(listed) => only(source, passed_over, &listed),
            None => (source, passed_over),
        });
    }
    let source = match (&options.data, options.phantom, listed) {
        // One that isn't there is told by name when it is its turn.
        (Some(path), None, Some(patients)) => {
            let path = path.clone();
            return Ok((Source::Folder { path, patients }, Vec::new()));
        }
        (Some(path), None, None) => {
            common::folder(path, &options.split, options.split_file.as_deref())?
        }
        (None, Some(patients), None) => match &TrainingRecord::read(&options.model)?.plan.source {
            Source::Phantom { config, .. } => Source::Phantom {
                config: config.clone(),
                first_seed: options.phantom_seed,
                patients,
            },
            Source::Folder { .. }
            | Source::Files { .. }
            | Source::Sides { .. }
            | Source::Given { .. } => {
                bail!("--phantom: expected a model of the phantom")
            }
        },
        _ => bail!("expected --data DIR, --bids DIR or --phantom N"),
    };
    let passed_over = common::passed_over(&source, &options.split)?;
    Ok((source, passed_over))
}

/// The sessions that a list names, in its order. Those that aren't among them are passed over, with the reason where one is known.
fn only(source: Source, passed_over: Vec<LeftOut>, listed: &[String]) -> (Source, Vec<LeftOut>) {
    let Source::Files { path, patients } = source else {
        return (source, passed_over);
    };
    let mut chosen = Vec::new();
    let mut left_out = Vec::new();
    for id in listed {
        if let Some(files) = patients.iter().find(|files| files.id == *id) {
            chosen.push(files.clone());
            continue;
        }
        let known = passed_over.iter().find(|left_out| left_out.patient == *id);
        left_out.push(known.cloned().unwrap_or_else(|| LeftOut {
            patient: id.clone(),
            reason: "it is listed, but isn't in the data".into(),
        }));
    }
    let patients = chosen;
    (Source::Files { path, patients }, left_out)
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let asked = match &options.methods {
        Some(keys) => {
            let known = keys.iter().map(|key| common::method("--methods", key));
            Some(known.collect::<Result<Vec<Method>>>()?)
        }
        None => None,
    };
    let (source, passed_over) = source(options)?;
    let mut inputs = options.bids.add_to(Inputs::new().whole(&options.model));
    if let Some(list) = &options.list {
        inputs = inputs.file(list);
    }
    inputs = common::add_source(inputs, &source, options.split_file.as_deref());
    if let Some(table) = options.labels.file() {
        inputs = inputs.file(table);
    }
    let shard = options.cohort.shard()?;
    let maker = place::maker("evaluate", "report");
    if shard.is_none() {
        place::check_output(&options.output, &maker, &inputs)?;
    }
    let detector = options.device.load(&options.model)?;
    let methods = asked.unwrap_or_else(|| common::usual_methods(&detector));
    let arms = common::arms(&detector, &methods, &options.method)?;
    if let Some(shard) = shard {
        return parts::run(
            options,
            &detector,
            arms,
            &source,
            passed_over,
            shard,
            inputs,
        );
    }
    let folder = OutputFolder::create(&options.output, &maker, &inputs)?;
    let cohort = (&source, passed_over);
    match options.labels.source() {
        Some(labels) => by_bits(options, &detector, arms, cohort, &labels, folder),
        None => by_masks(options, &detector, arms, cohort, folder),
    }
}

fn by_masks(
    options: &Options,
    detector: &Detector,
    arms: Vec<Arm>,
    (source, passed_over): (&Source, Vec<LeftOut>),
    mut folder: OutputFolder,
) -> Result<ExitCode> {
    let mut spool = match options.out_of_core {
        true => Some(Spool::new(folder.path(), arms.len())?),
        false => None,
    };
    let mut pages = Pages::new(&options.report, &options.model, detector, &arms);
    let mut comparison = Comparison::by_masks(arms, &Level::ALL);
    let mut gallery = gallery(options);
    let cohort = cohort::each(
        &Patients::of(detector, source, Truth::Mask),
        passed_over,
        options.out_of_core,
        |read, progress| {
            let (base, slices) = (pages.base(&read)?, read.slices);
            drop(read.patient);
            let found = comparison.add(detector, &slices, progress)?;
            if let Some(spool) = &mut spool {
                spool.add(comparison.take_pixels())?;
            }
            pages.add(base, &slices, &found, &mut folder)?;
            add_first(&mut gallery, &slices, &found)
        },
    )?;
    let words = cohort::words(&cohort);
    say!("{words}");
    let settings = comparison.settings();
    let evaluations = match spool {
        None => comparison.finish()?.concat(),
        Some(mut spool) => {
            let mut all = Vec::new();
            for (arm, scores) in comparison.into_scores().into_iter().enumerate() {
                all.extend(scores.finish_by(COUNTING, &mut |next| spool.go_through(arm, next))?);
            }
            all
        }
    };
    let left_out = cohort.left_out.clone();
    let report = Report::new(&common::command(), &words, &evaluations, settings, left_out);
    folder.write_json("report.json", &report)?;
    let rows = [report.rows.clone(), report.volumes.clone()].concat();
    write_csv(&rows, &folder.file("report.csv")?)?;
    folder.write_json("cases.json", &evaluations)?;
    let settings = &report.settings;
    pages.finish(&mut folder, settings, |all| {
        all.by_masks(&report, &evaluations)
    })?;
    let sheet = save_sheet(options, &gallery, &mut folder)?;
    folder.finish()?;
    say!("\n{}", report.tables());
    say!(
        "wrote {}report.json, report.csv, cases.json{sheet} to {}",
        common::report::named(&options.report),
        options.output.display()
    );
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
}

/// The evaluation without masks.
fn by_bits(
    options: &Options,
    detector: &Detector,
    arms: Vec<Arm>,
    (source, passed_over): (&Source, Vec<LeftOut>),
    labels: &LabelSource,
    mut folder: OutputFolder,
) -> Result<ExitCode> {
    let labelling = labels.open(source)?;
    let mut pages = Pages::new(&options.report, &options.model, detector, &arms);
    let mut comparison = Comparison::by_bits(arms);
    let mut gallery = gallery(options);
    let cohort = cohort::each(
        &Patients::of(detector, source, Truth::Bits(&labelling)),
        passed_over,
        options.out_of_core,
        |read, progress| {
            let (base, slices) = (pages.base(&read)?, read.slices);
            drop(read.patient);
            let found = comparison.add(detector, &slices, progress)?;
            pages.add(base, &slices, &found, &mut folder)?;
            add_first(&mut gallery, &slices, &found)
        },
    )?;
    let words = format!(
        "{}, {} with a label, {} diseased",
        fndm_files::counted(cohort.patients, "patient"),
        fndm_files::counted(cohort.slices, "slice"),
        cohort.diseased
    );
    say!("{words}");
    let report = BitReport {
        command: common::command(),
        fndm_version: env!("CARGO_PKG_VERSION").to_string(),
        cohort: words,
        labels: LabelRecord {
            source: labels.words(),
            patients: cohort.bits.clone(),
        },
        settings: comparison.settings(),
        rows: comparison.finish()?,
        left_out: cohort.left_out.clone(),
        definitions: BIT_DEFINITIONS.map(String::from).to_vec(),
    };
    folder.write_json("report.json", &report)?;
    pages.finish(&mut folder, &report.settings, |all| all.by_bits(&report))?;
    let sheet = save_sheet(options, &gallery, &mut folder)?;
    folder.finish()?;
    say!(
        "\nNo masks: by {}\n{}",
        report.labels.source,
        bit_table(&report.rows)
    );
    say!(
        "wrote {}report.json{sheet} to {}",
        common::report::named(&options.report),
        options.output.display()
    );
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
}

/// Bytes of memory for the ranking of pixels that are on the disk.
pub(crate) const COUNTING: u64 = 128 << 20;

/// What the picture is chosen from: all slices, or a part of them that memory holds however many there are.
fn gallery(options: &Options) -> Gallery {
    match options.out_of_core {
        true => Gallery::of_at_most(16 * options.sheet_rows),
        false => Gallery::default(),
    }
}

/// The slices of a patient as the first method has them whose maps can be drawn.
fn add_first(gallery: &mut Gallery, slices: &PatientSlices, found: &[MethodMap]) -> Result<()> {
    if let Some(maps) = found.iter().find_map(|found| found.maps.as_ref()) {
        gallery.add(slices, maps)?;
    }
    Ok(())
}

/// Draws the picture where there is something to draw; how it stands in a list of files.
fn save_sheet(
    options: &Options,
    gallery: &Gallery,
    folder: &mut OutputFolder,
) -> Result<&'static str> {
    if gallery.is_empty() || options.sheet_rows == 0 {
        return Ok("");
    }
    let chosen = gallery.spread(options.sheet_rows);
    gallery.save(&chosen, &folder.file("sheet.png")?)?;
    Ok(", sheet.png")
}
