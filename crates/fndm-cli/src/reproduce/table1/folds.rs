//! The rivals fold by fold: what their settings are chosen by, with the test split left alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use fndm::ModelConfig;
use fndm::data::{Folds, Limits};
use fndm_data::SliceSet;
use fndm_study::Source;
use fndm_study::rivals::{FitRecord, Found, PostGrid, RawCase, raw_map, search};
use fndm_study::train::StopFlag;
use serde::Serialize;

use super::rows::fit_all;
use super::{Options, stopped};
use crate::common::{self, cohort};
use crate::reproduce::wanted;

/// The best ways to a mask that are shown.
const SHOWN: usize = 3;

/// What came of one rival.
#[derive(Debug, Serialize)]
struct Choice {
    key: String,
    /// Of each fold.
    fits: Vec<FitRecord>,
    /// By the settings of the file.
    as_set: Found,
    /// All ways that were tried, the best first.
    tried: Vec<Found>,
}

pub(super) fn run(options: &Options, file: &Path, stop: &StopFlag) -> Result<ExitCode> {
    let device = options.device.device()?;
    let config = ModelConfig::read(&options.model.join(fndm::model_folder::CONFIG))?;
    let folds = Folds::read(file, &Limits::default())?;
    let wanted = wanted(options.only.as_deref(), folds.len())?;
    let source = Source::Folder {
        path: options.data.clone(),
        patients: folds.folds.iter().flatten().cloned().collect(),
    };
    source.check()?;
    let (plan, seed) = options.plan()?;
    options.check_rows(&plan.rows, &[])?;
    let inputs = common::add_source(options.inputs()?.file(file), &source, None);
    let mut folder = options.folder(&inputs)?;
    let (patients, cohort) =
        cohort::slices_with_masks(&source, &config.sequences, &config.preprocess)?;

    // Of each row, the fits and the maps of the folds so far.
    let mut cases: BTreeMap<String, (Vec<FitRecord>, Vec<RawCase<'_>>)> = BTreeMap::new();
    for &fold in &wanted {
        let ids = folds.train(fold)?;
        let learned = ids.iter().filter_map(|id| patients.get(id)).cloned();
        let set = SliceSet::from_patients(learned)?;
        let place = (&*options.output.join(format!("fold{fold}")), &device);
        let Some(fitted) = fit_all(&plan.rows, &set, seed, place, stop)? else {
            return Ok(ExitCode::SUCCESS);
        };
        let held_out = folds.held_out(fold)?;
        for (row, fitted) in plan.rows.iter().zip(fitted) {
            let (fits, cases) = cases.entry(row.key.clone()).or_default();
            for slices in held_out.iter().filter_map(|id| patients.get(id)) {
                let found = raw_map(fitted.baseline.as_ref(), slices, &device);
                let (map, milliseconds) = found.with_context(|| row.key.clone())?;
                cases.push(RawCase {
                    slices,
                    map,
                    milliseconds,
                });
            }
            fits.push(fitted.record);
        }
        if stopped(stop) {
            return Ok(ExitCode::SUCCESS);
        }
    }

    let mut choices = Vec::new();
    for row in &plan.rows {
        let Some((fits, cases)) = cases.remove(&row.key) else {
            continue;
        };
        let mut as_set = search(&cases, &PostGrid::of(&row.post))?;
        choices.push(Choice {
            key: row.key.clone(),
            fits,
            as_set: as_set.swap_remove(0),
            tried: search(&cases, &PostGrid::default())?,
        });
    }
    let words = words(&choices);
    folder.write_json("folds.json", &choices)?;
    folder.write("folds.md", &words)?;
    say!("\nfolds {wanted:?}:\n\n{words}");
    say!(
        "wrote folds.json and folds.md to {}",
        options.output.display()
    );
    Ok(cohort::code(&cohort))
}

fn words(choices: &[Choice]) -> String {
    let head = [
        "row",
        "way",
        "smoothing",
        "over z",
        "erosion",
        "power",
        "Dice, slice",
        "Dice, volume",
        "training s",
    ];
    let mut cells = vec![head.map(String::from).to_vec()];
    for choice in choices {
        let seconds: f64 = choice.fits.iter().map(|fit| fit.seconds).sum();
        let seconds = seconds / choice.fits.len().max(1) as f64;
        let best = choice.tried.iter().take(SHOWN).enumerate();
        let all = std::iter::once(("as set".to_owned(), &choice.as_set))
            .chain(best.map(|(n, found)| (format!("best {}", n + 1), found)));
        for (way, found) in all {
            let post = &found.post;
            cells.push(vec![
                choice.key.clone(),
                way,
                post.smoothing.to_string(),
                post.z_smoothing.to_string(),
                post.head_erosion.to_string(),
                post.map_power.to_string(),
                format!("{:.3}", found.slice),
                format!("{:.3}", found.volume),
                format!("{seconds:.0}"),
            ]);
        }
    }
    fndm_study::markdown(&cells)
}
