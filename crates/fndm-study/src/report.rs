//! Tables for people, JSON and CSV for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use fndm::{DetectConfig, Method};

use crate::{Evaluation, Level, Result, Row};

/// Everything that an evaluation says, as written to `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The command line that made it.
    pub command: String,
    /// Version of the library.
    pub fndm_version: String,
    /// What was examined, in words.
    pub cohort: String,
    /// Figures per slice, one row a method.
    pub rows: Vec<Row>,
    /// Figures per volume, one row a method.
    pub volumes: Vec<Row>,
    /// The settings of each method.
    pub settings: Vec<(Method, DetectConfig)>,
    /// Patients that couldn't be used, and why.
    pub left_out: Vec<crate::LeftOut>,
    /// Which definitions the figures have, in words.
    pub definitions: Vec<String>,
}

impl Report {
    /// A report of these evaluations, slices and volumes mixed.
    #[must_use]
    pub fn new(
        command: &str,
        cohort: &str,
        evaluations: &[Evaluation],
        settings: Vec<(Method, DetectConfig)>,
        left_out: Vec<crate::LeftOut>,
    ) -> Self {
        let of = |level: Level| -> Vec<Row> {
            let rows = evaluations.iter().map(|e| &e.row);
            rows.filter(|row| row.level == level).cloned().collect()
        };
        Self {
            command: command.to_string(),
            fndm_version: env!("CARGO_PKG_VERSION").to_string(),
            cohort: cohort.to_string(),
            rows: of(Level::Slice),
            volumes: of(Level::Volume),
            settings,
            left_out,
            definitions: DEFINITIONS.map(String::from).to_vec(),
        }
    }

    /// Both tables under their headings, as the programs print them. The number of cases is that of all rows.
    #[must_use]
    pub fn tables(&self) -> String {
        let cases = |rows: &[Row]| rows.first().map_or(0, |row| row.cases);
        format!(
            "Per slice with a lesion ({}):\n{}\nPer volume with a lesion ({}):\n{}",
            cases(&self.rows),
            table(&self.rows),
            cases(&self.volumes),
            table(&self.volumes)
        )
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(fndm_files::write_json(path, self)?)
    }
}

const DEFINITIONS: [&str; 11] = [
    "Dice (Otsu): mean over slices (volumes: the slices that the model uses, on its grid) with a lesion, threshold by Otsu's method inside the eroded head, no label used",
    "ceiling Dice: the same at each case's best threshold, which needs the truth",
    "HD95: 95th percentile of border distances, both directions joined (medpy's definition), pixels per slice, millimetres per volume; cases with an empty mask are skipped and counted",
    "volumetric similarity: 1 - |FP - FN| / (2 TP + FP + FN)",
    "AUROC: pixels of the head in all slices, healthy slices included",
    "evaluations: of the UNet or the student, per slice; the classifier's gradients come on top",
    "Dice (mask): of the mask by the method's own rule, on the model's grid and in the slices that it uses",
    "Dice (whole volume): of the same mask as detect writes it, on the grid of the files and over all of their slices: lesion in slices that the model doesn't use is missed, and volumes with no other lesion count too",
    "empty: share of the slices without a lesion in the files whose mask, by that rule, is empty",
    "lesions found, false lesions: parts of a volume's truth, and of the mask at Otsu's threshold, that are connected by faces, edges or corners; a lesion is found where the mask has a voxel of it, and a part of the mask is false where it touches no lesion; means over volumes",
    "slice AUROC: of whether a slice has a lesion, by how likely the student calls it diseased",
];

pub(crate) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |v| format!("{v:.digits$}"))
}

