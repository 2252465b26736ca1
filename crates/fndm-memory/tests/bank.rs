//! Banks as a whole: budget, seed, calibration, files, cancellation, errors.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use fndm_memory::{
    BankBuilder, CoarseConfig, Coreset, CoresetMethod, CoresetSize, Error, HealthyModel,
    MemoryBank, MemoryConfig, PatchFeatures, Smoothing, Stage, Storage, silent,
};
use ndarray::{Array2, Array3};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SIZE: usize = 24;

/// Two scales of the image itself.
fn extractor(x: &Tensor) -> candle_core::Result<Vec<Tensor>> {
    Ok(vec![x.avg_pool2d(2)?, x.avg_pool2d(4)?])
}

fn images(count: usize, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..count * 2 * SIZE * SIZE)
        .map(|_| rng.random::<f32>())
        .collect();
    Tensor::from_vec(values, (count, 2, SIZE, SIZE), &Device::Cpu).unwrap()
}

fn head(count: usize) -> Array3<bool> {
    Array3::from_shape_fn((count, SIZE, SIZE), |(_, y, x)| {
        (4..20).contains(&y) && (4..20).contains(&x)
    })
}

fn config() -> MemoryConfig {
    MemoryConfig {
        patch: PatchFeatures {
            pretrain_dimension: 18,
            target_dimension: 12,
            ..Default::default()
        },
        coreset: Coreset {
            size: CoresetSize::Fraction(0.25),
            ..Coreset::default()
        },
        batch_size: 3,
        ..MemoryConfig::default()
    }
}

fn build(config: &MemoryConfig) -> MemoryBank {
    let healthy = images(8, 1);
    MemoryBank::build(
        config,
        &extractor,
        &healthy,
        Some(head(8).view()),
        &mut silent,
    )
    .unwrap()
}

#[test]
fn a_bank_keeps_its_budget() {
    for storage in [Storage::F32, Storage::F16] {
        let row = 12 * storage.bytes() as u64;
        let config = MemoryConfig {
            storage,
            budget_bytes: 10 * row + 1,
            ..config()
        };
        let bank = build(&config);
        assert_eq!(bank.len(), 10);
        assert!(bank.bytes() <= config.budget_bytes);
        let none = MemoryConfig {
            budget_bytes: row - 1,
            ..config
        };
        assert!(matches!(
            BankBuilder::new(none),
            Err(Error::Budget { row: r, budget }) if r == row && budget == row - 1
        ));
    }
}

#[test]
fn rows_beyond_the_budget_are_an_error() {
    let config = MemoryConfig {
        budget_bytes: 100,
        ..config()
    };
    let rows = Array2::zeros((3, 12));
    assert!(matches!(
        MemoryBank::from_rows(&config, None, rows),
        Err(Error::Limit { .. })
    ));
}

#[test]
fn only_patches_of_the_head_are_pushed() {
    // A grid of 12 x 12 cells of 2 px: 8 x 8 of them lie in the head.
    assert_eq!(build(&config()).patches_seen(), 8 * 64);
}

#[test]
fn the_pool_bounds_what_is_held() {
    let config = MemoryConfig {
        pool_bytes: 40 * 12 * 4,
        coreset: Coreset {
            method: CoresetMethod::All,
            ..Coreset::default()
        },
        ..config()
    };
    let bank = build(&config);
    assert_eq!((bank.len(), bank.patches_seen()), (40, 512));
}

#[test]
fn the_same_seed_gives_the_same_bank_on_any_number_of_threads() {
    let bytes = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let mut config = MemoryConfig {
            pool_bytes: 300 * 48,
            seed,
            ..config()
        };
        config.coreset.seed = seed;
        pool.install(|| {
            let mut bank = build(&config);
            bank.calibrate(&extractor, &images(4, 2), head(4).view(), &mut silent)
                .unwrap();
            bank.to_bytes().unwrap()
        })
    };
    let first = bytes(1, 5);
    assert_eq!(first, bytes(2, 5));
    assert_eq!(first, bytes(7, 5));
    assert_ne!(first, bytes(1, 6));
}

