//! What is written of one patient.

use anyhow::{Context, Result};
use fndm::data::profile::Verdict;
use fndm::data::{PatientSlices, SliceImages, nifti};
use fndm::{DetectConfig, Method, SliceMaps};
use fndm_files::OutputFolder;
use fndm_study::fndm_report::{Block, Measure, PatientPage, Section};
use fndm_study::{Gallery, PageBase, PageMethod, measure, settings_section, thumbnail};
use serde_json::json;

use super::Options;
use super::input::Input;
use crate::{check, common};

/// The page of a patient, in the patient's folder.
pub(super) const PAGE: &str = "report.html";
/// Slices on the picture, at most.
const SHOWN: usize = 16;

/// What the results are of, beside the maps.
pub(super) struct About<'a> {
    pub(super) options: &'a Options,
    pub(super) input: &'a Input,
    pub(super) row: &'a (Method, DetectConfig),
    pub(super) verdict: Option<&'a Verdict>,
    /// Whether the student's word of a slice was calibrated.
    pub(super) calibrated: bool,
}

/// Fills the patient's folder; what is measured of the mask comes back. `base` is what a page shows of the patient's volumes; none where
/// no page is wanted. One volume is made after the other, so that one is in memory.
pub(super) fn fill<I: SliceImages>(
    folder: &mut OutputFolder,
    about: &About<'_>,
    slices: &PatientSlices<I>,
    maps: &SliceMaps,
    base: Option<PageBase>,
) -> Result<Measure> {
    let input = about.input;
    let file = |what: &str| input.file(what);
    let mask = maps.to_mask(slices)?;
    nifti::write_mask(folder.file(&file("mask.nii.gz"))?, &mask)?;
    let measured = measure("mask", &mask, &slices.geometry, &slices.z)?;
    input.add_own(folder, about.row, &mask)?;
    drop(mask);
    let anomaly = slices.to_volume(&maps.anomaly)?;
    nifti::write_map(folder.file(&file("anomaly.nii.gz"))?, &anomaly)?;
    drop(anomaly);
    let mut gallery = Gallery::default();
    gallery.add_spread(slices, maps, SHOWN)?;
    gallery.save(&gallery.spread(SHOWN), &folder.file(&file("sheet.png"))?)?;
    folder.write(&file("thumbnail.png"), thumbnail(slices, &maps.mask)?)?;
    if let Some(base) = base {
        let page = page(about, slices, maps, base)?;
        common::report::write_page(folder, PAGE, &page)?;
    }
    let (method, config) = about.row;
    // Nothing that differs from run to run: a cohort in parts ends with the same bytes as one that isn't.
    let report = json!({
        "patient": input.id,
        "model": about.options.model.display().to_string(),
        "fndm_version": env!("CARGO_PKG_VERSION"),
        "method": method,
        "mask_voxels": measured.voxels,
        "mask_mm3": measured.mm3,
        "lesions": measured.lesions,
        "areas_mm2": measured.areas,
        "notes": slices.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "input_check": about.verdict,
        "slices": slices.z,
        "thresholds": maps.thresholds,
        "diseased": maps.diseased,
        "evaluations": maps.evaluations,
        "gradient_evaluations": maps.gradient_evaluations,
        "settings": config,
    });
    folder
        .write_json(&file("report.json"), &report)
        .with_context(|| format!("the report of {}", input.id))?;
    Ok(measured)
}

/// The page of a patient.
fn page<I: SliceImages>(
    about: &About<'_>,
    slices: &PatientSlices<I>,
    maps: &SliceMaps,
    base: PageBase,
) -> Result<PatientPage> {
    let (method, config) = about.row;
    let title = method.title();
    let shown = PageMethod::new(title, maps);
    let mut page = base.page(slices, &[shown])?;
    page.id.clone_from(&about.input.id);
    page.summary = format!("What {title} finds, without any truth to compare with.");
    page.check = about.verdict.map(check::as_shown);
    if config.head_erosion > 0 {
        page.notes.push(format!(
            "The outer {} pixels of the head on the model's grid (scalp, skull) don't count.",
            config.head_erosion
        ));
    }
    if let Some(likely) = &maps.diseased {
        page.sections
            .push(likely_section(&slices.z, likely, about.calibrated));
    }
    page.sections
        .push(common::report::versions(&about.options.model, false));
    page.sections
        .push(settings_section(&[(title.into(), config.clone())])?);
    Ok(page)
}

/// How likely each slice is diseased.
fn likely_section(z: &[usize], likely: &[f64], calibrated: bool) -> Section {
    let mut cells = vec![
        ["Slice", "Diseased with probability"]
            .map(String::from)
            .to_vec(),
    ];
    for (z, p) in z.iter().zip(likely) {
        cells.push(vec![(z + 1).to_string(), format!("{p:.3}")]);
    }
    let how = match calibrated {
        true => "calibrated on patients held apart",
        false => "by its highest pixels alone: it wasn't calibrated",
    };
    let caption =
        format!("As the student says it of each slice, {how}. Counted from 1 at the lower end.");
    Section::closed(
        "How likely each slice is diseased",
        vec![Block::Table { caption, cells }],
    )
}
