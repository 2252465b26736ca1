//! Finds lesions in new patients: NIfTI volumes in, NIfTI masks and anomaly maps on the same grid out.
//!
//! fndm detect --model out/model --patient DIR

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use fndm::data::{Limits, Patient, list_patients, nifti, read_sequences};
use fndm::{DetectConfig, Detection, Detector, Method};
use fndm_study::copies;
use serde_json::json;

use crate::common;

/// Find lesions: masks and anomaly maps as NIfTI on the input's grid, a picture, and a JSON file for each patient.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder that `train` wrote
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// One patient: a folder with <id>_<sequence>.nii.gz
    #[arg(long, value_name = "DIR", group = "input")]
    patient: Option<PathBuf>,
    /// Many patients: a folder of such folders
    #[arg(long, value_name = "DIR", group = "input")]
    data: Option<PathBuf>,
    /// One patient, file by file: flair=FILE, once for each sequence of the model
    #[arg(long = "file", value_name = "SEQUENCE=FILE", group = "input")]
    files: Vec<String>,
    /// Where a folder for each patient goes
    #[arg(long, value_name = "DIR", default_value = "out/detect")]
    output: PathBuf,
    #[command(flatten)]
    device: common::DeviceOptions,
    #[command(flatten)]
    method: common::MethodOptions,
}

/// A patient still to be read.
enum Input {
    Folder(PathBuf),
    Files(Vec<(String, PathBuf)>),
}

impl Input {
    fn id(&self) -> String {
        let path = match self {
            Input::Folder(path) => path.as_path(),
            Input::Files(files) => files
                .first()
                .map_or(Path::new(""), |(_, path)| path.as_path()),
        };
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let name = path
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        name.split('.')
            .next()
            .filter(|n| !n.is_empty())
            .unwrap_or("patient")
            .to_string()
    }

    fn read(&self, sequences: &[String]) -> Result<Patient> {
        let limits = Limits::default();
        match self {
            Input::Folder(path) => Ok(read_sequences(path, sequences, &limits)?),
            Input::Files(files) => {
                let mut volumes = Vec::new();
                for name in sequences {
                    let Some((_, path)) = files.iter().find(|(n, _)| n == name) else {
                        bail!(
                            "expected --file {name}=FILE: the model takes {}",
                            sequences.join(", ")
                        );
                    };
                    volumes.push((name.clone(), nifti::read(path, &limits)?));
                }
                Ok(Patient {
                    id: self.id(),
                    sequences: volumes,
                    mask: None,
                })
            }
        }
    }
}

fn inputs(options: &Options) -> Result<Vec<Input>> {
    match (&options.patient, &options.data, options.files.as_slice()) {
        (Some(path), None, []) => {
            if !path.is_dir() {
                bail!("--patient {}: expected a folder", path.display());
            }
            Ok(vec![Input::Folder(path.clone())])
        }
        (None, Some(path), []) => {
            let listed = list_patients(path)?;
            for left_out in listed.left_out {
                eprintln!("left out: {:#}", anyhow::Error::new(left_out.reason));
            }
            Ok(listed
                .ids
                .into_iter()
                .map(|id| Input::Folder(path.join(id)))
                .collect())
        }
        (None, None, files @ [_, ..]) => {
            let split = |text: &String| match text.split_once('=') {
                Some((name, file)) => Ok((name.to_string(), PathBuf::from(file))),
                None => bail!("--file: expected SEQUENCE=FILE, got {text}"),
            };
            Ok(vec![Input::Files(
                files.iter().map(split).collect::<Result<_>>()?,
            )])
        }
        _ => bail!("expected --patient DIR, --data DIR, or --file SEQUENCE=FILE for each sequence"),
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let detector = options.device.load(&options.model)?;
    let mut config = detector.config().detect_config(Method::Fndm);
    options.method.apply(&mut config);
    config.check()?;
    let inputs = inputs(options)?;
    let mut failed: Vec<(String, anyhow::Error)> = Vec::new();
    for input in &inputs {
        let id = input.id();
        if let Err(error) = one(options, &detector, &config, input) {
            eprintln!("{id}: {error:#}");
            failed.push((id, error));
        }
    }
    let done = inputs.len() - failed.len();
    println!(
        "{done} of {} patients done, written to {}",
        inputs.len(),
        options.output.display()
    );
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("failed:");
    for (id, error) in &failed {
        eprintln!("  {id}: {error:#}");
    }
    // 1: nothing was done; 2: a part was.
    Ok(ExitCode::from(if done == 0 { 1 } else { 2 }))
}

fn one(options: &Options, detector: &Detector, config: &DetectConfig, input: &Input) -> Result<()> {
    let patient = input.read(&detector.config().sequences)?;
    if let Some(reason) = copies(&patient) {
        eprintln!("{}: warning: {reason}", patient.id);
    }
    let bar = common::share_bar(&input.id());
    let detection = detector.detect_with(&patient, config, &mut |share| {
        bar.set_position((share * 1000.) as u64);
    })?;
    bar.finish();
    write(options, &input.id(), config, &detection)
}

/// Everything goes into a folder under a temporary name, which is renamed when it is complete.
fn write(options: &Options, id: &str, config: &DetectConfig, detection: &Detection) -> Result<()> {
    let folder = options.output.join(id);
    let partial = options
        .output
        .join(format!(".{id}.{}.tmp", std::process::id()));
    let written = fill(&partial, options, id, config, detection).and_then(|()| {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::rename(&partial, &folder)?;
        Ok(())
    });
    if written.is_err() {
        // The error that matters is the first one.
        let _ = std::fs::remove_dir_all(&partial);
    }
    written.with_context(|| format!("cannot write {}", folder.display()))
}

fn fill(
    folder: &Path,
    options: &Options,
    id: &str,
    config: &DetectConfig,
    detection: &Detection,
) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let file = |what: &str| folder.join(format!("{id}_{what}"));
    nifti::write_mask(file("mask.nii.gz"), &detection.mask)?;
    nifti::write_map(file("anomaly.nii.gz"), &detection.anomaly)?;
    let pair = [(&detection.slices, &detection.maps)];
    common::save_sheet(pair.into_iter(), 16, &file("sheet.png"))?;
    let voxels = detection.mask.data.iter().filter(|&&v| v > 0.).count();
    let [i, j, k] = detection.mask.spacing();
    let report = json!({
        "patient": id,
        "command": common::command(),
        "model": options.model,
        "fndm_version": env!("CARGO_PKG_VERSION"),
        "mask_voxels": voxels,
        "mask_mm3": voxels as f64 * i * j * k,
        "slices": detection.slices.z,
        "otsu_thresholds": detection.maps.thresholds,
        "evaluations": detection.maps.evaluations,
        "gradient_evaluations": detection.maps.gradient_evaluations,
        "ms_per_slice": detection.maps.milliseconds / detection.slices.len() as f64,
        "settings": config,
    });
    common::write_json(&file("report.json"), &report)
}
