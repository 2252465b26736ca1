//! Adam and the moving averages against `PyTorch`'s: step by step on the small committed set, and on the networks of
//! `../shared/golden/unet` (or of `$FNDM_GOLDEN/unet`) where that is there.
//!
//! Every key of a case is used, or known to be mere information; a case with another key is left out, and that is said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use fndm_models::{Parameters, UNet, UNetConfig};
use fndm_train::{Ema, EmaConfig, Optimizer, OptimizerConfig};
use serde::Deserialize;
use serde_json::Value;

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn largest(tensor: &Tensor) -> f64 {
    let values = flat(tensor);
    values.iter().fold(0.0, |m, v| {
        assert!(v.is_finite());
        m.max(f64::from(v.abs()))
    })
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    largest(&(a - b).unwrap())
}

/// What `golden_subset/make.py` writes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subset {
    torch: String,
    cases: Vec<SmallCase>,
}

type Values = BTreeMap<String, Vec<f32>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SmallCase {
    name: String,
    optimizer: String,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    rates: Vec<f64>,
    shapes: BTreeMap<String, Vec<usize>>,
    start: Values,
    steps: Vec<SmallStep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SmallStep {
    gradients: Values,
    weights: Values,
    averages: BTreeMap<String, Values>,
}

/// The largest difference, in units of the wanted values' last place (of numbers around 1 where they are smaller).
fn off(got: &Tensor, wanted: &[f32]) -> f64 {
    let got = flat(got);
    assert_eq!(got.len(), wanted.len());
    got.iter().zip(wanted).fold(0.0, |worst: f64, (a, b)| {
        let unit = f64::from(f32::EPSILON) * f64::from(b.abs()).max(1.0);
        let off = (f64::from(*a) - f64::from(*b)).abs() / unit;
        assert!(off.is_finite(), "{a} for {b}");
        worst.max(off)
    })
}

#[test]
fn every_step_is_pytorchs() {
    let text = include_str!("golden_subset/optimizer.json");
    let subset: Subset = serde_json::from_str(text).unwrap();
    assert!(subset.cases.len() >= 4);
    for case in subset.cases {
        // Adam is AdamW without decay; with it PyTorch's Adam adds it to the gradient instead.
        assert!(case.optimizer == "AdamW" || case.weight_decay == 0.0);
        assert_eq!(case.rates.len(), case.steps.len());
        let tensor = |name: &String, values: &[f32]| {
            Tensor::from_slice(values, case.shapes[name].as_slice(), &Device::Cpu).unwrap()
        };
        let vars: Vec<(String, Var)> = case
            .start
            .iter()
            .map(|(name, values)| {
                let start = Var::from_tensor(&tensor(name, values)).unwrap();
                (name.clone(), start)
            })
            .collect();
        let config = OptimizerConfig {
            beta1: case.betas[0],
            beta2: case.betas[1],
            eps: case.eps,
            weight_decay: case.weight_decay,
            ..OptimizerConfig::default()
        };
        let mut adam = Optimizer::new(&config);
        let decays: Vec<f64> = case.steps[0]
            .averages
            .keys()
            .map(|decay| decay.parse().unwrap())
            .collect();
        assert!(!decays.is_empty());
        let mut emas: Vec<Ema> = decays
            .iter()
            .map(|&decay| Ema::new(decay, &vars).unwrap())
            .collect();
        let ema_config = EmaConfig {
            decays,
            warm_up: false,
        };
        let (mut worst, mut worst_average, mut moved) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (n, (step, &rate)) in case.steps.iter().zip(&case.rates).enumerate() {
            let gradients = step
                .gradients
                .iter()
                .map(|(name, values)| (name.clone(), tensor(name, values)))
                .collect();
            adam.step(&vars, &gradients, rate, 1.0).unwrap();
            for (name, var) in &vars {
                worst = worst.max(off(var.as_tensor(), &step.weights[name]));
                moved = moved.max(off(var.as_tensor(), &case.start[name]));
            }
            for ema in &mut emas {
                ema.update(&ema_config, n as u64, &vars).unwrap();
                let wanted = &step.averages[&ema.decay().to_string()];
                for (name, average) in ema.tensors() {
                    worst_average = worst_average.max(off(&average, &wanted[&name]));
                }
            }
        }
        println!(
            "{} (PyTorch {}): weights {worst:.2} last places off, averages {worst_average:.2}, of {moved:.0} moved",
            case.name, subset.torch
        );
        assert!(worst <= 4.0 && worst_average <= 4.0, "{}", case.name);
        assert!(moved > 1000.0, "{}: the test has nothing to see", case.name);
    }
}

fn folder() -> PathBuf {
    let golden = std::env::var_os("FNDM_GOLDEN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden"),
        PathBuf::from,
    );
    golden.join("unet")
}

