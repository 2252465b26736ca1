//! EfficientNet-Lite0 against its recorded activations; ResNets against torchvision.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fndm_kernels::{Precision, set_precision};
use fndm_models::{Backbone, BackboneKind, Limits, StateDict};
use serde_json::Value;

/// The folder of weights beside the reference data.
fn weights() -> Option<PathBuf> {
    let golden = std::env::var_os("FNDM_GOLDEN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden"),
        PathBuf::from,
    );
    let folder = golden.join("../data/backbone_efficientnet_lite0");
    folder.join("check.json").is_file().then_some(folder)
}

/// The largest difference from a recorded mean, deviation, and eight channels in the middle, relative to the deviation.
fn worst(got: &Tensor, expected: &Value) -> f64 {
    let (_, _, h, w) = got.dims4().unwrap();
    let all: Vec<f64> = got
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let std = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
    let number = |v: &Value| v.as_f64().unwrap();
    let scale = number(&expected["std"]);
    let mut worst = (mean - number(&expected["mean"])).abs();
    worst = worst.max((std - scale).abs());
    let center = expected["first8_center"].as_array().unwrap();
    assert_eq!(center.len(), 8);
    for (c, wanted) in center.iter().enumerate() {
        let got = all[(c * h + h / 2) * w + w / 2];
        worst = worst.max((got - number(wanted)).abs());
    }
    worst / scale
}

fn as_map(logits: &Tensor) -> Tensor {
    let (b, n) = logits.dims2().unwrap();
    logits.reshape((b, n, 1, 1)).unwrap()
}

/// One pixel that isn't a number is in every map, and in the logits: no rectifier and no maximum loses it.
fn check_nan(net: &Backbone, kind: BackboneKind, x: &Tensor) {
    let mut values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let middle = values.len() / 2 + x.dims()[3] / 2;
    values[middle] = f32::NAN;
    let x = Tensor::from_vec(values, x.shape(), &Device::Cpu).unwrap();
    let names: Vec<&str> = kind.maps().iter().map(|(n, _, _)| *n).collect();
    let maps = net.maps(&x, &names).unwrap();
    let logits = net.logits(&x).unwrap();
    for (name, map) in names
        .iter()
        .chain(&["logits"])
        .zip(maps.iter().chain([&logits]))
    {
        let found = fndm_kernels::first_non_finite(map).unwrap();
        assert!(found.is_some(), "{kind:?} {name}: the NaN is lost");
    }
}

#[test]
fn efficientnet_lite0_has_the_recorded_activations() {
    let Some(folder) = weights() else {
        return common::aloud("no weights of EfficientNet-Lite0 beside the reference data");
    };
    set_precision(Precision::Exact);
    let text = std::fs::read_to_string(folder.join("check.json")).unwrap();
    let check: Value = serde_json::from_str(&text).unwrap();
    let kind = BackboneKind::EfficientNetLite0;
    let path = folder.join("efficientnet_lite0.safetensors");
    let net = Backbone::load(path, kind, &Limits::default(), &Device::Cpu).unwrap();
    let values: Vec<f32> = (0..3 * 128 * 128)
        .map(|i| {
            let (c, h, w) = (i / (128 * 128), i / 128 % 128, i % 128);
            (0.05 * f64::from(h) + 0.03 * f64::from(w) + f64::from(c)).sin() as f32
        })
        .collect();
    let x = Tensor::from_vec(values, (1, 3, 128, 128), &Device::Cpu).unwrap();

    check_nan(&net, kind, &x);
    let logits = net.logits(&x).unwrap();
    let mut got = BTreeMap::from([("logits", as_map(&logits))]);
    for (name, channels, down) in kind.maps() {
        let map = net.maps(&x, &[name]).unwrap().remove(0);
        assert_eq!(map.dims(), [1, *channels, 128 / down, 128 / down]);
        got.insert(name, map);
    }
    let layers = check["layers"].as_object().unwrap();
    assert_eq!(layers.len(), got.len());
    for (name, map) in got {
        let error = worst(&map, &layers[name]);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4, "{name}: {error:.2e}");
    }
}

/// Number i of a tensor, in [0, 1): the formula of `golden/backbones.py`.
fn uniform(name: &str, n: usize) -> impl Iterator<Item = f64> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..n as u64).map(move |i| {
        let mut z = seed.wrapping_add(i).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
    })
}

