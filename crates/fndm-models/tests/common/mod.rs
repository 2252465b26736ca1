//! The reference data of guided-diffusion: where it is, and how its cases are read.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_models::{Classifier, ClassifierConfig, Parameters, Pool, UNet, UNetConfig, log_softmax};
use serde_json::Value;

pub type Tensors = HashMap<String, Tensor>;

/// The folder of reference data: the one that `FNDM_GOLDEN` names, the whole one beside the repository, or, said aloud, the
/// small one that travels with the crate. Any folder of the format will do.
pub fn folder() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os("FNDM_GOLDEN").map(|f| PathBuf::from(f).join("unet"));
    if let Some(folder) = named {
        assert!(
            folder.join("manifest.json").is_file(),
            "FNDM_GOLDEN: no manifest.json in {}",
            folder.display()
        );
        return folder;
    }
    let whole = here.join("../../../shared/golden/unet");
    if whole.join("manifest.json").is_file() {
        return whole;
    }
    aloud("no reference data beside the repository: the small set of the crate is used");
    here.join("tests/golden/small")
}

/// What a test leaves out, and why, past the harness, which swallows what a passing test prints.
pub fn aloud(what: &str) {
    let message = format!("LEFT OUT: {what}\n");
    _ = std::io::stderr().write_all(message.as_bytes());
}

pub fn manifest() -> Value {
    let path = folder().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    for key in manifest.as_object().unwrap().keys() {
        if !["set", "torch", "models", "errors"].contains(&key.as_str()) {
            aloud(&format!("{}: `{key}` isn't known here", path.display()));
        }
    }
    println!(
        "reference set {}, PyTorch {}",
        manifest["set"], manifest["torch"]
    );
    manifest
}

/// What every entry may have; each is used by one of the tests.
const KEYS: [&str; 16] = [
    "name",
    "kind",
    "peer",
    "config",
    "input_shape",
    "parameters",
    "weights_stored_as",
    "t_dtype",
    "output_abs_max",
    "backend_rounding_max_abs",
    "pt_file",
    "grad_abs_max",
    "grad_norm",
    "train",
    "raises",
    "message",
];

pub const LR: f64 = 1e-4;
pub const BETAS: (f64, f64) = (0.9, 0.999);
pub const EPS: f64 = 1e-8;

/// How a training must have been, with its number of steps.
fn known_training(train: &Value) -> Result<(), String> {
    let Some(train) = train.as_object() else {
        return Err("train isn't an object".to_owned());
    };
    let steps = train
        .get("losses_before_each_step")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let optimiser = format!(
        "Adam lr 1e-4 betas 0.9 0.999 eps 1e-8, no weight decay, {steps} steps on the same batch"
    );
    for (key, value) in train {
        let known = match key.as_str() {
            "loss" => "mean over all elements of (model(x,t,y) - target)^2",
            "optimiser" => &optimiser,
            "ema" => {
                "starts as a copy of the first weights, updated after every step: ema = rate*ema + (1-rate)*weights"
            }
            "losses_before_each_step" => continue,
            _ => return Err(format!("train.{key} isn't known here")),
        };
        if value != known {
            return Err(format!("train.{key}: expected {known:?}, got {value}"));
        }
    }
    Ok(())
}

pub struct Case {
    pub name: String,
    pub entry: Value,
    pub folder: PathBuf,
}

impl Case {
    pub fn path(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}", self.name))
    }

    pub fn load(&self, what: &str) -> Tensors {
        let path = self.path(&format!("{what}.safetensors"));
        candle_core::safetensors::load(&path, &Device::Cpu)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn is_unet(&self) -> bool {
        self.entry["kind"] == "UNetModel"
    }

    pub fn trains(&self) -> bool {
        self.path("train.safetensors").is_file()
    }

    pub fn raises(&self) -> bool {
        self.entry.get("raises").is_some_and(|v| !v.is_null())
    }

    pub fn unet_config(&self) -> UNetConfig {
        self.try_unet_config().unwrap()
    }

    pub fn try_unet_config(&self) -> fndm_models::Result<UNetConfig> {
        UNetConfig::from_guided_diffusion(&self.entry["config"])
    }

    pub fn classifier_config(&self) -> ClassifierConfig {
        self.try_classifier_config().unwrap()
    }

    pub fn try_classifier_config(&self) -> fndm_models::Result<ClassifierConfig> {
        let mut config = ClassifierConfig::from_guided_diffusion(&self.entry["config"])?;
        if self.entry["peer"] == "diffusion-anomaly" && config.pool == Pool::Spatial {
            config.pool = Pool::SpatialAverage8;
        }
        Ok(config)
    }

    /// Why the case can't be judged here, if it can't.
    fn unknown(&self) -> Option<String> {
        let entry = self.entry.as_object()?;
        if let Some(key) = entry.keys().find(|k| !KEYS.contains(&k.as_str())) {
            return Some(format!("`{key}` isn't known here"));
        }
        for (key, known) in [
            ("kind", &["UNetModel", "EncoderUNetModel"]),
            ("peer", &["guided-diffusion", "diffusion-anomaly"]),
        ] {
            if !known.iter().any(|k| self.entry[key] == *k) {
                return Some(format!("{key} {} isn't known here", self.entry[key]));
            }
        }
        // The original would compute in half precision.
        if self.entry["config"]["use_fp16"] == true {
            return Some("use_fp16".to_owned());
        }
        if self.raises() {
            return None;
        }
        let stored = self.entry["weights_stored_as"].as_str().unwrap_or_default();
        if !stored.starts_with("F32") && !stored.starts_with("F16") {
            return Some(format!("weights stored as {stored:?}"));
        }
        if let Some(Err(e)) = self.entry.get("train").map(known_training) {
            return Some(e);
        }
        let config = if self.is_unet() {
            self.try_unet_config().map(|_| ())
        } else {
            self.try_classifier_config().map(|_| ())
        };
        config.err().map(|e| e.to_string())
    }

    /// The weights as plain tensors in f32.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.load("weights"), DType::F32, &Device::Cpu)
    }
}

