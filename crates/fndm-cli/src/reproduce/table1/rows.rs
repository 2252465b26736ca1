//! Rivals, fitted and examined.

use std::path::Path;

use anyhow::{Context, Result};
use fndm::candle_core::Device;
use fndm::data::PatientSlices;
use fndm_data::SliceSet;
use fndm_study::rivals::{FitRecord, FittedRival, RivalRow, fit_or_load, raw_map, rival_map};
use fndm_study::train::StopFlag;
use fndm_study::{Evaluation, Level, MaskScores, MethodMap, Scoring, TrainingPlace};

/// A rival that is examined, perhaps a second time by its own way to a mask.
pub(super) struct Examined {
    row: RivalRow,
    fitted: FittedRival,
    scores: MaskScores,
    own: Option<MaskScores>,
}

/// What came of a rival, by one way to a mask.
pub(super) struct Outcome {
    pub(super) key: String,
    pub(super) title: String,
    pub(super) backbone: String,
    pub(super) record: FitRecord,
    pub(super) evaluations: Vec<Evaluation>,
}

/// Fits every row, or reads what an earlier run fitted; nothing where it was stopped.
pub(super) fn fit_all(
    rows: &[RivalRow],
    set: &SliceSet,
    seed: u64,
    (folder, device): (&Path, &Device),
    stop: &StopFlag,
) -> Result<Option<Vec<FittedRival>>> {
    let healthy = set.with_label(0).len();
    tell!(
        "{} of {} to learn from",
        fndm_files::counted(healthy, "healthy slice"),
        fndm_files::counted(set.ids.len(), "patient")
    );
    let mut all = Vec::new();
    for row in rows {
        let place = TrainingPlace::new(folder, device, stop);
        let found = fit_or_load(row, set, seed, place).with_context(|| row.key.clone())?;
        let Some(fitted) = found else {
            return Ok(None);
        };
        let (seconds, bytes) = (fitted.record.seconds, fitted.record.bytes);
        let how = if fitted.reused { "read" } else { "fitted" };
        tell!("{how} {}: {seconds:.0} s, {bytes} bytes", row.key);
        all.push(fitted);
        if super::stopped(stop) {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

impl Examined {
    pub(super) fn new(row: RivalRow, fitted: FittedRival, own: bool) -> Self {
        let scores = MaskScores::new(&row.key, &Level::ALL);
        let own = own.then(|| MaskScores::new(&format!("{}_own", row.key), &Level::ALL));
        Self {
            row,
            fitted,
            scores,
            own,
        }
    }

    /// Method and features, short enough for the head of a column.
    pub(super) fn name(&self) -> String {
        let method = match self.row.title {
            "Reverse Distillation" => "RD",
            other => other,
        };
        match self.row.features.as_deref() {
            Some("classifier") => format!("{method} classif."),
            Some(features) => {
                let short = features.strip_prefix("efficientnet_").unwrap_or(features);
                format!("{method} {short}")
            }
            None => method.to_owned(),
        }
    }

    /// Examines a patient, and hands back the map by the common way.
    pub(super) fn add(&mut self, slices: &PatientSlices, device: &Device) -> Result<MethodMap> {
        let found = raw_map(self.fitted.baseline.as_ref(), slices, device);
        let (map, ms) = found.with_context(|| self.row.key.clone())?;
        if let Some(own) = &mut self.own {
            own.add(
                slices,
                &rival_map(map.clone(), ms, &self.row.own_post, slices)?,
            )?;
        }
        let found = rival_map(map, ms, &self.row.post, slices)?;
        self.scores.add(slices, &found)?;
        Ok(found)
    }

    pub(super) fn finish(self) -> Result<Vec<Outcome>> {
        let (row, record) = (self.row, self.fitted.record);
        let backbone = row.features.unwrap_or_else(|| "-".into());
        let mut all = vec![Outcome {
            key: row.key.clone(),
            title: row.title.to_owned(),
            backbone: backbone.clone(),
            record: record.clone(),
            evaluations: Scoring::finish(self.scores)?,
        }];
        if let Some(own) = self.own {
            all.push(Outcome {
                key: format!("{}_own", row.key),
                title: format!("{}, own way", row.title),
                backbone,
                record,
                evaluations: Scoring::finish(own)?,
            });
        }
        Ok(all)
    }
}
