//! A training of the small network on phantom slices, on the CPU and on the GPU from one seed.

use std::sync::Arc;

use anyhow::Result;
use fndm::candle_core::Device;
use fndm::data::phantom::PhantomConfig;
use fndm::data::{Preprocess, SliceSet};
use fndm::models::UNetConfig;
use fndm_train::{Compute, DiffusionConfig, DiffusionTrainer};

use crate::has_bf16;
use crate::report::Report;

const BOUND: f64 = 0.01;
/// Iterations whose mean is compared where single losses carry the noise of 16 bits.
const WINDOW: usize = 20;

fn losses(
    device: &Device,
    compute: Compute,
    set: &Arc<SliceSet>,
    iterations: usize,
) -> Result<Vec<f64>> {
    let channels = set.images.dim().1;
    let config = DiffusionConfig {
        batch: 8,
        compute,
        ..DiffusionConfig::default()
    };
    let model = UNetConfig::small_64(2 * channels + 1, channels);
    let mut trainer = DiffusionTrainer::new(&config, &model, set.clone(), 1, device)?;
    (0..iterations).map(|_| Ok(trainer.step()?.loss)).collect()
}

fn worst(got: &[f64], expected: &[f64]) -> f64 {
    let errors = got.iter().zip(expected).map(|(a, b)| (a - b).abs() / b);
    // A NaN must not get lost.
    errors.fold(0., |m, e| if e.is_nan() || e > m { e } else { m })
}

fn means(losses: &[f64]) -> Vec<f64> {
    losses
        .chunks(WINDOW)
        .map(|c| c.iter().sum::<f64>() / c.len() as f64)
        .collect()
}

pub(crate) fn check(device: &Device, iterations: usize, report: &mut Report) -> Result<()> {
    let phantom = PhantomConfig::default().build()?;
    let preprocess = Preprocess::default();
    let slices = (0..4)
        .map(|seed| preprocess.apply(&phantom.patient(seed)))
        .collect::<Result<Vec<_>, _>>()?;
    let set = Arc::new(SliceSet::from_patients(slices)?);
    let expected = losses(&Device::Cpu, Compute::F32, &set, iterations)?;
    let got = losses(device, Compute::F32, &set, iterations)?;
    let name = |what: &str| format!("training, {iterations} iterations, {what}");
    report.check(&name("f32: each loss"), worst(&got, &expected), BOUND)?;
    if has_bf16(device) {
        let got = losses(device, Compute::Bf16, &set, iterations)?;
        let name = name(&format!("bf16: means of {WINDOW}"));
        report.check(&name, worst(&means(&got), &means(&expected)), BOUND)?;
    }
    Ok(())
}
