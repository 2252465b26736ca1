//! The page of all patients, from what lies in their folders: so it can be made by one run, or by another one of the folders of many.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fndm::data::profile::Verdict;
use fndm_study::fndm_report::{Column, Entry, IndexPage, LesionPart, Section, is_unchanged_page};
use serde::Deserialize;

use super::Options;
use super::output::PAGE;
use crate::check::light_shown;
use crate::common::report::versions;

/// What the index reads of a patient's JSON file.
#[derive(Debug, Deserialize)]
struct Found {
    mask_mm3: f64,
    #[serde(default)]
    lesions: Vec<LesionPart>,
    #[serde(default)]
    areas_mm2: Vec<f64>,
    #[serde(default)]
    notes: Vec<String>,
    #[serde(default)]
    input_check: Option<Verdict>,
}

/// A patient whose results are there.
pub(crate) struct Place<'a> {
    pub(crate) id: &'a str,
    /// The folder of the results.
    pub(crate) folder: PathBuf,
    /// The same, relative to the page of all; none where no path leads there.
    pub(crate) link: Option<String>,
}

/// The page of these patients, with links to their own pages. One whose results can't be read is listed among those left out, which
/// come with their reasons; `about` ends the page.
pub(crate) fn page(
    patients: &[Place<'_>],
    left_out: Vec<(String, String)>,
    about: Vec<Section>,
) -> IndexPage {
    let mut entries = Vec::new();
    let mut missing = left_out;
    for place in patients {
        match entry(place) {
            Ok(entry) => entries.push(entry),
            Err(error) => missing.push((place.id.into(), fndm_files::chain(error.as_ref()))),
        }
    }
    let column = |title: &str, digits| Column {
        title: title.into(),
        digits,
    };
    IndexPage {
        title: "Lesions found in brain MR".into(),
        summary: format!("{}.", fndm_files::counted(entries.len(), "patient")),
        columns: vec![
            column("Volume (mm³)", 0),
            column("Lesions", 0),
            column("Largest (mm³)", 0),
            column("Slices with a mask", 0),
            column("Slices examined", 0),
        ],
        entries,
        left_out: missing,
        after: about,
        ..IndexPage::default()
    }
}

/// Whether the page may be written: it isn't there, or is as an earlier run left it.
///
/// # Errors
/// Where another file stands in its place.
pub(super) fn check(output: &Path) -> Result<()> {
    let path = output.join(PAGE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(bytes) if std::str::from_utf8(&bytes).is_ok_and(is_unchanged_page) => Ok(()),
        Ok(_) => bail!(
            "{}: this file wasn't written by fndm, or was changed since; move it away, or take another --output",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes the page of these patients at the top of the output. Those among `left_out` have no results.
///
/// # Errors
/// As [`check`], or when it can't be written.
pub(super) fn write(
    options: &Options,
    patients: &[&str],
    left_out: &[(String, String)],
) -> Result<()> {
    check(&options.output)?;
    let done = patients
        .iter()
        .filter(|id| !left_out.iter().any(|(other, _)| other == *id));
    let places: Vec<Place<'_>> = done
        .map(|id| Place {
            id,
            folder: options.output.join(id),
            link: Some((*id).to_string()),
        })
        .collect();
    let about = vec![versions(&options.model, true)];
    let page = page(&places, left_out.to_vec(), about);
    Ok(fndm_files::write_atomic(
        options.output.join(PAGE),
        page.html(),
    )?)
}

fn entry(place: &Place<'_>) -> Result<Entry> {
    let Place { id, folder, link } = place;
    let name = id.rsplit('/').next().unwrap_or(id);
    let file = folder.join(format!("{name}_report.json"));
    let shown = || file.display().to_string();
    let text = std::fs::read_to_string(&file).with_context(shown)?;
    let found: Found = serde_json::from_str(&text).with_context(shown)?;
    let marked = found.areas_mm2.iter().filter(|&&area| area > 0.).count();
    let page = link.as_ref().filter(|_| folder.join(PAGE).is_file());
    Ok(Entry {
        id: (*id).into(),
        page: page.map(|link| format!("{link}/{PAGE}")),
        thumbnail: std::fs::read(folder.join(format!("{name}_thumbnail.png"))).ok(),
        numbers: vec![
            Some(found.mask_mm3),
            Some(found.lesions.len() as f64),
            found.lesions.first().map(|lesion| lesion.mm3),
            Some(marked as f64),
            Some(found.areas_mm2.len() as f64),
        ],
        check: found.input_check.map(|verdict| light_shown(verdict.light)),
        notes: found.notes,
    })
}

/// From one folder to another, as a link has it.
pub(crate) fn relative(from: &Path, to: &Path) -> Option<String> {
    let from = fndm_files::resolve(from).ok()?;
    let to = fndm_files::resolve(to).ok()?;
    let common = from
        .iter()
        .zip(to.iter())
        .take_while(|(a, b)| a == b)
        .count();
    let up = from.iter().skip(common).map(|_| Some(".."));
    let down = to.iter().skip(common).map(|part| part.to_str());
    let parts: Option<Vec<&str>> = up.chain(down).collect();
    Some(parts?.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_from_one_folder_to_another() {
        let between = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).unwrap();
        assert_eq!(between("out/collect", "out/detect/a/b"), "../detect/a/b");
        assert_eq!(between("/x", "/y/z"), "../y/z");
        assert_eq!(between("out", "out/p1"), "p1");
        assert_eq!(between("/x/cwd/../b", "/x/cwd/a/p"), "../cwd/a/p");
    }
}
