//! Markdown as GitHub reads it.

use super::Table;
use super::format::{heading, shown};

impl Table {
    /// The table in Markdown: the best of each column in bold, and below it what was skipped.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let escape = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
        let mut text = String::from("| Method |");
        for column in &self.columns {
            let title = heading(column);
            let title = match &column.group {
                Some(group) => format!("{group} {title}"),
                None => title,
            };
            text += &format!(" {} |", escape(&title));
        }
        text += "\n| :-- |";
        text += &" --: |".repeat(self.columns.len());
        text += "\n";
        for (i, row) in self.rows.iter().enumerate() {
            text += &format!("| {} |", escape(&row.title));
            for (j, (column, cell)) in self.columns.iter().zip(&row.cells).enumerate() {
                let cell = escape(&shown(column, cell));
                let bold = if self.is_best(j, i) { "**" } else { "" };
                text += &format!(" {bold}{cell}{bold} |");
            }
            text += "\n";
        }
        let notes = self.notes();
        if !notes.is_empty() {
            let notes: Vec<String> = notes.iter().map(|note| escape(note)).collect();
            text += &format!("\n{}\n", notes.join("\n"));
        }
        text
    }
}
