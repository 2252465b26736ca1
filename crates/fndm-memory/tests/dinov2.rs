//! `DINOv2` as feature extractor, with drawn weights: maps against Meta's own code, grids, files, and a bank of its features.
#![cfg(feature = "dinov2")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::dinov2::DinoVisionTransformer;
use fndm_memory::{
    Channels, DinoV2Config, DinoV2Features, Error, FeatureExtractor, HealthyModel, MemoryBank,
    MemoryConfig, PatchFeatures, silent,
};
use fndm_models::{Limits, Parameters, StateDict};
use ndarray::Array3;

const SMALL: DinoV2Config = DinoV2Config {
    depth: 3,
    width: 32,
    heads: 4,
};

/// The tensors of a network of drawn weights, without a head, as the backbone's are published.
fn weights(seed: u64) -> BTreeMap<String, Tensor> {
    let parameters = Parameters::new(seed, DType::F32, &Device::Cpu);
    let vb = parameters.builder();
    DinoVisionTransformer::new(vb, SMALL.depth, SMALL.width, SMALL.heads).unwrap();
    let mut tensors = parameters.tensors().unwrap();
    tensors.retain(|name, _| !name.starts_with("head."));
    for (name, tensor) in &mut tensors {
        // What begins at zero would hide whatever it is multiplied by or added to.
        if tensor
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap()
            == 0.0
        {
            let n = tensor.elem_count();
            let values: Vec<f32> = (0..n)
                .map(|i| (0.7 * i as f32 + name.len() as f32).sin())
                .collect();
            *tensor = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
        }
    }
    let mask = Tensor::zeros((1, SMALL.width), DType::F32, &Device::Cpu).unwrap();
    tensors.insert("mask_token".to_owned(), mask);
    tensors
}

fn write(folder: &Path, tensors: BTreeMap<String, Tensor>) -> std::path::PathBuf {
    let path = folder.join("dinov2.safetensors");
    StateDict::new(tensors).save(&path).unwrap();
    path
}

fn load(path: &Path) -> Result<DinoV2Features, Error> {
    DinoV2Features::load(path, SMALL, &Limits::default(), &Device::Cpu)
}

fn images(b: usize, c: usize, side: usize) -> Tensor {
    let n = b * c * side * side;
    let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_vec(values, (b, c, side, side), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// What Meta's code makes of these images with these weights, but for an epsilon and GELU by tanh (`golden/dinov2_maps.py`).
#[test]
fn maps_are_those_of_the_original() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let golden =
        candle_core::safetensors::load(folder.join("dinov2.safetensors"), &Device::Cpu).unwrap();
    let weights = golden.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix("weights.")?;
        Some((name.to_owned(), tensor.clone()))
    });
    let weights = StateDict::new(weights.collect());
    let config = DinoV2Config {
        depth: 3,
        width: 8,
        heads: 2,
    };
    for (case, channels) in [("grey", Channels::Each), ("colour", Channels::Colour)] {
        let mut extractor = DinoV2Features::from_state_dict(&weights, config, &Device::Cpu)
            .unwrap()
            .of_blocks(&[0, 2]);
        extractor.channels = channels;
        let maps = extractor.maps(&golden[&format!("{case}.images")]).unwrap();
        for (map, block) in maps.iter().zip([0, 2]) {
            let expected = &golden[&format!("{case}.block{block}")];
            let every_fourth = Tensor::arange_step(0u32, 37, 4, &Device::Cpu).unwrap();
            let got = map
                .index_select(&every_fourth, 2)
                .unwrap()
                .index_select(&every_fourth, 3)
                .unwrap();
            assert_eq!(got.dims(), expected.dims());
            let apart = values(&got)
                .iter()
                .zip(values(expected))
                .fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
            println!("{case}, block {block}: {apart:.1e}");
            // Values are about 1.
            assert!(apart < 1e-4, "{case}, block {block}: {apart}");
        }
    }
}

#[test]
fn maps_have_the_grid_and_a_map_for_each_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), weights(3));
    let extractor = load(&path).unwrap().of_blocks(&[0, 2]).on_grid(5);
    let x = images(2, 2, 32);
    let maps = extractor.maps(&x).unwrap();
    assert_eq!(maps.len(), 2);
    for map in &maps {
        assert_eq!(map.dims(), [2, 2 * SMALL.width, 5, 5]);
        assert!(values(map).iter().all(|v| v.is_finite()));
    }
    assert_ne!(values(&maps[0]), values(&maps[1]));
    // The same file, read again, gives the same bits.
    let again = load(&path).unwrap().of_blocks(&[0, 2]).on_grid(5);
    assert_eq!(again.fingerprint(), extractor.fingerprint());
    for (a, b) in again.maps(&x).unwrap().iter().zip(&maps) {
        assert_eq!(values(a), values(b));
    }
    // The second sequence of the first image, by itself.
    let one = x.narrow(0, 0, 1).unwrap().narrow(1, 1, 1).unwrap();
    let alone = extractor.maps(&one.contiguous().unwrap()).unwrap();
    let within = maps[0]
        .narrow(0, 0, 1)
        .unwrap()
        .narrow(1, SMALL.width, SMALL.width)
        .unwrap();
    for (a, b) in values(&alone[0]).iter().zip(values(&within)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    // Three sequences as one picture.
    let mut colour = load(&path).unwrap().on_grid(3);
    colour.channels = Channels::Colour;
    assert_eq!(
        colour.maps(&images(1, 3, 42)).unwrap()[0].dims(),
        [1, SMALL.width, 3, 3]
    );
    assert!(colour.maps(&images(1, 2, 42)).is_err());
    for nothing in [(0, 1, 8, 8), (1, 1, 0, 8)] {
        let nothing = Tensor::zeros(nothing, DType::F32, &Device::Cpu).unwrap();
        assert!(matches!(extractor.maps(&nothing), Err(Error::Empty { .. })));
    }
    assert_ne!(colour.fingerprint(), extractor.fingerprint());
}

