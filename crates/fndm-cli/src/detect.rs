//! Finds lesions in new patients: NIfTI volumes in, NIfTI masks and anomaly maps on the same grid out.
//!
//! fndm detect --model out/model --patient DIR

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fndm::data::layout::Files;
use fndm::data::{Limits, Patient, list_patients, nifti, read_sequences, read_sequences_below};
use fndm::{DetectConfig, Detection, Detector, Method};
use fndm_files::{Inputs, OutputFolder, chain};
use fndm_study::{Gallery, copies};
use serde_json::json;

use crate::common::{self, place};

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

/// A patient still to be read. Lesion masks are not looked for: they aren't needed.
struct Input {
    /// What the user calls the patient.
    id: String,
    place: Place,
}

enum Place {
    Folder(PathBuf),
    /// The patient of the id in a data folder.
    Below(PathBuf),
    /// In the order of the model's sequences.
    Files(Vec<(String, PathBuf)>),
}

impl Input {
    fn read(&self, sequences: &[String]) -> Result<Patient> {
        let limits = Limits::default();
        let mut patient = match &self.place {
            Place::Folder(path) => read_sequences(path, sequences, &limits)?,
            Place::Below(root) => read_sequences_below(root, &self.id, sequences, &limits)?,
            Place::Files(files) => Patient {
                id: self.id.clone(),
                sequences: files
                    .iter()
                    .map(|(name, path)| Ok((name.clone(), nifti::read(path, &limits)?)))
                    .collect::<Result<_>>()?,
                mask: None,
            },
        };
        patient.id.clone_from(&self.id);
        Ok(patient)
    }

    /// What is read, so that it isn't written over.
    fn add_to(&self, inputs: Inputs) -> Inputs {
        match &self.place {
            Place::Folder(path) => inputs.folder(path),
            Place::Below(root) => inputs.folder(root.join(&self.id)),
            Place::Files(files) => files.iter().fold(inputs, |all, (_, path)| all.file(path)),
        }
    }

    /// Names of the files of results: the last part of the id.
    fn file_name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }
}

/// Who is looked at, and who was passed over.
struct Listed {
    inputs: Vec<Input>,
    left_out: Vec<String>,
}

impl Listed {
    fn one(id: String, place: Place) -> Self {
        Self {
            inputs: vec![Input { id, place }],
            left_out: Vec::new(),
        }
    }
}

fn list(options: &Options, sequences: &[String]) -> Result<Listed> {
    if let Some(id) = &options.id {
        check_id(id)?;
    }
    match (&options.patient, &options.data, options.files.as_slice()) {
        (Some(path), None, []) => {
            ensure!(
                path.is_dir(),
                "--patient {}: expected a folder",
                path.display()
            );
            // A missing sequence is told now.
            let found = Files::find_sequences(path, sequences)?;
            let id = options.id.clone().unwrap_or(found.id);
            check_id(&id)?;
            Ok(Listed::one(id, Place::Folder(path.clone())))
        }
        (None, Some(root), []) => {
            let listed = list_patients(root)?;
            let inputs = listed.ids.into_iter().map(|id| Input {
                id,
                place: Place::Below(root.clone()),
            });
            let left_out = listed.left_out.iter();
            Ok(Listed {
                inputs: inputs.collect(),
                left_out: left_out.map(|l| chain(&l.reason)).collect(),
            })
        }
        (None, None, files @ [_, ..]) => {
            let Some(id) = &options.id else {
                bail!("--file: expected --id ID too, which the results are written under");
            };
            Ok(Listed::one(
                id.clone(),
                Place::Files(named(files, sequences)?),
            ))
        }
        _ => bail!("expected --patient DIR, --data DIR, or --file SEQUENCE=FILE for each sequence"),
    }
}

/// An id leads to a folder inside the output.
fn check_id(id: &str) -> Result<()> {
    let mut parts = Path::new(id).components();
    let inside = parts.all(|part| matches!(part, Component::Normal(_)));
    let plain = !id.is_empty() && !id.ends_with('/') && !id.contains("//");
    ensure!(
        inside && plain,
        "--id: expected a name, or names with / between them, got {id:?}"
    );
    Ok(())
}

