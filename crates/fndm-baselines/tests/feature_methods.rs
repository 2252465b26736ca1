//! Distillation, denoising, Gaussians, bank and plain image, fitted to slices: bits, resuming, saving, refusals.

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use common::{slices, test_slices};
use fndm_baselines::dae::{Dae, DaeMethod, DaeNorm, DaeSettings, NoiseConfig, UNetConfig};
use fndm_baselines::flair::{Flair, FlairMethod};
use fndm_baselines::padim::{PadimBaseline, PadimMethod, PadimSettings};
use fndm_baselines::patch_core::{self, PatchCore, PatchCoreMethod};
use fndm_baselines::reverse_distillation::{ReverseDistillation, ReverseMethod, ReverseSettings};
use fndm_baselines::stfpm::{Stfpm, StfpmMethod, StfpmSettings};
use fndm_baselines::{Baseline, Error, Extractor, Fit, Method, PostProcessing, Result};
use fndm_data::{Preprocess, phantom::PhantomConfig};
use fndm_memory::{CoresetSize, FeatureExtractor, MemoryConfig, PatchFeatures};
use fndm_models::{Limits, ResNetConfig};
use fndm_train::{RunConfig, StopFlag};
use ndarray::Array3;

/// Three maps of the slice itself, each half as wide as the one before.
struct Pools(&'static str);

impl FeatureExtractor for Pools {
    fn maps(&self, x: &Tensor) -> fndm_memory::Result<Vec<Tensor>> {
        let colours = Tensor::cat(&[x, &x.sqr()?, &x.tanh()?, &(x * 0.5)?], 1)?;
        let fine = colours.avg_pool2d(2)?;
        let middle = fine.avg_pool2d(2)?;
        Ok(vec![fine, middle.clone(), middle.max_pool2d(2)?])
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.0.to_owned())
    }
}

fn extractor() -> Extractor {
    Arc::new(Pools("pools"))
}

fn stfpm(official: bool) -> StfpmMethod {
    let preset = match official {
        true => StfpmSettings::official(),
        false => StfpmSettings::anomalib(),
    };
    let settings = StfpmSettings {
        student: ResNetConfig {
            planes: vec![4, 6, 8],
            blocks: vec![1, 1, 1],
            ..ResNetConfig::resnet18()
        },
        epochs: 2,
        batch: 3,
        ..preset
    };
    StfpmMethod {
        settings,
        extractor: extractor(),
    }
}

fn reverse() -> ReverseMethod {
    let settings = ReverseSettings {
        epochs: 2,
        batch: 3,
        ..ReverseSettings::official()
    };
    ReverseMethod {
        settings,
        extractor: extractor(),
    }
}

fn dae(norm: DaeNorm) -> DaeMethod {
    let settings = DaeSettings {
        network: UNetConfig {
            depth: 2,
            width_log2: 2,
            norm,
            ..UNetConfig::default()
        },
        noise: NoiseConfig {
            resolution: 4,
            ..NoiseConfig::default()
        },
        epochs: 2,
        batch: 3,
        ..DaeSettings::official()
    };
    DaeMethod { settings }
}

fn padim() -> PadimMethod {
    let settings = PadimSettings {
        dimensions: 5,
        ..PadimSettings::official()
    };
    PadimMethod {
        settings,
        extractor: extractor(),
    }
}

fn patch_core() -> PatchCoreMethod {
    let mut config = MemoryConfig {
        patch: PatchFeatures {
            pretrain_dimension: 8,
            target_dimension: 8,
            ..PatchFeatures::default()
        },
        ..patch_core::official()
    };
    config.coreset.size = CoresetSize::Fraction(0.5);
    PatchCoreMethod {
        config,
        extractor: extractor(),
    }
}

type Load = fn(&Path, &Extractor) -> Result<Box<dyn Baseline>>;

/// Those that are trained.
fn trained() -> Vec<(Box<dyn Method>, Load)> {
    fn at(folder: &Path, extractor: &Extractor, kind: usize) -> Result<Box<dyn Baseline>> {
        let (limits, device) = (Limits::default(), Device::Cpu);
        Ok(match kind {
            0 => Box::new(Stfpm::load(folder, extractor, &limits, &device)?),
            1 => Box::new(ReverseDistillation::load(
                folder, extractor, &limits, &device,
            )?),
            _ => Box::new(Dae::load(folder, &limits, &device)?),
        })
    }
    vec![
        (Box::new(stfpm(true)), |f, e| at(f, e, 0)),
        (Box::new(stfpm(false)), |f, e| at(f, e, 0)),
        (Box::new(reverse()), |f, e| at(f, e, 1)),
        (Box::new(dae(DaeNorm::Group)), |f, e| at(f, e, 2)),
        (Box::new(dae(DaeNorm::Batch)), |f, e| at(f, e, 2)),
    ]
}

