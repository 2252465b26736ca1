//! The report of many patients that were examined.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use fndm_files::OutputFolder;
use fndm_study::fndm_report::IndexPage;
use fndm_study::{LeftOut, markdown};
use serde::Serialize;
use serde_json::json;

use super::joined::{Joined, State};
use crate::detect::index;
use crate::detect::work::Figures;
use crate::shards::Record;

/// One patient's row.
#[derive(Debug, Serialize)]
struct Row {
    patient: String,
    #[serde(flatten)]
    figures: Figures,
}

/// Writes report.html, patients.csv, report.json and report.txt; the words for the screen. `output` is where the folder will be.
pub(super) fn write(joined: &Joined, output: &Path, folder: &mut OutputFolder) -> Result<String> {
    let rows = rows(joined)?;
    folder.write("patients.csv", csv(joined, &rows)?)?;
    let with_mask = rows
        .iter()
        .filter(|row| row.figures.mask_voxels > 0)
        .count();
    let report = json!({
        "program": joined.how.program,
        "fndm_version": joined.how.fndm_version,
        "model": joined.how.model,
        "settings": joined.how.settings,
        "shards": joined.of,
        "counts": joined.counts(),
        "with_a_mask": with_mask,
        "patients": rows,
        "failed": joined.failed(),
        "missing": joined.missing(),
        "passed_over": joined.passed_over,
    });
    folder.write_json("report.json", &report)?;
    let mut words = joined.words();
    let volumes: Vec<f64> = rows.iter().map(|row| row.figures.mask_mm3).collect();
    if let Some([low, middle, high]) = quartiles(volumes) {
        let _ = write!(
            words,
            "\n{with_mask} of {} have a mask; volume of the mask: median {middle:.0} mm3, quartiles {low:.0} and {high:.0}",
            rows.len()
        );
    }
    let mut text = format!("{words}\n\n{}", table(&rows));
    for line in joined.missing_in_words(usize::MAX) {
        let _ = write!(text, "\n{line}");
    }
    folder.write("report.html", page(joined, output).html())?;
    folder.write("report.txt", text.trim_end().to_owned() + "\n")?;
    Ok(words)
}

/// The page of all patients, with links to where the shards wrote theirs.
fn page(joined: &Joined, output: &Path) -> IndexPage {
    let done = joined
        .patients
        .iter()
        .filter_map(|(id, state)| match state {
            State::Done(place) => Some(index::Place {
                id,
                folder: place.clone(),
                link: index::relative(output, place),
            }),
            _ => None,
        });
    let passed_over = joined.passed_over.iter();
    let passed_over = passed_over.map(|reason| ("a folder".to_string(), reason.clone()));
    let others = joined.those(|state| match state {
        State::Done(_) => None,
        State::LeftOut(reason) | State::Failed(reason) | State::Missing(reason) => Some(reason),
    });
    let others = others.map(|left_out| (left_out.patient, left_out.reason));
    let done: Vec<_> = done.collect();
    index::page(&done, others.chain(passed_over).collect(), Vec::new())
}

fn rows(joined: &Joined) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (patient, state) in &joined.patients {
        let State::Done(place) = state else { continue };
        let record = Record::<Figures>::read(place);
        let record = record.with_context(|| format!("{}: no record of detect", place.display()))?;
        rows.push(Row {
            patient: patient.clone(),
            figures: record.figures,
        });
    }
    Ok(rows)
}

/// A line for every patient that is expected, and for every folder that was passed over.
fn csv(joined: &Joined, rows: &[Row]) -> Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "patient",
        "state",
        "slices",
        "marked_slices",
        "mask_voxels",
        "mask_mm3",
        "highest",
        "likely",
        "reason",
    ])?;
    let mut rows = rows.iter();
    for (patient, state) in &joined.patients {
        let (state, reason) = match state {
            State::Done(_) => ("done", ""),
            State::LeftOut(reason) => ("left out", reason.as_str()),
            State::Failed(error) => ("failed", error.as_str()),
            State::Missing(reason) => ("missing", reason.as_str()),
        };
        let row = (state == "done").then(|| rows.next()).flatten();
        let figure = |of: fn(&Figures) -> Option<String>| {
            row.and_then(|row| of(&row.figures)).unwrap_or_default()
        };
        table.write_record([
            patient,
            state,
            &figure(|f| Some(f.slices.to_string())),
            &figure(|f| Some(f.marked_slices.to_string())),
            &figure(|f| Some(f.mask_voxels.to_string())),
            &figure(|f| Some(f.mask_mm3.to_string())),
            &figure(|f| Some(f.highest.to_string())),
            &figure(|f| f.likely.map(|likely| likely.to_string())),
            reason,
        ])?;
    }
    for LeftOut { patient, reason } in joined.passed_over() {
        table.write_record([&patient, "passed over", "", "", "", "", "", "", &reason])?;
    }
    Ok(table.into_inner()?)
}

fn table(rows: &[Row]) -> String {
    let header = [
        "patient",
        "slices",
        "marked",
        "mask, mm3",
        "highest",
        "likely",
    ];
    let mut cells = vec![header.map(String::from).to_vec()];
    for Row { patient, figures } in rows {
        cells.push(vec![
            patient.clone(),
            figures.slices.to_string(),
            figures.marked_slices.to_string(),
            format!("{:.0}", figures.mask_mm3),
            format!("{:.3}", figures.highest),
            figures
                .likely
                .map_or_else(|| "-".into(), |l| format!("{l:.3}")),
        ]);
    }
    markdown(&cells)
}

/// Lower quartile, median and upper quartile; between two values by a straight line.
fn quartiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some([1, 2, 3].map(|quarter| {
        let (at, rest) = (last * quarter / 4, last * quarter % 4);
        let next = values[(at + 1).min(last)];
        values[at] + (next - values[at]) * rest as f64 / 4.
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As numpy's `percentile` has them.
    #[test]
    fn quartiles_lie_between_values() {
        assert_eq!(quartiles(vec![]), None);
        assert_eq!(quartiles(vec![3.]), Some([3.; 3]));
        let two = quartiles(vec![48577.5, 16582.5]);
        assert_eq!(two, Some([24581.25, 32580., 40578.75]));
        let five = quartiles(vec![5., 1., 4., 2., 3.]);
        assert_eq!(five, Some([2., 3., 4.]));
        let six = quartiles(vec![1., 2., 3., 4., 5., 10.]);
        assert_eq!(six, Some([2.25, 3.5, 4.75]));
    }
}
