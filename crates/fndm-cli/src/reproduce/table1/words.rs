//! The table in words, and in the paper's layout.

use anyhow::Result;
use fndm_study::Evaluation;
use fndm_study::rivals::{LatexRow, latex};
use serde::Serialize;

use super::super::sizes;
use super::super::table2::{differences, figure};

/// A row of the table, with what it costs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TableRow {
    pub(super) key: String,
    pub(super) title: String,
    /// Where its features come from; "-" for none.
    pub(super) backbone: String,
    /// Wall time of its training in seconds, where it is known.
    pub(super) training_s: Option<f64>,
    /// Bytes of its saved files, without those of a backbone.
    pub(super) bytes: u64,
    /// Per slice, then per volume.
    #[serde(skip)]
    pub(super) found: Vec<Evaluation>,
}

impl TableRow {
    /// The title, with the backbone where there is one.
    pub(super) fn name(&self) -> String {
        match self.backbone.as_str() {
            "-" => self.title.clone(),
            backbone => format!("{}, {backbone}", self.title),
        }
    }
}

/// A number of bytes in MB.
fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

fn table(rows: &[TableRow], level: usize) -> String {
    let head = [
        "method",
        "backbone",
        "Dice (Otsu)",
        "95 %",
        "ceiling",
        "HD95",
        "VSim",
        "AUROC",
        "AP",
        "mask",
        "empty",
        "training s",
        "ms/slice",
        "MB",
    ];
    let mut cells = vec![head.map(String::from).to_vec()];
    for row in rows {
        let found = &row.found[level].row;
        let interval = |[low, high]: [f64; 2]| format!("{low:.3} to {high:.3}");
        cells.push(vec![
            row.title.clone(),
            row.backbone.clone(),
            figure(found.dice_otsu, 3),
            found.dice_interval.map_or_else(|| "-".into(), interval),
            figure(found.dice_ceiling, 3),
            figure(found.hd95, 2),
            figure(found.volumetric_similarity, 3),
            figure(found.auroc, 3),
            figure(found.average_precision, 3),
            figure(found.dice_mask, 3),
            figure(found.empty_when_healthy, 2),
            figure(row.training_s, 0),
            figure(found.ms_per_slice, 1),
            megabytes(row.bytes),
        ]);
    }
    fndm_study::markdown(&cells)
}

/// All tables: per slice and per volume, and what our own rows are above each other one.
pub(super) fn tables(rows: &[TableRow]) -> Result<String> {
    let mut words = String::new();
    for (level, name) in [(0, "Per slice with a lesion"), (1, "Per volume")] {
        let cases = rows.first().map_or(0, |row| row.found[level].row.cases);
        words += &format!("\n{name} ({cases}):\n\n{}\n", table(rows, level));
        let names: Vec<String> = rows.iter().map(TableRow::name).collect();
        let both = names.iter().zip(rows);
        let named: Vec<(&str, &Evaluation)> = both
            .map(|(name, row)| (name.as_str(), &row.found[level]))
            .collect();
        for key in ["fndm", "student"] {
            words += &format!("{}\n", differences(&named, key)?);
        }
        if level == 0 {
            words += &format!("Dice by lesion size:\n\n{}\n", sizes::table(&named));
        }
    }
    Ok(words)
}

/// The paper's layout.
pub(super) fn paper(rows: &[TableRow]) -> String {
    let rows: Vec<LatexRow<'_>> = rows
        .iter()
        .map(|row| LatexRow {
            title: &row.title,
            backbone: &row.backbone,
            slice: &row.found[0],
            volume: &row.found[1],
        })
        .collect();
    latex(&rows)
}
