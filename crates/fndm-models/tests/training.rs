//! Gradients of all parameters, three steps of Adam, and averages, against guided-diffusion in PyTorch.

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use fndm_kernels::{Precision, set_precision};
use fndm_models::{StateDict, UNet};

use common::{BETAS, EPS, LR};

fn wide(t: &Tensor) -> Vec<f64> {
    let t = t.to_dtype(DType::F64).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0., |m, v| m.max(v.abs()))
}

/// One parameter's state, in f64.
struct State {
    first: Vec<f64>,
    second: Vec<f64>,
    averages: Vec<(f64, Vec<f64>)>,
}

#[test]
fn gradients_adam_and_ema() {
    set_precision(Precision::Exact);
    let mut trained = false;
    for case in common::cases().iter().filter(|c| c.trains()) {
        trained = true;
        let (io, expected) = (case.load("io"), case.load("train"));
        let weights: BTreeMap<String, Tensor> = case.load("weights").into_iter().collect();
        let parameters = common::parameters(0);
        let unet = UNet::new(&case.unet_config(), parameters.builder()).unwrap();
        parameters.set(&StateDict::new(weights)).unwrap();

        let rates: Vec<f64> = {
            let mut rates: Vec<f64> = expected
                .keys()
                .filter_map(|k| k.strip_prefix("ema")?.split_once('/')?.0.parse().ok())
                .collect();
            rates.sort_by(f64::total_cmp);
            rates.dedup();
            rates
        };
        let mut states: BTreeMap<String, State> = parameters
            .iter()
            .map(|(name, var)| {
                let n = var.elem_count();
                let averages = rates.iter().map(|r| (*r, wide(&var))).collect();
                let state = State {
                    first: vec![0.; n],
                    second: vec![0.; n],
                    averages,
                };
                (name, state)
            })
            .collect();

        // A bias before a norm of one channel per group has no gradient but rounding: the norm takes it out again.
        let rounding = 1e-5
            * expected
                .iter()
                .filter(|(k, _)| k.starts_with("grad/"))
                .fold(0f64, |m, (_, g)| m.max(common::max_abs(g)));
        // A small set has the smaller tensors alone.
        let told = |what: &str, name: &str| expected.get(&format!("{what}/{name}")).map(wide);
        let y = unet.config().num_classes.map(|_| &io["y"]);
        let losses = case.entry["train"]["losses_before_each_step"]
            .as_array()
            .unwrap();
        let mut first_gradients = BTreeMap::new();
        let (mut zero, mut worst_gradient) = (0, (0., String::new()));
        let mut norm = 0f64;
        for (step, expected_loss) in losses.iter().enumerate() {
            let output = unet.forward(&io["x"], &io["t"], y).unwrap();
            let loss = (output - &io["target"])
                .unwrap()
                .sqr()
                .unwrap()
                .mean_all()
                .unwrap();
            let value = f64::from(loss.to_scalar::<f32>().unwrap());
            let expected_loss = expected_loss.as_f64().unwrap();
            assert!(
                (value - expected_loss).abs() < 1e-5 * expected_loss,
                "loss {value}"
            );
            let gradients = loss.backward().unwrap();
            for (name, var) in parameters.iter() {
                let gradient = wide(gradients.get(&var).unwrap());
                if step == 0 {
                    norm += gradient.iter().map(|g| g * g).sum::<f64>();
                }
                if step == 0
                    && let Some(wanted) = told("grad", &name)
                {
                    let scale = largest(&wanted);
                    let difference: Vec<f64> =
                        gradient.iter().zip(&wanted).map(|(a, b)| a - b).collect();
                    let error = largest(&difference) / scale.max(f64::MIN_POSITIVE);
                    if scale < rounding {
                        assert!(largest(&gradient) < rounding, "{name}");
                        zero += 1;
                    } else if error > worst_gradient.0 {
                        worst_gradient = (error, name.clone());
                    }
                    first_gradients.insert(name.clone(), wanted);
                }
                let state = states.get_mut(&name).unwrap();
                let mut values = wide(&var);
                let n = step as i32 + 1;
                for (i, g) in gradient.iter().enumerate() {
                    state.first[i] = BETAS.0 * state.first[i] + (1. - BETAS.0) * g;
                    state.second[i] = BETAS.1 * state.second[i] + (1. - BETAS.1) * g * g;
                    let m = state.first[i] / (1. - BETAS.0.powi(n));
                    let v = state.second[i] / (1. - BETAS.1.powi(n));
                    values[i] -= LR * m / (v.sqrt() + EPS);
                }
                for (rate, average) in &mut state.averages {
                    for (a, v) in average.iter_mut().zip(&values) {
                        *a = *rate * *a + (1. - *rate) * v;
                    }
                }
                let values = Tensor::from_vec(values, var.dims(), var.device()).unwrap();
                var.set(&values.to_dtype(DType::F32).unwrap()).unwrap();
            }
        }
        println!(
            "{}: gradient {:.1e} ({}), {zero} without any",
            case.name, worst_gradient.0, worst_gradient.1
        );
        assert!(worst_gradient.0 < 1e-4, "{}: {worst_gradient:?}", case.name);

        if let Some(wanted) = case.entry["grad_norm"].as_f64() {
            let error = (norm.sqrt() - wanted).abs() / wanted;
            println!("{}: norm of all gradients {error:.1e}", case.name);
            assert!(error < 1e-5, "{}: norm {}", case.name, norm.sqrt());
        }

        let mut worst: BTreeMap<String, f64> = BTreeMap::new();
        let (mut near_zero, mut all) = (0, 0);
        let steps = losses.len();
        for (name, gradient) in &first_gradients {
            let scale = largest(gradient).max(rounding / 1e-3);
            let mut compare = |what: String, got: &[f64]| {
                let Some(wanted) = told(&what, name) else {
                    panic!("{}: {what}/{name} is missing", case.name);
                };
                for (i, wanted) in wanted.iter().enumerate() {
                    let error = (got[i] - wanted).abs();
                    // Where the gradient is near zero its sign is rounding, and Adam moves by lr whatever its size.
                    if gradient[i].abs() < 1e-3 * scale {
                        near_zero += 1;
                        let most = 2. * steps as f64 * LR;
                        assert!(error <= most, "{what} {name}[{i}]: {error:.2e}");
                    } else {
                        let worst = worst.entry(what.clone()).or_default();
                        *worst = worst.max(error);
                    }
                    all += 1;
                }
            };
            let var = parameters.get(name).unwrap();
            compare(format!("adam{steps}"), &wide(&var));
            for (rate, average) in &states[name].averages {
                compare(format!("ema{rate}"), average);
            }
        }
        assert!(all > 0, "{}: nothing to compare", case.name);
        println!(
            "{}: worst {worst:?}; near zero, and so known to 2 lr a step alone: {near_zero} of {all}",
            case.name
        );
        for (what, error) in worst {
            assert!(error < 2e-6, "{} {what}: {error:.2e}", case.name);
        }
    }
    if !trained {
        common::aloud("training: the reference set has no trained case");
    }
}
