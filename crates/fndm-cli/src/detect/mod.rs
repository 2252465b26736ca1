//! Finds lesions in new patients: NIfTI volumes in, NIfTI masks and anomaly maps on the same grid out.
//!
//! fndm detect --model out/model --patient DIR

mod input;
mod output;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use fndm::{DetectConfig, Detector, Method};
use fndm_files::{Inputs, OutputFolder, chain};
use fndm_study::copies;

use crate::common::{self, place};
use input::{Input, Listed};

/// Find lesions: masks and anomaly maps as NIfTI on the input's grid, a picture, and a JSON file for each patient.
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
    /// One patient, file by file: flair=FILE, once for each sequence of the model; needs --id
    #[arg(long = "file", value_name = "SEQUENCE=FILE", group = "input")]
    files: Vec<OsString>,
    /// The patient's id, which the results are written under; default for --patient: the folder's name
    #[arg(long, value_name = "ID", conflicts_with = "data")]
    id: Option<String>,
    /// Where a folder for each patient goes
    #[arg(long, value_name = "DIR", default_value = "out/detect")]
    output: PathBuf,
    /// The row of the tables: fndm, cg_nm, cg, diffano, flair, memory, student; default: what the model was found best by
    #[arg(long = "method", value_name = "KEY")]
    row: Option<String>,
    #[command(flatten)]
    device: common::DeviceOptions,
    #[command(flatten)]
    method: common::RunOptions,
}

fn target(options: &Options, input: &Input) -> (PathBuf, fndm_files::Maker) {
    (
        options.output.join(&input.id),
        place::maker("detect", &format!("patient {}", input.id)),
    )
}

/// Checks every output before anything is computed; returns what is read.
fn check_outputs(options: &Options, listed: &Listed) -> Result<Inputs> {
    let mut inputs = Inputs::new().whole(&options.model);
    if let Some(root) = &options.data {
        inputs = inputs.folder(root);
    }
    let inputs = listed.inputs.iter().fold(inputs, |all, i| i.add_to(all));
    for input in &listed.inputs {
        let (output, maker) = target(options, input);
        OutputFolder::check(&output, &maker, &inputs)?;
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
    let detector = options.device.load(&options.model)?;
    let method = asked.unwrap_or(detector.config().method);
    let mut config = detector.config().detect_config(method);
    options.method.apply(&mut config);
    detector.config().check_row(method, &config)?;
    let row = (method, config);
    let listed = input::list(options, &detector.config().sequences)?;
    input::check_apart(&listed.inputs)?;
    let inputs = check_outputs(options, &listed)?;
    for reason in &listed.left_out {
        tell!("left out: {reason}");
    }
    let mut failed: Vec<(&str, String)> = Vec::new();
    for input in &listed.inputs {
        if let Err(error) = one(options, &detector, &row, input, &inputs) {
            let error = chain(error.as_ref());
            tell!("{}: {error}", input.id);
            failed.push((&input.id, error));
        }
    }
    let done = listed.inputs.len() - failed.len();
    say!(
        "{done} of {} patients done by {}, written to {}",
        listed.inputs.len() + listed.left_out.len(),
        row.0.title(),
        options.output.display()
    );
    if failed.is_empty() && listed.left_out.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    // Of one patient it was told just now.
    if listed.inputs.len() > 1 && !failed.is_empty() {
        tell!("failed:");
        for (id, error) in &failed {
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
    Ok(ExitCode::from(if done == 0 { 1 } else { 2 }))
}

fn one(
    options: &Options,
    detector: &Detector,
    row: &(Method, DetectConfig),
    input: &Input,
    inputs: &Inputs,
) -> Result<()> {
    let patient = input.read(&detector.config().sequences)?;
    if let Some(reason) = copies(&patient) {
        tell!("{}: warning: {reason}", input.id);
    }
    let (output, maker) = target(options, input);
    // Before the computing: another process may be at it, and a disk may have filled up.
    let mut folder = OutputFolder::create(output, &maker, inputs)?;
    let bar = common::share_bar(&input.id);
    let detection = detector.detect_by(row.0, &patient, &row.1, &mut |share| {
        bar.set_position((share * 1000.) as u64);
    })?;
    bar.finish();
    for note in &detection.slices.notes {
        tell!("{}: warning: {note}", input.id);
    }
    output::fill(&mut folder, options, input, row, &detection)?;
    Ok(folder.finish()?)
}
