//! LaTeX in the layout of the paper's tables: data sets as headings over their metrics.

use super::Table;
use super::format::{heading, shown};

impl Table {
    /// The table as a LaTeX `tabular` (package `booktabs`): groups of columns under a common
    /// heading, the best of each column in bold, what was skipped as comments below.
    #[must_use]
    pub fn to_latex(&self) -> String {
        let mut text = format!(
            "\\begin{{tabular}}{{l{}}}\n\\toprule\n",
            "c".repeat(self.columns.len())
        );
        if self.columns.iter().any(|column| column.group.is_some()) {
            let (mut heads, mut rules) = (String::new(), String::new());
            let mut from = 2;
            for group in self.columns.chunk_by(|a, b| a.group == b.group) {
                let width = group.len();
                match group.first().and_then(|column| column.group.as_deref()) {
                    Some(name) => {
                        heads += &format!(" & \\multicolumn{{{width}}}{{c}}{{{}}}", escape(name));
                        rules += &format!("\\cmidrule(lr){{{from}-{}}}", from + width - 1);
                    }
                    None => heads += &" &".repeat(width),
                }
                from += width;
            }
            text += &format!("{heads} \\\\\n{rules}\n");
        }
        text += "Method";
        for column in &self.columns {
            text += &format!(" & {}", escape(&heading(column)));
        }
        text += " \\\\\n\\midrule\n";
        for (i, row) in self.rows.iter().enumerate() {
            text += &escape(&row.title);
            for (j, (column, cell)) in self.columns.iter().zip(&row.cells).enumerate() {
                let cell = escape(&shown(column, cell));
                text += &if self.is_best(j, i) {
                    format!(" & \\textbf{{{cell}}}")
                } else {
                    format!(" & {cell}")
                };
            }
            text += " \\\\\n";
        }
        text += "\\bottomrule\n\\end{tabular}\n";
        for note in self.notes() {
            text += &format!("% {}\n", note.replace(['\n', '\r'], " "));
        }
        text
    }
}

/// The text with LaTeX's special characters made plain.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(character);
            }
            // The usual font encoding prints other characters for these.
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '–' => escaped.push_str("--"),
            '\n' | '\r' => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}