fn load(folder: &Path, name: &str) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(folder.join(name), &Device::Cpu)
        .unwrap()
        .into_iter()
        .collect()
}

/// Keys of a case that are used below.
const USED: &[&str] = &[
    "name",
    "kind",
    "config",
    "train",
    "input_shape",
    "parameters",
    "grad_norm",
    "raises",
];
/// Keys that change nothing of what is right.
const INFORMATION: &[&str] = &[
    "peer",
    "weights_stored_as",
    "t_dtype",
    "output_abs_max",
    "backend_rounding_max_abs",
    "pt_file",
];
const TRAIN_USED: &[&str] = &[
    "loss",
    "losses_before_each_step",
    "optimiser",
    "ema",
    "raises",
];
const LOSS: &str = "mean over all elements of (model(x,t,y) - target)^2";
const EMA: &str = "starts as a copy of the first weights, updated after every step: ema = rate*ema + (1-rate)*weights";

fn unknown(object: &Value, known: &[&[&str]]) -> Option<String> {
    let mut keys = object.as_object()?.keys();
    let of = |key: &str| known.iter().any(|known| known.contains(&key));
    keys.find(|key| !of(key)).cloned()
}

/// `Adam lr 1e-4 betas 0.9 0.999 eps 1e-8, no weight decay, 3 steps on the same batch`.
fn optimiser(words: &str) -> Option<(OptimizerConfig, usize)> {
    let parts: Vec<&str> = words.split(", ").collect();
    let [adam, decay, steps] = parts[..] else {
        return None;
    };
    let adam: Vec<&str> = adam.split(' ').collect();
    let ["Adam", "lr", lr, "betas", beta1, beta2, "eps", eps] = adam[..] else {
        return None;
    };
    if decay != "no weight decay" {
        return None;
    }
    let steps = steps.strip_suffix(" steps on the same batch")?;
    let config = OptimizerConfig {
        lr: lr.parse().ok()?,
        beta1: beta1.parse().ok()?,
        beta2: beta2.parse().ok()?,
        eps: eps.parse().ok()?,
        ..OptimizerConfig::default()
    };
    Some((config, steps.parse().ok()?))
}

/// Why a case can't be compared.
fn reason(case: &Value) -> Option<String> {
    let train = &case["train"];
    if let Some(key) = unknown(case, &[USED, INFORMATION]) {
        return Some(format!("the key {key} isn't known here"));
    }
    if case["kind"] != "UNetModel" {
        return Some(format!("kind {}", case["kind"]));
    }
    if let Some(key) = unknown(train, &[TRAIN_USED]) {
        return Some(format!("the key train.{key} isn't known here"));
    }
    if train["loss"] != LOSS {
        return Some(format!("another loss: {}", train["loss"]));
    }
    if !train["ema"].is_null() && train["ema"] != EMA {
        return Some(format!("another average: {}", train["ema"]));
    }
    match train["optimiser"].as_str().map(optimiser) {
        Some(Some(_)) => None,
        _ => Some(format!("another optimiser: {}", train["optimiser"])),
    }
}

/// The network of a case, its first weights the peer's.
fn network(case: &Value, folder: &Path) -> Result<(UNet, Parameters), String> {
    // The peer's constructor arguments are the config's names.
    let config: UNetConfig =
        serde_json::from_value(case["config"].clone()).map_err(|e| e.to_string())?;
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let network = UNet::new(&config, parameters.builder()).map_err(|e| e.to_string())?;
    let name = case["name"].as_str().unwrap();
    let weights = folder.join(format!("{name}.weights.safetensors"));
    if weights.is_file() {
        parameters
            .load(&weights, &fndm_models::Limits::default())
            .map_err(|e| e.to_string())?;
    }
    Ok((network, parameters))
}

