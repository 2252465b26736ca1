//! One row for each of some settings: how the constants that the paper leaves open were settled.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use fndm::data::PatientSlices;
use fndm::metrics::{Aggregate, Confusion, Score};
use fndm::{DetectConfig, ThresholdScope, anomaly_map, threshold};
use fndm_study::{Arm, Case, Comparison, Level, MaskScores, MethodMap};

use super::Where;
use crate::common::{self, cohort};

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Where,
    /// The method: fndm, cg_nm, cg, diffano, flair, memory, student, fndm_student
    #[arg(long, default_value = "fndm")]
    method: String,
    /// A row: JSON that is laid over the method's settings, for example '{"steps": 20}'
    #[arg(long = "set", value_name = "JSON")]
    rows: Vec<String>,
    /// Leave the model's own settings out
    #[arg(long)]
    no_base: bool,
}

/// Figures beside those of a comparison.
struct Beside {
    /// The residual alone, without the coarse map and the power.
    residual: MaskScores,
    /// Dice of the slices with a lesion at one threshold a volume.
    by_volume: Vec<Score>,
}

impl Beside {
    fn new() -> Self {
        Self {
            residual: MaskScores::new("", &[Level::Slice]),
            by_volume: Vec::new(),
        }
    }

    fn add(
        &mut self,
        slices: &PatientSlices,
        found: &MethodMap,
        config: &DetectConfig,
    ) -> Result<()> {
        let mut case = Case::new(slices, found)?;
        let (map, inner) = (case.anomaly.view(), case.inner_head.view());
        let masks = threshold(map, inner, ThresholdScope::Volume)?.mask;
        for (mask, truth) in masks.outer_iter().zip(case.truth.outer_iter()) {
            if truth.iter().any(|&v| v) {
                self.by_volume.push(Confusion::of(&mask, &truth)?.dice());
            }
        }
        let healthy = found.maps.as_ref().and_then(|maps| maps.healthy.as_ref());
        if let Some(healthy) = healthy {
            case.anomaly = anomaly_map(slices.images.view(), healthy.view(), config)?;
            self.residual.add_case(&case)?;
        }
        Ok(())
    }
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
    let arms = configs.iter().map(|(name, config)| Arm {
        title: name.clone(),
        ..Arm::new(method, config.clone())
    });
    let mut comparison = Comparison::by_masks(arms.collect(), &Level::ALL);
    let mut beside: Vec<Beside> = configs.iter().map(|_| Beside::new()).collect();
    let cohort = options.place.each(&detector, |read, progress| {
        let found = comparison.add(&detector, &read.slices, progress)?;
        for ((beside, found), (_, config)) in beside.iter_mut().zip(&found).zip(&configs) {
            beside.add(&read.slices, found, config)?;
        }
        Ok(())
    })?;
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
    for ((both, beside), (name, _)) in comparison.finish()?.into_iter().zip(beside).zip(configs) {
        let [slice, volume] = [&both[0].row, &both[1].row];
        let residual = beside.residual.finish()?;
        cells.push(vec![
            name,
            figure(slice.dice_otsu),
            figure(slice.dice_ceiling),
            figure(residual[0].row.dice_otsu),
            figure(Aggregate::of(beside.by_volume).mean),
            figure(volume.dice_otsu),
            figure(slice.auroc),
            format!(
                "{} + {} grad",
                slice.evaluations, slice.gradient_evaluations
            ),
            format!("{:.1}", slice.ms_per_slice.unwrap_or_default()),
        ]);
    }
    say!("\n{}", fndm_study::markdown(&cells));
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
}
