//! One row for each of some settings: how the constants that the paper leaves open were settled.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use fndm::metrics::{Aggregate, Confusion};
use fndm::{ThresholdScope, anomaly_map, threshold};
use fndm_study::{Case, Level, evaluate, examine_case};

use super::Where;
use crate::common;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Where,
    /// The method: fndm, cg_nm, cg, diffano, flair, memory, student
    #[arg(long, default_value = "fndm")]
    method: String,
    /// A row: JSON that is laid over the method's settings, for example '{"steps": 20}'
    #[arg(long = "set", value_name = "JSON")]
    rows: Vec<String>,
    /// Leave the model's own settings out
    #[arg(long)]
    no_base: bool,
}

/// Mean Dice of the slices with a lesion at one threshold a volume.
fn by_volume(cases: &[Case]) -> Result<Option<f64>> {
    let mut all = Vec::new();
    for case in cases {
        let (map, inner) = (case.anomaly.view(), case.inner_head.view());
        let found = threshold(map, inner, ThresholdScope::Volume)?;
        for (mask, truth) in found.mask.outer_iter().zip(case.truth.outer_iter()) {
            if truth.iter().any(|&v| v) {
                all.push(Confusion::of(&mask, &truth)?.dice());
            }
        }
    }
    Ok(Aggregate::of(all).mean)
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let method = common::method("--method", &options.method)?;
    let detector = options.place.detector()?;
    let base = detector.config().detect_config(method);
    let mut configs = Vec::new();
    if !options.no_base {
        configs.push(("the model's".to_string(), base.clone()));
    }
    for text in &options.rows {
        let config = common::overlay(&base, text).with_context(|| format!("--set {text}"))?;
        let name = text.trim_matches(['{', '}', ' ']).replace('"', "");
        configs.push((name, config));
    }
    for (name, config) in &configs {
        let checked = detector.config().check_row(method, config);
        checked.with_context(|| name.clone())?;
    }
    let cohort = options.place.cohort(&detector)?;
    let header = [
        "settings",
        "Dice (Otsu)",
        "ceiling",
        "residual alone",
        "one threshold a volume",
        "Dice per volume",
        "AUROC",
        "evaluations",
        "ms/slice",
    ];
    let mut cells = vec![header.map(String::from).to_vec()];
    let figure = |value: Option<f64>| value.map_or_else(|| "-".into(), |v| format!("{v:.3}"));
    for (name, config) in configs {
        let bar = common::bar(cohort.patients.len() as u64, &name);
        let (mut cases, mut residuals) = (Vec::new(), Vec::new());
        let mut counts = (0, 0);
        for slices in &cohort.patients {
            let (case, maps) = examine_case(&detector, method, &config, slices, &mut |_| {})?;
            if let Some(maps) = maps {
                counts = (maps.evaluations, maps.gradient_evaluations);
                if let Some(healthy) = &maps.healthy {
                    residuals.push(Case {
                        anomaly: anomaly_map(slices.images.view(), healthy.view(), &config)?,
                        ..case.clone()
                    });
                }
            }
            cases.push(case);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let slice = evaluate(method.key(), Level::Slice, &cases, counts.0, counts.1)?.row;
        let residual = match residuals.is_empty() {
            true => None,
            false => evaluate("", Level::Slice, &residuals, 0, 0)?.row.dice_otsu,
        };
        let volume = evaluate(method.key(), Level::Volume, &cases, counts.0, counts.1)?.row;
        cells.push(vec![
            name,
            figure(slice.dice_otsu),
            figure(slice.dice_ceiling),
            figure(residual),
            figure(by_volume(&cases)?),
            figure(volume.dice_otsu),
            figure(slice.auroc),
            format!("{} + {} grad", counts.0, counts.1),
            format!("{:.1}", slice.ms_per_slice),
        ]);
    }
    say!("\n{}", fndm_study::markdown(&cells));
    cohort.tell_left_out();
    Ok(cohort.code())
}
