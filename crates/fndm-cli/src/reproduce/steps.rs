//! Figure 4: Dice against the number of steps.

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use fndm::data::PatientSlices;
use fndm::{CoarseRule, DetectConfig, Detector, Method};
use fndm_files::WorkFolder;
use fndm_pictures::{Axis, Chart, Curve};
use fndm_study::{Arm, Comparison, Level};
use serde::Serialize;

use super::Where;
use crate::common::{self, cohort};

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Where,
    /// Steps in each direction
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,5,10,20,30,50,100,200,300"
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

/// Slices with a lesion of one patient.
struct Chosen {
    slices: PatientSlices,
    /// The threshold of x_seg that the whole volume has, where it is the volume's: of the slices alone it would be another.
    threshold: Option<f32>,
}

/// At most so many of the slices, spread evenly over those of all patients; all for 0.
fn chosen(patients: Vec<Chosen>, most: usize) -> Result<Vec<Chosen>> {
    let total: usize = patients.iter().map(|chosen| chosen.slices.len()).sum();
    let count = if most == 0 { total } else { most.min(total) };
    let picked: Vec<usize> = (0..count).map(|i| i * total / count).collect();
    let mut left = Vec::new();
    let mut start = 0;
    for Chosen { slices, threshold } in patients {
        let own = start..start + slices.len();
        start = own.end;
        let of = picked.iter().filter(|at| own.contains(at));
        let indices: Vec<usize> = of.map(|at| at - own.start).collect();
        if !indices.is_empty() {
            let slices = slices.select(&indices)?;
            left.push(Chosen { slices, threshold });
        }
    }
    Ok(left)
}

const METHODS: [Method; 2] = [Method::Diffano, Method::Fndm];

fn settings(detector: &Detector, method: Method, steps: usize) -> DetectConfig {
    let mut config = detector.config().detect_config(method);
    config.steps = steps;
    // As many in each direction.
    config.encode_steps = None;
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
    let volume = METHODS
        .map(|method| settings(&detector, method, 1))
        .into_iter()
        .find(|config| config.parts.memory_bank && config.coarse_rule == CoarseRule::Volume);
    let mut patients = Vec::new();
    let cohort = options.place.each(&detector, |read, _| {
        let bits = read.slices.labels.as_deref().unwrap_or_default();
        let lesions: Vec<usize> = (0..bits.len()).filter(|&i| bits[i] == 1).collect();
        if lesions.is_empty() {
            return Ok(());
        }
        let threshold = match &volume {
            Some(config) => {
                let coarse = detector.coarse_map(&read.slices, config)?;
                coarse.thresholds.first().copied()
            }
            None => None,
        };
        let slices = read.slices.select(&lesions)?;
        patients.push(Chosen { slices, threshold });
        Ok(())
    })?;
    let patients = chosen(patients, options.slices)?;
    let count: usize = patients.iter().map(|chosen| chosen.slices.len()).sum();
    say!(
        "{} with a lesion, of {}",
        fndm_files::counted(count, "slice"),
        fndm_files::counted(patients.len(), "patient")
    );
    let mut points = Vec::new();
    for method in METHODS {
        for &steps in &options.steps {
            let arm = Arm::new(method, settings(&detector, method, steps));
            let title = format!("{}, {steps} steps", method.title());
            let bar = common::bar(patients.len() as u64, &title);
            let mut comparison = Comparison::by_masks(vec![arm], &[Level::Slice]);
            for Chosen { slices, threshold } in &patients {
                let as_whole = |config: &mut DetectConfig| {
                    if config.parts.memory_bank && config.coarse_rule == CoarseRule::Volume {
                        config.coarse_threshold = *threshold;
                        config.coarse_rule = CoarseRule::Calibrated;
                    }
                };
                let go_on = &mut |_: &Arm, _| ControlFlow::Continue(());
                comparison.add_with(&detector, slices, &as_whole, go_on)?;
                bar.inc(1);
            }
            bar.finish_and_clear();
            let found = comparison.finish()?.concat();
            let row = &found[0].row;
            say!(
                "{title}: Dice {}, {} evaluations, {:.0} ms a slice",
                row.dice_otsu
                    .map_or_else(|| "-".into(), |d| format!("{d:.3}")),
                row.evaluations,
                row.ms_per_slice.unwrap_or_default()
            );
            points.push(Point {
                method: method.key(),
                steps,
                evaluations: row.evaluations,
                dice: row.dice_otsu,
                interval: row.dice_interval,
                ms_per_slice: row.ms_per_slice.unwrap_or_default(),
            });
            save(&points, &mut folder)?;
        }
    }
    say!(
        "wrote fig4.png, fig4.svg, fig4.csv and fig4.json to {}",
        options.place.output.display()
    );
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
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
        name: method.title().into(),
        colour,
        width: 2,
        dots: true,
        points: points
            .iter()
            .filter(|p| p.method == method.key())
            .filter_map(|p| Some((p.steps as f64, p.dice?)))
            .collect(),
    };
    let mut steps: Vec<usize> = points.iter().map(|point| point.steps).collect();
    steps.sort_unstable();
    steps.dedup();
    let steps: Vec<f64> = steps.into_iter().map(|steps| steps as f64).collect();
    let (first, last) = (steps[0], steps[steps.len() - 1]);
    let chart = Chart {
        x: Axis::logarithmic("steps in each direction", first, last).labelled(steps),
        y: Axis::linear("Dice", 0., 1.),
        curves: vec![
            curve(Method::Fndm, [24, 78, 152]),
            curve(Method::Diffano, [200, 90, 30]),
        ],
    };
    const SIZE: (u32, u32) = (800, 480);
    folder.write("fig4.svg", chart.svg(SIZE)?)?;
    Ok(folder.write("fig4.png", chart.png(SIZE)?)?)
}