/// The files of `--file`, in the order of the sequences; each sequence once.
fn named(files: &[OsString], sequences: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut given: Vec<(String, PathBuf)> = Vec::new();
    for text in files {
        let shown = text.display();
        let Some((name, path)) = split(text) else {
            bail!("--file {shown}: expected SEQUENCE=FILE");
        };
        ensure!(!path.is_empty(), "--file {shown}: expected a path");
        ensure!(
            sequences.contains(&name),
            "--file {shown}: the model takes {}",
            sequences.join(", ")
        );
        ensure!(
            given.iter().all(|(other, _)| *other != name),
            "--file {shown}: {name} is given twice"
        );
        let path = PathBuf::from(path);
        ensure!(
            path.exists(),
            "--file {name}={}: no such file",
            path.display()
        );
        given.push((name, path));
    }
    let mut ordered = Vec::new();
    for name in sequences {
        let Some(found) = given.iter().find(|(other, _)| other == name) else {
            bail!(
                "expected --file {name}=FILE: the model takes {}",
                sequences.join(", ")
            );
        };
        ordered.push(found.clone());
    }
    Ok(ordered)
}

/// Name and path of `NAME=PATH`; a path may be any bytes.
fn split(text: &OsStr) -> Option<(String, OsString)> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = text.as_bytes();
        let at = bytes.iter().position(|&byte| byte == b'=')?;
        let name = std::str::from_utf8(&bytes[..at]).ok()?;
        Some((name.into(), OsStr::from_bytes(&bytes[at + 1..]).into()))
    }
    #[cfg(not(unix))]
    {
        let (name, path) = text.to_str()?.split_once('=')?;
        Some((name.into(), path.into()))
    }
}

/// No two patients share a place, and none lies inside another's.
fn check_apart(inputs: &[Input]) -> Result<()> {
    let mut ids = BTreeSet::new();
    for input in inputs {
        ensure!(
            ids.insert(input.id.as_str()),
            "two patients of the id {}",
            input.id
        );
    }
    for id in &ids {
        let above = Path::new(id).ancestors().skip(1).filter_map(Path::to_str);
        if let Some(outer) = above.into_iter().find(|outer| ids.contains(outer)) {
            bail!("the results of patient {id} would lie inside those of patient {outer}");
        }
    }
    Ok(())
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
    let listed = list(options, &detector.config().sequences)?;
    check_apart(&listed.inputs)?;
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
    fill(&mut folder, options, input, row, &detection)?;
    Ok(folder.finish()?)
}

fn fill(
    folder: &mut OutputFolder,
    options: &Options,
    input: &Input,
    (method, config): &(Method, DetectConfig),
    detection: &Detection,
) -> Result<()> {
    let file = |what: &str| format!("{}_{what}", input.file_name());
    nifti::write_mask(folder.file(&file("mask.nii.gz"))?, &detection.mask)?;
    nifti::write_map(folder.file(&file("anomaly.nii.gz"))?, &detection.anomaly)?;
    let mut gallery = Gallery::default();
    gallery.add(&detection.slices, &detection.maps)?;
    gallery.save(&gallery.spread(16), &folder.file(&file("sheet.png"))?)?;
    let voxels = detection.mask.data.iter().filter(|&&v| v > 0.).count();
    let [i, j, k] = detection.mask.spacing();
    let report = json!({
        "patient": input.id,
        "command": common::command(),
        "model": options.model.display().to_string(),
        "fndm_version": env!("CARGO_PKG_VERSION"),
        "method": method,
        "mask_voxels": voxels,
        "mask_mm3": voxels as f64 * i * j * k,
        "slices": detection.slices.z,
        "thresholds": detection.maps.thresholds,
        "diseased": detection.maps.diseased,
        "evaluations": detection.maps.evaluations,
        "gradient_evaluations": detection.maps.gradient_evaluations,
        "ms_per_slice": detection.maps.milliseconds / detection.slices.len() as f64,
        "settings": config,
    });
    folder
        .write_json(&file("report.json"), &report)
        .with_context(|| format!("the report of {}", input.id))
}
