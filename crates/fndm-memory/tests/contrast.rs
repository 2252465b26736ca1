//! The Gaussians of healthy and of diseased slices, against their definition in f64 and on a planted lesion.

use candle_core::{Device, Tensor};
use fndm_memory::{Contrast, ContrastConfig, Error, HealthyModel, Smoothing, intensities, silent};
use ndarray::Array3;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIDE: usize = 12;

fn tensor(values: Vec<f32>, c: usize, side: usize) -> Tensor {
    Tensor::from_vec(values, ((), c, side, side), &Device::Cpu).unwrap()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1f32..1.)).collect()
}

/// The squared Mahalanobis distance of two channels, by the inverse of a 2 x 2 matrix.
fn distance(samples: &[[f64; 2]], regularisation: f64, x: [f64; 2]) -> f64 {
    let n = samples.len() as f64;
    let mean = [0, 1].map(|i| samples.iter().map(|s| s[i]).sum::<f64>() / n);
    let cov = |i: usize, j: usize| {
        let products = samples.iter().map(|s| (s[i] - mean[i]) * (s[j] - mean[j]));
        products.sum::<f64>() / n
    };
    let (a, b, d) = (
        cov(0, 0) + regularisation,
        cov(0, 1),
        cov(1, 1) + regularisation,
    );
    let (x, y) = (x[0] - mean[0], x[1] - mean[1]);
    (d * x * x - 2. * b * x * y + a * y * y) / (a * d - b * b)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn without_pooling_a_score_is_the_difference_of_two_distances(seed in 0u64..1000, healthy in 2usize..6, diseased in 2usize..6) {
        let side = 3;
        let n = healthy + diseased;
        let values = noise(seed, n * 2 * side * side);
        let labels: Vec<u8> = (0..n).map(|i| u8::from(i >= healthy)).collect();
        let config = ContrastConfig { pooling: Smoothing::Off, batch_size: 3, ..ContrastConfig::default() };
        let images = tensor(values.clone(), 2, side);
        let contrast = Contrast::build(&config, &intensities, &images, &labels, &mut silent).unwrap();
        let probe = noise(seed + 1, 2 * side * side);
        let scores = contrast.patch_scores(&intensities, &tensor(probe.clone(), 2, side), None).unwrap();
        let at = |values: &[f32], i: usize, p: usize| {
            [0, 1].map(|c| f64::from(values[(i * 2 + c) * side * side + p]))
        };
        for p in 0..side * side {
            let of = |range: std::ops::Range<usize>| -> Vec<[f64; 2]> { range.map(|i| at(&values, i, p)).collect() };
            let x = at(&probe, 0, p);
            let (h, d) = (distance(&of(0..healthy), 0.01, x), distance(&of(healthy..n), 0.01, x));
            let (expected, got) = ((h - d).max(0.), f64::from(scores[(0, p / side, p % side)]));
            prop_assert!((expected - got).abs() <= 1e-4 * (h + d), "{expected} {got} of {h} {d}");
        }
    }
}

/// Slices of two channels. Healthy ones vary along (1, 1); a lesion changes a square along (1, -1).
fn slices(seed: u64, lesions: &[bool]) -> (Tensor, Vec<u8>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = Vec::new();
    for &lesion in lesions {
        let (y, x) = (rng.random_range(2..7), rng.random_range(2..7));
        let common = noise(rng.random(), SIDE * SIDE);
        for sign in [1f32, -1.] {
            for (p, v) in common.iter().enumerate() {
                let inside = (y..y + 3).contains(&(p / SIDE)) && (x..x + 3).contains(&(p % SIDE));
                let extra = if lesion && inside { 0.5 * sign } else { 0. };
                values.push(v + extra + 0.05 * rng.random_range(-1f32..1.));
            }
        }
    }
    let labels = lesions.iter().map(|&l| u8::from(l)).collect();
    (tensor(values, 2, SIDE), labels)
}

#[test]
fn a_lesion_stands_out_and_a_merely_unusual_patch_does_not() {
    let lesions: Vec<bool> = (0..80).map(|i| i % 2 == 1).collect();
    let (images, labels) = slices(1, &lesions);
    let contrast = Contrast::build(
        &ContrastConfig::default(),
        &intensities,
        &images,
        &labels,
        &mut silent,
    )
    .unwrap();
    // All 0 but for two pixels: one changed as by a lesion, one brighter in both channels than any healthy one.
    let mut values = vec![0f32; 2 * SIDE * SIDE];
    let (lesion, bright) = (5 * SIDE + 5, 6 * SIDE + 8);
    values[lesion] = 0.5;
    values[SIDE * SIDE + lesion] = -0.5;
    values[bright] = 1.5;
    values[SIDE * SIDE + bright] = 1.5;
    let scores = contrast
        .patch_scores(&intensities, &tensor(values, 2, SIDE), None)
        .unwrap();
    let of = |p: usize| scores[(0, p / SIDE, p % SIDE)];
    assert!(
        of(lesion) > 4. * of(bright),
        "{} {}",
        of(lesion),
        of(bright)
    );
    assert!(of(0) < 0.1 * of(lesion));
}

fn built() -> Contrast {
    let lesions: Vec<bool> = (0..12).map(|i| i % 3 == 0).collect();
    let (images, labels) = slices(2, &lesions);
    let mut contrast = Contrast::build(
        &ContrastConfig::default(),
        &intensities,
        &images,
        &labels,
        &mut silent,
    )
    .unwrap();
    let (healthy, _) = slices(3, &[false; 3]);
    let head = Array3::from_elem((3, SIDE, SIDE), true);
    contrast
        .calibrate(&intensities, &healthy, head.view(), &mut silent)
        .unwrap();
    contrast
}

