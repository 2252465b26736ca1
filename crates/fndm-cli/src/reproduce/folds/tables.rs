//! The tables in words.

use anyhow::Result;
use fndm_study::{Evaluation, Level};

use super::super::{sizes, table2};

/// Rows that the others are compared with, by their keys.
const COMPARED: [&str; 3] = ["student", "fndm", "bound"];

/// All tables. `found` has of each row the evaluations per slice and per volume; `words` say what was examined.
pub(super) fn words(words: &str, titles: &[String], found: &[Vec<Evaluation>]) -> Result<String> {
    let mut text = String::new();
    for (at, level) in Level::ALL.into_iter().enumerate() {
        let rows: Vec<(&str, &Evaluation)> = titles
            .iter()
            .zip(found)
            .map(|(title, found)| (title.as_str(), &found[at]))
            .collect();
        let name = match level {
            Level::Slice => "Per slice with a lesion",
            Level::Volume => "Per volume",
        };
        text += &format!("\n{name}, {words}:\n\n{}\n", table2::figures(&rows));
        for key in COMPARED {
            let table = table2::differences(&rows, key)?;
            if !table.is_empty() {
                text += &format!("{table}\n");
            }
        }
        text += &match level {
            Level::Slice => format!("Dice by lesion size:\n\n{}\n", sizes::table(&rows)),
            Level::Volume => format!("Lesions:\n\n{}\n", lesions(&rows)),
        };
    }
    Ok(text)
}

/// What the mask at Otsu's threshold of the volume finds, lesion by lesion.
pub(crate) fn lesions(rows: &[(&str, &Evaluation)]) -> String {
    let header = ["method", "lesions", "found", "false lesions per volume"];
    let mut cells = vec![header.map(String::from).to_vec()];
    for (title, evaluation) in rows {
        let all = evaluation.cases.iter().filter_map(|case| case.lesions);
        let lesions: usize = all.map(|count| count.lesions).sum();
        cells.push(vec![
            (*title).to_owned(),
            lesions.to_string(),
            table2::figure(evaluation.row.lesion_sensitivity, 3),
            table2::figure(evaluation.row.false_lesions, 1),
        ]);
    }
    fndm_study::markdown(&cells)
}
