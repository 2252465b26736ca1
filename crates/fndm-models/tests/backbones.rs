//! EfficientNet-Lite0 against its recorded activations; ResNets against a slow f64 network written out plainly.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fndm_kernels::{Precision, set_precision};
use fndm_models::{Backbone, BackboneKind, Limits, StateDict};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
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

#[test]
fn efficientnet_lite0_has_the_recorded_activations() {
    let Some(folder) = weights() else {
        println!("skipped: no weights of EfficientNet-Lite0");
        return;
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

    let layers = check["layers"].as_object().unwrap();
    let mut checked = 0;
    for (name, channels, down) in kind.maps() {
        let map = net.maps(&x, &[name]).unwrap().remove(0);
        assert_eq!(map.dims(), [1, *channels, 128 / down, 128 / down]);
        let expected = &layers[*name];
        let (_, _, h, w) = map.dims4().unwrap();
        let map = map.to_dtype(DType::F64).unwrap();
        let all: Vec<f64> = map.flatten_all().unwrap().to_vec1().unwrap();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let std = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
        let scale = expected["std"].as_f64().unwrap();
        let mut worst = (mean - expected["mean"].as_f64().unwrap()).abs() / scale;
        worst = worst.max((std - scale).abs() / scale);
        for (c, wanted) in expected["first8_center"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let got = all[(c * h + h / 2) * w + w / 2];
            worst = worst.max((got - wanted.as_f64().unwrap()).abs() / scale);
        }
        println!("{name}: {worst:.1e}");
        assert!(worst < 1e-4, "{name}: {worst:.2e}");
        checked += 1;
    }
    println!("{checked} of {} layers", layers.len());
    let logits: Vec<f32> = net
        .logits(&x)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    assert_eq!(logits.len(), 1000);
    if let Some(first) = layers
        .get("logits")
        .and_then(|l| l["first8_center"].as_array())
    {
        for (got, wanted) in logits.iter().zip(first) {
            assert!((f64::from(*got) - wanted.as_f64().unwrap()).abs() < 1e-3);
        }
    }
}

/// Names and shapes of a ResNet of torchvision, written out from its definition.
fn resnet_shapes(kind: BackboneKind) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::new();
    let mut conv = |name: String, norm: String, o: usize, i: usize, k: usize| {
        shapes.insert(format!("{name}.weight"), vec![o, i, k, k]);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            shapes.insert(format!("{norm}.{part}"), vec![o]);
        }
    };
    let (repeats, bottleneck, width) = plan(kind);
    conv("conv1".into(), "bn1".into(), 64, 3, 7);
    let mut c = 64;
    for (l, n) in repeats.into_iter().enumerate() {
        let planes = 64 << l;
        let out = if bottleneck { 4 * planes } else { planes };
        for r in 0..n {
            let p = format!("layer{}.{r}", l + 1);
            let sizes = if bottleneck {
                let m = planes * width;
                vec![(m, c, 1), (m, m, 3), (out, m, 1)]
            } else {
                vec![(planes, c, 3), (out, planes, 3)]
            };
            for (n, (o, i, k)) in sizes.into_iter().enumerate() {
                conv(
                    format!("{p}.conv{}", n + 1),
                    format!("{p}.bn{}", n + 1),
                    o,
                    i,
                    k,
                );
            }
            if r == 0 && (l > 0 || c != out) {
                conv(
                    format!("{p}.downsample.0"),
                    format!("{p}.downsample.1"),
                    out,
                    c,
                    1,
                );
            }
            c = out;
        }
    }
    shapes.insert("fc.weight".into(), vec![1000, c]);
    shapes.insert("fc.bias".into(), vec![1000]);
    shapes
}

fn plan(kind: BackboneKind) -> ([usize; 4], bool, usize) {
    match kind {
        BackboneKind::ResNet18 => ([2, 2, 2, 2], false, 1),
        BackboneKind::ResNet50 => ([3, 4, 6, 3], true, 1),
        _ => ([3, 4, 6, 3], true, 2),
    }
}