/// A table in Markdown, the first row its header.
#[must_use]
pub fn markdown(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let length = |row: &Vec<String>, column: usize| row.get(column).map_or(0, String::len);
    let width = |column: usize| cells.iter().map(|row| length(row, column)).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut text = String::new();
    for (i, row) in cells.iter().enumerate() {
        for (cell, &width) in row.iter().zip(&widths) {
            // Writing to a string can't fail.
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if i == 0 {
            for &width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}

/// Puts the Dice over whole volumes behind the column of this title, where rows have one: those of volumes. `cells` are the header and a line a
/// row.
pub fn add_whole_volumes<'a>(
    cells: &mut [Vec<String>],
    behind: &str,
    title: &str,
    rows: impl Iterator<Item = &'a Row> + Clone,
) {
    let place = cells
        .first()
        .and_then(|header| header.iter().position(|cell| cell == behind));
    let (Some(place), true) = (place, rows.clone().any(|row| row.dice_whole.is_some())) else {
        return;
    };
    let figures = rows.map(|row| figure(row.dice_whole, 3));
    let column = std::iter::once(title.to_owned()).chain(figures);
    for (line, cell) in cells.iter_mut().zip(column) {
        line.insert(place + 1, cell);
    }
}

/// The table that the programs print, in Markdown. Rows of volumes have a column more: the mask's Dice over whole volumes.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let header = [
        "method",
        "Dice (Otsu)",
        "ceiling Dice",
        "HD95",
        "VSim",
        "AUROC",
        "Dice (mask)",
        "empty",
        "evaluations",
        "ms/slice",
    ];
    let mut cells: Vec<Vec<String>> = vec![header.map(String::from).to_vec()];
    for row in rows {
        let title = Method::ALL.into_iter().find(|m| m.key() == row.method);
        let gradients = match row.gradient_evaluations {
            0 => String::new(),
            n => format!(" + {n} grad"),
        };
        cells.push(vec![
            title.map_or_else(|| row.method.clone(), |m| m.title().to_string()),
            figure(row.dice_otsu, 3),
            figure(row.dice_ceiling, 3),
            figure(row.hd95, 2),
            figure(row.volumetric_similarity, 3),
            figure(row.auroc, 3),
            figure(row.dice_mask, 3),
            figure(row.empty_when_healthy, 3),
            format!("{}{gradients}", row.evaluations),
            figure(row.ms_per_slice, 1),
        ]);
    }
    add_whole_volumes(&mut cells, "Dice (mask)", "whole volume", rows.iter());
    let mut text = markdown(&cells);
    for row in rows.iter().filter(|row| !row.hd95_skipped.is_empty()) {
        let _ = writeln!(text, "HD95 of {} without: {}", row.method, row.hd95_skipped);
    }
    text
}

/// The rows as CSV, with the keys of the JSON file as header.
///
/// # Errors
/// When the file can't be written.
pub fn write_csv(rows: &[Row], path: &Path) -> Result<()> {
    let mut text = String::from(
        "level,method,dice_otsu,dice_ceiling,hd95,volumetric_similarity,auroc,dice_mask,dice_whole,empty_when_healthy,slice_auroc,lesion_sensitivity,false_lesions,evaluations,gradient_evaluations,ms_per_slice,cases\n",
    );
    let full = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    for row in rows {
        let level = match row.level {
            Level::Slice => "slice",
            Level::Volume => "volume",
        };
        let _ = writeln!(
            text,
            "{level},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
            row.method,
            full(row.dice_otsu),
            full(row.dice_ceiling),
            full(row.hd95),
            full(row.volumetric_similarity),
            full(row.auroc),
            full(row.dice_mask),
            full(row.dice_whole),
            full(row.empty_when_healthy),
            full(row.slice_auroc),
            full(row.lesion_sensitivity),
            full(row.false_lesions),
            row.evaluations,
            row.gradient_evaluations,
            full(row.ms_per_slice),
            row.cases
        );
    }
    Ok(fndm_files::write_atomic(path, text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The column stands behind the mask's Dice in tables of volumes, and isn't there in others.
    #[test]
    fn whole_volumes_have_a_column_where_rows_have_a_figure() {
        let row = |dice_whole: Option<f64>| -> Row {
            let json = serde_json::json!({
                "method": "student", "level": "volume", "dice_mask": 0.5, "dice_whole": dice_whole,
                "evaluations": 2, "gradient_evaluations": 0, "cases": 1, "hd95_skipped": "",
            });
            serde_json::from_value(json).unwrap()
        };
        let words = table(&[row(Some(0.25)), row(None)]);
        let cells = |line: usize| -> Vec<String> {
            let line = words.lines().nth(line).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let place = cells(0)
            .iter()
            .position(|cell| cell == "Dice (mask)")
            .unwrap();
        assert_eq!(cells(0)[place + 1], "whole volume");
        assert_eq!(cells(2)[place..place + 2], ["0.500", "0.250"]);
        assert_eq!(cells(3)[place..place + 2], ["0.500", "-"]);
        assert!(!table(&[row(None)]).contains("whole volume"));
    }
}
