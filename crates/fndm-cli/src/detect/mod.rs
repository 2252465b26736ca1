//! Finds lesions in new patients: NIfTI volumes in, NIfTI masks and anomaly maps on the same grid out.
//!
//! fndm detect --model out/model --patient DIR

mod bids;
mod dicom;
pub(crate) mod index;
mod input;
mod output;
pub(crate) mod work;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm::{InputCheck, Method};
use fndm_files::{Inputs, OutputFolder, chain};
use serde_json::json;

use crate::check::{warn_of_older, without_statistics};
use crate::common::{self, place};
use crate::shards::progress::Division;
use crate::shards::{self, How, Progress, Shard, ShardOptions, pipeline};
use input::{Input, Listed};
use work::{Done, Work};

/// Find lesions: masks and anomaly maps as NIfTI on the input's grid, a page for a browser, a picture, and a JSON file for each patient.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder that `train` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// One patient: a folder with <id>_<sequence>.nii.gz
    #[arg(long, value_name = "DIR", group = "input")]
    patient: Option<PathBuf>,
    /// Many patients: a folder of such folders. A patient's id is the path of its folder below
    #[arg(long, value_name = "DIR", group = "input")]
    data: Option<PathBuf>,
    /// Many patients: a file that names one a line, by its id below --data, or without --data by the path of its folder
    #[arg(long, value_name = "FILE", conflicts_with_all = ["patient", "files", "dicom"])]
    list: Option<PathBuf>,
    /// One patient, file by file: flair=FILE, once for each sequence of the model; needs --id
    #[arg(long = "file", value_name = "SEQUENCE=FILE", group = "input")]
    files: Vec<OsString>,
    /// The patient's id, which the results are written under; default for --patient and --dicom: the folder's name
    #[arg(long, value_name = "ID", conflicts_with_all = ["data", "list", "bids"])]
    id: Option<String>,
    #[command(flatten)]
    bids: bids::BidsOptions,
    #[command(flatten)]
    dicom: dicom::DicomOptions,
    /// Where a folder for each patient goes
    #[arg(long, value_name = "DIR", default_value = "out/detect")]
    output: PathBuf,
    /// The row of the tables: fndm, cg_nm, cg, diffano, flair, memory, student, fndm_student; default: what the model was found best by
    #[arg(long = "method", value_name = "KEY")]
    row: Option<String>,
    /// Examine no patient that isn't like those that the model was trained on (red, by `fndm check`); without this a warning is given
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    cohort: ShardOptions,
    /// Read the next patient and write the last ones while the networks compute. Memory for four patients and one batch, however many
    /// there are
    #[arg(long, help_heading = "Cohorts: see docs/cohorts.md")]
    out_of_core: bool,
    #[command(flatten)]
    report: common::report::ReportOptions,
    #[command(flatten)]
    device: common::DeviceOptions,
    #[command(flatten)]
    method: common::RunOptions,
}

/// Whether this run writes the page of all patients: not of one alone, and not of a part, whose pages `collect` joins.
fn writes_index(options: &Options, shard: Option<Shard>) -> bool {
    let many = options.data.is_some() || options.list.is_some();
    many && shard.is_none() && options.report.wanted()
}

fn target(options: &Options, input: &Input) -> (PathBuf, fndm_files::Maker) {
    (
        options.output.join(&input.id),
        place::maker("detect", &format!("patient {}", input.id)),
    )
}

