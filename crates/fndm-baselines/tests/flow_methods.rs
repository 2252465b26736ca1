//! The methods that are made of flows, fitted to slices: bits, resuming, saving, refusals.

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::{slices, test_slices};
use fndm_baselines::cflow::{CflowBaseline, CflowMethod, CflowSettings, Reference};
use fndm_baselines::csflow::{CsFlowBaseline, CsFlowMethod, CsFlowSettings};
use fndm_baselines::fastflow::{FastFlowBaseline, FastFlowMethod, FastFlowSettings};
use fndm_baselines::{Baseline, Error, Extractor, Fit, Method, Result};
use fndm_memory::FeatureExtractor;
use fndm_models::Limits;
use fndm_train::{RunConfig, StopFlag};

/// Three maps of the slice itself, coarser and coarser.
struct Pools(&'static str);

impl FeatureExtractor for Pools {
    fn maps(&self, x: &Tensor) -> fndm_memory::Result<Vec<Tensor>> {
        let colours = Tensor::cat(&[x, &x.sqr()?, &x.tanh()?, &(x * 0.5)?], 1)?;
        Ok(vec![
            colours.avg_pool2d(2)?,
            colours.max_pool2d(2)?.avg_pool2d(2)?,
        ])
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.0.to_owned())
    }
}

fn extractor() -> Extractor {
    Arc::new(Pools("pools"))
}

fn fastflow() -> FastFlowMethod {
    let settings = FastFlowSettings {
        steps: 2,
        epochs: 3,
        batch: 3,
        ..FastFlowSettings::official_wide()
    };
    FastFlowMethod {
        settings,
        extractor: extractor(),
    }
}

fn csflow() -> CsFlowMethod {
    let settings = CsFlowSettings {
        image_size: Some((16, 16)),
        hidden: 6,
        kernels: vec![3, 5],
        epochs: 3,
        batch: 3,
        ..CsFlowSettings::official()
    };
    CsFlowMethod {
        settings,
        extractor: extractor(),
    }
}

fn cflow(reference: Reference) -> CflowMethod {
    let settings = CflowSettings {
        blocks: 2,
        condition: 8,
        reference,
        epochs: 3,
        sub_epochs: 1,
        batch: 4,
        fibre: 32,
        ..CflowSettings::official()
    };
    CflowMethod {
        settings,
        extractor: extractor(),
    }
}

type Load = fn(&Path, &Extractor) -> Result<Box<dyn Baseline>>;

fn all() -> Vec<(Box<dyn Method>, Load)> {
    fn at(folder: &Path, extractor: &Extractor, kind: usize) -> Result<Box<dyn Baseline>> {
        let (limits, device) = (Limits::default(), Device::Cpu);
        Ok(match kind {
            0 => Box::new(FastFlowBaseline::load(folder, extractor, &limits, &device)?),
            1 => Box::new(CsFlowBaseline::load(folder, extractor, &limits, &device)?),
            _ => Box::new(CflowBaseline::load(folder, extractor, &limits, &device)?),
        })
    }
    vec![
        (Box::new(fastflow()), |f, e| at(f, e, 0)),
        (Box::new(csflow()), |f, e| at(f, e, 1)),
        (Box::new(cflow(Reference::Together)), |f, e| at(f, e, 2)),
        (Box::new(cflow(Reference::Healthy)), |f, e| at(f, e, 2)),
    ]
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
        let other = method.fit(&slices(), &Fit::new(6, &Device::Cpu)).unwrap();
        assert_ne!(wanted, values(&*other), "{}", method.name());

        let folder = tempfile::tempdir().unwrap();
        first.save(folder.path()).unwrap();
        let loaded = load(folder.path(), &extractor()).unwrap();
        assert_eq!(wanted, values(&*loaded), "{}", method.name());
        let error = load(folder.path(), &(Arc::new(Pools("others")) as Extractor)).unwrap_err();
        assert!(matches!(error, Error::OtherExtractor { .. }), "{error}");
    }
}

