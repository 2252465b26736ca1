//! `Detector` on ndarray: slices of any origin in, a mask of the same size out.
//!
//! `cargo run --release --example detect_arrays`

use std::path::Path;

use fndm::candle_core::Device;
use fndm::data::{Patient, Volume, affine, is_lesion, phantom::PhantomConfig};
use fndm::ndarray::{Array3, Axis, s};
use fndm::{Detector, metrics::Confusion};

type Arrays = Vec<(String, Array3<f32>)>;

/// Arrays (x, y, z), one for each of the model's sequences, as a patient. Their voxels are of 3 x 3 x 2.5 mm.
fn patient(arrays: Arrays) -> Patient {
    let volume = |data| Volume::new(data, affine::diagonal([3., 3., 2.5]));
    let sequences = arrays.into_iter().map(|(name, data)| (name, volume(data)));
    Patient {
        id: "mine".into(),
        sequences: sequences.collect(),
        mask: None,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/phantom");
    let detector = Detector::load(&model, &Device::Cpu)?;
    let order = detector.config().sequences.join(", ");
    println!("the model wants {order}, in this order");

    // Arrays of the phantom; yours come from anywhere, in any unit. The truth is for the figures alone.
    let phantom = PhantomConfig {
        slices: 8,
        ..PhantomConfig::default()
    };
    let made = phantom.patient(10_001)?;
    let sequences = made.sequences.into_iter();
    let arrays: Arrays = sequences.map(|(name, v)| (name, v.data)).collect();
    let truth = made.mask.ok_or("the phantom has a mask")?;
    let truth = truth.data.mapv(is_lesion);

    // A stack of slices.
    let found = detector.detect(&patient(arrays.clone()))?;
    let mask = found.mask.data.mapv(|v| v > 0.);
    for (z, truth) in truth.axis_iter(Axis(2)).enumerate() {
        let marked = Confusion::of(&mask.index_axis(Axis(2), z), &truth)?;
        println!(
            "slice {z}: {} of {} pixels of the lesion marked, {} beside it",
            marked.true_positive,
            marked.true_positive + marked.false_negative,
            marked.false_positive
        );
    }

    // A 2-D image is a stack of one.
    let z = 6;
    let one = arrays
        .iter()
        .map(|(name, data)| (name.clone(), data.slice(s![.., .., z..=z]).to_owned()));
    let found = detector.detect(&patient(one.collect()))?;
    println!("\nslice {z} alone: # found, o missed, + beside the lesion");
    for y in (8..56).rev().step_by(2) {
        let letter = |x| match (found.mask.data[(x, y, 0)] > 0., truth[(x, y, z)]) {
            (true, true) => '#',
            (false, true) => 'o',
            (true, false) => '+',
            (false, false) => '.',
        };
        println!("  {}", (8..56).map(letter).collect::<String>());
    }
    Ok(())
}
