//! What the readable formats share: rounding, the best of a column, notes on what was skipped.

use super::{Better, Cell, Column, Table};

/// The text of a cell as people read it.
pub(super) fn shown(column: &Column, cell: &Cell) -> String {
    match (cell, cell.number()) {
        (Cell::Text(text), _) => text.clone(),
        (_, Some(number)) => {
            let number = if column.percent {
                100.0 * number
            } else {
                number
            };
            format!("{number:.*}", column.decimals)
        }
        (_, None) => "–".to_owned(),
    }
}

/// The column's title with its unit.
pub(super) fn heading(column: &Column) -> String {
    if column.percent {
        format!("{} (%)", column.title)
    } else {
        column.title.clone()
    }
}

impl Table {
    /// Whether a cell shows the best number of its column. What looks equal is equally good.
    pub(super) fn is_best(&self, column: usize, row: usize) -> bool {
        let settings = &self.columns[column];
        let sign = match settings.better {
            Better::Higher => 1.0,
            Better::Lower => -1.0,
            Better::Neither => return false,
        };
        let number = |cell: &Cell| {
            cell.number()?;
            shown(settings, cell).parse::<f64>().ok().map(|n| sign * n)
        };
        let Some(own) = number(&self.rows[row].cells[column]) else {
            return false;
        };
        self.rows
            .iter()
            .filter_map(|row| number(&row.cells[column]))
            .all(|other| other <= own)
    }

    /// A sentence for every cell that left cases out or has no value.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for row in &self.rows {
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                let place = match &column.group {
                    Some(group) => format!("{}, {group} {}", row.title, column.title),
                    None => format!("{}, {}", row.title, column.title),
                };
                match cell {
                    Cell::Aggregate(a) if a.skipped_total() > 0 => notes.push(format!(
                        "{place}: {} of {} skipped ({}).",
                        a.skipped_total(),
                        a.skipped_total() + a.counted,
                        a.skipped_in_words()
                    )),
                    Cell::Score(score) => {
                        if let Some(reason) = score.undefined() {
                            notes.push(format!("{place}: undefined ({reason})."));
                        }
                    }
                    _ => {}
                }
            }
        }
        notes
    }
}
