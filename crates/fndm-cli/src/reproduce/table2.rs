//! The ablation: CG, CG + NM, CG + NM + MB, and their rivals.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use fndm::data::PatientSlices;
use fndm::metrics::{self, BootstrapConfig, Score, paired_comparison};
use fndm::{CoarseSource, DetectConfig, Detector, Method, SliceMaps, ThresholdScope};
use fndm_study::{
    Case, CaseScore, Evaluation, Level, Report, evaluate, examine_case, flair_quantile, write_csv,
};

use super::{Where, sizes};
use crate::common::{self, Cohort};

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Where,
    /// Rows by their keys; default: all
    #[arg(long, value_delimiter = ',', value_name = "KEYS")]
    rows: Option<Vec<String>>,
}

/// FLAIR above this quantile of the slice, inside the head eroded by so many pixels: the strongest simple form on the
/// validation split of the LGG data.
const FLAIR_QUANTILE: (f64, usize) = (0.88, 5);

/// A row of the table.
struct Entry {
    key: &'static str,
    title: &'static str,
    method: Method,
    config: DetectConfig,
}

fn entries(detector: &Detector) -> Vec<Entry> {
    let row = |key, title, method| Entry {
        key,
        title,
        method,
        // The figures have thresholds of their own; this one is the picture's.
        config: match method {
            Method::Student => detector.config().detect_config(method),
            _ => DetectConfig {
                threshold: ThresholdScope::Slice,
                ..detector.config().detect_config(method)
            },
        },
    };
    let mut rows = vec![
        row("cg", "CG", Method::Cg),
        row("cg_nm", "CG + NM", Method::CgNm),
        row("fndm", "CG + NM + MB (FNDM)", Method::Fndm),
        row("diffano", "DiffANO", Method::Diffano),
        row("flair", "FLAIR, Otsu", Method::Flair),
        row("flair_quantile", "FLAIR, quantile", Method::Flair),
        row("memory", "coarse map alone", Method::Memory),
    ];
    if detector.student().is_some() {
        rows.push(row("student", "student", Method::Student));
        let mut entry = row("fndm_student", "FNDM, x_seg of the student", Method::Fndm);
        entry.config.coarse_source = CoarseSource::Student;
        entry.config.coarse_threshold = None;
        rows.push(entry);
    }
    // The row of the whole method may have another source of x_seg than the paper's.
    let fndm = detector.config().detect_config(Method::Fndm);
    if fndm.coarse_source != CoarseSource::Bank {
        for (key, title, method) in [
            ("fndm_bank", "FNDM, x_seg of the bank", Method::Fndm),
            ("memory_bank", "memory bank alone", Method::Memory),
        ] {
            let mut entry = row(key, title, method);
            entry.config.coarse_source = CoarseSource::Bank;
            // A threshold of the other model's unit says nothing here.
            entry.config.coarse_threshold = None;
            rows.push(entry);
        }
    }
    rows
}

/// Examines all patients in one way.
fn cases(
    detector: &Detector,
    entry: &Entry,
    cohort: &Cohort,
) -> Result<(Vec<Case>, Vec<SliceMaps>)> {
    let total: usize = cohort.patients.iter().map(PatientSlices::len).sum();
    let bar = common::bar(total as u64, entry.title);
    let (mut cases, mut all) = (Vec::new(), Vec::new());
    let mut before = 0;
    for slices in &cohort.patients {
        let (mut case, maps) = examine_case(
            detector,
            entry.method,
            &entry.config,
            slices,
            &mut |share| {
                bar.set_position(before + (share * slices.len() as f64) as u64);
            },
        )?;
        if entry.key == "flair_quantile" {
            let (quantile, erosion) = FLAIR_QUANTILE;
            (case.anomaly, case.inner_head, case.milliseconds) =
                flair_quantile(slices, erosion, quantile)?;
        }
        before += slices.len() as u64;
        cases.push(case);
        all.extend(maps);
    }
    bar.finish();
    Ok((cases, all))
}

fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

