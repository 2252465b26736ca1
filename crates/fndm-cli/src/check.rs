//! Is this input like what the model was trained on?
//!
//! fndm check --model out/model --data DIR

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fndm::InputCheck;
use fndm::data::profile::{DataStatistics, Finding, Light, Verdict, missing_sequence};
use fndm::data::{Limits, Patient, Turned, list_patients, nifti, read_sequences};
use fndm_files::{Inputs, chain, write_json};
use fndm_study::fndm_report;
use serde_json::{Value, json};

use crate::common::{self, place};

/// Look whether patients are like those that a model was trained on: a traffic light for each, with reasons and what to do.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder; it needs the statistics of its training data, which `train` writes and `describe` adds
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Many patients: a folder of their folders
    #[arg(long, value_name = "DIR", group = "input", required = true)]
    data: Option<PathBuf>,
    /// One patient: a folder with <id>_<sequence>.nii.gz
    #[arg(long, value_name = "DIR", group = "input", required = true)]
    patient: Option<PathBuf>,
    /// One patient, file by file: flair=FILE, once for each sequence
    #[arg(long = "file", value_name = "SEQUENCE=FILE", group = "input", required = true, value_parser = named)]
    files: Vec<(String, PathBuf)>,
    /// All lights, reasons and scores
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    overwrite: place::Overwrite,
}

fn named(text: &str) -> std::result::Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("expected SEQUENCE=FILE".into()),
    }
}

/// What a model without statistics is told.
pub(crate) fn without_statistics(model: &Path) -> String {
    format!(
        "{} has no statistics of its training data (data.json): add them by: fndm describe --model {} --data DIR",
        model.display(),
        model.display()
    )
}