#[test]
fn a_training_that_was_stopped_goes_on_to_the_same_bits() {
    for (method, _) in all() {
        let wanted = values(&*method.fit(&slices(), &Fit::new(5, &Device::Cpu)).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let run = RunConfig {
            folder: folder.path().to_owned(),
            checkpoint_every: 4,
            ..RunConfig::default()
        };
        let mut fit = Fit::new(5, &Device::Cpu).in_run(run);
        method.fit(&slices(), &fit).unwrap();
        // Back to a checkpoint in the middle: the newest is of the end.
        let newest = fndm_train::list_checkpoints(folder.path())
            .unwrap()
            .pop()
            .unwrap();
        std::fs::remove_file(newest).unwrap();
        assert_eq!(
            fndm_train::list_checkpoints(folder.path()).unwrap().len(),
            1
        );
        let resumed = method.fit(&slices(), &fit).unwrap();
        assert_eq!(wanted, values(&*resumed), "{}", method.name());

        fit.run = None;
        fit.stop = StopFlag::new();
        fit.stop.stop();
        let error = method.fit(&slices(), &fit).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
    }
}

#[test]
fn diseased_slices_are_not_looked_at() {
    for (method, _) in all() {
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
        let error = method.fit(&none, &fit).unwrap_err();
        assert!(
            matches!(error, Error::NoHealthySlice { slices: 12 }),
            "{error}"
        );
    }
}

#[test]
fn a_healthy_reference_makes_a_map_independent_of_its_neighbours() {
    let fit = Fit::new(5, &Device::Cpu);
    let fitted = cflow(Reference::Healthy).fit(&slices(), &fit).unwrap();
    let both = fitted.maps(&test_slices()).unwrap();
    let alone = fitted
        .maps(&test_slices().narrow(0, 0, 1).unwrap())
        .unwrap();
    let difference = (both.narrow(0, 0, 1).unwrap() - alone)
        .unwrap()
        .abs()
        .unwrap();
    let difference = difference.flatten_all().unwrap().max(0).unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-5);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let fit = Fit::new(5, &Device::Cpu);
    let mut method = fastflow();
    method.settings.batch = 0;
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = csflow();
    method.settings.map = 2;
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = csflow();
    method.settings.image_size = Some((30, 32));
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = cflow(Reference::Together);
    method.settings.condition = 6;
    assert!(method.fit(&slices(), &fit).is_err());
    let mut method = cflow(Reference::Together);
    method.settings.fibre = 100_000;
    assert!(method.fit(&slices(), &fit).is_err());
    let fitted = fastflow().fit(&slices(), &fit).unwrap();
    let small = Tensor::zeros((1, 1, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(fitted.maps(&small).is_err());
    let empty = tempfile::tempdir().unwrap();
    assert!(
        FastFlowBaseline::load(empty.path(), &extractor(), &Limits::default(), &Device::Cpu)
            .is_err()
    );
    std::fs::write(empty.path().join("fastflow.safetensors"), b"nothing").unwrap();
    assert!(
        FastFlowBaseline::load(empty.path(), &extractor(), &Limits::default(), &Device::Cpu)
            .is_err()
    );
    assert!(fitted.save(&empty.path().join("absent")).is_err());
}

#[test]
fn a_file_that_promises_the_impossible_is_refused() {
    use fndm_baselines::cflow::{CflowLayer, CflowModel, DecoderConfig, MixingKind};
    use fndm_baselines::fastflow::{FastFlowConfig, FastFlowModel, LayerConfig};
    use fndm_models::StateDict;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
    // Within what a config may say, but the file has no tensor of it.
    let layer = LayerConfig {
        channels: 1 << 14,
        height: 8000,
        width: 8000,
    };
    let network = FastFlowConfig {
        layers: vec![layer; 2],
        steps: 2,
        conv3x3_only: true,
        hidden_ratio: 1000.0,
        clamp: 2.0,
        layer_norm: true,
    };
    let fastflow = FastFlowModel {
        network,
        seed: 0,
        features: None,
    };
    let state = StateDict::default().with_config(&fastflow).unwrap();
    state.save(path("fastflow")).unwrap();
    let (limits, device) = (Limits::default(), Device::Cpu);
    assert!(FastFlowBaseline::load(folder.path(), &extractor(), &limits, &device).is_err());
    let decoder = DecoderConfig {
        channels: 1 << 14,
        condition: 1 << 14,
        blocks: 1,
        clamp: 1.9,
    };
    let cflow = CflowModel {
        layers: vec![CflowLayer {
            decoder,
            size: (8000, 8000),
        }],
        mixing: MixingKind::Rotation,
        seed: 0,
        reference: Reference::Together,
        largest: None,
        features: None,
    };
    assert!(StateDict::default().with_config(&cflow).is_err());
}
