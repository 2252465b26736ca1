//! A program of one's own: a patient in, a checked mask out.
//!
//! `cargo run --release --example own_program -- MODEL PATIENT`

use std::path::PathBuf;

use fndm::candle_core::Device;
use fndm::data::profile::Light;
use fndm::data::{Limits, nifti, read_sequences};
use fndm::{Detector, InputCheck};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "expected MODEL PATIENT";
    let model = arguments.next().ok_or(usage)?;
    let folder = arguments.next().ok_or(usage)?;

    let detector = Detector::load(&model, &Device::Cpu)?;
    let patient = read_sequences(
        &folder,
        &detector.config().names_to_read(),
        &Limits::default(),
    )?;

    // Is it like what the model was trained on? A model of an older program can't say.
    if let Some(check) = InputCheck::load(&model)? {
        let verdict = check.patient(&patient);
        println!("{}: {}", patient.id, verdict.light);
        for finding in &verdict.findings {
            println!("  {}: {}", finding.aspect, finding.reason);
        }
        if verdict.light == Light::Red {
            return Err("not what the model was trained on".into());
        }
    }

    // The mask lies on the patient's own grid, with the header of its first sequence.
    let found = detector.detect(&patient)?;
    let voxels = found.mask.data.iter().filter(|&&v| v > 0.).count();
    let volume: f64 = found.mask.spacing().iter().product();
    println!("{voxels} voxels, {:.1} ml", voxels as f64 * volume / 1000.);
    let output = std::env::temp_dir().join("own_program_mask.nii.gz");
    nifti::write_mask(&output, &found.mask)?;
    println!("{}", output.display());
    Ok(())
}
