//! Adam and the moving averages against `PyTorch`'s, on the networks of `../shared/golden/unet`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use fndm_models::{Parameters, UNet, UNetConfig};
use fndm_train::{Adam, Ema, EmaConfig, OptimizerConfig};
use serde_json::Value;

fn folder() -> PathBuf {
    let golden = std::env::var_os("FNDM_GOLDEN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden"),
        PathBuf::from,
    );
    golden.join("unet")
}

fn load(name: &str) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(folder().join(name), &Device::Cpu)
        .unwrap()
        .into_iter()
        .collect()
}

/// The peer's constructor arguments are the config's names.
fn config(arguments: &Value) -> UNetConfig {
    serde_json::from_value(arguments.clone()).unwrap()
}

fn largest(tensor: &Tensor) -> f64 {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.iter().fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    largest(&(a - b).unwrap())
}

#[test]
fn three_steps_are_those_of_pytorch() {
    let Ok(manifest) = std::fs::read_to_string(folder().join("manifest.json")) else {
        println!("skipped: {} is missing", folder().display());
        return;
    };
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let models = manifest["models"].as_array().unwrap();
    let cases: Vec<&Value> = models.iter().filter(|m| m["train"].is_object()).collect();
    assert!(!cases.is_empty());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
        let network = UNet::new(&config(&case["config"]), parameters.builder()).unwrap();
        let vars: Vec<(String, Var)> = parameters.iter().collect();
        let weights = load(&format!("{name}.weights.safetensors"));
        for (key, var) in &vars {
            var.set(&weights[key].to_dtype(DType::F32).unwrap())
                .unwrap();
        }
        let io = load(&format!("{name}.io.safetensors"));
        let truth = load(&format!("{name}.train.safetensors"));
        let t = io["t"].to_dtype(DType::F32).unwrap();
        let y = io["y"].to_dtype(DType::U32).unwrap();
        let decays: Vec<f64> = truth
            .keys()
            .filter_map(|key| key.strip_prefix("ema")?.split_once('/'))
            .map(|(decay, _)| decay.parse().unwrap())
            .fold(Vec::new(), |mut all: Vec<f64>, decay| {
                if !all.contains(&decay) {
                    all.push(decay);
                }
                all
            });
        let ema_config = EmaConfig {
            decays: decays.clone(),
            warm_up: false,
        };
        let mut emas: Vec<Ema> = decays
            .iter()
            .map(|&d| Ema::new(d, &vars).unwrap())
            .collect();
        let mut adam = Adam::new(&OptimizerConfig::default());
        let mut first = BTreeMap::new();
        for step in 0..3 {
            let output = network.forward(&io["x"], &t, Some(&y)).unwrap();
            let loss = (output - &io["target"])
                .unwrap()
                .sqr()
                .unwrap()
                .mean_all()
                .unwrap();
            let wanted = case["train"]["losses_before_each_step"][step]
                .as_f64()
                .unwrap();
            let got = f64::from(loss.to_scalar::<f32>().unwrap());
            assert!(
                (got - wanted).abs() < 1e-4,
                "{name} step {step}: loss {got}, expected {wanted}"
            );
            let store = loss.backward().unwrap();
            let gradients: BTreeMap<String, Tensor> = vars
                .iter()
                .map(|(key, var)| (key.clone(), store.get(var.as_tensor()).unwrap().clone()))
                .collect();
            if step == 0 {
                first = gradients.clone();
            }
            adam.step(&vars, &gradients, 1e-4, 1.0).unwrap();
            for ema in &mut emas {
                ema.update(&ema_config, step as u64, &vars).unwrap();
            }
        }
        let (mut worst, mut loose) = (0.0_f64, 0);
        for (key, var) in &vars {
            let gradient = &truth[&format!("grad/{key}")];
            let scale = largest(gradient);
            assert!(
                difference(&first[key], gradient) <= 1e-4 * scale + 1e-7,
                "{name} {key}: gradient"
            );
            // Adam moves a weight by lr whatever the size of its gradient: where the gradient is all rounding (a
            // bias before a norm that removes it, for one), so is the sign.
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let wanted = flat(&truth[&format!("adam3/{key}")]);
            for ((got, wanted), g) in flat(var.as_tensor())
                .iter()
                .zip(&wanted)
                .zip(flat(gradient))
            {
                let off = f64::from((got - wanted).abs());
                if scale > 1e-5 && f64::from(g.abs()) > 1e-3 * scale {
                    worst = worst.max(off);
                } else {
                    loose += 1;
                    assert!(off <= 6.1e-4, "{name} {key}: off by {off}");
                }
            }
        }
        println!(
            "{name}: worst error of a weight {worst:.2e}, {loose} weights of tiny gradient apart"
        );
        assert!(worst < 1e-5, "{name}: {worst}");
        // An average of weights is no further off than the weights.
        for ema in &emas {
            let mut worst = 0.0_f64;
            for (key, got) in &ema.tensors() {
                let wanted = &truth[&format!("ema{}/{key}", ema.decay())];
                let weight = difference(
                    parameters.get(key).unwrap().as_tensor(),
                    &truth[&format!("adam3/{key}")],
                );
                let off = difference(got, wanted);
                assert!(
                    off <= 2e-6 + 2.0 * weight,
                    "{name} {key}: average {} off by {off}",
                    ema.decay()
                );
                worst = worst.max(off);
            }
            println!(
                "{name}: worst error of average {}: {worst:.2e}",
                ema.decay()
            );
        }
    }
}
