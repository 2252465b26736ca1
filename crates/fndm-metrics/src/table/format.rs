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

    /// A sentence for the cells that left cases out or have no value; cells of one row with the
    /// same reason share it.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for row in &self.rows {
            // What to say, and the columns it is said of.
            let mut said: Vec<(String, Vec<String>)> = Vec::new();
            for (column, cell) in self.columns.iter().zip(&row.cells) {
                let Some(what) = note(cell) else {
                    continue;
                };
                let place = match &column.group {
                    Some(group) => format!("{group} {}", column.title),
                    None => column.title.clone(),
                };
                match said.iter_mut().find(|one| one.0 == what) {
                    Some(one) => one.1.push(place),
                    None => said.push((what, vec![place])),
                }
            }
            for (what, places) in said {
                notes.push(format!("{}, {}: {what}.", row.title, places.join(", ")));
            }
        }
        notes
    }
}

/// What a reader must know of a cell.
fn note(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Aggregate(aggregate) if aggregate.skipped_total() > 0 => Some(format!(
            "{} of {} skipped ({})",
            aggregate.skipped_total(),
            aggregate.skipped_total() + aggregate.counted,
            aggregate.skipped_in_words()
        )),
        Cell::Score(score) => Some(format!("undefined ({})", score.undefined()?)),
        _ => None,
    }
}