/// A table of rows with their titles.
pub(super) fn figures(rows: &[(&str, &Evaluation)]) -> String {
    let mut cells = vec![
        [
            "method",
            "Dice (Otsu)",
            "95 %",
            "ceiling",
            "HD95",
            "VSim",
            "AUROC",
            "AP",
            "mask",
            "empty",
            "evaluations",
            "ms/slice",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for (title, evaluation) in rows {
        let row = &evaluation.row;
        let gradients = match row.gradient_evaluations {
            0 => String::new(),
            n => format!(" + {n} grad"),
        };
        cells.push(vec![
            (*title).to_owned(),
            figure(row.dice_otsu, 3),
            row.dice_interval.map_or_else(
                || "-".into(),
                |[low, high]| format!("{low:.3} to {high:.3}"),
            ),
            figure(row.dice_ceiling, 3),
            figure(row.hd95, 2),
            figure(row.volumetric_similarity, 3),
            figure(row.auroc, 3),
            figure(row.average_precision, 3),
            figure(row.dice_mask, 3),
            figure(row.empty_when_healthy, 2),
            format!("{}{gradients}", row.evaluations),
            format!("{:.1}", row.ms_per_slice),
        ]);
    }
    fndm_study::markdown(&cells)
}

/// Mean differences of Dice between the row of this key and each other one, with intervals by patient.
pub(super) fn differences(rows: &[(&str, &Evaluation)], key: &str) -> Result<String> {
    let Some((title, first)) = rows.iter().find(|(_, e)| e.row.method == key) else {
        return Ok(String::new());
    };
    let head = format!("{title} less");
    let mut cells = vec![
        [head.as_str(), "Dice", "95 %", "patients better / worse"]
            .map(String::from)
            .to_vec(),
    ];
    let dice = |case: &CaseScore| -> Score { case.dice_otsu };
    for (title, other) in rows.iter().filter(|(_, e)| e.row.method != key) {
        let pairs = first.cases.iter().zip(&other.cases);
        let pairs = pairs.map(|(a, b)| (a.patient.clone(), dice(a), dice(b)));
        let title = (*title).to_owned();
        let paired = match paired_comparison(pairs, &BootstrapConfig::default()) {
            Ok(paired) => paired,
            // What two methods differ by in one patient says nothing of others.
            Err(few @ metrics::Error::TooFew { .. }) => {
                cells.push(vec![title, "–".into(), few.to_string(), "–".into()]);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let difference = &paired.difference;
        cells.push(vec![
            title,
            format!("{:+.3}", difference.mean),
            format!("{:+.3} to {:+.3}", difference.low, difference.high),
            format!("{} / {}", paired.first_higher, paired.second_higher),
        ]);
    }
    Ok(fndm_study::markdown(&cells))
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let detector = options.place.detector()?;
    let entries = chosen(entries(&detector), options.rows.as_deref())?;
    for entry in &entries {
        detector.config().check_row(entry.method, &entry.config)?;
    }
    let mut folder = options.place.folder()?;
    let cohort = options.place.cohort(&detector)?;
    let mut found: Vec<[Evaluation; 2]> = Vec::new();
    for entry in &entries {
        let (cases, maps) = cases(&detector, entry, &cohort)?;
        let (evaluations, gradients) = maps
            .first()
            .map_or((0, 0), |maps| (maps.evaluations, maps.gradient_evaluations));
        let score = |level| evaluate(entry.key, level, &cases, evaluations, gradients);
        let scores = [score(Level::Slice)?, score(Level::Volume)?];
        if entry.key == "fndm" {
            let examples = common::examples(&cohort.patients, &scores[0], 12);
            folder.write_by("slices.png", |path| {
                common::save_slices(&cohort.patients, &maps, &examples, path)
            })?;
        }
        found.push(scores);
    }
    let words = tables(&entries, &found)?;
    let settings = entries
        .iter()
        .map(|e| (e.method, e.config.clone()))
        .collect();
    let evaluations: Vec<Evaluation> = found.into_iter().flatten().collect();
    let report = Report::new(
        &common::command(),
        &format!("{}: {}", options.place.split, cohort.words()),
        &evaluations,
        settings,
        cohort.left_out.clone(),
    );
    folder.write_json("table2.json", &report)?;
    let rows = [report.rows.clone(), report.volumes.clone()].concat();
    folder.write_by("table2.csv", |path| -> Result<()> {
        Ok(write_csv(&rows, path)?)
    })?;
    folder.write_json("table2_cases.json", &evaluations)?;
    say!("{words}");
    say!(
        "wrote table2.json, table2.csv, table2_cases.json and slices.png to {}",
        options.place.output.display()
    );
    cohort.tell_left_out();
    Ok(cohort.code())
}

/// The tables in words.
fn tables(entries: &[Entry], found: &[[Evaluation; 2]]) -> Result<String> {
    let mut words = String::new();
    for (level, name) in [(0, "Per slice with a lesion"), (1, "Per volume")] {
        let rows: Vec<(&str, &Evaluation)> = entries
            .iter()
            .zip(found)
            .map(|(e, f)| (e.title, &f[level]))
            .collect();
        let cases = rows
            .first()
            .map_or(0, |(_, evaluation)| evaluation.row.cases);
        words += &format!("\n{name} ({cases}):\n\n{}\n", figures(&rows));
        for key in ["fndm", "student"] {
            words += &format!("{}\n", differences(&rows, key)?);
        }
        if level == 0 {
            words += &format!("Dice by lesion size:\n\n{}\n", sizes::table(&rows));
        }
    }
    Ok(words)
}

/// The rows asked for, in the table's order; all where none are named.
fn chosen(all: Vec<Entry>, keys: Option<&[String]>) -> Result<Vec<Entry>> {
    let Some(keys) = keys else {
        return Ok(all);
    };
    let known: Vec<&str> = all.iter().map(|entry| entry.key).collect();
    for key in keys {
        ensure!(
            known.contains(&key.as_str()),
            "--rows: expected {}, got {key}",
            known.join(", ")
        );
    }
    let wanted = |entry: &Entry| keys.iter().any(|key| key == entry.key);
    Ok(all.into_iter().filter(wanted).collect())
}
