//! Flows by their definition: the inverse undoes the forward pass, and the log-determinant is that of the dense Jacobian matrix, taken by
//! central differences in f64.

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use fndm_baselines::cflow::{Decoder, DecoderConfig};
use fndm_baselines::csflow::{CrossFlow, CrossFlowConfig};
use fndm_baselines::fastflow::{FastFlowConfig, LayerConfig, LayerFlow};
use fndm_baselines::flows::{Flowed, Source, random_permutation, random_rotation};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Weights of no pattern; permutations and rotations under their names.
struct Random {
    seed: u64,
    rotations: bool,
}

impl Random {
    fn stream(name: &str) -> u64 {
        name.bytes()
            .fold(7, |h, b| h * 31 % 1_000_003 + u64::from(b))
    }
}

impl SimpleBackend for Random {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, _: &Device) -> CandleResult<Tensor> {
        let shape = s.dims().to_vec();
        if let Some((block, _)) = name.split_once(".w_perm") {
            let (n, stream) = (shape[0], Self::stream(block));
            let matrix = if self.rotations {
                random_rotation(n, self.seed, stream)
            } else {
                let mut matrix = vec![0.0; n * n];
                let order = random_permutation(n, self.seed, stream);
                order
                    .iter()
                    .enumerate()
                    .for_each(|(o, c)| matrix[o * n + c] = 1.0);
                matrix
            };
            let matrix = Tensor::from_vec(matrix, (n, n), &Device::Cpu)?;
            let matrix = match name.ends_with("_inv") {
                true => matrix.t()?.contiguous()?,
                false => matrix,
            };
            return matrix.reshape(shape)?.to_dtype(dtype);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(Self::stream(name));
        // Raw scales around those of 0.2 to 1.5; all else as large as in networks, so that the way back is well conditioned.
        let fan: usize = shape.iter().skip(1).product();
        let (mean, deviation) = match name.ends_with("global_scale") {
            true => (8.0, 3.0),
            false => (0.1 / fan as f64, 1.0 / (fan as f64).sqrt()),
        };
        let values: Vec<f64> = (0..s.elem_count())
            .map(|_| mean + deviation * rng.sample::<f64, _>(StandardNormal))
            .collect();
        Tensor::from_vec(values, s, &Device::Cpu)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        candle_core::bail!("{name}: no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

fn builder(seed: u64, rotations: bool) -> VarBuilder<'static> {
    let backend = Random { seed, rotations };
    VarBuilder::from_backend(Box::new(backend), DType::F64, Device::Cpu)
}

fn features(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.sample(StandardNormal)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensors: &[Tensor]) -> Vec<f64> {
    let each = tensors.iter();
    each.flat_map(|t| t.flatten_all().unwrap().to_vec1::<f64>().unwrap())
        .collect()
}

/// The logarithm of the absolute determinant, by elimination with pivots.
fn log_abs_det(mut m: Vec<Vec<f64>>) -> f64 {
    let n = m.len();
    let mut sum = 0.0;
    for i in 0..n {
        let pivot = (i..n)
            .max_by(|&a, &b| m[a][i].abs().total_cmp(&m[b][i].abs()))
            .unwrap();
        m.swap(i, pivot);
        sum += m[i][i].abs().ln();
        let top = m[i].clone();
        for row in &mut m[i + 1..] {
            let factor = row[i] / top[i];
            row.iter_mut().zip(&top).for_each(|(a, b)| *a -= factor * b);
        }
    }
    sum
}

/// Of one sample: the log-determinant of `forward`'s Jacobian at `x`.
fn dense(x: &[Tensor], forward: impl Fn(&[Tensor]) -> Vec<Tensor>) -> f64 {
    let step = 1e-5;
    let mut columns = Vec::new();
    for (part, tensor) in x.iter().enumerate() {
        for at in 0..tensor.elem_count() {
            let moved = |by: f64| {
                let mut values = tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                values[at] += by;
                let mut all = x.to_vec();
                all[part] = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
                flat(&forward(&all))
            };
            let (up, down) = (moved(step), moved(-step));
            let column = up.iter().zip(&down).map(|(a, b)| (a - b) / (2.0 * step));
            columns.push(column.collect::<Vec<f64>>());
        }
    }
    log_abs_det(columns)
}

fn largest_difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let (a, b) = (flat(a), flat(b));
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(1f64, |m, v| m.max(v.abs()));
    a.iter()
        .zip(&b)
        .fold(0f64, |m, (a, b)| m.max((a - b).abs()))
        / scale
}

/// Holds a flow on one sample to its definition.
fn hold(
    x: &[Tensor],
    forward: impl Fn(&[Tensor]) -> Vec<Flowed>,
    inverse: impl Fn(&[Tensor]) -> Vec<Flowed>,
) {
    let of = |flowed: &[Flowed]| -> Vec<Tensor> { flowed.iter().map(|f| f.z.clone()).collect() };
    let sum = |flowed: &[Flowed]| -> f64 {
        let each: Vec<Tensor> = flowed.iter().map(|f| f.log_det.clone()).collect();
        flat(&each).iter().sum()
    };
    let there = forward(x);
    let back = inverse(&of(&there));
    let off = largest_difference(x, &of(&back));
    assert!(off < 1e-9, "the inverse is off by {off:e}");
    let (a, b) = (sum(&there), sum(&back));
    assert!(
        (a + b).abs() < 1e-8 * (1.0 + a.abs()),
        "log-determinants {a} and {b}"
    );
    let wanted = dense(x, |x| of(&forward(x)));
    assert!(
        (a - wanted).abs() < 1e-5 * (1.0 + wanted.abs()),
        "{a}, dense {wanted}"
    );
}

/// Cases of each kind.
const CASES: u64 = 16;

/// A generator of a case's sizes.
fn sizes(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1000 + seed)
}

