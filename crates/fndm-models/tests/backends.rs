//! The networks on this project's kernels and on plain candle: one output, one gradient of every parameter.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use fndm_kernels::{Backend, Precision, Tape, set_backend, set_precision};
use fndm_models::{Classifier, ClassifierConfig, Parameters, UNet, UNetConfig};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect();
    Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
}

/// Adds a little to every parameter: the last layers of residual branches start at zero and would hide what is before.
fn wake(parameters: &Parameters) {
    for (i, (_, var)) in parameters.iter().enumerate() {
        let noise = (random(1000 + i as u64, var.dims()) * 0.05).unwrap();
        var.set(&(var.as_tensor() + noise).unwrap()).unwrap();
    }
}

type Found = BTreeMap<String, Tensor>;

/// The output, and the gradient of every parameter, of a training step of a UNet.
fn unet(parameters: &Parameters, net: &UNet, taped: bool) -> Found {
    let c = net.config();
    let (_, first) = parameters.iter().next().unwrap();
    let dtype = first.dtype();
    let x = random(1, &[2, c.in_channels, c.image_size, c.image_size])
        .to_dtype(dtype)
        .unwrap();
    let t = Tensor::new(&[17f32, 801.5], &Device::Cpu).unwrap();
    let y = c
        .num_classes
        .map(|_| Tensor::new(&[0u32, 1], &Device::Cpu).unwrap());
    let tape = taped.then(|| Tape::start().unwrap());
    let output = net.forward(&x, &t, y.as_ref()).unwrap();
    let weights = random(2, output.dims()).to_dtype(dtype).unwrap();
    let loss = (&output * weights)
        .unwrap()
        .sqr()
        .unwrap()
        .mean_all()
        .unwrap();
    let gradients = match tape {
        Some(tape) => tape.backward(&loss).unwrap(),
        None => loss.backward().unwrap(),
    };
    let mut found = Found::from([("output".to_string(), output.detach())]);
    for (name, var) in parameters.iter() {
        let gradient = gradients.get(&var);
        found.insert(
            format!("gradient of {name}"),
            gradient
                .unwrap_or_else(|| panic!("no gradient of {name}"))
                .clone(),
        );
    }
    found
}

/// The logits and the gradient that guides.
fn classifier(net: &Classifier) -> Found {
    let c = net.config();
    let x = random(3, &[2, c.in_channels, c.image_size, c.image_size]);
    let t = Tensor::new(&[3f32, 640.], &Device::Cpu).unwrap();
    let y = Tensor::new(&[1u32, 0], &Device::Cpu).unwrap();
    Found::from([
        ("logits".to_string(), net.forward(&x, &t).unwrap()),
        (
            "gradient of x".to_string(),
            net.log_prob_gradient(&x, &t, &y).unwrap(),
        ),
    ])
}

/// The largest difference over the largest value, in units of what is allowed, over all tensors; gradients of biases that a norm cancels are
/// compared with the largest gradient of all.
fn worst(
    what: &str,
    fast: &Found,
    plain: &Found,
    (outputs_within, gradients_within): (f64, f64),
) -> f64 {
    let top = |t: &Tensor| -> f64 {
        let t = t.to_dtype(DType::F64).unwrap().abs().unwrap();
        let largest = t.flatten_all().unwrap().max(0).unwrap();
        largest.to_scalar::<f64>().unwrap()
    };
    let gradients = |(name, _): &(&String, &Tensor)| name.starts_with("gradient");
    let of_all = plain
        .iter()
        .filter(gradients)
        .map(|(_, t)| top(t))
        .fold(0., f64::max);
    assert_eq!(fast.len(), plain.len());
    let mut worst = (0., String::new());
    for (name, p) in plain {
        let fast = fast[name].to_dtype(DType::F64).unwrap();
        let p = &p.to_dtype(DType::F64).unwrap();
        let difference = top(&(&fast - p).unwrap());
        assert!(difference.is_finite(), "{what}: {name}");
        // Exact outputs are held to 2e-5. Gradients of biases are sums over all pixels that nearly cancel: in single
        // precision plain candle itself is 1e-5 away from double precision there.
        let allowed = if name.starts_with("gradient") {
            gradients_within
        } else {
            outputs_within
        };
        let error = difference / top(p).max(1e-3 * of_all) / allowed;
        if error > worst.0 {
            worst = (error, name.clone());
        }
    }
    println!(
        "{what}: worst {:.2} of what is allowed, {}",
        worst.0, worst.1
    );
    worst.0
}

// One test, since the switches are those of the process.
#[test]
fn networks_agree_on_both_backends() {
    let device = &Device::Cpu;
    let small = UNetConfig::small_64(5, 2);
    let plain_time = UNetConfig {
        image_size: 32,
        use_scale_shift_norm: false,
        num_head_channels: None,
        channel_mult: vec![1., 2., 2.],
        attention_resolutions: vec![4],
        ..small.clone()
    };
    for (precision, within) in [
        (Precision::Exact, (2e-5, 1e-4)),
        (Precision::Fast, (5e-4, 5e-4)),
    ] {
        for config in [&small, &plain_time] {
            let parameters = Parameters::new(7, DType::F32, device);
            let net = UNet::new(config, parameters.builder()).unwrap();
            wake(&parameters);
            set_precision(precision);
            set_backend(Backend::Fast);
            let fast = unet(&parameters, &net, true);
            let untaped = unet(&parameters, &net, false);
            set_backend(Backend::Candle);
            let plain = unet(&parameters, &net, false);
            let doubled = Parameters::new(7, DType::F64, device);
            UNet::new(config, doubled.builder()).unwrap();
            for ((_, single), (_, double)) in parameters.iter().zip(doubled.iter()) {
                double.set(&single.to_dtype(DType::F64).unwrap()).unwrap();
            }
            let what = format!("unet {} px, {precision:?}", config.image_size);
            assert!(worst(&what, &fast, &plain, within) < 1.);
            assert!(worst(&format!("{what}, no tape"), &untaped, &plain, within) < 1.);
            let truth = unet(
                &doubled,
                &UNet::new(config, doubled.builder()).unwrap(),
                false,
            );
            assert!(worst(&format!("{what}, f64"), &fast, &truth, within) < 1.);
        }
        let config = ClassifierConfig::small_64(2);
        let parameters = Parameters::new(8, DType::F32, device);
        let net = Classifier::new(&config, parameters.builder()).unwrap();
        wake(&parameters);
        set_backend(Backend::Fast);
        let fast = classifier(&net);
        set_backend(Backend::Candle);
        let plain = classifier(&net);
        assert!(worst(&format!("classifier, {precision:?}"), &fast, &plain, within) < 1.);
    }
    set_backend(Backend::Fast);
    set_precision(Precision::Fast);
}