/// Checks every output before anything is computed; returns what is read.
fn check_outputs(options: &Options, listed: &Listed, index: bool) -> Result<Inputs> {
    let mut inputs = Inputs::new().whole(&options.model);
    for root in [&options.data, &options.bids.bids].into_iter().flatten() {
        inputs = inputs.folder(root);
    }
    if options.bids.bids.is_some() {
        bids::check_output(&options.output)?;
    }
    let inputs = listed.inputs.iter().fold(inputs, |all, i| i.add_to(all));
    shards::check_each(listed.inputs.iter().map(|input| {
        let (output, maker) = target(options, input);
        OutputFolder::check(&output, &maker, &inputs)
    }))?;
    let mut records = listed.inputs.iter().map(|input| &input.id);
    if let Some(id) = records.find(|id| id.split('/').next() == Some(shards::FOLDER)) {
        bail!("patient {id}: {} is the folder of records", shards::FOLDER);
    }
    if index {
        index::check(&options.output)?;
        let mut ids = listed.inputs.iter().map(|input| &input.id);
        if let Some(id) = ids.find(|id| id.split('/').next() == Some(output::PAGE)) {
            bail!(
                "patient {id}: {} is the page of all patients; --report none writes none",
                output::PAGE
            );
        }
    }
    if let Some(first) = listed.inputs.first() {
        fndm_files::check_writable(target(options, first).0)?;
    }
    Ok(inputs)
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let asked = match &options.row {
        Some(key) => Some(common::method("--method", key)?),
        None => None,
    };
    let many = options.data.is_some() || options.list.is_some() || options.bids.bids.is_some();
    let shard = match many {
        true => options.cohort.shard()?,
        false => options.cohort.check_one().map(|()| None)?,
    };
    let detector = options.device.load(&options.model)?;
    let method = asked.unwrap_or(detector.config().method);
    let mut config = detector.config().detect_config(method);
    options.method.apply(&mut config);
    detector.config().check_row(method, &config)?;
    let row = (method, config);
    let mut listed = input::list(options, detector.config(), &row)?;
    shards::list::check_apart(listed.inputs.iter().map(|input| input.id.as_str()))?;
    let mut settings = json!({
        "device": options.device.kind(),
        "method": row.0,
        "config": row.1,
        "report": options.report,
    });
    // What else decides on what is written, and where.
    if options.bids.bids.is_some() {
        settings["names"] = "bids".into();
    }
    if options.dicom.dicom.is_some() {
        settings["resample"] = options.dicom.resample.into();
    }
    let check = InputCheck::load(&options.model)?;
    if check.is_some() {
        // The verdict stands in a patient's results: other statistics are another verdict.
        let statistics = fndm::model_folder::file(&options.model, fndm::model_folder::DATA)?;
        let contents = shards::fingerprint::Contents::of(&statistics)?;
        settings["input_check"] = serde_json::to_value(contents)?;
    }
    let model = shards::fingerprint::of_model(&options.model, detector.config())?;
    let how = How::new("detect", model, &settings)?;
    let division = match many {
        true => Some(divide(&mut listed, &how, shard.unwrap_or(Shard::WHOLE))),
        false => None,
    };
    let inputs = check_outputs(options, &listed, writes_index(options, shard))?;
    let mut progress = match division {
        Some(division) if shard.is_some() => {
            Some(Progress::begin(&options.output, division, &inputs)?)
        }
        Some(division) => Progress::begin_undivided(&options.output, division, &inputs),
        None => None,
    };
    for reason in &listed.left_out {
        tell!("left out: {reason}");
    }
    if let Some(root) = &options.bids.bids {
        bids::begin(&options.output, root)?;
    }
    match &check {
        Some(check) => warn_of_older(&options.model, check),
        None => tell!(
            "warning: inputs aren't checked: {}",
            without_statistics(&options.model)
        ),
    }
    let work = Work {
        options,
        detector: &detector,
        check: check.as_ref(),
        row,
        how,
        inputs,
    };
    let mut end = End::default();
    pipeline::each(
        options.out_of_core,
        &work,
        &listed.inputs,
        &mut |input, outcome| {
            match outcome {
                Ok(Done::Before) => end.before += 1,
                Ok(Done::Now { milliseconds }) => {
                    if let Some(progress) = &mut progress {
                        progress.took(&input.id, milliseconds);
                    }
                }
                Err(error) => {
                    let error = chain(error.as_ref());
                    tell!("{}: {error}", input.id);
                    if let Some(progress) = &mut progress {
                        progress.failed(&input.id, &error)?;
                    }
                    end.failed.push((&input.id, error));
                }
            }
            Ok(())
        },
    )?;
    if let Some(progress) = progress {
        progress.finish()?;
    }
    // Those that are written side by side may end in any order.
    end.failed.sort();
    let some_are_done = end.failed.len() < listed.inputs.len();
    if some_are_done && writes_index(options, shard) {
        // A folder that can't be read has no id; the reason names it.
        let folders = listed.left_out.iter();
        let folders = folders.map(|reason| ("a folder".to_string(), reason.clone()));
        let failed = end.failed.iter();
        let failed = failed.map(|(id, error)| ((*id).to_string(), error.clone()));
        let left_out: Vec<_> = failed.chain(folders).collect();
        let patients: Vec<&str> = listed.inputs.iter().map(|i| i.id.as_str()).collect();
        index::write(options, &patients, &left_out)?;
    }
    Ok(end.tell(options, &listed, method))
}

/// Leaves the patients of a shard, and those passed over to the first one.
fn divide(listed: &mut Listed, how: &How, shard: Shard) -> Division {
    let ids = listed.inputs.iter().map(|input| input.id.clone()).collect();
    if !shard.is_first() {
        listed.left_out.clear();
    }
    let mut division = Division::new(how, shard, ids);
    division.passed_over.clone_from(&listed.left_out);
    let own: BTreeSet<String> = division.own().into_iter().map(String::from).collect();
    listed.inputs.retain(|input| own.contains(&input.id));
    division
}

/// What is told when every patient was tried.
#[derive(Default)]
struct End<'a> {
    /// Patients that were done before.
    before: usize,
    failed: Vec<(&'a str, String)>,
}

impl End<'_> {
    /// Says what was done; the exit code.
    fn tell(&self, options: &Options, listed: &Listed, method: Method) -> ExitCode {
        let done = listed.inputs.len() - self.failed.len();
        let before = match self.before {
            0 => String::new(),
            n => format!(" ({n} before)"),
        };
        let place = match done {
            0 => String::new(),
            _ => format!(", written to {}", options.output.display()),
        };
        say!(
            "{done} of {} done{before} by {}{place}",
            fndm_files::counted(listed.inputs.len() + listed.left_out.len(), "patient"),
            method.title(),
        );
        if self.failed.is_empty() && listed.left_out.is_empty() {
            return ExitCode::SUCCESS;
        }
        // Of one patient it was told just now.
        if listed.inputs.len() > 1 && !self.failed.is_empty() {
            tell!("failed:");
            for (id, error) in &self.failed {
                tell!("  {id}: {error}");
            }
        }
        if !listed.left_out.is_empty() {
            tell!("left out:");
        }
        for reason in &listed.left_out {
            tell!("  {reason}");
        }
        // 1: nothing was done; 2: a part was.
        ExitCode::from(if done == 0 { 1 } else { 2 })
    }
}