#[test]
fn a_lesion_is_found_and_healthy_slices_keep_their_quantile() {
    let mut config = config();
    config.coarse = CoarseConfig {
        smoothing: Smoothing::Pixels(1.0),
        quantile: 0.95,
        head_erosion: 1,
        min_component: 0,
        ..CoarseConfig::default()
    };
    let mut bank = build(&config);
    let apart = images(6, 3);
    bank.calibrate(&extractor, &apart, head(6).view(), &mut silent)
        .unwrap();
    let healthy = bank.coarse(&extractor, &apart, head(6).view()).unwrap();
    // The head eroded by one pixel still touches nothing but itself: 14 x 14 pixels a slice.
    let part = healthy.binary.iter().filter(|v| **v).count() as f64 / f64::from(6 * 14 * 14);
    assert!((part - 0.05).abs() < 0.002, "{part}");
    assert!(healthy.relative().iter().all(|v| (0.0..=1.0).contains(v)));

    let lesion = Array3::from_shape_fn((1, SIZE, SIZE), |(_, y, x)| {
        (9..15).contains(&y) && (9..15).contains(&x)
    });
    let bright: Vec<f32> = lesion.iter().map(|v| if *v { 3.0 } else { 0.0 }).collect();
    let bright = Tensor::from_vec(bright, (1, 1, SIZE, SIZE), &Device::Cpu).unwrap();
    let test = images(1, 4).broadcast_add(&bright).unwrap();
    let map = bank.coarse(&extractor, &test, head(1).view()).unwrap();
    assert!(
        lesion
            .iter()
            .zip(&map.binary)
            .filter(|(l, _)| **l)
            .all(|(_, b)| *b)
    );
    assert!(
        map.soft
            .iter()
            .zip(&head(1))
            .filter(|(_, h)| !**h)
            .all(|(v, _)| *v == 0.0)
    );
    assert!(
        map.binary
            .iter()
            .zip(&head(1))
            .filter(|(_, h)| !**h)
            .all(|(v, _)| !*v)
    );
}

#[test]
fn a_threshold_asks_for_a_matching_calibration() {
    let mut bank = build(&config());
    assert!(matches!(bank.threshold(), Err(Error::NotCalibrated { .. })));
    bank.calibrate(&extractor, &images(4, 3), head(4).view(), &mut silent)
        .unwrap();
    let low = bank.threshold().unwrap();
    let mut coarse = bank.coarse_config().clone();
    coarse.quantile = 0.999;
    bank.set_coarse_config(coarse.clone()).unwrap();
    assert!(bank.threshold().unwrap() > low);
    coarse.smoothing = Smoothing::Off;
    bank.set_coarse_config(coarse).unwrap();
    assert!(matches!(bank.threshold(), Err(Error::NotCalibrated { .. })));
}

#[test]
fn a_saved_bank_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    for storage in [Storage::F32, Storage::F16] {
        let config = MemoryConfig {
            storage,
            position_weight: 0.3,
            ..config()
        };
        let mut bank = build(&config);
        bank.calibrate(&extractor, &images(4, 3), head(4).view(), &mut silent)
            .unwrap();
        let path = folder.path().join("bank.safetensors");
        bank.save(&path).unwrap();
        let read = MemoryBank::load(&path).unwrap();
        assert_eq!(read.config(), bank.config());
        assert_eq!(read.calibration(), bank.calibration());
        assert_eq!(read.standardisation(), bank.standardisation());
        assert_eq!(read.to_bytes().unwrap(), bank.to_bytes().unwrap());
        let test = images(2, 9);
        assert_eq!(
            read.score_maps(&extractor, &test, None).unwrap(),
            bank.score_maps(&extractor, &test, None).unwrap()
        );
        // Nothing is left beside it.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(MemoryBank::load_within(&path, size).is_ok());
        assert!(matches!(
            MemoryBank::load_within(&path, size - 1),
            Err(Error::Limit { .. })
        ));
    }
    assert!(matches!(
        MemoryBank::load(folder.path().join("none.safetensors")),
        Err(Error::Io { .. })
    ));
    let nowhere = folder.path().join("no/folder/bank.safetensors");
    assert!(matches!(
        build(&config()).save(nowhere),
        Err(Error::Files(_))
    ));
}

#[test]
fn damage_is_told() {
    let bytes = build(&config()).to_bytes().unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(
        MemoryBank::from_bytes(&flipped),
        Err(Error::Checksum { .. })
    ));
    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        assert!(matches!(
            MemoryBank::from_bytes(&bytes[..cut]),
            Err(Error::Malformed { .. })
        ));
    }
    // Any one changed byte is an error, never a panic or another bank.
    for i in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[i] = changed[i].wrapping_add(1);
        assert!(MemoryBank::from_bytes(&changed).is_err(), "byte {i}");
    }
}

