//! What is written of one patient.

use anyhow::{Context, Result};
use fndm::data::nifti;
use fndm::{DetectConfig, Detection, Method};
use fndm_files::OutputFolder;
use fndm_study::Gallery;
use serde_json::json;

use super::Options;
use super::input::Input;

/// Fills the patient's folder.
pub(super) fn fill(
    folder: &mut OutputFolder,
    options: &Options,
    input: &Input,
    (method, config): &(Method, DetectConfig),
    detection: &Detection,
) -> Result<()> {
    let file = |what: &str| format!("{}_{what}", input.file_name());
    nifti::write_mask(folder.file(&file("mask.nii.gz"))?, &detection.mask)?;
    nifti::write_map(folder.file(&file("anomaly.nii.gz"))?, &detection.anomaly)?;
    let mut gallery = Gallery::default();
    gallery.add(&detection.slices, &detection.maps)?;
    gallery.save(&gallery.spread(16), &folder.file(&file("sheet.png"))?)?;
    let voxels = detection.mask.data.iter().filter(|&&v| v > 0.).count();
    let [i, j, k] = detection.mask.spacing();
    // Nothing that differs from run to run: a cohort in parts ends with the same bytes as one that isn't.
    let report = json!({
        "patient": input.id,
        "model": options.model.display().to_string(),
        "fndm_version": env!("CARGO_PKG_VERSION"),
        "method": method,
        "mask_voxels": voxels,
        "mask_mm3": voxels as f64 * i * j * k,
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
