//! The network for segmentation: shapes, sizes, gradients, both backends, checkpoints, configs.

mod common;

use candle_core::{DType, Device, Tensor};
use fndm_kernels::{Backend, Precision, Tape, set_backend, set_precision};
use fndm_models::{Error, Limits, Parameters, Segmenter, SegmenterConfig, StateDict};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Layers that start at zero block the gradients of all before them: give every parameter a little.
fn wake(parameters: &Parameters) {
    for (i, (_, var)) in parameters.iter().enumerate() {
        let noise = (random(1000 + i as u64, var.dims()) * 0.1).unwrap();
        let noise = noise.to_dtype(var.dtype()).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
}

/// Small, with everything in it.
fn whole() -> SegmenterConfig {
    SegmenterConfig {
        image_size: 16,
        sequences: 2,
        context: 1,
        out_channels: 2,
        channel_mult: vec![1., 2.],
        num_res_blocks: 2,
        attention_resolutions: vec![2],
        residual: true,
        ..SegmenterConfig::default()
    }
}

#[test]
fn shapes_and_sizes_are_what_the_presets_say() {
    for (config, size) in [
        (SegmenterConfig::small_64(3), 410_000),
        (SegmenterConfig::small_128(3), 984_000),
        (SegmenterConfig::small_256(3), 1_756_000),
        (SegmenterConfig::remover_64(3), 920_000),
    ] {
        let parameters = common::parameters(1);
        let network = Segmenter::new(&config, parameters.builder()).unwrap();
        let n = parameters.len_elements();
        println!("{} px, {} out: {n}", config.image_size, config.out_channels);
        assert!(n.abs_diff(size) < size / 40, "{n}");
        let side = config.image_size;
        let x = random(2, &[1, config.in_channels(), side, side]);
        let y = network.forward(&x).unwrap();
        assert_eq!(y.dims(), [1, config.out_channels, side, side]);
        // The last layer starts at zero: no opinion, or no change.
        match config.residual {
            true => assert_eq!(common::max_diff(&y, &x), 0.),
            false => assert_eq!(common::max_abs(&y), 0.),
        }
        // Any size that the levels divide.
        let y = network.forward(&x.narrow(3, 0, side / 2).unwrap()).unwrap();
        assert_eq!(y.dims(), [1, config.out_channels, side, side / 2]);
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let network = Segmenter::new(
        &SegmenterConfig::small_64(3),
        common::parameters(1).builder(),
    )
    .unwrap();
    for shape in [[1, 3, 64, 64], [1, 9, 60, 64], [0, 9, 64, 64]] {
        let x = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        let error = network.forward(&x).unwrap_err().to_string();
        assert!(
            error.contains("(B, 9, H, W) with sides divisible by 8"),
            "{error}"
        );
    }
    let base = SegmenterConfig::small_64(3);
    let refused = |config: SegmenterConfig, name: &str| match config.check() {
        Err(Error::Config(text)) => assert!(text.contains(name), "{text}"),
        other => panic!("{name}: {other:?}"),
    };
    refused(
        SegmenterConfig {
            residual: true,
            ..base.clone()
        },
        "residual",
    );
    refused(
        SegmenterConfig {
            groups: 7,
            ..base.clone()
        },
        "groups",
    );
    refused(
        SegmenterConfig {
            image_size: 60,
            ..base.clone()
        },
        "image_size",
    );
    refused(
        SegmenterConfig {
            dropout: 1.,
            ..base.clone()
        },
        "dropout",
    );
    refused(
        SegmenterConfig {
            channel_mult: vec![],
            ..base.clone()
        },
        "channel_mult",
    );
    refused(
        SegmenterConfig {
            channel_mult: vec![f64::NAN],
            ..base.clone()
        },
        "channel_mult",
    );
    refused(
        SegmenterConfig {
            context: 99,
            ..base.clone()
        },
        "context",
    );
    refused(
        SegmenterConfig {
            sequences: 0,
            ..base.clone()
        },
        "sequences",
    );
    refused(
        SegmenterConfig {
            attention_resolutions: vec![3],
            ..base.clone()
        },
        "attention",
    );
    refused(
        SegmenterConfig {
            attention_resolutions: vec![1],
            ..base.clone()
        },
        "attention",
    );
    let text = serde_json::to_string(&base).unwrap();
    assert_eq!(
        serde_json::from_str::<SegmenterConfig>(&text).unwrap(),
        base
    );
    let error = serde_json::from_str::<SegmenterConfig>(r#"{"contexts": 2}"#).unwrap_err();
    assert!(error.to_string().contains("contexts"), "{error}");
}

#[test]
fn a_checkpoint_is_read_back_to_the_same_bits_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("segmenter.safetensors");
    let (config, parameters) = (whole(), common::parameters(3));
    let network = Segmenter::new(&config, parameters.builder()).unwrap();
    wake(&parameters);
    parameters.save(&path, &config).unwrap();
    let limits = Limits::default();
    let read = Segmenter::load(&path, &limits, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(read.config(), &config);
    let x = random(4, &[2, config.in_channels(), 16, 16]);
    let (a, b) = (network.forward(&x).unwrap(), read.forward(&x).unwrap());
    assert!(!b.track_op());
    assert_eq!(common::max_diff(&a, &b), 0.);

    let state = StateDict::read(&path, &limits).unwrap();
    let deeper = SegmenterConfig {
        channel_mult: vec![1., 2., 4.],
        ..config
    };
    match Segmenter::from_state_dict(&deeper, &state, DType::F32, &Device::Cpu) {
        Err(Error::Mismatch { mismatch, .. }) => {
            let names: Vec<&str> = mismatch.missing.iter().map(|(n, _)| n.as_str()).collect();
            assert!(names.contains(&"encoder.2.0.in_conv.weight"), "{names:?}");
        }
        other => panic!("{other:?}"),
    }
    common::parameters(1)
        .state_dict()
        .unwrap()
        .save(&path)
        .unwrap();
    assert!(Segmenter::load(&path, &limits, DType::F32, &Device::Cpu).is_err());
}

#[test]
fn dropout_drops_whole_channels_by_its_seed() {
    let config = SegmenterConfig {
        dropout: 0.5,
        ..SegmenterConfig::small_64(1)
    };
    let parameters = common::parameters(1);
    let network = Segmenter::new(&config, parameters.builder()).unwrap();
    wake(&parameters);
    let x = random(2, &[1, 3, 32, 32]);
    let run = |seed| network.forward_train(&x, seed).unwrap();
    assert_eq!(common::max_diff(&run(1), &run(1)), 0.);
    assert!(common::max_diff(&run(1), &run(2)) > 0.);
    assert!(common::max_diff(&run(1), &network.forward(&x).unwrap()) > 0.);
}

/// The neighbours and the slice itself have a say; a residual network's image is the middle one.
#[test]
fn the_slice_in_the_middle_is_what_is_changed() {
    let (config, parameters) = (whole(), common::parameters(5));
    let network = Segmenter::new(&config, parameters.builder()).unwrap();
    let x = random(6, &[1, 6, 16, 16]);
    let middle = x.narrow(1, 2, 2).unwrap();
    assert_eq!(common::max_diff(&network.forward(&x).unwrap(), &middle), 0.);
}

type Found = Vec<(String, Tensor)>;

fn loss(network: &Segmenter, x: &Tensor, weights: &Tensor, seed: u64) -> Tensor {
    let y = network.forward_train(x, seed).unwrap();
    (&y * weights).unwrap().sqr().unwrap().mean_all().unwrap()
}

fn gradients(network: &Segmenter, parameters: &Parameters, taped: bool) -> Found {
    let config = network.config();
    let dtype = parameters.dtype();
    let side = config.image_size;
    let x = random(7, &[2, config.in_channels(), side, side])
        .to_dtype(dtype)
        .unwrap();
    let weights = random(8, &[2, config.out_channels, side, side])
        .to_dtype(dtype)
        .unwrap();
    let tape = taped.then(|| Tape::start().unwrap());
    let loss = loss(network, &x, &weights, 9);
    let found = match tape {
        Some(tape) => tape.backward(&loss).unwrap(),
        None => loss.backward().unwrap(),
    };
    let of = |(name, var): (String, candle_core::Var)| {
        let gradient = found
            .get(&var)
            .unwrap_or_else(|| panic!("no gradient of {name}"));
        (name, gradient.clone())
    };
    parameters.iter().map(of).collect()
}

fn worst(a: &Found, b: &Found) -> f64 {
    let largest = b.iter().fold(0f64, |m, (_, t)| m.max(common::max_abs(t)));
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0., |worst, ((name, x), (_, y))| {
        assert!(common::max_abs(x) > 0., "{name}: gradient of zero");
        worst.max(common::max_diff(x, y) / common::max_abs(y).max(1e-3 * largest))
    })
}

/// One test, since the switches are those of the process: gradients in f64 against differences, both backends against f64,
/// and the same bits on any number of threads.
#[test]
fn gradients_are_differences_and_backends_agree() {
    let configs = [
        whole(),
        SegmenterConfig {
            image_size: 32,
            dropout: 0.2,
            ..SegmenterConfig::small_64(1)
        },
    ];
    for config in configs {
        let single = Parameters::new(2, DType::F32, &Device::Cpu);
        let network = Segmenter::new(&config, single.builder()).unwrap();
        wake(&single);
        let double = Parameters::new(2, DType::F64, &Device::Cpu);
        let exact = Segmenter::new(&config, double.builder()).unwrap();
        for ((_, s), (_, d)) in single.iter().zip(double.iter()) {
            d.set(&s.to_dtype(DType::F64).unwrap()).unwrap();
        }
        let truth = gradients(&exact, &double, false);

        let side = config.image_size;
        let x = random(7, &[2, config.in_channels(), side, side])
            .to_dtype(DType::F64)
            .unwrap();
        let weights = random(8, &[2, config.out_channels, side, side])
            .to_dtype(DType::F64)
            .unwrap();
        let value = || loss(&exact, &x, &weights, 9).to_scalar::<f64>().unwrap();
        for ((name, var), (_, gradient)) in double.iter().zip(&truth) {
            // The derivative along a random direction.
            let direction = random(3, var.dims()).to_dtype(DType::F64).unwrap();
            let before = var.as_tensor().copy().unwrap();
            let step = 1e-5;
            let at = |sign: f64| {
                var.set(&(&before + (&direction * (sign * step)).unwrap()).unwrap())
                    .unwrap();
                value()
            };
            let difference = (at(1.) - at(-1.)) / (2. * step);
            var.set(&before).unwrap();
            let product = (gradient * direction).unwrap().sum_all().unwrap();
            let product = product.to_scalar::<f64>().unwrap();
            assert!(
                (difference - product).abs() < 1e-7 + 1e-5 * product.abs(),
                "{name}: {difference} and {product}"
            );
        }

        for (backend, precision, taped, within) in [
            (Backend::Candle, Precision::Exact, false, 1e-4),
            (Backend::Fast, Precision::Exact, true, 1e-4),
            (Backend::Fast, Precision::Fast, true, 5e-4),
            (Backend::Fast, Precision::Fast, false, 5e-4),
        ] {
            set_backend(backend);
            set_precision(precision);
            let error = worst(&gradients(&network, &single, taped), &truth);
            println!("{backend:?} {precision:?} taped {taped}: {error:.1e}");
            assert!(
                error < within,
                "{backend:?} {precision:?} taped {taped}: {error:.1e}"
            );
        }

        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| gradients(&network, &single, true))
        };
        for ((name, a), (_, b)) in on(1).iter().zip(&on(3)) {
            assert_eq!(common::max_diff(a, b), 0., "{name}");
        }
    }
}