#[test]
fn every_stage_reports_and_can_be_stopped() {
    for stage in [Stage::Statistics, Stage::Features, Stage::Coreset] {
        let mut last = None;
        let result = MemoryBank::build(&config(), &extractor, &images(8, 1), None, &mut |p| {
            assert!(p.done <= p.total);
            last = Some(p);
            if p.stage == stage {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(result, Err(Error::Cancelled { stage: s }) if s == stage));
        assert_eq!(last.unwrap().stage, stage);
    }
    let mut bank = build(&config());
    let stopped = bank.calibrate(&extractor, &images(4, 1), head(4).view(), &mut |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(
        stopped,
        Err(Error::Cancelled {
            stage: Stage::Calibration
        })
    ));
    assert!(bank.calibration().is_none());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let bank = build(&config());
    let other = |x: &Tensor| Ok(vec![x.avg_pool2d(2)?]);
    let result = bank.score_maps(&other, &images(1, 1), None);
    assert!(matches!(result, Err(Error::Shape { .. })));
    let result = bank.score(Array2::zeros((2, 5)).view());
    assert!(matches!(
        result,
        Err(Error::Dimension {
            expected: 12,
            got: 5
        })
    ));
    let result = bank.score_maps(&extractor, &images(2, 1), Some(head(3).view()));
    assert!(matches!(result, Err(Error::Shape { .. })));
    let nan = (images(2, 1) * f64::NAN).unwrap();
    assert!(matches!(
        bank.score_maps(&extractor, &nan, None),
        Err(Error::NonFinite { .. })
    ));
    let empty = Array3::from_elem((2, SIZE, SIZE), false);
    let result = MemoryBank::build(
        &config(),
        &extractor,
        &images(2, 1),
        Some(empty.view()),
        &mut silent,
    );
    assert!(matches!(result, Err(Error::Empty { .. })));
    let mut builder = BankBuilder::new(config()).unwrap();
    let result = builder.push(&extractor, &images(1, 1), None);
    assert!(matches!(
        result,
        Err(Error::Config {
            field: "standardise",
            ..
        })
    ));
    let large = MemoryConfig {
        storage: Storage::F16,
        ..config()
    };
    let result = MemoryBank::from_rows(&large, None, Array2::from_elem((1, 12), 1e6));
    assert!(matches!(result, Err(Error::NonFinite { .. })));
    let result = MemoryBank::from_rows(&config(), None, Array2::zeros((0, 12)));
    assert!(matches!(result, Err(Error::Empty { .. })));
}

#[test]
fn standardised_scores_do_not_see_the_scale_of_a_map() {
    let scaled = |x: &Tensor| {
        Ok(vec![
            (x.avg_pool2d(2)? * 1000.0)?,
            (x.avg_pool2d(4)? - 5.0)?,
        ])
    };
    let (healthy, test) = (images(8, 1), images(2, 2));
    let maps = |extractor: &dyn fndm_memory::FeatureExtractor| {
        MemoryBank::build(&config(), extractor, &healthy, None, &mut silent)
            .unwrap()
            .score_maps(extractor, &test, None)
            .unwrap()
    };
    let (plain, scaled) = (maps(&extractor), maps(&scaled));
    for (a, b) in plain.iter().zip(&scaled) {
        assert!((a - b).abs() < 1e-3 * a, "{a} and {b}");
    }
}

#[test]
fn the_place_of_a_patch_tells_when_it_is_weighted() {
    let constant = Tensor::ones((3, 2, SIZE, SIZE), DType::F32, &Device::Cpu).unwrap();
    let config = MemoryConfig {
        position_weight: 1.0,
        standardise: false,
        coreset: Coreset {
            method: CoresetMethod::All,
            ..Coreset::default()
        },
        ..config()
    };
    let bank = MemoryBank::build(&config, &extractor, &constant, None, &mut silent).unwrap();
    assert_eq!(bank.dimension(), 14);
    let rows = bank.index().to_array().unwrap();
    let root = 12f32.sqrt();
    // Cells of a 12 x 12 grid: centres from -11/12 to 11/12, x first.
    assert!((rows[(0, 12)] + root * 11.0 / 12.0).abs() < 1e-6);
    assert!((rows[(11, 12)] - root * 11.0 / 12.0).abs() < 1e-6);
    assert!((rows[(11, 13)] + root * 11.0 / 12.0).abs() < 1e-6);
    assert!((rows[(143, 13)] - root * 11.0 / 12.0).abs() < 1e-6);
}

#[test]
fn merged_banks_know_both_sides() {
    let config = MemoryConfig {
        standardise: false,
        coreset: Coreset {
            method: CoresetMethod::All,
            ..Coreset::default()
        },
        ..config()
    };
    let build =
        |seed| MemoryBank::build(&config, &extractor, &images(2, seed), None, &mut silent).unwrap();
    let (a, b) = (build(1), build(2));
    let both = a.merge(&b, &mut silent).unwrap();
    assert_eq!(both.len(), a.len() + b.len());
    let test = images(2, 3);
    let scores = |bank: &MemoryBank| bank.patch_scores(&extractor, &test, None).unwrap();
    for ((a, b), both) in scores(&a).iter().zip(&scores(&b)).zip(&scores(&both)) {
        assert_eq!(a.min(*b), *both);
    }
    let small = MemoryConfig {
        budget_bytes: 20 * 48,
        ..config.clone()
    };
    let half = MemoryBank::from_rows(
        &small,
        None,
        a.index()
            .to_array()
            .unwrap()
            .slice(ndarray::s![..15, ..])
            .to_owned(),
    )
    .unwrap();
    assert_eq!(half.merge(&b, &mut silent).unwrap().len(), 20);
    let other = MemoryConfig {
        storage: Storage::F16,
        ..config.clone()
    };
    let other = MemoryBank::build(&other, &extractor, &images(2, 1), None, &mut silent).unwrap();
    assert!(matches!(
        a.merge(&other, &mut silent),
        Err(Error::Incompatible { .. })
    ));
}

#[test]
fn an_extended_bank_keeps_its_rows_and_learns_the_new() {
    let bank = build(&config());
    let more = (images(4, 7) + 2.0).unwrap();
    let extended = bank.extend(&extractor, &more, None, &mut silent).unwrap();
    // A quarter of the 4 x 144 new patches.
    assert_eq!(extended.len(), bank.len() + 144);
    let (old, new) = (
        bank.index().to_array().unwrap(),
        extended.index().to_array().unwrap(),
    );
    assert_eq!(old, new.slice(ndarray::s![..bank.len(), ..]));
    let mean = |bank: &MemoryBank| bank.patch_scores(&extractor, &more, None).unwrap().mean();
    assert!(mean(&extended).unwrap() < 0.1 * mean(&bank).unwrap());
    let budget_bytes = (bank.len() as u64 + 10) * 48;
    let tight = build(&MemoryConfig {
        budget_bytes,
        ..config()
    });
    assert_eq!(
        tight
            .extend(&extractor, &more, None, &mut silent)
            .unwrap()
            .bytes(),
        budget_bytes
    );
}

#[test]
fn a_loaded_bank_stays_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bank.safetensors");
    let (first, second) = (build(&config()), {
        let healthy = images(8, 40);
        MemoryBank::build(&config(), &extractor, &healthy, None, &mut silent).unwrap()
    });
    for storage in [Storage::F32, Storage::F16] {
        let config = MemoryConfig {
            storage,
            ..config()
        };
        build(&config).save(&path).unwrap();
        assert!(MemoryBank::load(&path).unwrap().index().is_mapped());
    }
    assert!(!first.index().is_mapped());
    first.save(&path).unwrap();
    let loaded = MemoryBank::load(&path).unwrap();
    // Another bank takes the place of its file.
    if cfg!(unix) {
        second.save(&path).unwrap();
        assert_eq!(
            MemoryBank::load(&path).unwrap().to_bytes().unwrap(),
            second.to_bytes().unwrap()
        );
    }
    assert_eq!(loaded.to_bytes().unwrap(), first.to_bytes().unwrap());
    let merged = loaded.merge(&first, &mut silent).unwrap();
    assert_eq!(merged.len(), 2 * first.len());
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(
        MemoryBank::load(&path),
        Err(Error::Malformed { .. })
    ));
}

