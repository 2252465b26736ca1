//! Batch norms, convolutions of any border and transposed ones, against their definitions in f64.

use candle_core::{DType, Device, Tensor, Var};
use fndm_kernels::{Precision, set_precision};
use fndm_models::{
    BatchNorm, BatchNorms, Border, ConvNorm, Convolution, Mode, Parameters, ResNet, ResNetConfig,
    UpConvolution,
};

/// Values between -1 and 1 that repeat nowhere soon.
fn some(dims: &[usize], salt: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.5 - 1.0)
        .collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    let flat = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

fn worst(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let each = got.iter().zip(expected).map(|(g, e)| (g - e).abs());
    each.fold(0.0, f64::max)
}

const SHAPE: [usize; 4] = [3, 2, 4, 5];
const EPS: f64 = 1e-5;

/// Mean and biased variance of each channel.
fn moments(x: &[f64]) -> Vec<(f64, f64)> {
    let [b, c, h, w] = SHAPE;
    (0..c)
        .map(|c0| {
            let all: Vec<f64> = (0..b)
                .flat_map(|n| &x[(n * c + c0) * h * w..][..h * w])
                .copied()
                .collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let squares = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
            (mean, squares / all.len() as f64)
        })
        .collect()
}

fn normed(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let [_, c, h, w] = SHAPE;
    let moments = moments(x);
    let value = |(i, v): (usize, &f64)| {
        let c = i / (h * w) % c;
        let (mean, variance) = moments[c];
        weight[c] * (v - mean) / (variance + EPS).sqrt() + bias[c]
    };
    x.iter().enumerate().map(value).collect()
}

#[test]
fn batch_norm_in_training_and_after() {
    let (norms, parameters) = (
        BatchNorms::fresh(),
        Parameters::new(0, DType::F32, &Device::Cpu),
    );
    let norm = BatchNorm::new(2, EPS, &parameters.builder().pp("bn"), &norms).unwrap();
    let set = |name: &str, v: &[f32]| {
        let var = parameters.get(name).unwrap();
        var.set(&Tensor::new(v, &Device::Cpu).unwrap()).unwrap();
    };
    set("bn.weight", &[1.5, -0.5]);
    set("bn.bias", &[0.25, 2.0]);
    let (weight, bias) = ([1.5, -0.5], [0.25, 2.0]);
    let x = Var::from_tensor(&some(&SHAPE, 1)).unwrap();
    let y = norm.forward(x.as_tensor(), Mode::Train).unwrap();
    let wide = values(&x);
    assert!(worst(&values(&y), &normed(&wide, &weight, &bias)) < 1e-5);

    // The gradient of a weighted sum, by central differences in f64.
    let dy = some(&SHAPE, 2);
    let sum = (&y * &dy).unwrap().sum_all().unwrap();
    let store = sum.backward().unwrap();
    let got = values(store.get(x.as_tensor()).unwrap());
    let of = values(&dy);
    let total = |x: &[f64]| -> f64 {
        let y = normed(x, &weight, &bias);
        y.iter().zip(&of).map(|(y, d)| y * d).sum()
    };
    let step = 1e-5;
    let expected: Vec<f64> = (0..wide.len())
        .map(|i| {
            let (mut up, mut down) = (wide.clone(), wide.clone());
            up[i] += step;
            down[i] -= step;
            (total(&up) - total(&down)) / (2.0 * step)
        })
        .collect();
    assert!(worst(&got, &expected) < 1e-4);

    // A tenth of the batch, its variance unbiased, and nine tenths of what there was.
    let n = (SHAPE[0] * SHAPE[2] * SHAPE[3]) as f64;
    let state = norms.tensors().unwrap();
    let (mean, variance) = (
        values(&state["bn.running_mean"]),
        values(&state["bn.running_var"]),
    );
    for (c, (m, v)) in moments(&wide).into_iter().enumerate() {
        assert!((mean[c] - 0.1 * m).abs() < 1e-6);
        assert!((variance[c] - (0.9 + 0.1 * v * n / (n - 1.0))).abs() < 1e-6);
    }
    let count: i64 = state["bn.num_batches_tracked"].to_scalar().unwrap();
    assert_eq!(count, 1);

    let y = norm.forward(x.as_tensor(), Mode::Evaluate).unwrap();
    let (h, w) = (SHAPE[2], SHAPE[3]);
    let expected: Vec<f64> = wide
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let c = i / (h * w) % 2;
            weight[c] * (v - mean[c]) / (variance[c] + EPS).sqrt() + bias[c]
        })
        .collect();
    assert!(worst(&values(&y), &expected) < 1e-5);
    assert_eq!(
        values(&norms.tensors().unwrap()["bn.running_mean"]),
        mean,
        "evaluation moves nothing"
    );
}