/// Random weights under which activations keep their size.
fn random_weights(kind: BackboneKind) -> StateDict {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let tensors = resnet_shapes(kind)
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product();
            let fan_in: usize = shape[1..].iter().product();
            let values: Vec<f32> = (0..n)
                .map(|_| {
                    let v = rng.random::<f32>();
                    if name.ends_with("running_var") || shape.len() == 1 && name.ends_with("weight")
                    {
                        0.5 + v
                    } else if shape.len() == 1 {
                        v - 0.5
                    } else {
                        (2. * v - 1.) * (3. / fan_in as f32).sqrt()
                    }
                })
                .collect();
            (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        })
        .collect();
    StateDict::new(tensors)
}

/// A map of one image in f64.
struct Map {
    c: usize,
    side: usize,
    v: Vec<f64>,
}

struct Slow<'a>(&'a StateDict);

impl Slow<'_> {
    fn get(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let t = self.0.get(name).unwrap();
        let v = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        (t.dims().to_vec(), v.to_vec1().unwrap())
    }

    fn conv_norm(&self, x: &Map, conv: &str, norm: &str, stride: usize) -> Map {
        let (shape, w) = self.get(&format!("{conv}.weight"));
        let (o, i, k) = (shape[0], shape[1], shape[2]);
        let part = |p: &str| self.get(&format!("{norm}.{p}")).1;
        let (gamma, beta) = (part("weight"), part("bias"));
        let (mean, variance) = (part("running_mean"), part("running_var"));
        let side = x.side.div_ceil(stride);
        let mut v = vec![0.; o * side * side];
        for oc in 0..o {
            for y in 0..side {
                for z in 0..side {
                    let mut sum = 0.;
                    for (ky, kx) in (0..k * k).map(|t| (t / k, t % k)) {
                        let (sy, sx) = (y * stride + ky, z * stride + kx);
                        let inside = |s: usize| s >= k / 2 && s - k / 2 < x.side;
                        if inside(sy) && inside(sx) {
                            let at = (sy - k / 2) * x.side + sx - k / 2;
                            for ic in 0..i {
                                sum += w[((oc * i + ic) * k + ky) * k + kx]
                                    * x.v[ic * x.side * x.side + at];
                            }
                        }
                    }
                    let normal = (sum - mean[oc]) / (variance[oc] + 1e-5).sqrt();
                    v[(oc * side + y) * side + z] = normal * gamma[oc] + beta[oc];
                }
            }
        }
        Map { c: o, side, v }
    }

    fn run(&self, kind: BackboneKind, x: &Map) -> Vec<Map> {
        let relu = |m: &mut Map| m.v.iter_mut().for_each(|v| *v = v.max(0.));
        let mut h = self.conv_norm(x, "conv1", "bn1", 2);
        relu(&mut h);
        let side = h.side.div_ceil(2);
        let mut pooled = vec![0.; h.c * side * side];
        for (at, out) in pooled.iter_mut().enumerate() {
            let (c, y, z) = (at / (side * side), at / side % side, at % side);
            *out = f64::NEG_INFINITY;
            for (dy, dx) in (0..9).map(|t| (t / 3, t % 3)) {
                let (sy, sx) = (2 * y + dy, 2 * z + dx);
                if (1..=h.side).contains(&sy) && (1..=h.side).contains(&sx) {
                    *out = out.max(h.v[(c * h.side + sy - 1) * h.side + sx - 1]);
                }
            }
        }
        let mut maps = vec![Map {
            c: h.c,
            side,
            v: pooled,
        }];
        let (repeats, bottleneck, _) = plan(kind);
        for (l, n) in repeats.into_iter().enumerate() {
            let mut x = Map {
                c: maps[l].c,
                side: maps[l].side,
                v: maps[l].v.clone(),
            };
            for r in 0..n {
                let p = format!("layer{}.{r}", l + 1);
                let stride = if l > 0 && r == 0 { 2 } else { 1 };
                let strides = if bottleneck {
                    vec![1, stride, 1]
                } else {
                    vec![stride, 1]
                };
                let mut h = Map {
                    c: x.c,
                    side: x.side,
                    v: x.v.clone(),
                };
                let last = strides.len();
                for (n, s) in strides.into_iter().enumerate() {
                    h = self.conv_norm(
                        &h,
                        &format!("{p}.conv{}", n + 1),
                        &format!("{p}.bn{}", n + 1),
                        s,
                    );
                    if n + 1 < last {
                        relu(&mut h);
                    }
                }
                if self.0.get(&format!("{p}.downsample.0.weight")).is_some() {
                    x = self.conv_norm(
                        &x,
                        &format!("{p}.downsample.0"),
                        &format!("{p}.downsample.1"),
                        stride,
                    );
                }
                h.v.iter_mut().zip(&x.v).for_each(|(a, b)| *a += b);
                relu(&mut h);
                x = h;
            }
            maps.push(x);
        }
        maps
    }
}

