//! The tables of a report, without times: the same evaluation gives the same page.

use fndm::Method;
use fndm_report::{Block, Section};

use crate::report::{add_whole_volumes, figure};
use crate::{BitReport, Report, Row};

fn title(key: &str) -> String {
    let known = Method::ALL.into_iter().find(|m| m.key() == key);
    known.map_or_else(|| key.to_string(), |m| m.title().to_string())
}

pub(super) fn by_masks(report: &Report) -> Section {
    let table = |caption: &str, rows: &[Row]| Block::Table {
        caption: caption.into(),
        cells: figures(rows),
    };
    let mut blocks = vec![
        table(
            "Per slice with a lesion; distances in pixels of the model's grid.",
            &report.rows,
        ),
        table("Per volume; distances in millimetres.", &report.volumes),
    ];
    let skipped = report.rows.iter().chain(&report.volumes);
    let skipped = skipped.filter(|row| !row.hd95_skipped.is_empty());
    let points: Vec<String> = skipped
        .map(|row| {
            format!(
                "HD95 of {} ({:?}) without: {}",
                title(&row.method),
                row.level,
                row.hd95_skipped
            )
        })
        .collect();
    if !points.is_empty() {
        blocks.push(Block::List(points));
    }
    Section::new("Figures", blocks)
}

fn figures(rows: &[Row]) -> Vec<Vec<String>> {
    let header = [
        "Method",
        "Cases",
        "Dice (Otsu)",
        "95 % interval",
        "Ceiling Dice",
        "HD95",
        "VSim",
        "AUROC",
        "AP",
        "Dice (mask)",
        "Empty",
        "Slice AUROC",
        "Evaluations",
    ];
    let mut cells = vec![header.map(String::from).to_vec()];
    for row in rows {
        let interval = row.dice_interval.map_or_else(
            || "-".into(),
            |[low, high]| format!("{low:.3} to {high:.3}"),
        );
        let gradients = match row.gradient_evaluations {
            0 => String::new(),
            n => format!(" + {n} gradients"),
        };
        cells.push(vec![
            title(&row.method),
            row.cases.to_string(),
            figure(row.dice_otsu, 3),
            interval,
            figure(row.dice_ceiling, 3),
            figure(row.hd95, 2),
            figure(row.volumetric_similarity, 3),
            figure(row.auroc, 3),
            figure(row.average_precision, 3),
            figure(row.dice_mask, 3),
            figure(row.empty_when_healthy, 3),
            figure(row.slice_auroc, 3),
            format!("{}{gradients}", row.evaluations),
        ]);
    }
    add_whole_volumes(&mut cells, "Dice (mask)", "Whole volume", rows.iter());
    cells
}

pub(super) fn by_bits(report: &BitReport) -> Section {
    let header = [
        "Method",
        "Healthy slices",
        "Diseased slices",
        "AUROC",
        "AP",
        "False area",
        "Empty when healthy",
        "Found when diseased",
    ];
    let mut cells = vec![header.map(String::from).to_vec()];
    for row in &report.rows {
        cells.push(vec![
            title(&row.method),
            row.healthy.to_string(),
            row.diseased.to_string(),
            figure(row.auroc, 3),
            figure(row.average_precision, 3),
            figure(row.false_area, 4),
            figure(row.empty_when_healthy, 3),
            figure(row.found_when_diseased, 3),
        ]);
    }
    let caption = format!("Against one bit a slice, by {}.", report.labels.source);
    Section::new("Figures", vec![Block::Table { caption, cells }])
}

pub(super) fn definitions(words: &[String]) -> Section {
    Section::closed("What the figures are", vec![Block::List(words.to_vec())])
}
