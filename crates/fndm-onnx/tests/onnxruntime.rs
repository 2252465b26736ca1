//! onnxruntime computes what the networks compute: every network of the model folders in `assets`, on random input and on slices of
//! patients, and networks of every option with random weights.

mod cases;
mod python;

use cases::{Cases, Slices};
use fndm_models::{ClassifierConfig, Pool, SegmenterConfig, UNetConfig};

fn assets() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets")
}

#[test]
fn model_folders() {
    let Some(python) = python::with(&["onnx", "onnxruntime"]) else {
        return;
    };
    let mut cases = Cases::new();
    for name in ["phantom", "lgg"] {
        let folder = assets().join(name);
        let config = fndm::ModelConfig::read(&folder.join("model.json")).unwrap();
        let random = Slices::random(&config, 3);
        cases.add_folder(&format!("{name}-random"), &folder, &random);
        let slices = match name {
            "phantom" => Some(Slices::phantom(&config)),
            _ => Slices::lgg(&config),
        };
        if let Some(slices) = slices {
            cases.add_folder(&format!("{name}-slices"), &folder, &slices);
        }
    }
    cases.compare(&python);
}

/// Weights are random, last layers too, so that nothing is hidden by a zero.
#[test]
fn every_option() {
    let Some(python) = python::with(&["onnx", "onnxruntime"]) else {
        return;
    };
    let mut cases = Cases::new();
    let small = UNetConfig {
        image_size: 16,
        in_channels: 3,
        out_channels: 2,
        channel_mult: vec![1., 2., 2.],
        attention_resolutions: vec![2],
        ..UNetConfig::default()
    };
    let unets = [
        ("plain", small.clone()),
        (
            "classes",
            UNetConfig {
                num_classes: Some(3),
                use_scale_shift_norm: true,
                num_head_channels: Some(16),
                use_new_attention_order: true,
                ..small.clone()
            },
        ),
        (
            "updown",
            UNetConfig {
                resblock_updown: true,
                num_res_blocks: 2,
                num_heads: 2,
                num_heads_upsample: Some(4),
                ..small.clone()
            },
        ),
        (
            "pooled",
            UNetConfig {
                conv_resample: false,
                ..small.clone()
            },
        ),
    ];
    for (name, config) in &unets {
        cases.add_unet(name, config);
    }
    for pool in [
        Pool::Adaptive,
        Pool::Attention,
        Pool::Spatial,
        Pool::SpatialV2,
        Pool::SpatialAverage8,
    ] {
        let config = ClassifierConfig {
            pool,
            num_head_channels: Some(32),
            // The pool of tiles takes 256 values: 256 channels in one tile.
            image_size: if pool == Pool::SpatialAverage8 {
                32
            } else {
                16
            },
            channel_mult: vec![1., 2., 8.],
            in_channels: 2,
            ..ClassifierConfig::default()
        };
        cases.add_classifier(&format!("{pool:?}").to_lowercase(), &config);
    }
    let segmenters = [
        ("student", SegmenterConfig::small_64(2)),
        ("remover", SegmenterConfig::remover_64(2)),
        (
            "attending",
            SegmenterConfig {
                image_size: 32,
                sequences: 2,
                context: 1,
                out_channels: 2,
                residual: true,
                num_res_blocks: 2,
                attention_resolutions: vec![2, 4],
                ..SegmenterConfig::default()
            },
        ),
    ];
    for (name, config) in &segmenters {
        cases.add_segmenter(name, config);
    }
    cases.compare(&python);
}
