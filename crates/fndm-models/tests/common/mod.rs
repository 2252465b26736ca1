//! The reference data of guided-diffusion: where it is, and how its cases are read.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_models::{Classifier, ClassifierConfig, Parameters, Pool, UNet, UNetConfig, log_softmax};
use serde_json::Value;

pub type Tensors = HashMap<String, Tensor>;

/// The folder of reference data, or its small committed part.
pub fn folder() -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let whole = std::env::var_os("FNDM_GOLDEN")
        .map_or_else(|| here.join("../../../shared/golden"), PathBuf::from);
    [whole.join("unet"), here.join("tests/golden")]
        .into_iter()
        .find(|f| f.join("manifest.json").is_file())
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

    pub fn unet_config(&self) -> UNetConfig {
        UNetConfig::from_guided_diffusion(&self.entry["config"]).unwrap()
    }

    pub fn classifier_config(&self) -> ClassifierConfig {
        let mut config = ClassifierConfig::from_guided_diffusion(&self.entry["config"]).unwrap();
        if self.entry["peer"] == "diffusion-anomaly" && config.pool == Pool::Spatial {
            config.pool = Pool::SpatialAverage8;
        }
        config
    }

    /// The weights as plain tensors in f32.
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_tensors(self.load("weights"), DType::F32, &Device::Cpu)
    }
}

/// All cases of the manifest that have weights, or none where there is no reference data.
pub fn cases() -> Vec<Case> {
    let Some(folder) = folder() else {
        println!("skipped: no reference data");
        return Vec::new();
    };
    let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
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
    let (here, elsewhere): (Vec<_>, Vec<_>) = cases
        .into_iter()
        .partition(|c| c.path("weights.safetensors").is_file());
    for case in elsewhere {
        println!("skipped: {} has no weights here", case.name);
    }
    here
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

/// Largest difference, relative to the largest value expected.
pub fn relative(got: &Tensor, expected: &Tensor) -> f64 {
    max_diff(got, expected) / max_abs(expected).max(f64::MIN_POSITIVE)
}

/// Parameters of a network under their first random values.
pub fn parameters(seed: u64) -> Parameters {
    Parameters::new(seed, DType::F32, &Device::Cpu)
}

/// Every case's outputs, maps and input gradients, relative to the largest value of each.
pub fn check_forward(forward: f64, gradient: f64) {
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
            println!("{}: gradient {found:.1e}", case.name);
            assert!(found < gradient, "{} gradient: {found:.2e}", case.name);
        }
        for (what, error) in errors {
            println!("{}: {what} {error:.1e}", case.name);
            assert!(error < forward, "{} {what}: {error:.2e}", case.name);
        }
    }
}