#[test]
fn three_steps_are_those_of_pytorch() {
    let folder = folder();
    let Ok(manifest) = std::fs::read_to_string(folder.join("manifest.json")) else {
        eprintln!(
            "LEFT OUT: {} has no manifest.json; the committed set is tested alone",
            folder.display()
        );
        return;
    };
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let models = manifest["models"].as_array().unwrap();
    let mut compared = 0;
    for case in models.iter().filter(|model| model["train"].is_object()) {
        let name = case["name"].as_str().unwrap();
        if !case["raises"].is_null() || !case["train"]["raises"].is_null() {
            let error = network(case, &folder).err();
            assert!(error.is_some(), "{name}: the peer raised, ours built it");
            println!("{name}: refused as by the peer: {}", error.unwrap());
            continue;
        }
        match reason(case) {
            Some(reason) => eprintln!("LEFT OUT: {name}: {reason}"),
            None => {
                compare(case, &folder);
                compared += 1;
            }
        }
    }
    if compared == 0 {
        eprintln!("LEFT OUT: {}: no case with a training", folder.display());
    }
}

fn compare(case: &Value, folder: &Path) {
    let name = case["name"].as_str().unwrap();
    let (network, parameters) = network(case, folder).unwrap();
    let vars: Vec<(String, Var)> = parameters.iter().collect();
    let count: usize = vars.iter().map(|(_, var)| var.elem_count()).sum();
    assert_eq!(case["parameters"].as_u64(), Some(count as u64), "{name}");
    let io = load(folder, &format!("{name}.io.safetensors"));
    let truth = load(folder, &format!("{name}.train.safetensors"));
    let shape: Vec<usize> = serde_json::from_value(case["input_shape"].clone()).unwrap();
    assert_eq!(io["x"].dims(), shape, "{name}");
    let t = io["t"].to_dtype(DType::F32).unwrap();
    let y = network
        .config()
        .num_classes
        .map(|_| io["y"].to_dtype(DType::U32).unwrap());
    let (config, steps) = optimiser(case["train"]["optimiser"].as_str().unwrap()).unwrap();
    let after = format!("adam{steps}/");
    let losses: Vec<f64> =
        serde_json::from_value(case["train"]["losses_before_each_step"].clone()).unwrap();
    assert_eq!(losses.len(), steps, "{name}");
    // Every tensor of the file has a use.
    let mut decays: Vec<f64> = Vec::new();
    for key in truth.keys() {
        let (kind, _) = key.split_once('/').unwrap();
        if kind == "grad" || after.strip_suffix('/') == Some(kind) {
            continue;
        }
        let decay = kind.strip_prefix("ema").unwrap_or_else(|| panic!("{key}"));
        let decay = decay.parse().unwrap();
        if !decays.contains(&decay) {
            decays.push(decay);
        }
    }
    let ema_config = EmaConfig {
        decays: decays.clone(),
        warm_up: false,
    };
    let mut emas: Vec<Ema> = decays
        .iter()
        .map(|&d| Ema::new(d, &vars).unwrap())
        .collect();
    let mut adam = Optimizer::new(&config);
    let mut first = BTreeMap::new();
    for (step, wanted) in losses.iter().enumerate() {
        let output = network.forward(&io["x"], &t, y.as_ref()).unwrap();
        let square = (output - &io["target"]).unwrap().sqr().unwrap();
        let loss = square.mean_all().unwrap();
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
        adam.step(&vars, &gradients, config.lr, 1.0).unwrap();
        for ema in &mut emas {
            ema.update(&ema_config, step as u64, &vars).unwrap();
        }
    }
    if let Some(wanted) = case["grad_norm"].as_f64() {
        let squares = first.values().flat_map(flat).map(|g| f64::from(g).powi(2));
        let got = squares.sum::<f64>().sqrt();
        assert!((got - wanted).abs() < 1e-4 * wanted, "{name}: {got}");
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
        let most = 2.0 * config.lr * steps as f64 + 1e-5;
        let wanted = flat(&truth[&format!("{after}{key}")]);
        for ((got, wanted), g) in flat(var.as_tensor())
            .iter()
            .zip(&wanted)
            .zip(flat(gradient))
        {
            let off = f64::from((got - wanted).abs());
            assert!(off.is_finite(), "{name} {key}");
            if scale > 1e-5 && f64::from(g.abs()) > 1e-3 * scale {
                worst = worst.max(off);
            } else {
                loose += 1;
                assert!(off <= most, "{name} {key}: off by {off}");
            }
        }
    }
    println!("{name}: worst error of a weight {worst:.2e}, {loose} weights of tiny gradient apart");
    assert!(worst < 1e-5, "{name}: {worst}");
    // An average of weights is no further off than the weights.
    for ema in &emas {
        let mut worst = 0.0_f64;
        for (key, got) in &ema.tensors() {
            let wanted = &truth[&format!("ema{}/{key}", ema.decay())];
            let weight = difference(
                parameters.get(key).unwrap().as_tensor(),
                &truth[&format!("{after}{key}")],
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