/// The file of a bank whose description is changed, with the checksum that fits.
fn forged(bank: &MemoryBank, change: impl Fn(&str) -> String) -> Vec<u8> {
    let bytes = bank.to_bytes().unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let header = &metadata.metadata().as_ref().unwrap()["fndm-memory"];
    let header: serde_json::Value = serde_json::from_str(header).unwrap();
    let description = change(header["bank"].as_str().unwrap());
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
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
        "bank": description,
    });
    let metadata = [("fndm-memory".to_owned(), header.to_string())].into();
    safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap()
}

#[test]
fn a_file_that_contradicts_itself_is_malformed() {
    let bank = build(&config());
    assert!(MemoryBank::from_bytes(&forged(&bank, str::to_owned)).is_ok());
    for (from, to, word) in [
        ("\"version\":1", "\"version\":2", "version"),
        ("\"storage\":\"f32\"", "\"storage\":\"f16\"", "F16"),
        ("\"target_dimension\":12", "\"target_dimension\":13", "rows"),
        (
            "\"budget_bytes\":67108864",
            "\"budget_bytes\":480",
            "budgeted",
        ),
        ("\"neighbours\":1", "\"neighbours\":0", "neighbours"),
        ("\"maps\":2", "\"maps\":3", "mean.2"),
        ("\"batch_size\":3", "\"batch\":3", "`batch`"),
        ("\"patches_seen\"", "\"seen\"", "`seen`"),
        ("\"quantile\":0.98", "\"quantile\":1.98", "1.98"),
    ] {
        let bytes = forged(&bank, |d| {
            assert!(d.contains(from), "{d}");
            d.replace(from, to)
        });
        match MemoryBank::from_bytes(&bytes) {
            Err(error @ Error::Malformed { .. }) => {
                let chain = chain(&error);
                assert!(chain.contains(word), "{chain}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
}

/// An error and its causes as programs print them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// Images of which one has a value in its middle.
fn with_value(count: usize, image: usize, value: f32) -> Tensor {
    let mut values: Vec<f32> = images(count, 1).flatten_all().unwrap().to_vec1().unwrap();
    values[(image * 2 * SIZE + SIZE / 2) * SIZE + SIZE / 2] = value;
    Tensor::from_vec(values, (count, 2, SIZE, SIZE), &Device::Cpu).unwrap()
}

#[test]
fn what_is_not_finite_names_its_image_whatever_the_batch() {
    let bank = build(&config());
    let named = |error: Error, number: usize| match error {
        Error::NonFinite { image, ref what } => assert_eq!(image, Some(number), "{what}"),
        other => panic!("{other:?}"),
    };
    // Batches are of 3: image 4 is the second of the second. 1e30 is finite, its square is not.
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let bad = with_value(5, 4, value);
        let head = head(5);
        named(bank.score_maps(&extractor, &bad, None).unwrap_err(), 4);
        let mut bank = bank.clone();
        let calibrated = bank.calibrate(&extractor, &bad, head.view(), &mut silent);
        named(calibrated.unwrap_err(), 4);
        if value.is_finite() {
            continue;
        }
        named(bank.image_scores(&extractor, &bad, None).unwrap_err(), 4);
        let extended = bank.extend(&extractor, &bad, None, &mut silent);
        named(extended.unwrap_err(), 4);
        for standardise in [false, true] {
            let config = MemoryConfig {
                standardise,
                ..config()
            };
            let built = MemoryBank::build(&config, &extractor, &bad, None, &mut silent);
            named(built.unwrap_err(), 4);
        }
    }
    // Outside of the head, too, for what lies there is seen by its neighbours.
    let mut query = Array2::zeros((3, 12));
    query[(2, 5)] = f32::NAN;
    let error = bank.score(query.view()).unwrap_err();
    assert_eq!(error.to_string(), "query 2: a value is NaN or infinite");
    assert!(bank.image_score(query.view()).is_err());
    // A bank can't be built of squares beyond f32 either.
    let huge = Array2::from_shape_fn((6, 12), |(i, _)| 1e30 * i as f32);
    let rows = MemoryBank::from_rows(&config(), None, huge.clone());
    assert!(matches!(rows, Err(Error::NonFinite { .. })));
    let chosen = fndm_memory::greedy(huge.view(), 3, &mut silent);
    assert!(matches!(chosen, Err(Error::NonFinite { .. })));
}

#[test]
fn no_comparison_with_nan_makes_a_mask() {
    let coarse = CoarseConfig::default();
    let mut maps = Array3::<f32>::zeros((2, SIZE, SIZE));
    let head = head(2);
    assert!(coarse.binarise(maps.view(), head.view(), f32::NAN).is_err());
    // Outside of the head nothing is asked.
    maps[(1, 0, 0)] = f32::NAN;
    assert!(coarse.binarise(maps.view(), head.view(), 1.0).is_ok());
    maps[(1, 10, 7)] = f32::NAN;
    let error = coarse.binarise(maps.view(), head.view(), 1.0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "score map at row 10, column 7 of image 1: a value is NaN or infinite"
    );
}

#[test]
fn radii_beyond_the_largest_are_an_error() {
    for radius in [fndm_memory::MAX_RADIUS, fndm_memory::MAX_RADIUS + 1] {
        let allowed = radius <= fndm_memory::MAX_RADIUS;
        let config = CoarseConfig {
            dilation: radius,
            ..CoarseConfig::default()
        };
        assert_eq!(config.check().is_ok(), allowed);
        let config = CoarseConfig {
            head_erosion: radius,
            ..CoarseConfig::default()
        };
        assert_eq!(config.check().is_ok(), allowed);
    }
}