/// All cases of the manifest that can be judged here; the others are left out aloud.
fn all_cases() -> Vec<Case> {
    let folder = folder();
    let manifest = manifest();
    let cases: Vec<Case> = manifest["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| Case {
            name: entry["name"].as_str().unwrap().to_owned(),
            entry: entry.clone(),
            folder: folder.clone(),
        })
        .collect();
    assert!(!cases.is_empty(), "the manifest names no model");
    cases
        .into_iter()
        .filter(|case| match case.unknown() {
            Some(why) => {
                aloud(&format!("{}: {why}", case.name));
                false
            }
            None => true,
        })
        .collect()
}

/// The cases that the originals compute.
pub fn cases() -> Vec<Case> {
    let cases = all_cases();
    cases.into_iter().filter(|c| !c.raises()).collect()
}

/// The cases that the originals refuse.
pub fn refused() -> Vec<Case> {
    all_cases().into_iter().filter(Case::raises).collect()
}

/// The largest of errors, and where it was.
#[derive(Default)]
pub struct Worst(BTreeMap<&'static str, (f64, String)>);

impl Worst {
    pub fn add(&mut self, what: &'static str, error: f64, case: &str) {
        println!("{case}: {what} {error:.1e}");
        let worst = self.0.entry(what).or_insert((-1., String::new()));
        if error > worst.0 {
            *worst = (error, case.to_owned());
        }
    }
}

impl Drop for Worst {
    fn drop(&mut self) {
        for (what, (error, case)) in &self.0 {
            println!("worst {what}: {error:.1e} in {case}");
        }
    }
}

pub fn max_abs(x: &Tensor) -> f64 {
    let x = x.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    x.to_vec1::<f64>().unwrap().iter().fold(0., |m, v| {
        assert!(v.is_finite(), "a value is not finite");
        m.max(v.abs())
    })
}

pub fn max_diff(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let a = a.to_dtype(DType::F64).unwrap();
    max_abs(&(a - b.to_dtype(DType::F64).unwrap()).unwrap())
}

/// Largest difference, relative to the largest value expected; where nothing but zeros is, the difference itself.
pub fn relative(got: &Tensor, expected: &Tensor) -> f64 {
    let largest = max_abs(expected);
    let scale = if largest > 0. { largest } else { 1. };
    max_diff(got, expected) / scale
}

/// Parameters of a network under their first random values.
pub fn parameters(seed: u64) -> Parameters {
    Parameters::new(seed, DType::F32, &Device::Cpu)
}

/// Every case's outputs, maps and input gradients, relative to the largest value of each.
pub fn check_forward(forward: f64, gradient: f64) {
    let mut worst = Worst::default();
    for case in cases() {
        let io = case.load("io");
        let mut errors = Vec::new();
        if case.is_unet() {
            let unet = UNet::new(&case.unet_config(), case.builder()).unwrap();
            let y = unet.config().num_classes.map(|_| &io["y"]);
            let maps = unet.forward_maps(&io["x"], &io["t"], y).unwrap();
            errors.push(("embedding", relative(&maps.embedding, &io["embedding"])));
            errors.push(("middle_block", relative(&maps.middle, &io["middle_block"])));
            errors.push(("output", relative(&maps.output, &io["output"])));
            let output = unet.forward(&io["x"], &io["t"], y).unwrap();
            assert_eq!(max_diff(&output, &maps.output), 0.);
        } else {
            let net = Classifier::new(&case.classifier_config(), case.builder()).unwrap();
            let maps = net.forward_maps(&io["x"], &io["t"]).unwrap();
            let log_prob = log_softmax(&maps.logits).unwrap();
            let found = net.log_prob_gradient(&io["x"], &io["t"], &io["y"]).unwrap();
            errors.push(("middle_block", relative(&maps.middle, &io["middle_block"])));
            errors.push(("output", relative(&maps.logits, &io["output"])));
            errors.push(("log_softmax", relative(&log_prob, &io["log_softmax"])));
            let found = relative(&found, &io["grad_x_of_selected_log_prob"]);
            worst.add("gradient", found, &case.name);
            assert!(found < gradient, "{} gradient: {found:.2e}", case.name);
        }
        if let Some(rounding) = case.entry["backend_rounding_max_abs"].as_f64() {
            let own = rounding / max_abs(&io["output"]);
            println!("{}: the peer's own backends differ by {own:.1e}", case.name);
        }
        for (what, error) in errors {
            worst.add(what, error, &case.name);
            assert!(error < forward, "{} {what}: {error:.2e}", case.name);
        }
    }
}