/// A cell of the map is where its patch is: what changes in one corner changes that corner most.
#[test]
fn cells_are_where_their_patches_are() {
    let folder = tempfile::tempdir().unwrap();
    let extractor = load(&write(folder.path(), weights(4)))
        .unwrap()
        .of_blocks(&[0])
        .on_grid(4);
    let side = 56;
    let plain = images(1, 1, side);
    let before = extractor.maps(&plain).unwrap();
    for (row, column) in [(0, 0), (0, 3), (3, 0), (2, 1)] {
        let mut changed = values(&plain);
        for y in 14 * row..14 * (row + 1) {
            for x in 14 * column..14 * (column + 1) {
                changed[y * side + x] = 1.0;
            }
        }
        let changed = Tensor::from_vec(changed, plain.dims(), &Device::Cpu).unwrap();
        let after = extractor.maps(&changed).unwrap();
        let change = (&after[0] - &before[0])
            .unwrap()
            .sqr()
            .unwrap()
            .sum((0, 1))
            .unwrap();
        let change = values(&change);
        let most = (0..16)
            .max_by(|&a, &b| change[a].total_cmp(&change[b]))
            .unwrap();
        assert_eq!((most / 4, most % 4), (row, column), "{change:?}");
    }
}

#[test]
fn a_bank_of_its_features_has_its_grid_and_finds_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let extractor = load(&write(folder.path(), weights(5)))
        .unwrap()
        .of_blocks(&[0, 1])
        .on_grid(8);
    let healthy = images(6, 1, 32);
    let config = MemoryConfig {
        patch: PatchFeatures {
            pretrain_dimension: 16,
            target_dimension: 32,
            ..PatchFeatures::default()
        },
        ..MemoryConfig::default()
    };
    let (seen, apart) = (
        healthy.narrow(0, 0, 4).unwrap(),
        healthy.narrow(0, 4, 2).unwrap(),
    );
    let head = Array3::from_elem((2, 32, 32), true);
    let mut bank = MemoryBank::build(&config, &extractor, &seen, None, &mut silent).unwrap();
    bank.calibrate(&extractor, &apart, head.view(), &mut silent)
        .unwrap();
    let mut test = values(&healthy.narrow(0, 5, 1).unwrap());
    for y in 8..20 {
        test[y * 32 + 8..y * 32 + 20].fill(1.0);
    }
    let test = Tensor::from_vec(test, (1, 1, 32, 32), &Device::Cpu).unwrap();
    let one = Array3::from_elem((1, 32, 32), true);
    let map = bank.coarse(&extractor, &test, one.view()).unwrap();
    assert!(map.soft.iter().all(|v| v.is_finite()));
    assert!(
        map.soft[(0, 13, 13)] > 2.0 * map.soft[(0, 28, 28)],
        "{:?}",
        map.soft.dim()
    );
    // Another network's features are refused.
    let folder = tempfile::tempdir().unwrap();
    let other = load(&write(folder.path(), weights(6)))
        .unwrap()
        .of_blocks(&[0, 1])
        .on_grid(8);
    assert!(bank.coarse(&other, &test, one.view()).is_err());
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let told = |result: Result<DinoV2Features, Error>, words: &str| {
        let error = result.unwrap_err();
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        assert!(text.contains(words), "{words} in {text}");
    };
    let mut tensors = weights(3);
    tensors.remove("blocks.1.ls1.gamma");
    told(load(&write(folder.path(), tensors)), "blocks.1.ls1.gamma");
    let mut tensors = weights(3);
    tensors.insert(
        "register_tokens".to_owned(),
        Tensor::zeros((1, 4, 32), DType::F32, &Device::Cpu).unwrap(),
    );
    told(load(&write(folder.path(), tensors)), "register_tokens");
    let path = write(folder.path(), weights(3));
    let limits = Limits {
        tensor_bytes: 1000,
        ..Limits::default()
    };
    let small = DinoV2Features::load(&path, SMALL, &limits, &Device::Cpu);
    told(small, "1000");
    let odd = DinoV2Config { heads: 5, ..SMALL };
    told(
        DinoV2Features::load(&path, odd, &Limits::default(), &Device::Cpu),
        "heads",
    );
    let good = load(&path).unwrap();
    for bad in [
        good.clone().of_blocks(&[]),
        good.clone().of_blocks(&[3]),
        good.clone().of_blocks(&[1, 0]),
        good.clone().on_grid(0),
        good.clone().on_grid(65),
    ] {
        let error = bad.maps(&images(1, 1, 28)).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
}
