//! Every parameter of every preset receives a gradient; first values are PyTorch's and don't depend on threads.

mod common;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use fndm_kernels::{Precision, set_precision};
use fndm_models::{Classifier, ClassifierConfig, Parameters, Pool, UNet, UNetConfig, log_softmax};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Layers that start at zero block the gradients of all before them: give them values, as training would.
fn wake(parameters: &Parameters) {
    for (i, (name, var)) in parameters.iter().enumerate() {
        if common::max_abs(&var) == 0. {
            let values = (random(i as u64, var.dims()) * 0.1).unwrap();
            var.set(&values).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

fn check_all(what: &str, parameters: &Parameters, gradients: &GradStore) {
    let without: Vec<String> = parameters
        .iter()
        .filter(|(_, var)| gradients.get(var).is_none_or(|g| common::max_abs(g) == 0.))
        .map(|(name, _)| name)
        .collect();
    assert!(without.is_empty(), "{what}: no gradient for {without:?}");
}

/// The presets as they are, on the smallest images that leave two positions to the attention of the deepest level (over
/// one position its weights are 1, whatever q and k are).
#[test]
fn every_parameter_of_every_unet_preset() {
    let presets = [
        ("small_64", UNetConfig::small_64(9, 4)),
        ("paper_64", UNetConfig::paper_64(9, 4)),
        ("paper_128", UNetConfig::paper_128(9, 4)),
        (
            "paper_256",
            UNetConfig::paper_256(9, 4).with_learned_sigma(),
        ),
        (
            "updown",
            UNetConfig {
                channel_mult: vec![1., 1.5, 2.],
                model_channels: 64,
                resblock_updown: true,
                use_new_attention_order: true,
                attention_resolutions: vec![2],
                in_channels: 9,
                ..UNetConfig::default()
            },
        ),
    ];
    for (name, config) in presets {
        let parameters = common::parameters(1);
        let unet = UNet::new(&config, parameters.builder()).unwrap();
        wake(&parameters);
        let side = 1 << (config.channel_mult.len() - 1);
        let x = random(2, &[2, 9, side, 2 * side]);
        let t = Tensor::new(&[3.5f32, 800.], &Device::Cpu).unwrap();
        // Both labels, or a row of the label table would have none.
        let y = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
        let y = config.num_classes.map(|_| &y);
        // A different weight for every value, or a mean over groups might vanish.
        let loss = |output: &Tensor| (output * random(3, output.dims()))?.sum_all();
        let (_, gradients) = unet.loss_gradients(&x, &t, y, None, loss).unwrap();
        println!("{name}: {} parameters", parameters.len_elements());
        check_all(name, &parameters, &gradients);
        // What the original has under these flags.
        let expected = match name {
            "paper_64" => 82_968_068,
            "paper_128" => 85_611_780,
            "paper_256" => 113_686_920,
            _ => continue,
        };
        assert_eq!(parameters.len_elements(), expected, "{name}");
    }
}

#[test]
fn every_parameter_of_every_classifier_preset() {
    let small = ClassifierConfig::small_64(4);
    let mut presets = vec![
        ("paper_64", ClassifierConfig::paper_64(4)),
        ("paper_128", ClassifierConfig::paper_128(4)),
        ("paper_256", ClassifierConfig::paper_256(4)),
    ];
    for pool in [
        Pool::Adaptive,
        Pool::Attention,
        Pool::Spatial,
        Pool::SpatialV2,
        Pool::SpatialAverage8,
    ] {
        let config = ClassifierConfig {
            pool,
            ..small.clone()
        };
        presets.push(("small_64", config));
    }
    for (name, config) in presets {
        let parameters = common::parameters(1);
        let net = Classifier::new(&config, parameters.builder()).unwrap();
        wake(&parameters);
        let side = config.image_size;
        let (h, w) = match config.pool {
            // 64 channels: four tiles of 8x8 at an eighth of the size.
            Pool::SpatialAverage8 => (2 * side, 2 * side),
            _ => (side, side),
        };
        let x = random(2, &[1, 4, h, w]);
        let t = Tensor::new(&[800f32], &Device::Cpu).unwrap();
        let tape = fndm_kernels::Tape::start().unwrap();
        let logits = net.forward(&x, &t).unwrap();
        let loss = log_softmax(&logits).unwrap().narrow(1, 0, 1).unwrap();
        let gradients = tape.backward(&loss.sum_all().unwrap()).unwrap();
        println!(
            "{name} {:?}: {} parameters",
            config.pool,
            parameters.len_elements()
        );
        check_all(
            &format!("{name} {:?}", config.pool),
            &parameters,
            &gradients,
        );
        let expected = match name {
            "paper_64" => 4_082_178,
            "paper_128" => 4_216_578,
            "paper_256" => 5_452_962,
            _ => continue,
        };
        assert_eq!(parameters.len_elements(), expected, "{name}");
    }
}

#[test]
fn presets_have_the_size_they_say() {
    let count = |config: &UNetConfig| {
        let parameters = common::parameters(0);
        UNet::new(config, parameters.builder()).unwrap();
        parameters.len_elements()
    };
    let small = count(&UNetConfig::small_64(9, 4));
    println!("UNet small_64: {small}");
    assert!((2_000_000..3_000_000).contains(&small), "{small}");
    let parameters = common::parameters(0);
    Classifier::new(&ClassifierConfig::small_64(4), parameters.builder()).unwrap();
    println!("classifier small_64: {}", parameters.len_elements());
    assert!(parameters.len_elements() < 800_000);
}

#[test]
fn first_values_are_pytorchs() {
    let parameters = common::parameters(3);
    UNet::new(&UNetConfig::small_64(1, 1), parameters.builder()).unwrap();
    for (name, var) in parameters.iter() {
        let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        let zero = name.contains("out_layers.3.")
            || name.contains("proj_out.")
            || name.starts_with("out.2.");
        let norm = ["in_layers.0.", "out_layers.0.", "norm.", "out.0."]
            .iter()
            .any(|n| name.contains(n));
        if zero || (norm && name.ends_with("bias")) {
            assert_eq!(largest, 0., "{name}");
        } else if norm {
            assert!(values.iter().all(|v| *v == 1.), "{name}");
        } else if name == "label_emb.weight" {
            let mean_square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
            assert!((mean_square - 1.).abs() < 0.3, "{name}: {mean_square}");
        } else {
            let weight = parameters.get(&name.replace("bias", "weight")).unwrap();
            let fan_in: usize = weight.dims()[1..].iter().product();
            let bound = 1. / (fan_in as f32).sqrt();
            // The largest of n uniform values is within a few bound / n of the bound.
            assert!(largest <= bound, "{name}: {largest} > {bound}");
            assert!(largest > bound * (1. - 10. / values.len() as f32), "{name}");
        }
    }
}

#[test]
fn same_seed_same_values_whatever_the_order() {
    let (a, b) = (common::parameters(5), common::parameters(5));
    let config = UNetConfig::small_64(2, 2);
    UNet::new(&config, a.builder()).unwrap();
    let last: Vec<(String, Var)> = a.iter().collect();
    for (name, var) in last.iter().rev() {
        let hint = candle_nn::Init::Uniform { lo: -1., up: 1. };
        let mine = b.builder().get_with_hints(var.dims(), name, hint).unwrap();
        assert_eq!(mine.dims(), var.dims());
    }
    let (a, b) = (common::parameters(5), common::parameters(5));
    UNet::new(&config, a.builder()).unwrap();
    UNet::new(&config, b.builder()).unwrap();
    for ((name, x), (_, y)) in a.iter().zip(b.iter()) {
        assert_eq!(common::max_diff(&x, &y), 0., "{name}");
    }
    let c = common::parameters(6);
    UNet::new(&config, c.builder()).unwrap();
    let name = "input_blocks.0.0.weight";
    assert!(common::max_diff(&a.get(name).unwrap(), &c.get(name).unwrap()) > 0.);
}

#[test]
fn frozen_networks_track_nothing_and_keep_their_values() {
    let parameters = common::parameters(1);
    let config = ClassifierConfig::small_64(1);
    let net = Classifier::new(&config, parameters.builder()).unwrap();
    wake(&parameters);
    let frozen = Classifier::new(&config, parameters.frozen().unwrap()).unwrap();
    let x = random(2, &[1, 1, 64, 64]);
    let t = Tensor::new(&[10f32], &Device::Cpu).unwrap();
    let before = frozen.forward(&x, &t).unwrap();
    assert!(!before.track_op());
    assert_eq!(common::max_diff(&before, &net.forward(&x, &t).unwrap()), 0.);
    for (_, var) in parameters.iter() {
        var.set(&(var.as_tensor() * 0.5).unwrap()).unwrap();
    }
    assert_eq!(
        common::max_diff(&before, &frozen.forward(&x, &t).unwrap()),
        0.
    );
    assert!(common::max_diff(&before, &net.forward(&x, &t).unwrap()) > 0.);
}

#[test]
fn dropout_depends_on_its_seed_alone() {
    let config = UNetConfig {
        dropout: 0.5,
        ..UNetConfig::small_64(1, 1)
    };
    let parameters = common::parameters(1);
    let unet = UNet::new(&config, parameters.builder()).unwrap();
    wake(&parameters);
    let x = random(2, &[1, 1, 32, 32]);
    let t = Tensor::new(&[10f32], &Device::Cpu).unwrap();
    let y = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    let run = |seed| unet.forward_train(&x, &t, Some(&y), seed).unwrap();
    assert_eq!(common::max_diff(&run(1), &run(1)), 0.);
    assert!(common::max_diff(&run(1), &run(2)) > 0.);
    let plain = unet.forward(&x, &t, Some(&y)).unwrap();
    assert!(common::max_diff(&run(1), &plain) > 0.);
    assert_eq!(plain.dtype(), DType::F32);
}

#[test]
fn recomputed_gradients_are_the_plain_ones() {
    set_precision(Precision::Exact);
    for (dropout, num_classes) in [(0., None), (0.3, Some(2))] {
        let config = UNetConfig {
            dropout,
            num_classes,
            ..UNetConfig::small_64(3, 2)
        };
        let parameters = common::parameters(1);
        let unet = UNet::new(&config, parameters.builder()).unwrap();
        wake(&parameters);
        let x = random(2, &[2, 3, 32, 32]);
        let t = Tensor::new(&[3.5f32, 800.], &Device::Cpu).unwrap();
        let y = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
        let y = num_classes.map(|_| &y);
        let loss = |output: &Tensor| output.sqr()?.mean_all();
        let plain = loss(&unet.forward_train(&x, &t, y, 9).unwrap()).unwrap();
        let expected = plain.backward().unwrap();
        let (found, gradients) = unet.loss_gradients(&x, &t, y, Some(9), loss).unwrap();
        assert_eq!(common::max_diff(&plain, &found), 0.);
        // Between terms of opposite sign a gradient may all but vanish, so errors are relative to the largest of all.
        let largest = parameters.iter().fold(0f64, |m, (_, v)| {
            m.max(common::max_abs(expected.get(&v).unwrap()))
        });
        for (name, var) in parameters.iter() {
            let got = gradients.get(&var).unwrap_or_else(|| panic!("{name}"));
            let error = common::max_diff(got, expected.get(&var).unwrap()) / largest;
            assert!(error < 1e-6, "{name}: {error:.2e}");
        }
    }
}

#[test]
fn recomputed_gradients_of_a_classifier_are_the_plain_ones() {
    set_precision(Precision::Exact);
    for (pool, dropout) in [
        (Pool::Adaptive, 0.),
        (Pool::Attention, 0.3),
        (Pool::Spatial, 0.3),
        (Pool::SpatialV2, 0.),
    ] {
        let config = ClassifierConfig {
            pool,
            dropout,
            ..ClassifierConfig::small_64(3)
        };
        let parameters = common::parameters(1);
        let net = Classifier::new(&config, parameters.builder()).unwrap();
        wake(&parameters);
        let x = random(2, &[2, 3, 64, 64]);
        let t = Tensor::new(&[3.5f32, 800.], &Device::Cpu).unwrap();
        let loss = |logits: &Tensor| logits.sqr()?.mean_all();
        let plain = loss(&net.forward_train(&x, &t, 9).unwrap()).unwrap();
        let expected = plain.backward().unwrap();
        let (found, gradients) = net.loss_gradients(&x, &t, Some(9), loss).unwrap();
        assert_eq!(common::max_diff(&plain, &found), 0.);
        let largest = parameters.iter().fold(0f64, |m, (_, v)| {
            m.max(common::max_abs(expected.get(&v).unwrap()))
        });
        for (name, var) in parameters.iter() {
            let got = gradients.get(&var).unwrap_or_else(|| panic!("{name}"));
            let error = common::max_diff(got, expected.get(&var).unwrap()) / largest;
            assert!(error < 1e-6, "{pool:?} {name}: {error:.2e}");
        }
    }
}

/// All gradients of a UNet and the guidance of a classifier, both ways of computing convolutions.
#[test]
fn same_bits_on_one_thread_and_on_two() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let parameters = common::parameters(1);
            let config = UNetConfig {
                dropout: 0.1,
                ..UNetConfig::small_64(3, 2)
            };
            let unet = UNet::new(&config, parameters.builder()).unwrap();
            wake(&parameters);
            let x = random(2, &[2, 3, 64, 64]);
            let t = Tensor::new(&[3.5f32, 800.], &Device::Cpu).unwrap();
            let y = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
            let tape = fndm_kernels::Tape::start().unwrap();
            let output = unet.forward_train(&x, &t, Some(&y), 4).unwrap();
            let loss = output.sqr().unwrap().mean_all().unwrap();
            let gradients = tape.backward(&loss).unwrap();
            let mut all = vec![output.detach()];
            all.extend(
                parameters
                    .iter()
                    .map(|(_, v)| gradients.get(&v).unwrap().clone()),
            );
            let of_classifier = common::parameters(2);
            let config = ClassifierConfig::small_64(3);
            let net = Classifier::new(&config, of_classifier.builder()).unwrap();
            wake(&of_classifier);
            all.push(net.log_prob_gradient(&x, &t, &y).unwrap());
            all
        })
    };
    for precision in [Precision::Exact, Precision::Fast] {
        set_precision(precision);
        for (a, b) in run(1).iter().zip(run(2)) {
            assert_eq!(common::max_diff(a, &b), 0.);
        }
    }
}