#[test]
fn running_statistics_go_from_store_to_store() {
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let build = |norms: &BatchNorms| BatchNorm::new(2, EPS, &parameters.builder(), norms).unwrap();
    let first = BatchNorms::fresh();
    build(&first)
        .forward(&some(&SHAPE, 3), Mode::Train)
        .unwrap();
    let state = first.tensors().unwrap();
    let second = BatchNorms::fresh();
    build(&second);
    second.set(&state).unwrap();
    for (name, tensor) in second.tensors().unwrap() {
        assert_eq!(values(&tensor), values(&state[&name]), "{name}");
    }
    let mut lacking = state.clone();
    lacking.remove("running_var");
    assert!(second.set(&lacking).is_err());
    let one = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
    assert!(build(&second).forward(&one, Mode::Train).is_err());
    // From the weights, and nowhere else.
    assert!(BatchNorm::new(2, EPS, &parameters.builder(), &BatchNorms::from_weights()).is_ok());
    let empty = candle_nn::VarBuilder::zeros(DType::F32, &Device::Cpu);
    assert!(BatchNorm::new(2, EPS, &empty, &BatchNorms::from_weights()).is_ok());
}

/// A convolution by its definition, the border as asked for.
fn convolved(x: &Tensor, weight: &Tensor, stride: usize, border: Border) -> Vec<f64> {
    let (b, ci, h, w) = x.dims4().unwrap();
    let (co, _, k, _) = weight.dims4().unwrap();
    let (x, weight) = (values(x), values(weight));
    let place = |i: isize, n: usize| -> Option<usize> {
        let last = n as isize - 1;
        match border {
            Border::Zeros => (0..=last).contains(&i).then_some(i as usize),
            Border::Reflect => Some(
                (if i < 0 {
                    -i
                } else if i > last {
                    2 * last - i
                } else {
                    i
                }) as usize,
            ),
        }
    };
    let half = (k / 2) as isize;
    let mut out = Vec::new();
    for n in 0..b {
        for o in 0..co {
            for y in (0..h).step_by(stride) {
                for z in (0..w).step_by(stride) {
                    let mut sum = 0.0;
                    for c in 0..ci {
                        for dy in 0..k {
                            for dx in 0..k {
                                let row = place((y + dy) as isize - half, h);
                                let column = place((z + dx) as isize - half, w);
                                if let (Some(row), Some(column)) = (row, column) {
                                    sum += weight[((o * ci + c) * k + dy) * k + dx]
                                        * x[((n * ci + c) * h + row) * w + column];
                                }
                            }
                        }
                    }
                    out.push(sum);
                }
            }
        }
    }
    out
}

#[test]
fn convolutions_of_any_border() {
    set_precision(Precision::Exact);
    for (h, w) in [(8, 9), (7, 8)] {
        let x = some(&[2, 3, h, w], 4);
        for k in [1, 3, 5, 7] {
            for stride in [1, 2] {
                for border in [Border::Zeros, Border::Reflect] {
                    let weight = some(&[4, 3, k, k], k);
                    let conv = Convolution::of_weight(weight.clone(), stride, border).unwrap();
                    let got = conv.forward(&x).unwrap();
                    assert_eq!(got.dims(), [2, 4, h.div_ceil(stride), w.div_ceil(stride)]);
                    let error = worst(&values(&got), &convolved(&x, &weight, stride, border));
                    assert!(error < 1e-4, "{k} {stride} {border:?}: {error}");
                }
            }
        }
    }
    assert!(Convolution::of_weight(some(&[4, 3, 2, 2], 0), 1, Border::Zeros).is_err());
    let conv = Convolution::of_weight(some(&[4, 3, 7, 7], 0), 1, Border::Reflect).unwrap();
    assert!(conv.forward(&some(&[1, 3, 3, 3], 0)).is_err());
}