#[test]
fn a_saved_contrast_comes_back_whole_and_a_damaged_one_is_an_error() {
    let contrast = built();
    let bytes = contrast.to_bytes().unwrap();
    let back = Contrast::from_bytes(&bytes).unwrap();
    assert_eq!(back, contrast);
    assert_eq!(back.to_bytes().unwrap(), bytes);
    assert!(back.threshold().unwrap() >= 0.);
    for cut in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        assert!(Contrast::from_bytes(&bytes[..cut]).is_err());
    }
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        // Spaces that pad the header may change without harm.
        if let Ok(read) = Contrast::from_bytes(&damaged) {
            assert_eq!(read, contrast);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contrast.safetensors");
    contrast.save(&path).unwrap();
    assert_eq!(Contrast::load(&path).unwrap(), contrast);
    let size = bytes.len() as u64;
    assert_eq!(Contrast::load_within(&path, size).unwrap(), contrast);
    assert!(matches!(
        Contrast::load_within(&path, size - 1),
        Err(Error::Limit { .. })
    ));
    // A file of no end whose length the system gives as 0.
    if cfg!(unix) {
        assert!(matches!(
            Contrast::load_within("/dev/zero", 1 << 16),
            Err(Error::Limit { .. })
        ));
    }
    assert!(matches!(
        Contrast::load(folder.path().join("none")),
        Err(Error::Io { .. })
    ));
}

/// The file of a contrast whose description is changed, with the checksum that fits.
fn forged(bytes: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    let header = &metadata.metadata().as_ref().unwrap()["fndm-contrast"];
    let header: serde_json::Value = serde_json::from_str(header).unwrap();
    let description = change(header["contrast"].as_str().unwrap());
    let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    add(description.as_bytes());
    let mut all = tensors.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, t) in &all {
        add(format!("\n{name}:{:?}:{:?}:", t.dtype(), t.shape()).as_bytes());
        add(t.data());
    }
    let header = serde_json::json!({
        "checksum": format!("fnv1a64:{hash:016x}"),
        "contrast": description,
    });
    let metadata = [("fndm-contrast".to_owned(), header.to_string())].into();
    safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap()
}

#[test]
fn a_file_that_contradicts_itself_is_malformed() {
    let bytes = built().to_bytes().unwrap();
    assert!(Contrast::from_bytes(&forged(&bytes, str::to_owned)).is_ok());
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("[2,12,12]", "[2,12,13]"),
        // A checksum says nothing of a file that claims to be huge.
        ("[2,12,12]", "[2,4294967295,4294967295]"),
        ("[2,12,12]", "[18446744073709551615,12,12]"),
        ("[[2,12,12]]", "[]"),
        ("[[2,12,12]]", "[[2,12,12],[0,1,1]]"),
        ("\"batch_size\":16", "\"batch_size\":0"),
        ("\"batch_size\"", "\"batches\""),
        ("\"head_erosion\":2,\"min", "\"head_erosion\":999,\"min"),
        ("\"probabilities\":[0.0,", "\"probabilities\":[0.5,"),
        ("\"probabilities\"", "\"chances\""),
        ("\"pixels\"", "\"dots\""),
    ] {
        let forged = forged(&bytes, |d| {
            assert!(d.contains(from), "{from}: {d}");
            d.replacen(from, to, 1)
        });
        match Contrast::from_bytes(&forged) {
            Err(Error::Malformed { .. }) => {}
            other => panic!("{to}: {other:?}"),
        }
    }
}

#[test]
fn scores_beyond_f32_are_an_error_and_not_healthy() {
    let contrast = built();
    // Both distances are infinite, and their difference is NaN, which `max` would make 0.
    let mut values = vec![0f32; 3 * 2 * SIDE * SIDE];
    values[2 * SIDE * SIDE + 7] = 3e38;
    match contrast.patch_scores(&intensities, &tensor(values, 2, SIDE), None) {
        Err(Error::NonFinite { image, .. }) => assert_eq!(image, Some(1)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let config = ContrastConfig::default();
    let (images, labels) = slices(4, &[false, false, true, true]);
    let build =
        |labels: &[u8]| Contrast::build(&config, &intensities, &images, labels, &mut silent);
    assert!(build(&labels).is_ok());
    for wrong in [&[0u8, 0, 0, 1][..], &[0, 0, 1], &[0, 0, 1, 2], &[]] {
        assert!(build(wrong).is_err(), "{wrong:?}");
    }
    let contrast = build(&labels).unwrap();
    let other = tensor(vec![0.; 2 * 8 * 8], 2, 8);
    assert!(contrast.patch_scores(&intensities, &other, None).is_err());
    let nan = tensor(vec![f32::NAN; 2 * SIDE * SIDE], 2, SIDE);
    assert!(contrast.patch_scores(&intensities, &nan, None).is_err());
    for config in [
        ContrastConfig {
            regularisation: 0.,
            ..config.clone()
        },
        ContrastConfig {
            regularisation: f64::NAN,
            ..config.clone()
        },
        ContrastConfig {
            batch_size: 0,
            ..config.clone()
        },
        ContrastConfig {
            pooling: Smoothing::Pixels(-1.),
            ..config.clone()
        },
    ] {
        assert!(config.check().is_err());
    }
}
