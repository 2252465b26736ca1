//! A command line module of 3D Slicer: `fndm-slicer --xml` describes itself, and Slicer calls it with the files that the user chose.
//!
//! Slicer writes the chosen volumes to temporary files, calls the program with a long flag and a value for each parameter that is set,
//! reads the progress from standard output and the volumes back from the files that it named.

mod description;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use fndm::candle_core::Device;
use fndm::data::{Limits, Patient, nifti};
use fndm::{Detection, Detector};
use fndm_files::Inputs;

use crate::common;

/// The sequences that the module has a place for.
const SEQUENCES: [&str; 6] = ["flair", "t1", "t1ce", "t2", "dwi", "adc"];
/// What stands for the row that the model was found best by.
const OWN: &str = "model";

/// Find lesions with a model folder, as a command line module of 3D Slicer. Not a medical device.
#[derive(Debug, Parser)]
#[command(name = "fndm-slicer", version)]
pub(crate) struct Options {
    /// Print the module's description and end
    #[arg(long)]
    xml: bool,
    /// The model folder
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// FLAIR
    #[arg(long, value_name = "FILE")]
    flair: Option<PathBuf>,
    /// T1 without contrast agent
    #[arg(long, value_name = "FILE")]
    t1: Option<PathBuf>,
    /// T1 with contrast agent
    #[arg(long, value_name = "FILE")]
    t1ce: Option<PathBuf>,
    /// T2
    #[arg(long, value_name = "FILE")]
    t2: Option<PathBuf>,
    /// Diffusion-weighted image
    #[arg(long, value_name = "FILE")]
    dwi: Option<PathBuf>,
    /// Apparent diffusion coefficient
    #[arg(long, value_name = "FILE")]
    adc: Option<PathBuf>,
    /// The row of the tables, or "model" for what the model was found best by
    #[arg(long, value_name = "KEY", default_value = OWN)]
    method: String,
    /// Where the mask goes: .nii or .nii.gz
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Where the anomaly map goes: .nii or .nii.gz
    #[arg(long, value_name = "FILE")]
    anomaly: Option<PathBuf>,
    /// Where values are written that Slicer shows: the volume of the lesions
    #[arg(long = "returnparameterfile", value_name = "FILE")]
    values: Option<PathBuf>,
    /// An address in Slicer's memory, which a program of its own has no use for
    #[arg(long = "processinformationaddress", hide = true)]
    _address: Option<String>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.xml {
        say!("{}", description::text());
        return Ok(ExitCode::SUCCESS);
    }
    let model = options.model.as_ref().context("expected --model DIR")?;
    if options.mask.is_none() && options.anomaly.is_none() {
        bail!("expected --mask FILE or --anomaly FILE, for there is nothing to be written");
    }
    for path in [&options.mask, &options.anomaly].into_iter().flatten() {
        let name = path.to_string_lossy();
        ensure!(
            name.ends_with(".nii") || name.ends_with(".nii.gz"),
            "{name}: expected a name that ends in .nii or .nii.gz"
        );
    }
    check_outputs(options, model)?;
    say!(
        "<filter-start><filter-name>fndm</filter-name><filter-comment>Find lesions</filter-comment></filter-start>"
    );
    let detection = detect(options, model)?;
    let spacing = detection.mask.spacing();
    let voxels = detection.mask.data.iter().filter(|&&v| v > 0.).count();
    let volume = voxels as f64 * spacing.iter().product::<f64>();
    if let Some(path) = &options.mask {
        nifti::write_mask(path, &detection.mask)?;
    }
    if let Some(path) = &options.anomaly {
        nifti::write_map(path, &detection.anomaly)?;
    }
    if let Some(path) = &options.values {
        fndm_files::write_atomic(path, format!("lesionVolume = {volume:.1}\n"))?;
    }
    say!("<filter-end><filter-name>fndm</filter-name></filter-end>");
    Ok(ExitCode::SUCCESS)
}

/// No output changes an input, and none another one.
fn check_outputs(options: &Options, model: &Path) -> Result<()> {
    let volumes = given(options).into_iter().flatten();
    let inputs = volumes.fold(Inputs::new().whole(model), Inputs::file);
    let outputs = [&options.mask, &options.anomaly, &options.values];
    let outputs: Vec<&PathBuf> = outputs.into_iter().flatten().collect();
    for (at, path) in outputs.iter().enumerate() {
        inputs.check_file(path, true)?;
        let place = fndm_files::resolve(path)?;
        for other in &outputs[..at] {
            ensure!(
                fndm_files::resolve(other)? != place,
                "{}: expected another file for each result",
                path.display()
            );
        }
    }
    Ok(())
}

/// The volumes, in the order of [`SEQUENCES`].
fn given(options: &Options) -> [&Option<PathBuf>; 6] {
    [
        &options.flair,
        &options.t1,
        &options.t1ce,
        &options.t2,
        &options.dwi,
        &options.adc,
    ]
}

fn detect(options: &Options, model: &PathBuf) -> Result<Detection> {
    let detector = Detector::load(model, &Device::Cpu)?;
    let method = match options.method.as_str() {
        OWN => detector.config().method,
        key => common::method("--method", key)?,
    };
    let config = detector.config().detect_config(method);
    detector.config().check_row(method, &config)?;
    let patient = read(options, &detector.config().names_to_read())?;
    let mut shown = 0;
    let detection = detector.detect_by(method, &patient, &config, &mut |share| {
        let percent = (share * 100.) as u64;
        if percent > shown {
            shown = percent;
            say!("<filter-progress>{share:.2}</filter-progress>");
        }
    })?;
    for note in &detection.slices.notes {
        tell!("warning: {note}");
    }
    Ok(detection)
}

fn read(options: &Options, sequences: &[String]) -> Result<Patient> {
    let given = given(options);
    let mut volumes = Vec::new();
    for sequence in sequences {
        let place = SEQUENCES.iter().position(|name| name == sequence);
        let Some(place) = place else {
            bail!(
                "the model takes {sequence}, which this module has no place for: use `fndm detect`"
            );
        };
        let Some(path) = given[place] else {
            bail!(
                "the model takes {}: choose a volume for {sequence}",
                sequences.join(", ")
            );
        };
        volumes.push((sequence.clone(), nifti::read(path, &Limits::default())?));
    }
    let patient = Patient {
        id: "patient".into(),
        sequences: volumes,
        mask: None,
    };
    patient.check()?;
    Ok(patient)
}
