//! A method of one's own beside ours: any coarse map in the same evaluation, on the same slices, by the same figures.
//!
//! `cargo run --release --example own_method`

use std::ops::ControlFlow;
use std::path::Path;

use fndm::candle_core::Device;
use fndm::data::{PatientSlices, phantom::PhantomConfig};
use fndm::models::{Limits, StateDict};
use fndm::ndarray::{Array3, s};
use fndm::{CoarseModel, CoarseSource, DetectConfig, Detector, Method, ModelConfig, model_folder};
use fndm_study::{Arm, Comparison, Level, Patients, Report, Source, Truth, table};

/// How far FLAIR and T2 together lie above the head's mean: 0 and up.
#[derive(Debug)]
struct BrightTwice;

impl CoarseModel for BrightTwice {
    fn soft_map(&self, slices: &PatientSlices, _: &Device) -> fndm::Result<Array3<f32>> {
        // Slices are (N, C, H, W) in [-1, 1]; the phantom's sequences are flair, t1, t1ce, t2.
        let flair = slices.images.slice(s![.., 0, .., ..]);
        let t2 = slices.images.slice(s![.., 3, .., ..]);
        Ok((&flair + &t2).mapv(|v| (0.5 * (v + 1.)).max(0.)))
    }

    fn threshold(&self) -> fndm::Result<f32> {
        Ok(0.7)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/phantom");
    // Our student of the model folder, and the coarse map of one's own, in one detector.
    let mut config = ModelConfig::read(&model.join(model_folder::CONFIG))?;
    (config.unet, config.classifier) = (None, None);
    let student = model_folder::file(&model, model_folder::STUDENT)?;
    let detector = Detector::builder(config.clone())
        .student(StateDict::read(student, &Limits::default())?)
        .coarse(BrightTwice)
        .build()?;

    let ours = [Method::Student, Method::Flair].map(|m| Arm::new(m, config.detect_config(m)));
    let own = DetectConfig {
        coarse_source: CoarseSource::Own,
        ..config.detect_config(Method::Memory)
    };
    let own = Arm {
        key: "own".into(),
        title: "bright twice".into(),
        ..Arm::new(Method::Memory, own)
    };
    let mut comparison = Comparison::by_masks([&ours[..], &[own]].concat(), &Level::ALL);

    // Four phantoms that the student never saw. A folder of patients goes the same way: Source::folder.
    let source = Source::Phantom {
        config: PhantomConfig::default(),
        first_seed: 10_000,
        patients: 4,
    };
    let go_on = ControlFlow::Continue(());
    let patients = Patients::of(&detector, &source, Truth::Mask);
    let cohort = patients.each(&mut |_| go_on, |read| -> fndm_study::Result<()> {
        comparison.add(&detector, &read.slices, &mut |_, _| go_on)?;
        Ok(())
    })?;
    let settings = comparison.settings();
    let evaluations = comparison.finish()?.concat();
    let report = Report::new(
        "own_method",
        "phantoms",
        &evaluations,
        settings,
        cohort.left_out,
    );
    println!("{} slices with a lesion:", cohort.diseased);
    println!("{}", table(&report.rows));
    Ok(())
}
