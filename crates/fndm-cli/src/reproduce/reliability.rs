//! Whether the student's probabilities mean what they say.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use fndm::Method;
use fndm::metrics::Reliability;
use fndm_pictures::{Axis, Chart, Curve};
use fndm_study::examine_case;

use super::Where;
use crate::common::{self, cohort};

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Where,
    /// Ranges of equal width from 0 to 1
    #[arg(long, value_name = "N", default_value_t = 10)]
    bins: usize,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let detector = options.place.detector()?;
    let config = detector.config().detect_config(Method::Student);
    detector.config().check_row(Method::Student, &config)?;
    let mut folder = options.place.folder()?;
    let (mut pixels, mut lesion) = (Vec::new(), Vec::new());
    let (mut slices, mut diseased) = (Vec::new(), Vec::new());
    let cohort = options.place.each(&detector, |read, _| {
        let patient = &read.slices;
        let (case, _) = examine_case(&detector, Method::Student, &config, patient, &mut |_| {})?;
        for ((&p, &truth), &inside) in case.anomaly.iter().zip(&case.truth).zip(&case.inner_head) {
            if inside {
                pixels.push(p);
                lesion.push(truth);
            }
        }
        slices.extend(case.diseased.iter().flatten().map(|&p| p as f32));
        diseased.extend(case.diseased_slices());
        Ok(())
    })?;
    let of = |p: &[f32], labels: &[bool], what: &'static str| {
        Reliability::of(p, labels, options.bins).context(what)
    };
    let found = [
        ("pixels of the head", of(&pixels, &lesion, "pixels")?),
        ("slices", of(&slices, &diseased, "slices")?),
    ];
    for (what, found) in &found {
        let header = ["said", "count", "mean said", "came true"];
        let mut cells = vec![header.map(String::from).to_vec()];
        for bin in &found.bins {
            let [low, high] = bin.range;
            cells.push(vec![
                format!("{low:.2} to {high:.2}"),
                bin.count.to_string(),
                format!("{:.3}", bin.predicted),
                format!("{:.3}", bin.observed),
            ]);
        }
        say!(
            "\n{what}: expected calibration error {:.3}, Brier score {:.3}\n\n{}",
            found.expected_calibration_error,
            found.brier,
            fndm_study::markdown(&cells)
        );
    }
    let curve = |name: &str, found: &Reliability, colour| Curve {
        name: name.to_owned(),
        colour,
        width: 2,
        dots: true,
        points: found
            .bins
            .iter()
            .filter(|bin| bin.count > 0)
            .map(|bin| (bin.predicted, bin.observed))
            .collect(),
    };
    let chart = Chart {
        x: Axis::linear("said", 0., 1.),
        y: Axis::linear("came true", 0., 1.),
        curves: vec![
            curve(found[0].0, &found[0].1, [200, 80, 40]),
            curve(found[1].0, &found[1].1, [24, 78, 152]),
            Curve {
                name: "what is said comes true".to_owned(),
                colour: [160; 3],
                width: 1,
                dots: false,
                points: vec![(0., 0.), (1., 1.)],
            },
        ],
    };
    folder.write("reliability.png", chart.png((560, 480))?)?;
    folder.write("reliability.svg", chart.svg((560, 480))?)?;
    let [(_, pixels), (_, slices)] = found;
    let json = serde_json::json!({
        "command": common::command(),
        "cohort": cohort::words(&cohort),
        "pixels": pixels,
        "slices": slices,
    });
    folder.write_json("reliability.json", &json)?;
    say!(
        "wrote reliability.png, reliability.svg and reliability.json to {}",
        options.place.output.display()
    );
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
}
