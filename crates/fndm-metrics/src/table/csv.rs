//! CSV by RFC 4180.

use super::{Cell, Table};
use crate::score::Score;

impl Table {
    /// The table as CSV with full precision. A column of aggregates is followed by its median, the
    /// numbers of cases counted and skipped, and the reasons in words; a column in which a single
    /// score has no value by the reason.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let aggregated = |column: usize| {
            self.rows
                .iter()
                .any(|row| matches!(row.cells[column], Cell::Aggregate(_)))
        };
        let undefined = |column: usize| {
            self.rows
                .iter()
                .any(|row| matches!(row.cells[column], Cell::Score(Score::Undefined(_))))
        };
        let mut header = vec!["method".to_owned()];
        for (i, column) in self.columns.iter().enumerate() {
            header.push(column.key.clone());
            if aggregated(i) {
                for more in ["median", "counted", "skipped", "skipped_because"] {
                    header.push(format!("{}_{more}", column.key));
                }
            }
            if undefined(i) {
                header.push(format!("{}_undefined_because", column.key));
            }
        }
        let mut text = line(&header);
        for row in &self.rows {
            let mut fields = vec![row.key.clone()];
            for (i, cell) in row.cells.iter().enumerate() {
                let number = |n: Option<f64>| n.map_or_else(String::new, |n| n.to_string());
                fields.push(match cell {
                    Cell::Text(text) => text.clone(),
                    cell => number(cell.number()),
                });
                if let Cell::Aggregate(aggregate) = cell {
                    fields.push(number(aggregate.median));
                    fields.push(aggregate.counted.to_string());
                    fields.push(aggregate.skipped_total().to_string());
                    fields.push(aggregate.skipped_in_words());
                } else if aggregated(i) {
                    fields.extend(std::iter::repeat_n(String::new(), 4));
                }
                if undefined(i) {
                    fields.push(match cell {
                        Cell::Score(Score::Undefined(reason)) => reason.to_string(),
                        _ => String::new(),
                    });
                }
            }
            text += &line(&fields);
        }
        text
    }
}

fn line(fields: &[String]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|field| {
            if field.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", field.replace('"', "\"\""))
            } else {
                field.clone()
            }
        })
        .collect();
    format!("{}\n", fields.join(","))
}
