//! Training from labels: volumes and one bit per slice in, a model folder out. No mask is looked at.
//!
//! `cargo run --release --example train_labels`
//!
//! Few iterations at 32 px, so that it ends in seconds. What a real training takes is in docs/training.md.

use fndm::data::labels::{Label, Labels, SliceOrder};
use fndm::data::{SliceSet, phantom::PhantomConfig};
use fndm::{Detector, candle_core::Device, ndarray::Axis};
use fndm_study::train::StopFlag;
use fndm_study::{LabelSource, Source, TrainEvent, TrainPlan, TrainingPlace, train_slices};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Volumes, and what a reader has said of every other slice. The rest is unknown, and left out.
    let phantom = PhantomConfig::default();
    let mut labels = Labels::new(SliceOrder::Stored);
    let (mut patients, mut ids) = (Vec::new(), Vec::new());
    for seed in 0..8 {
        let mut patient = phantom.patient(seed)?;
        let reader = patient.mask.take().ok_or("the phantom has a mask")?;
        for (z, slice) in reader.data.axis_iter(Axis(2)).enumerate().step_by(2) {
            let bit = match slice.iter().any(|&v| v > 0.5) {
                true => Label::Diseased,
                false => Label::Healthy,
            };
            labels.set(&patient.id, Some(z), bit)?;
        }
        ids.push(patient.id.clone());
        patients.push(patient);
    }

    let source = Source::Given { patients: ids };
    let sequences = ["flair", "t1", "t1ce", "t2"].map(String::from).to_vec();
    let mut plan = TrainPlan::small(source, LabelSource::Given, sequences, 32);
    plan.classifier_training.iterations = Some(40);
    plan.diffusion_training.iterations = Some(40);
    let set = SliceSet::from_labelled(patients, &plan.preprocess, &labels)?;

    let (folder, device, stop) = (tempfile::tempdir()?, Device::Cpu, StopFlag::new());
    let mut losses = Vec::new();
    let mut watch = |event: TrainEvent<'_>| {
        if let TrainEvent::Diffusion(report, _) = event {
            losses.push(report.loss);
        }
    };
    let command = "train_labels";
    let place = TrainingPlace::new(folder.path(), &device, &stop);
    let record = train_slices(&plan, set, place, command, &mut watch)?;
    let record = record.ok_or("expected a whole training, got a stopped one")?;
    println!(
        "slices: {} healthy, {} diseased",
        record.healthy_slices, record.diseased_slices
    );
    println!("memory bank: {} rows", record.memory_rows);
    for tenth in losses.chunks(10) {
        let mean = tenth.iter().sum::<f64>() / tenth.len() as f64;
        println!("diffusion model, mean loss of ten iterations: {mean:.3}");
    }

    // What was written is a model like any other, though of a few seconds.
    let found = Detector::load(folder.path(), &device)?.detect(&phantom.patient(100)?)?;
    let marked = found.mask.data.iter().filter(|&&v| v > 0.).count();
    println!(
        "a new patient: {marked} of {} voxels marked",
        found.mask.data.len()
    );
    Ok(())
}
