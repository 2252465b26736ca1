//! Data, features, coarse map and network of a program's own, with one dependency and no file.

use fndm::candle_core::{DType, Device, Tensor};
use fndm::data::{Patient, PatientSlices, Volume, affine};
use fndm::memory::{HealthyModel, MemoryBank, MemoryConfig, silent};
use fndm::models::{Classifier, ClassifierConfig, Parameters, UNet, UNetConfig};
use fndm::ndarray::{Array3, s};
use fndm::solver::{Query, ScheduleConfig, SolverConfig};
use fndm::{CoarseModel, CoarseRule, CoarseSource, Detector, Method, ModelConfig, batch_tensor};

/// Data: one sequence of a bright scalp and a tissue of little texture, and a bright rod in it or none.
fn patient(rod: bool) -> Patient {
    let value = |(x, y, z): (usize, usize, usize)| match (x as f32 - 31.5).hypot(y as f32 - 31.5) {
        far if far > 28. => 0.,
        far if far > 25. => 200.,
        far if rod && far < 6. => 150.,
        _ => 100. + ((x * 7919 + y * 104_729 + z * 31) % 11) as f32,
    };
    let data = Array3::from_shape_fn((64, 64, 4), value);
    let volume = Volume::new(data, affine::diagonal([3., 3., 5.]));
    Patient {
        id: "mine".into(),
        sequences: vec![("pd".into(), volume)],
        mask: None,
    }
}

/// A coarse map: what is bright.
#[derive(Debug)]
struct Bright;

impl CoarseModel for Bright {
    fn soft_map(&self, slices: &PatientSlices, _: &Device) -> fndm::Result<Array3<f32>> {
        Ok(slices.images.slice(s![.., 0, .., ..]).mapv(|v| v + 1.))
    }

    fn threshold(&self) -> fndm::Result<f32> {
        Ok(0.6)
    }
}

#[test]
fn parts_of_ones_own() -> Result<(), Box<dyn std::error::Error>> {
    let (unet, classifier) = (UNetConfig::small_64(3, 1), ClassifierConfig::small_64(1));
    let cpu = Device::Cpu;
    let [unet_weights, classifier_weights] =
        [1, 2].map(|seed| Parameters::new(seed, DType::F32, &cpu));
    UNet::new(&unet, unet_weights.builder())?;
    Classifier::new(&classifier, classifier_weights.builder())?;
    let model = ModelConfig::new(&["pd"], unet, classifier);
    let healthy = model.preprocess.apply(&patient(false))?;
    let images = batch_tensor(&healthy.images.view(), &cpu)?;

    // Features: the image at two scales, in a bank of two healthy slices that two others calibrate.
    let features = |x: &Tensor| Ok(vec![x.clone(), x.avg_pool2d(2)?]);
    let mut config = MemoryConfig::default();
    (
        config.patch.pretrain_dimension,
        config.patch.target_dimension,
    ) = (9, 18);
    let seen = images.narrow(0, 0, 2)?;
    let (apart, head) = (images.narrow(0, 2, 2)?, healthy.head.slice(s![2.., .., ..]));
    let mut bank = MemoryBank::build(&config, &features, &seen, None, &mut silent)?;
    bank.calibrate(&features, &apart, head, &mut silent)?;

    // Nobody has trained these networks; x_seg doesn't depend on them.
    let parts = Detector::builder(model)
        .unet(unet_weights.state_dict()?)
        .classifier(classifier_weights.state_dict()?);
    let detector = parts.bank(bank).features(features).coarse(Bright).build()?;
    for source in [CoarseSource::Bank, CoarseSource::Own] {
        let mut settings = detector.config().detect_config(Method::Fndm);
        settings.coarse_rule = CoarseRule::Calibrated;
        (settings.coarse_source, settings.steps) = (source, 2);
        let found = detector.detect_with(&patient(true), &settings, &mut |_| {})?;
        assert_eq!(found.mask.shape(), [64, 64, 4]);
        let x_seg = found.maps.x_seg;
        assert!(x_seg[(3, 31, 31)] && !x_seg[(3, 31, 16)], "{source:?}");
    }

    // A network: exact where data are normal about their mean.
    let schedule = ScheduleConfig::linear(1000).build()?;
    let mean = images.mean_keepdim(0)?;
    let network = |query: Query<'_>| -> fndm::Result<Tensor> {
        let mean = (&mean * query.alpha)?;
        Ok((query.x.broadcast_sub(&mean)? * query.sigma)?)
    };
    let (solver, span) = (SolverConfig::dpm_solver_pp(2, 20), schedule.t_min()..=0.5);
    let encode = solver.encode(&schedule, span.clone())?;
    let noisy = encode.run(&images, network)?;
    let again = solver.sample(&schedule, span)?.run(&noisy, network)?;
    let far = |a: &Tensor| (a - &images)?.abs()?.max_all()?.to_scalar::<f32>();
    assert!(far(&noisy)? > 0.2 && far(&again)? < 0.02);
    Ok(())
}