fn weight(name: &str, shape: &[usize]) -> Tensor {
    let fan_in: usize = shape[1..].iter().product();
    let bound = (3. / fan_in as f64).sqrt();
    let values: Vec<f32> = uniform(name, shape.iter().product())
        .map(|u| {
            let v = if name.ends_with("running_var") || shape.len() == 1 && name.ends_with("weight")
            {
                0.5 + u
            } else if shape.len() == 1 {
                u - 0.5
            } else {
                (2. * u - 1.) * bound
            };
            v as f32
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn torchvision() -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backbones.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn state(model: &Value) -> StateDict {
    let shapes: BTreeMap<String, Vec<usize>> =
        serde_json::from_value(model["shapes"].clone()).unwrap();
    let tensors = shapes
        .into_iter()
        .map(|(name, shape)| {
            let tensor = weight(&name, &shape);
            (name, tensor)
        })
        .collect();
    StateDict::new(tensors)
}

#[test]
fn resnets_give_what_torchvision_gives() {
    set_precision(Precision::Exact);
    let golden = torchvision();
    let device = &Device::Cpu;
    for (name, kind) in [
        ("resnet18", BackboneKind::ResNet18),
        ("resnet50", BackboneKind::ResNet50),
        ("wide_resnet50_2", BackboneKind::WideResNet50),
    ] {
        let model = &golden["models"][name];
        // PyTorch's files count batches too.
        let mut tensors = state(model).tensors().clone();
        let count = Tensor::new(7i64, device).unwrap();
        tensors.insert("bn1.num_batches_tracked".into(), count);
        let trainable: usize = tensors
            .iter()
            .filter(|(n, t)| !n.contains("running") && t.dtype() == DType::F32)
            .map(|(_, t)| t.elem_count())
            .sum();
        assert_eq!(trainable as u64, model["parameters"].as_u64().unwrap());
        let net = Backbone::from_state_dict(kind, &StateDict::new(tensors), device).unwrap();

        let shape: Vec<usize> = serde_json::from_value(golden["input_shape"].clone()).unwrap();
        let values: Vec<f32> = uniform("image", shape.iter().product())
            .map(|u| (2. * u - 1.) as f32)
            .collect();
        let x = Tensor::from_vec(values, shape, device).unwrap();
        check_nan(&net, kind, &x);
        let names: Vec<&str> = kind.maps().iter().map(|(n, _, _)| *n).collect();
        let mut maps = net.maps(&x, &names).unwrap();
        for (map, (_, channels, down)) in maps.iter().zip(kind.maps()) {
            assert_eq!(
                map.dims(),
                [2, *channels, 48usize.div_ceil(*down), 64 / down]
            );
        }
        maps.push(as_map(&net.logits(&x).unwrap()));
        for (layer, map) in names.iter().chain(&["logits"]).zip(&maps) {
            let expected = match *layer {
                "logits" => &model["logits"],
                layer => &model["maps"][layer],
            };
            let dims: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
            assert!(map.dims().starts_with(&dims), "{name} {layer}");
            let error = worst(map, expected);
            println!("{name} {layer}: {error:.1e}");
            assert!(error < 1e-5, "{name} {layer}: {error:.2e}");
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let state = state(&torchvision()["models"]["resnet18"]);
    let kind = BackboneKind::ResNet18;
    let net = Backbone::from_state_dict(kind, &state, &Device::Cpu).unwrap();
    let x = |c| Tensor::zeros((1, c, 32, 32), DType::F32, &Device::Cpu).unwrap();
    let error = net.maps(&x(3), &["layer9"]).unwrap_err().to_string();
    assert!(error.contains("layer4"), "{error}");
    assert!(net.maps(&x(2), &["layer1"]).is_err());
    assert!(net.prepare(&x(2)).is_err());
    let one = net.prepare(&x(1)).unwrap();
    assert_eq!(one.dims(), [1, 3, 32, 32]);
    // 0 is the middle grey.
    let first: f32 = one
        .flatten_all()
        .unwrap()
        .get(0)
        .unwrap()
        .to_scalar()
        .unwrap();
    assert!((first - (0.5 - 0.485) / 0.229).abs() < 1e-6);
    let state = state.without(|n| n == "fc.bias");
    assert!(Backbone::from_state_dict(kind, &state, &Device::Cpu).is_err());
}