fn all() -> Vec<(Box<dyn Method>, Load)> {
    let mut all = trained();
    all.push((Box::new(padim()), |f, e| {
        Ok(Box::new(PadimBaseline::load(f, e, &Limits::default())?))
    }));
    all.push((Box::new(patch_core()), |f, e| {
        Ok(Box::new(PatchCore::load(f, e, 1 << 24)?))
    }));
    all.push((Box::new(FlairMethod), |f, _| Ok(Box::new(Flair::load(f)?))));
    all
}

fn values(baseline: &dyn Baseline) -> Vec<f32> {
    let maps = baseline.maps(&test_slices()).unwrap();
    assert_eq!(maps.dims(), [2, 16, 16]);
    let mut values: Vec<f32> = maps.flatten_all().unwrap().to_vec1().unwrap();
    let scores = baseline.scores(&test_slices()).unwrap();
    assert_eq!(scores.len(), 2);
    values.extend(scores);
    assert!(values.iter().all(|v| v.is_finite()));
    values
}

#[test]
fn the_same_seed_gives_the_same_bits_before_and_after_saving() {
    for (method, load) in all() {
        let fit = Fit::new(5, &Device::Cpu);
        let first = method.fit(&slices(), &fit).unwrap();
        assert_eq!(first.name(), method.name());
        let wanted = values(&*first);
        let again = method.fit(&slices(), &fit).unwrap();
        assert_eq!(wanted, values(&*again), "{}", method.name());

        let folder = tempfile::tempdir().unwrap();
        first.save(folder.path()).unwrap();
        let loaded = load(folder.path(), &extractor()).unwrap();
        assert_eq!(wanted, values(&*loaded), "{}", method.name());
        let other = load(folder.path(), &(Arc::new(Pools("others")) as Extractor));
        if ["DAE", "FLAIR"].contains(&method.name()) {
            assert!(other.is_ok());
        } else {
            let error = other.map(|_| ()).unwrap_err();
            let fits = matches!(error, Error::OtherExtractor { .. } | Error::Memory(_));
            assert!(fits, "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(load(empty.path(), &extractor()).is_err());
        assert!(first.save(&empty.path().join("absent")).is_err());
    }
}

#[test]
fn another_seed_trains_otherwise() {
    for (method, _) in trained() {
        let one = method.fit(&slices(), &Fit::new(5, &Device::Cpu)).unwrap();
        let other = method.fit(&slices(), &Fit::new(6, &Device::Cpu)).unwrap();
        assert_ne!(values(&*one), values(&*other), "{}", method.name());
    }
}

#[test]
fn a_training_that_was_stopped_goes_on_to_the_same_bits() {
    for (method, _) in trained() {
        let wanted = values(&*method.fit(&slices(), &Fit::new(5, &Device::Cpu)).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let run = RunConfig {
            folder: folder.path().to_owned(),
            checkpoint_every: 3,
            ..RunConfig::default()
        };
        let mut fit = Fit::new(5, &Device::Cpu).in_run(run);
        method.fit(&slices(), &fit).unwrap();
        // Back to a checkpoint in the middle: the newest is of the end.
        let newest = fndm_train::list_checkpoints(folder.path()).unwrap().pop();
        std::fs::remove_file(newest.unwrap()).unwrap();
        assert_eq!(
            fndm_train::list_checkpoints(folder.path()).unwrap().len(),
            1
        );
        let resumed = method.fit(&slices(), &fit).unwrap();
        assert_eq!(wanted, values(&*resumed), "{}", method.name());

        fit.run = None;
        fit.stop = StopFlag::new();
        fit.stop.stop();
        let error = method.fit(&slices(), &fit).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
    }
}

#[test]
fn diseased_slices_are_not_looked_at() {
    for (method, _) in all() {
        if method.name() == "FLAIR" {
            continue;
        }
        let fit = Fit::new(5, &Device::Cpu);
        let wanted = values(&*method.fit(&slices(), &fit).unwrap());
        let mut changed = slices();
        for n in (0..12).filter(|n| n % 4 == 3) {
            changed
                .images
                .slice_mut(ndarray::s![n, .., .., ..])
                .fill(-0.5);
        }
        assert_eq!(wanted, values(&*method.fit(&changed, &fit).unwrap()));
        let mut none = slices();
        none.labels.fill(1);
        let error = method.fit(&none, &fit).map(|_| ()).unwrap_err();
        let expected = matches!(error, Error::NoHealthySlice { slices: 12 });
        assert!(expected, "{error}");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let fit = Fit::new(5, &Device::Cpu);
    let two: Extractor = Arc::new(|x: &Tensor| Ok(vec![x.avg_pool2d(2)?, x.avg_pool2d(4)?]));
    let mut method = reverse();
    method.extractor = two;
    assert!(method.fit(&slices(), &fit).is_err());
    let odd: Extractor = Arc::new(|x: &Tensor| Ok(vec![x.avg_pool2d(2)?, x.avg_pool2d(3)?]));
    let mut method = stfpm(true);
    method.extractor = odd.clone();
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = padim();
    method.extractor = odd;
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = dae(DaeNorm::Group);
    method.settings.epochs = 0;
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = dae(DaeNorm::Group);
    method.settings.network.depth = 6;
    assert!(method.fit(&slices(), &fit).is_err());
    assert!(Flair::of(&["t1".to_owned()]).is_err());
    let t1 = Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    assert!(Flair { channel: 1 }.maps(&t1).is_err());
}

#[test]
fn the_same_post_processing_for_all() {
    let phantom = PhantomConfig {
        size: 32,
        slices: 24,
        ..PhantomConfig::default()
    };
    let preprocess = Preprocess {
        image_size: 32,
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&phantom.patient(1).unwrap()).unwrap();
    let size = slices.head.dim();
    let spot = |n: usize, y: usize, x: usize| {
        let inside = n == size.0 / 2 && (14..18).contains(&y) && (14..18).contains(&x);
        if inside { 1.0 } else { 0.0 }
    };
    let mut map = Array3::from_shape_fn(size, |(n, y, x)| spot(n, y, x));
    let post = PostProcessing {
        smoothing: 0.5,
        z_smoothing: 0.0,
        head_erosion: 1,
        ..PostProcessing::default()
    };
    let found = post.apply(&mut map, &slices).unwrap();
    let marked: Vec<usize> = (0..size.0)
        .filter(|&n| {
            found
                .mask
                .index_axis(ndarray::Axis(0), n)
                .iter()
                .any(|&m| m)
        })
        .collect();
    assert_eq!(marked, [size.0 / 2]);
    let outside = map
        .iter()
        .zip(&found.inner_head)
        .filter(|(_, inside)| !**inside);
    assert!(outside.into_iter().all(|(&v, _)| v == 0.0));
    // Over z the neighbours have their share.
    let mut map = Array3::from_shape_fn(size, |(n, y, x)| spot(n, y, x));
    let deep = PostProcessing {
        z_smoothing: 1.0,
        ..post
    };
    deep.apply(&mut map, &slices).unwrap();
    assert!(map[(size.0 / 2 + 1, 15, 15)] > 0.0);
    // Counted from its least value inside, a map below 0 has no bright rim, and its power no sign to lose.
    for map_power in [1.0, 0.5] {
        let mut below = Array3::from_shape_fn(size, |(n, y, x)| spot(n, y, x) - 1.0);
        let post = PostProcessing { map_power, ..post };
        let again = post.apply(&mut below, &slices).unwrap();
        assert_eq!(again.inner_head, found.inner_head);
        assert!(below.iter().all(|&v| v >= 0.0));
        let rim = below.iter().zip(&again.inner_head).filter(|(_, i)| !**i);
        assert!(rim.into_iter().all(|(&v, _)| v == 0.0));
        assert!(again.mask[(size.0 / 2, 15, 15)]);
    }
    for map_power in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut map = Array3::zeros(size);
        let post = PostProcessing { map_power, ..post };
        assert!(post.apply(&mut map, &slices).is_err());
    }
    let mut wrong = Array3::zeros((1, 2, 3));
    assert!(post.apply(&mut wrong, &slices).is_err());
    let mut bad = Array3::from_elem(size, f32::NAN);
    assert!(post.apply(&mut bad, &slices).is_err());
}