fn check_resnet(kind: BackboneKind, published_parameters: usize) {
    set_precision(Precision::Exact);
    let state = random_weights(kind);
    let trainable: usize = state
        .tensors()
        .iter()
        .filter(|(n, _)| !n.contains("running"))
        .map(|(_, t)| t.elem_count())
        .sum();
    assert_eq!(trainable, published_parameters);
    // PyTorch's files count batches too.
    let mut tensors = state.tensors().clone();
    tensors.insert(
        "bn1.num_batches_tracked".into(),
        Tensor::new(7i64, &Device::Cpu).unwrap(),
    );
    let net = Backbone::from_state_dict(kind, &StateDict::new(tensors), &Device::Cpu).unwrap();

    let side = 32;
    let values: Vec<f32> = (0..3 * side * side)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let x = Tensor::from_vec(values.clone(), (1, 3, side, side), &Device::Cpu).unwrap();
    let slow = Slow(&state).run(
        kind,
        &Map {
            c: 3,
            side,
            v: values.into_iter().map(f64::from).collect(),
        },
    );
    let names: Vec<&str> = kind.maps().iter().map(|(n, _, _)| *n).collect();
    let maps = net.maps(&x, &names).unwrap();
    for ((map, slow), (name, channels, down)) in maps.iter().zip(&slow).zip(kind.maps()) {
        assert_eq!(map.dims(), [1, *channels, side / down, side / down]);
        let slow = Tensor::from_slice(&slow.v, map.dims(), &Device::Cpu).unwrap();
        let error = common::relative(map, &slow);
        println!("{kind:?} {name}: {error:.1e}");
        assert!(error < 1e-5, "{kind:?} {name}: {error:.2e}");
    }
    assert_eq!(net.logits(&x).unwrap().dims(), [1, 1000]);
}

#[test]
fn resnet18() {
    check_resnet(BackboneKind::ResNet18, 11_689_512);
}

#[test]
fn resnet50() {
    check_resnet(BackboneKind::ResNet50, 25_557_032);
}

#[test]
fn wide_resnet50_2() {
    check_resnet(BackboneKind::WideResNet50, 68_883_240);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let net = Backbone::from_state_dict(
        BackboneKind::ResNet18,
        &random_weights(BackboneKind::ResNet18),
        &Device::Cpu,
    )
    .unwrap();
    let x = |c| Tensor::zeros((1, c, 32, 32), DType::F32, &Device::Cpu).unwrap();
    assert!(
        net.maps(&x(3), &["layer9"])
            .unwrap_err()
            .to_string()
            .contains("layer4")
    );
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
    let state = random_weights(BackboneKind::ResNet18).without(|n| n == "fc.bias");
    assert!(Backbone::from_state_dict(BackboneKind::ResNet18, &state, &Device::Cpu).is_err());
}