/// Warns of statistics that an earlier version made: what they have nothing of isn't compared.
pub(crate) fn warn_of_older(model: &Path, check: &InputCheck) {
    if check.statistics().format < DataStatistics::FORMAT {
        tell!(
            "warning: data.json of {} is of an older version: whether the skull is there and how the head stands aren't compared; make it anew by: fndm describe --model {}",
            model.display(),
            model.display()
        );
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let Some(check) = InputCheck::load(&options.model)? else {
        bail!("{}", without_statistics(&options.model));
    };
    if let Some(path) = &options.json {
        let inputs = Inputs::new().whole(&options.model);
        let inputs = options.files.iter().fold(inputs, |all, (_, p)| all.file(p));
        let folders = options.data.iter().chain(&options.patient);
        let inputs = folders.fold(inputs, Inputs::folder);
        options.overwrite.check(path, &inputs)?;
    }
    warn_of_older(&options.model, &check);
    let verdicts = verdicts(options, &check)?;
    let count = |light| verdicts.iter().filter(|v| v.light == light).count();
    let (green, yellow, red) = (count(Light::Green), count(Light::Yellow), count(Light::Red));
    if let Some(path) = &options.json {
        let statistics = check.statistics();
        let all = json!({
            "command": common::command(),
            "model": options.model.display().to_string(),
            "training": { "patients": statistics.patients, "source": statistics.source, "false_alarms": statistics.false_alarms },
            "green": green, "yellow": yellow, "red": red,
            "patients": verdicts,
        });
        place::make_parent(path)?;
        write_json(path, &all).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let alarms = &check.statistics().false_alarms;
    say!("{green} green, {yellow} yellow, {red} red");
    say!(
        "of {} training patients, each judged by the others, {} were yellow and {} red",
        alarms.patients,
        alarms.yellow,
        alarms.red
    );
    Ok(match (red, green + yellow) {
        (0, _) => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    })
}

fn verdicts(options: &Options, check: &InputCheck) -> Result<Vec<Verdict>> {
    let limits = Limits::default();
    let mut all = Vec::new();
    let mut tell = |verdict: Verdict| {
        say!("{:6} {}", verdict.light, verdict.patient);
        for finding in &verdict.findings {
            say!("       {}", words(finding));
        }
        all.push(verdict);
    };
    match (&options.data, &options.patient) {
        (Some(root), _) => {
            let listed = list_patients(root)?;
            for id in listed.ids {
                tell(folder(check, &root.join(&id), &id));
            }
            for out in listed.left_out {
                let id = out.path.display().to_string();
                tell(Verdict::unreadable(id, chain(&out.reason)));
            }
        }
        (None, Some(path)) => {
            ensure!(
                path.is_dir(),
                "--patient {}: expected a folder",
                path.display()
            );
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let id = name.unwrap_or_else(|| path.display().to_string());
            tell(folder(check, path, &id));
        }
        (None, None) => {
            let mut patient = empty("files");
            for (name, path) in &options.files {
                let names = check.names_to_read();
                ensure!(
                    names.contains(name),
                    "--file {name}: the model takes {}",
                    names.join(", ")
                );
                ensure!(
                    patient.sequence(name).is_none(),
                    "--file {name}: given twice"
                );
                let volume = nifti::read(path, &limits)?;
                patient.sequences.push((name.clone(), volume));
            }
            tell(check.patient(&patient));
        }
    }
    Ok(all)
}

/// A verdict as a patient's page shows it.
pub(crate) fn as_shown(verdict: &Verdict) -> fndm_report::Check {
    let findings = verdict.findings.iter().map(|finding| fndm_report::Finding {
        light: light_shown(finding.light),
        what: match &finding.sequence {
            Some(sequence) => format!("{}, {sequence}", finding.aspect),
            None => finding.aspect.to_string(),
        },
        reason: finding.reason.clone(),
        advice: finding.advice.clone(),
    });
    fndm_report::Check {
        light: light_shown(verdict.light),
        findings: findings.collect(),
    }
}

/// A light as a page shows it.
pub(crate) fn light_shown(light: Light) -> fndm_report::Light {
    match light {
        Light::Green => fndm_report::Light::Green,
        Light::Yellow => fndm_report::Light::Yellow,
        Light::Red => fndm_report::Light::Red,
    }
}

fn empty(id: &str) -> Patient {
    Patient {
        id: id.to_owned(),
        sequences: Vec::new(),
        mask: None,
    }
}

/// The verdict on a patient's folder; sequences that are missing are told with what the others show.
fn folder(check: &InputCheck, path: &Path, id: &str) -> Verdict {
    let limits = Limits::default();
    let read = |names: &[String]| read_sequences(path, names, &limits);
    let mut present = Vec::new();
    let mut missing = Vec::new();
    for name in &check.names_to_read() {
        match read(std::slice::from_ref(name)) {
            Ok(patient) => present.extend(patient.sequences),
            Err(fndm::data::Error::MissingSequence { .. }) => missing.push(name.clone()),
            Err(error) => return Verdict::unreadable(id, chain(&error)),
        }
    }
    if present.is_empty() {
        let findings = missing
            .iter()
            .map(|name| missing_sequence(name, check.sequences()));
        return Verdict::new(id, findings.collect());
    }
    check.patient(&Patient {
        sequences: present,
        ..empty(id)
    })
}

/// One finding in a line.
pub(crate) fn words(finding: &Finding) -> String {
    let of = finding
        .sequence
        .as_ref()
        .map_or(String::new(), |s| format!(" of {s}"));
    format!(
        "{} ({}{of}): {}. What to do: {}",
        finding.light, finding.aspect, finding.reason, finding.advice
    )
}

/// What `detect` says of a patient before it is examined, and whether it goes on.
///
/// # Errors
/// With `strict`, for a red patient.
pub(crate) fn before_detection(
    check: Option<&InputCheck>,
    id: &str,
    turned: &Turned<'_>,
    strict: bool,
) -> Result<Option<Verdict>> {
    let Some(check) = check else {
        return Ok(None);
    };
    let verdict = check.turned(id, turned);
    for finding in &verdict.findings {
        tell!("{id}: {}", words(finding));
    }
    if strict {
        refuse_red(verdict.light)?;
    }
    Ok(Some(verdict))
}

/// With `--strict`, of results that are there: the verdict that stands in their report.
pub(crate) fn done_before(report: &Path) -> Result<()> {
    let report: Value = fndm_files::read_json(report, "report of a patient")?;
    let verdict: Option<Verdict> = serde_json::from_value(report["input_check"].clone())?;
    verdict.map_or(Ok(()), |verdict| refuse_red(verdict.light))
}

fn refuse_red(light: Light) -> Result<()> {
    ensure!(
        light != Light::Red,
        "not like the patients that the model was trained on, and --strict is given"
    );
    Ok(())
}