#[test]
fn flows_of_rows() {
    for seed in 0..CASES {
        let mut rng = sizes(seed);
        let channels = rng.random_range(2..9);
        let config = DecoderConfig {
            channels,
            condition: 4 * rng.random_range(0..3),
            blocks: rng.random_range(1..4),
            clamp: rng.random_range(0.5..2.0),
        };
        let source = Source::of(builder(seed, rng.random()));
        let flow = Decoder::new(&config, &source).unwrap();
        let given = (config.condition > 0).then(|| features(seed + 1, &[1, config.condition]));
        let given = given.as_ref();
        hold(
            &[features(seed, &[1, channels])],
            |x| vec![flow.forward(&x[0], given).unwrap()],
            |z| vec![flow.inverse(&z[0], given).unwrap()],
        );
    }
}

#[test]
fn flows_of_maps() {
    for seed in 0..CASES {
        let mut rng = sizes(seed);
        let layer = LayerConfig {
            channels: rng.random_range(2..6),
            height: rng.random_range(1..4),
            width: rng.random_range(1..4),
        };
        let config = FastFlowConfig {
            layers: vec![layer],
            steps: rng.random_range(1..4),
            conv3x3_only: rng.random(),
            hidden_ratio: 1.5,
            clamp: 2.0,
            layer_norm: false,
        };
        let source = Source::of(builder(seed, rng.random()));
        let flow = LayerFlow::new(&config, &layer, &source).unwrap();
        hold(
            &[features(
                seed,
                &[1, layer.channels, layer.height, layer.width],
            )],
            |x| vec![flow.forward(&x[0]).unwrap()],
            |z| vec![flow.inverse(&z[0]).unwrap()],
        );
    }
}

#[test]
fn flows_of_three_scales() {
    for seed in 0..CASES / 2 {
        let mut rng = sizes(seed);
        let channels = rng.random_range(2..5);
        let (height, width) = if rng.random() { (4, 4) } else { (8, 4) };
        let kernels: Vec<usize> = (0..rng.random_range(1..3))
            .map(|_| if rng.random() { 3 } else { 5 })
            .collect();
        let orders: Vec<Vec<Vec<usize>>> = (0..kernels.len() as u64)
            .map(|k| {
                (0..3)
                    .map(|s| random_permutation(channels, seed, 3 * k + s))
                    .collect()
            })
            .collect();
        let config = CrossFlowConfig {
            channels,
            hidden: 3,
            kernels,
            clamp: 1.5,
            gamma: rng.random(),
        };
        let flow = CrossFlow::new(&config, &orders, &builder(seed, false)).unwrap();
        let x: Vec<Tensor> = (0..3)
            .map(|s| features(seed + s, &[1, channels, height >> s, width >> s]))
            .collect();
        hold(
            &x,
            |x| flow.forward(x).unwrap(),
            |z| flow.inverse(z).unwrap(),
        );
    }
}
