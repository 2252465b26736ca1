//! What is written of one patient.

use anyhow::{Context, Result};
use fndm::data::nifti;
use fndm::data::profile::Verdict;
use fndm::{DetectConfig, Detection, Method};
use fndm_files::OutputFolder;
use fndm_study::fndm_report::{Block, PatientPage, Section};
use fndm_study::{Gallery, PageBase, PageMethod, measure, settings_section, thumbnail};
use serde_json::json;

use super::Options;
use super::input::Input;
use crate::{check, common};

/// The page of a patient, in the patient's folder.
pub(super) const PAGE: &str = "report.html";

/// Fills the patient's folder. `base` is what a page shows of the patient's volumes; none where no page is wanted.
pub(super) fn fill(
    folder: &mut OutputFolder,
    options: &Options,
    input: &Input,
    (method, config): &(Method, DetectConfig),
    detection: &Detection,
    base: Option<PageBase>,
    verdict: Option<&Verdict>,
) -> Result<()> {
    let file = |what: &str| input.file(what);
    nifti::write_mask(folder.file(&file("mask.nii.gz"))?, &detection.mask)?;
    nifti::write_map(folder.file(&file("anomaly.nii.gz"))?, &detection.anomaly)?;
    let mut gallery = Gallery::default();
    gallery.add(&detection.slices, &detection.maps)?;
    gallery.save(&gallery.spread(16), &folder.file(&file("sheet.png"))?)?;
    let slices = &detection.slices;
    let found = measure("mask", &detection.mask, &slices.geometry, &slices.z)?;
    let picture = thumbnail(slices, &detection.maps.mask)?;
    folder.write(&file("thumbnail.png"), picture)?;
    if let Some(base) = base {
        let mut page = page(options, input, (*method, config), detection, base)?;
        page.check = verdict.map(check::as_shown);
        folder.write(PAGE, page.html()?)?;
    }
    // Nothing that differs from run to run: a cohort in parts ends with the same bytes as one that isn't.
    let report = json!({
        "patient": input.id,
        "model": options.model.display().to_string(),
        "fndm_version": env!("CARGO_PKG_VERSION"),
        "method": method,
        "mask_voxels": found.voxels,
        "mask_mm3": found.mm3,
        "lesions": found.lesions,
        "areas_mm2": found.areas,
        "notes": slices.notes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "input_check": verdict,
        "slices": detection.slices.z,
        "thresholds": detection.maps.thresholds,
        "diseased": detection.maps.diseased,
        "evaluations": detection.maps.evaluations,
        "gradient_evaluations": detection.maps.gradient_evaluations,
        "settings": config,
    });
    folder
        .write_json(&file("report.json"), &report)
        .with_context(|| format!("the report of {}", input.id))
}

/// The page of a patient.
fn page(
    options: &Options,
    input: &Input,
    (method, config): (Method, &DetectConfig),
    detection: &Detection,
    base: PageBase,
) -> Result<PatientPage> {
    let title = method.title();
    let shown = PageMethod::new(title, method, &detection.maps);
    let mut page = base.page(&detection.slices, &[shown])?;
    page.id.clone_from(&input.id);
    page.summary = format!("What {title} finds, without any truth to compare with.");
    if config.head_erosion > 0 {
        page.notes.push(format!(
            "The outer {} pixels of the head on the model's grid (scalp, skull) don't count.",
            config.head_erosion
        ));
    }
    if let Some(likely) = &detection.maps.diseased {
        page.sections.push(likely_section(detection, likely));
    }
    page.sections
        .push(common::report::versions(&options.model, false));
    page.sections
        .push(settings_section(&[(title.into(), config.clone())])?);
    Ok(page)
}

/// How likely each slice is diseased.
fn likely_section(detection: &Detection, likely: &[f64]) -> Section {
    let mut cells = vec![
        ["Slice", "Diseased with probability"]
            .map(String::from)
            .to_vec(),
    ];
    for (z, p) in detection.slices.z.iter().zip(likely) {
        cells.push(vec![(z + 1).to_string(), format!("{p:.3}")]);
    }
    let caption = "As the student says it of each slice, calibrated on patients held apart. Counted from 1 at the lower end.".into();
    Section::closed(
        "How likely each slice is diseased",
        vec![Block::Table { caption, cells }],
    )
}
