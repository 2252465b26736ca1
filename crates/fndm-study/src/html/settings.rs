//! Settings and versions as a page has them.

use fndm::DetectConfig;
use fndm_report::{Block, Section};
use serde_json::Value;

use crate::Result;

/// Every setting of each method, one a row.
///
/// # Errors
/// When a setting can't be written as JSON.
pub fn settings_section(methods: &[(String, DetectConfig)]) -> Result<Section> {
    let mut columns = Vec::new();
    for (_, config) in methods {
        let mut all = Vec::new();
        flatten(
            "",
            &serde_json::to_value(config).map_err(fndm_report::Error::from)?,
            &mut all,
        );
        columns.push(all);
    }
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in columns.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut header = vec!["Setting".to_string()];
    header.extend(methods.iter().map(|(title, _)| title.clone()));
    let mut cells = vec![header];
    for name in names {
        let mut row = vec![name.clone()];
        row.extend(columns.iter().map(|all| {
            let found = all.iter().find(|(other, _)| other == name);
            found.map_or_else(|| "-".into(), |(_, value)| value.clone())
        }));
        cells.push(row);
    }
    let caption = "By the names of the files and of the program's options.".into();
    Ok(Section::closed(
        "Settings",
        vec![Block::Table { caption, cells }],
    ))
}

/// What made a page: pairs of a name and a value.
#[must_use]
pub fn versions_section(facts: &[(&str, String)]) -> Section {
    let mut cells = vec![["What", "Which"].map(String::from).to_vec()];
    for (name, value) in facts {
        cells.push(vec![(*name).to_string(), value.clone()]);
    }
    let caption = "Program, model and command.".into();
    Section::new("Versions", vec![Block::Table { caption, cells }])
}

/// `a.b.c` and its value, in the order of the fields.
fn flatten(name: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                let name = match name {
                    "" => field.clone(),
                    _ => format!("{name}.{field}"),
                };
                flatten(&name, value, out);
            }
        }
        Value::String(text) => out.push((name.into(), text.clone())),
        Value::Null => out.push((name.into(), "none".into())),
        other => out.push((name.into(), other.to_string())),
    }
}
