//! A small slice set and small networks for the tests.
#![allow(dead_code)]

use std::sync::Arc;

use fndm_data::SliceSet;
use fndm_models::{ClassifierConfig, Pool, UNetConfig};
use fndm_train::{ClassifierTrainConfig, DiffusionConfig, EmaConfig, OptimizerConfig};
use ndarray::{Array3, Array4};

pub(crate) const SIDE: usize = 8;
pub(crate) const CHANNELS: usize = 2;

/// `n` slices, each a disc-shaped head with a smooth pattern; every second one is diseased and has a bright square.
pub(crate) fn slices(n: usize) -> Arc<SliceSet> {
    slices_of(n, SIDE)
}

pub(crate) fn slices_of(n: usize, side: usize) -> Arc<SliceSet> {
    let centre = (side as f32 - 1.0) / 2.0;
    let inside =
        |y: usize, x: usize| (y as f32 - centre).hypot(x as f32 - centre) < 0.48 * side as f32;
    let images = Array4::from_shape_fn((n, CHANNELS, side, side), |(i, c, y, x)| {
        if !inside(y, x) {
            return -1.0;
        }
        let lesion =
            i % 2 == 1 && (side / 3..side / 2).contains(&y) && (side / 3..side / 2).contains(&x);
        let phase = i as f32 * 0.7 + c as f32 * 1.3;
        let value = 0.4 * (phase + 0.6 * y as f32).sin() * (0.4 * x as f32 + phase).cos();
        if lesion { 0.9 } else { value }
    });
    Arc::new(SliceSet {
        images,
        labels: (0..n).map(|i| (i % 2) as u8).collect(),
        head: Array3::from_shape_fn((n, side, side), |(_, y, x)| inside(y, x)),
        patient: (0..n).map(|i| i / 2).collect(),
        z: (0..n).map(|i| i % 2).collect(),
        ids: (0..n.div_ceil(2)).map(|i| format!("patient-{i}")).collect(),
        sequences: vec!["flair".to_owned(), "t1".to_owned()],
    })
}

pub(crate) fn unet() -> UNetConfig {
    UNetConfig {
        image_size: SIDE,
        in_channels: 2 * CHANNELS + 1,
        out_channels: CHANNELS,
        model_channels: 32,
        num_res_blocks: 1,
        attention_resolutions: vec![],
        channel_mult: vec![1.],
        num_classes: Some(2),
        use_scale_shift_norm: true,
        ..UNetConfig::default()
    }
}

pub(crate) fn classifier() -> ClassifierConfig {
    ClassifierConfig {
        image_size: SIDE,
        in_channels: CHANNELS,
        model_channels: 32,
        num_res_blocks: 1,
        attention_resolutions: vec![],
        channel_mult: vec![1., 1.],
        pool: Pool::Adaptive,
        ..ClassifierConfig::default()
    }
}

pub(crate) fn diffusion_config() -> DiffusionConfig {
    DiffusionConfig {
        batch: 2,
        optimizer: OptimizerConfig {
            warm_up: 2,
            ema: EmaConfig {
                decays: vec![0.9, 0.99],
                warm_up: true,
            },
            clip: Some(1.0),
            ..OptimizerConfig::default()
        },
        ..DiffusionConfig::default()
    }
}

pub(crate) fn classifier_config() -> ClassifierTrainConfig {
    ClassifierTrainConfig {
        batch: 4,
        ..ClassifierTrainConfig::default()
    }
}

/// Tensors as bits, by name.
pub(crate) fn bits(
    tensors: &std::collections::BTreeMap<String, candle_core::Tensor>,
) -> Vec<(String, Vec<u32>)> {
    tensors
        .iter()
        .map(|(name, tensor)| {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (name.clone(), values.iter().map(|v| v.to_bits()).collect())
        })
        .collect()
}

/// The largest difference of a value between two sets of tensors with the same names.
pub(crate) fn largest_difference(
    a: &std::collections::BTreeMap<String, candle_core::Tensor>,
    b: &std::collections::BTreeMap<String, candle_core::Tensor>,
) -> f64 {
    assert!(a.keys().eq(b.keys()));
    a.iter().fold(0.0, |worst, (name, tensor)| {
        let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        flat(tensor)
            .iter()
            .zip(&flat(&b[name]))
            .fold(worst, |worst: f64, (x, y)| {
                worst.max(f64::from((x - y).abs()))
            })
    })
}