#[test]
fn a_transposed_convolution_makes_squares() {
    let parameters = Parameters::new(1, DType::F32, &Device::Cpu);
    let conv = UpConvolution::new((3, 2), true, &parameters.builder()).unwrap();
    let x = some(&[2, 3, 4, 5], 5);
    let got = conv.forward(&x).unwrap();
    assert_eq!(got.dims(), [2, 2, 8, 10]);
    let weight = values(parameters.get("weight").unwrap().as_tensor());
    let bias = values(parameters.get("bias").unwrap().as_tensor());
    let (got, x) = (values(&got), values(&x));
    for (i, got) in got.iter().enumerate() {
        let (n, o, y, z) = (i / 160, i / 80 % 2, i / 10 % 8, i % 10);
        let at = |c: usize| x[((n * 3 + c) * 4 + y / 2) * 5 + z / 2];
        let tap = |c: usize| weight[((c * 2 + o) * 2 + y % 2) * 2 + z % 2];
        let expected = bias[o] + (0..3).map(|c| at(c) * tap(c)).sum::<f64>();
        assert!((got - expected).abs() < 1e-5);
    }
}

#[test]
fn folding_changes_nothing_but_rounding() {
    let config = ResNetConfig {
        planes: vec![4, 6],
        blocks: vec![1, 2],
        in_channels: 2,
        ..ResNetConfig::wide_resnet50_2()
    };
    // Planes of 4 at a base width of 128 have 8 channels within.
    let (parameters, norms) = (
        Parameters::new(2, DType::F32, &Device::Cpu),
        BatchNorms::fresh(),
    );
    let net = ResNet::new(&config, parameters.builder(), &norms).unwrap();
    let x = some(&[2, 2, 32, 32], 6);
    net.forward(&x, Mode::Train).unwrap();
    let plain = net.forward(&x, Mode::Evaluate).unwrap();
    let folded = net.folded().unwrap().forward(&x, Mode::Evaluate).unwrap();
    for (a, b) in plain.layers.iter().zip(&folded.layers) {
        let scale = values(a).iter().fold(0f64, |m, v| m.max(v.abs()));
        assert!(worst(&values(a), &values(b)) < 1e-5 * scale.max(1.0));
    }
    let bad = ResNetConfig {
        blocks: vec![1],
        ..config
    };
    assert!(ResNet::new(&bad, parameters.builder(), &norms).is_err());
}

#[test]
fn folding_a_transposed_convolution_changes_nothing_but_rounding() {
    let (parameters, norms) = (
        Parameters::new(3, DType::F32, &Device::Cpu),
        BatchNorms::fresh(),
    );
    let builder = parameters.builder();
    let up = ConvNorm::up(("conv", "norm"), (3, 5), 1e-5, &builder, &norms).unwrap();
    let x = some(&[2, 3, 4, 6], 7);
    // Running statistics that aren't those of the start.
    up.forward(&x, Mode::Train).unwrap();
    let plain = values(&up.forward(&x, Mode::Evaluate).unwrap());
    let folded = up.folded().unwrap();
    assert!(folded.before_norm(&x).unwrap().is_none());
    let got = folded.forward(&x, Mode::Evaluate).unwrap();
    assert_eq!(got.dims(), [2, 5, 8, 12]);
    let scale = plain.iter().fold(1f64, |m, v| m.max(v.abs()));
    assert!(worst(&plain, &values(&got)) < 1e-5 * scale);
}
