//! Figure 4: Dice against the number of steps.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use fndm::data::PatientSlices;
use fndm::{CoarseRule, DetectConfig, Detector, Method};
use fndm_files::WorkFolder;
use fndm_study::{Level, evaluate, examine_case};
use serde::Serialize;

use super::Where;
use super::plot::{self, Curve};
use crate::common;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Where,
    /// Steps in each direction
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "5,10,20,30,50,100,200,300"
    )]
    steps: Vec<usize>,
    /// At most this many slices with a lesion, spread evenly over all of them; 0 for all
    #[arg(long, value_name = "N", default_value_t = 32)]
    slices: usize,
}

#[derive(Debug, Serialize)]
struct Point {
    method: &'static str,
    steps: usize,
    evaluations: usize,
    dice: Option<f64>,
    interval: Option<[f64; 2]>,
    ms_per_slice: f64,
}

/// Some slices of a patient, and the patient.
struct Chosen<'a> {
    whole: &'a PatientSlices,
    slices: PatientSlices,
}

/// Slices with a lesion, spread evenly over those of all patients.
fn chosen(patients: &[PatientSlices], most: usize) -> Result<Vec<Chosen<'_>>> {
    let all: Vec<(usize, usize)> = patients
        .iter()
        .enumerate()
        .flat_map(|(p, slices)| {
            let labels = slices.labels.as_deref().unwrap_or_default();
            let lesions = (0..labels.len()).filter(|&i| labels[i] == 1);
            lesions.map(|i| (p, i)).collect::<Vec<_>>()
        })
        .collect();
    let count = if most == 0 {
        all.len()
    } else {
        most.min(all.len())
    };
    let picked: Vec<_> = (0..count).map(|i| all[i * all.len() / count]).collect();
    let of = |p: usize| -> Vec<usize> {
        let slices = picked.iter().filter(|(patient, _)| *patient == p);
        slices.map(|(_, slice)| *slice).collect()
    };
    patients
        .iter()
        .enumerate()
        .map(|(p, slices)| (slices, of(p)))
        .filter(|(_, indices)| !indices.is_empty())
        .map(|(whole, indices)| {
            let slices = whole.select(&indices)?;
            Ok(Chosen { whole, slices })
        })
        .collect()
}

const METHODS: [Method; 2] = [Method::Diffano, Method::Fndm];

fn settings(detector: &Detector, method: Method, steps: usize) -> DetectConfig {
    let mut config = detector.config().detect_config(method);
    config.steps = steps;
    config.order = config.order.min(steps);
    config
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let detector = options.place.detector()?;
    for method in METHODS {
        for &steps in &options.steps {
            settings(&detector, method, steps).check()?;
        }
    }
    let mut folder = options.place.folder()?;
    let cohort = options.place.cohort(&detector)?;
    let patients = chosen(&cohort.patients, options.slices)?;
    let count: usize = patients.iter().map(|chosen| chosen.slices.len()).sum();
    say!(
        "{count} slices with a lesion, of {} patients",
        patients.len()
    );
    let mut points = Vec::new();
    for method in METHODS {
        for &steps in &options.steps {
            let config = settings(&detector, method, steps);
            let title = format!("{}, {steps} steps", method.title());
            let bar = common::bar(patients.len() as u64, &title);
            let (mut cases, mut counts) = (Vec::new(), (0, 0));
            for Chosen { whole, slices } in &patients {
                let mut config = config.clone();
                if config.parts.memory_bank && config.coarse_rule == CoarseRule::Volume {
                    // x_seg as the whole volume has it, though some slices of it are examined.
                    let thresholds = detector.coarse_map(whole, &config)?.thresholds;
                    config.coarse_threshold = thresholds.first().copied();
                    config.coarse_rule = CoarseRule::Calibrated;
                }
                let (case, maps) = examine_case(&detector, method, &config, slices, &mut |_| {})?;
                if let Some(maps) = maps {
                    counts = (maps.evaluations, maps.gradient_evaluations);
                }
                cases.push(case);
                bar.inc(1);
            }
            bar.finish_and_clear();
            let row = evaluate(method.key(), Level::Slice, &cases, counts.0, counts.1)?.row;
            say!(
                "{title}: Dice {}, {} evaluations, {:.0} ms a slice",
                row.dice_otsu
                    .map_or_else(|| "-".into(), |d| format!("{d:.3}")),
                row.evaluations,
                row.ms_per_slice
            );
            points.push(Point {
                method: method.key(),
                steps,
                evaluations: row.evaluations,
                dice: row.dice_otsu,
                interval: row.dice_interval,
                ms_per_slice: row.ms_per_slice,
            });
            save(&points, &mut folder)?;
        }
    }
    say!(
        "wrote fig4.png, fig4.csv and fig4.json to {}",
        options.place.output.display()
    );
    cohort.tell_left_out();
    Ok(cohort.code())
}

/// The figure of the points so far and its numbers: the last of them take an hour.
fn save(points: &[Point], folder: &mut WorkFolder) -> Result<()> {
    folder.write_json("fig4.json", &points)?;
    let mut text = String::from("method,steps,evaluations,dice,low,high,ms_per_slice\n");
    for point in points {
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
        let fields = [
            point.method.to_string(),
            point.steps.to_string(),
            point.evaluations.to_string(),
            number(point.dice),
            number(point.interval.map(|i| i[0])),
            number(point.interval.map(|i| i[1])),
            point.ms_per_slice.to_string(),
        ];
        text.push_str(&fields.join(","));
        text.push('\n');
    }
    folder.write("fig4.csv", text)?;
    let curve = |method: Method, colour| Curve {
        name: method.title(),
        colour,
        points: points
            .iter()
            .filter(|p| p.method == method.key())
            .filter_map(|p| Some((p.steps as f64, p.dice?)))
            .collect(),
    };
    let curves = [
        curve(Method::Fndm, [24, 78, 152]),
        curve(Method::Diffano, [200, 90, 30]),
    ];
    let picture = plot::png(&curves, "steps in each direction", "Dice")?;
    Ok(folder.write("fig4.png", picture)?)
}
