//! The ablation: CG, CG + NM, CG + NM + MB, and their rivals.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use fndm::metrics::{self, BootstrapConfig, Score, paired_comparison};
use fndm::{CoarseSource, Detector, Method};
use fndm_study::{Arm, CaseScore, Comparison, Evaluation, Gallery, Level, Report, write_csv};

use super::{Where, sizes};
use crate::common::{self, cohort};

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

pub(super) fn arms(detector: &Detector) -> Vec<Arm> {
    // Dice has thresholds of its own; a row's is that of its mask, which `detect` writes and the picture shows.
    let arm = |key: &str, title: &str, method| Arm {
        key: key.into(),
        title: title.into(),
        ..Arm::new(method, detector.config().detect_config(method))
    };
    let mut arms = vec![
        arm("cg", "CG", Method::Cg),
        arm("cg_nm", "CG + NM", Method::CgNm),
        arm("fndm", "CG + NM + MB (FNDM)", Method::Fndm),
        arm("diffano", "DiffANO", Method::Diffano),
        arm("flair", "FLAIR, Otsu", Method::Flair),
        Arm {
            flair_quantile: Some(FLAIR_QUANTILE),
            ..arm("flair_quantile", "FLAIR, quantile", Method::Flair)
        },
        arm("memory", "coarse map alone", Method::Memory),
    ];
    if detector.student().is_some() {
        arms.push(arm("student", "student", Method::Student));
        arms.push(arm(
            "fndm_student",
            "FNDM with the student",
            Method::FndmStudent,
        ));
    }
    // The arm of the whole method may have another source of x_seg than the paper's.
    let fndm = detector.config().detect_config(Method::Fndm);
    if fndm.coarse_source != CoarseSource::Bank {
        for (key, title, method) in [
            ("fndm_bank", "FNDM, x_seg of the bank", Method::Fndm),
            ("memory_bank", "memory bank alone", Method::Memory),
        ] {
            let mut arm = arm(key, title, method);
            arm.config.coarse_source = CoarseSource::Bank;
            // A threshold of the other model's unit says nothing here.
            arm.config.coarse_threshold = None;
            arms.push(arm);
        }
    }
    // A row that takes a network of its own, which the model doesn't have, is no row of its table.
    arms.retain(|arm| {
        let has = detector.config().has_network(arm.method);
        if !has {
            tell!("no row {}: the model has no network for it", arm.title);
        }
        has
    });
    arms
}

pub(super) fn figure(value: Option<f64>, digits: usize) -> String {
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
            figure(row.ms_per_slice, 1),
        ]);
    }
    let rows = rows.iter().map(|(_, evaluation)| &evaluation.row);
    fndm_study::add_whole_volumes(&mut cells, "mask", "whole", rows);
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

/// Rows whose slices are shown, and the file.
const PICTURES: [(&str, &str); 2] = [("fndm", "slices.png"), ("student", "student.png")];

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let detector = options.place.detector()?;
    let arms = chosen(arms(&detector), options.rows.as_deref())?;
    for arm in &arms {
        detector.config().check_row(arm.method, &arm.config)?;
    }
    let mut folder = options.place.folder()?;
    // A sheet of twelve slices for each of these rows.
    let mut pictures: Vec<(usize, &str, Gallery)> = PICTURES
        .iter()
        .filter_map(|(key, file)| {
            let at = arms.iter().position(|arm| arm.key == *key)?;
            Some((at, *file, Gallery::default()))
        })
        .collect();
    let mut comparison = Comparison::by_masks(arms.clone(), &Level::ALL);
    let cohort = options.place.each(&detector, |read, progress| {
        let found = comparison.add(&detector, &read.slices, progress)?;
        for (at, _, gallery) in &mut pictures {
            if let Some(maps) = &found[*at].maps {
                gallery.add(&read.slices, maps)?;
            }
        }
        Ok(())
    })?;
    let settings = comparison.settings();
    let found = comparison.finish()?;
    for (at, file, gallery) in &pictures {
        let examples = gallery.by_dice(&found[*at][0], 12);
        folder.write_by(file, |path| -> Result<()> {
            Ok(gallery.save(&examples, path)?)
        })?;
    }
    let words = tables(&arms, &found)?;
    let evaluations: Vec<Evaluation> = found.into_iter().flatten().collect();
    let report = Report::new(
        &common::command(),
        &format!("{}: {}", options.place.split, cohort::words(&cohort)),
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
        "wrote table2.json, table2.csv, table2_cases.json{} to {}",
        pictures
            .iter()
            .map(|(_, file, _)| format!(", {file}"))
            .collect::<String>(),
        options.place.output.display()
    );
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
}

/// The tables in words.
fn tables(arms: &[Arm], found: &[Vec<Evaluation>]) -> Result<String> {
    let mut words = String::new();
    for (level, name) in [(0, "Per slice with a lesion"), (1, "Per volume")] {
        let rows: Vec<(&str, &Evaluation)> = arms
            .iter()
            .zip(found)
            .map(|(arm, found)| (arm.title.as_str(), &found[level]))
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
fn chosen(all: Vec<Arm>, keys: Option<&[String]>) -> Result<Vec<Arm>> {
    let Some(keys) = keys else {
        return Ok(all);
    };
    let known: Vec<&str> = all.iter().map(|arm| arm.key.as_str()).collect();
    for key in keys {
        ensure!(
            known.contains(&key.as_str()),
            "--rows: expected {}, got {key}",
            known.join(", ")
        );
    }
    let wanted = |arm: &Arm| keys.contains(&arm.key);
    Ok(all.into_iter().filter(wanted).collect())
}
