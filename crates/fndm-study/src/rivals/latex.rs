//! The paper's layout of its first table.

use std::fmt::Write as _;

use crate::{Evaluation, Row};

/// A row: the method, its backbone, and its figures per slice and per volume.
#[derive(Debug, Clone, Copy)]
pub struct LatexRow<'a> {
    /// The method's name.
    pub title: &'a str,
    /// The backbone's.
    pub backbone: &'a str,
    /// Per slice.
    pub slice: &'a Evaluation,
    /// Per volume.
    pub volume: &'a Evaluation,
}

/// Dice, Hausdorff distance and volumetric similarity of each row, the best of each column in bold.
#[must_use]
pub fn latex(rows: &[LatexRow<'_>]) -> String {
    type Pick = fn(&Row) -> Option<f64>;
    // The column, its digits, and whether more is better.
    let columns: [(Pick, usize, bool); 3] = [
        (|row| row.dice_otsu, 3, true),
        (|row| row.hd95, 2, false),
        (|row| row.volumetric_similarity, 3, true),
    ];
    let figures = |row: &LatexRow<'_>| -> Vec<Option<f64>> {
        let levels = [&row.slice.row, &row.volume.row].into_iter();
        levels
            .flat_map(|level| columns.iter().map(move |(pick, _, _)| pick(level)))
            .collect()
    };
    let all: Vec<Vec<Option<f64>>> = rows.iter().map(figures).collect();
    let best = |column: usize| {
        let values = all.iter().filter_map(|row| row[column]);
        match columns[column % columns.len()].2 {
            true => values.reduce(f64::max),
            false => values.reduce(f64::min),
        }
    };
    let mut text = String::from(
        "\\begin{tabular}{llcccccc}\n\\hline\n& & \\multicolumn{3}{c}{slice} & \\multicolumn{3}{c}{volume} \\\\\n\
         Method & Backbone & Dice $\\uparrow$ & HD95 $\\downarrow$ & VSim $\\uparrow$ & Dice $\\uparrow$ & HD95 $\\downarrow$ & VSim $\\uparrow$ \\\\\n\\hline\n",
    );
    for (row, figures) in rows.iter().zip(&all) {
        // Writing to a string can't fail.
        let _ = write!(text, "{} & {}", escaped(row.title), escaped(row.backbone));
        for (column, value) in figures.iter().enumerate() {
            let digits = columns[column % columns.len()].1;
            let _ = match value {
                None => write!(text, " & --"),
                Some(v) if best(column) == Some(*v) => write!(text, " & \\textbf{{{v:.digits$}}}"),
                Some(v) => write!(text, " & {v:.digits$}"),
            };
        }
        text.push_str(" \\\\\n");
    }
    text.push_str("\\hline\n\\end{tabular}\n");
    text
}

/// Text with what LaTeX takes for commands written out.
fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => all.push_str("\\textbackslash{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                all.push('\\');
                all.push(c);
            }
            '~' => all.push_str("\\textasciitilde{}"),
            '^' => all.push_str("\\textasciicircum{}"),
            c => all.push(c),
        }
    }
    all
}
