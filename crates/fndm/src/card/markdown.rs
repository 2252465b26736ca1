//! A card for people.

use std::fmt::Write as _;

use super::{ModelCard, TensorFormat};

impl ModelCard {
    /// The card as Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut out = format!("# {}\n\n{}\n", self.name, self.task);
        let rows = [
            ("version", &self.version),
            ("written by fndm", &self.fndm_version),
            ("authors", &self.authors),
            ("copyright", &self.copyright),
            ("licence", &self.licence),
            ("data source", &self.data_source),
            ("data type", &self.data_type),
            ("labels", &self.labels),
        ];
        out.push_str("\n| | |\n| --- | --- |\n");
        for (name, text) in rows.into_iter().filter(|(_, text)| !text.is_empty()) {
            let text = text.replace('|', "\\|").replace('\n', " ");
            let _ = writeln!(out, "| {name} | {text} |");
        }
        section(&mut out, "What it is", &self.description);
        section(&mut out, "Intended use", &self.intended_use);
        list(&mut out, "Limits", self.limits.iter().cloned());
        let data = self.training_data.iter().map(|(key, value)| match value {
            serde_json::Value::String(text) => format!("{key}: {text}"),
            other => format!("{key}: {other}"),
        });
        list(&mut out, "Training data", data);
        let figures = self.eval_metrics.iter();
        list(
            &mut out,
            "Figures",
            figures.map(|(name, value)| format!("{name}: {value}")),
        );
        if !self.eval_command.is_empty() {
            let _ = write!(out, "\nby\n\n    {}\n", self.eval_command);
        }
        let inputs = self.network_data_format.inputs.iter();
        list(
            &mut out,
            "Input",
            inputs.map(|(name, tensor)| words(name, tensor)),
        );
        let outputs = self.network_data_format.outputs.iter();
        list(
            &mut out,
            "Output",
            outputs.map(|(name, tensor)| words(name, tensor)),
        );
        list(&mut out, "References", self.references.iter().cloned());
        let changes = self.changelog.iter().rev();
        list(
            &mut out,
            "Changes",
            changes.map(|(version, what)| format!("{version}: {what}")),
        );
        out
    }
}

fn section(out: &mut String, title: &str, text: &str) {
    if !text.is_empty() {
        let _ = write!(out, "\n## {title}\n\n{text}\n");
    }
}

fn list(out: &mut String, title: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        let _ = write!(out, "\n## {title}\n\n");
        for item in items {
            let _ = writeln!(out, "- {item}");
        }
    }
}

fn words(name: &str, tensor: &TensorFormat) -> String {
    let shape: Vec<String> = tensor.spatial_shape.iter().map(usize::to_string).collect();
    let channels: Vec<String> = tensor
        .channel_def
        .iter()
        .map(|(n, what)| format!("{n} {what}"))
        .collect();
    let range = match tensor.value_range[..] {
        [low, high] => format!(", {low} to {high}"),
        _ => String::new(),
    };
    format!(
        "{name}: {} ({}), {} x {} pixels, {}{range}; channels {}",
        tensor.kind,
        tensor.format,
        shape.first().map_or("?", String::as_str),
        shape.last().map_or("?", String::as_str),
        tensor.dtype,
        channels.join(", ")
    )
}
