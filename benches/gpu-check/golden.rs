//! The networks of the reference data, with guided-diffusion's own outputs.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use fndm::candle_core::{DType, Device, Tensor, safetensors};
use fndm::models::{Classifier, ClassifierConfig, Limits, Pool, StateDict, UNet, UNetConfig};
use serde_json::Value;

use crate::report::Report;

const BOUND: f64 = 1e-4;

/// The largest difference over the largest value expected.
fn error(got: &Tensor, expected: &Tensor) -> Result<f64> {
    let got = got.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let expected = expected.to_dtype(DType::F64)?;
    let top = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
    if !got.sum_all()?.to_scalar::<f64>()?.is_finite() {
        return Ok(f64::NAN);
    }
    Ok(top(&(got - &expected)?)? / top(&expected)?.max(f64::MIN_POSITIVE))
}

pub(crate) fn check(device: &Device, folder: &Path, report: &mut Report) -> Result<()> {
    let folder = folder.join("unet");
    let manifest = folder.join("manifest.json");
    if !manifest.is_file() {
        println!(
            "SKIPPED: the networks of the reference data: no {}",
            manifest.display()
        );
        return Ok(());
    }
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(manifest)?)?;
    let models = manifest["models"]
        .as_array()
        .context("manifest.json: no models")?;
    for entry in models {
        let name = entry["name"].as_str().context("manifest.json: no name")?;
        let file = |what: &str| folder.join(format!("{name}.{what}.safetensors"));
        if !file("weights").is_file() {
            println!("SKIPPED: {name} has no weights here");
            continue;
        }
        let io = safetensors::load(file("io"), &Device::Cpu)?;
        let state = StateDict::read(file("weights"), &Limits::default())?;
        let errors = if entry["kind"] == "UNetModel" {
            unet(&entry["config"], &state, &io, device)
        } else {
            classifier(entry, &state, &io, device)
        };
        for (what, error) in errors.with_context(|| name.to_string())? {
            report.check(&format!("{name}: {what}"), error, BOUND)?;
        }
    }
    Ok(())
}

type Errors = Vec<(&'static str, f64)>;

fn unet(
    config: &Value,
    state: &StateDict,
    io: &HashMap<String, Tensor>,
    device: &Device,
) -> Result<Errors> {
    let config = UNetConfig::from_guided_diffusion(config)?;
    let unet = UNet::from_state_dict(&config, state, DType::F32, device)?;
    let there = |name: &str| Ok::<_, anyhow::Error>(io[name].to_device(device)?);
    let y = match config.num_classes {
        Some(_) => Some(there("y")?),
        None => None,
    };
    let maps = unet.forward_maps(&there("x")?, &there("t")?, y.as_ref())?;
    Ok(vec![
        ("embedding", error(&maps.embedding, &io["embedding"])?),
        ("middle block", error(&maps.middle, &io["middle_block"])?),
        ("output", error(&maps.output, &io["output"])?),
    ])
}

fn classifier(
    entry: &Value,
    state: &StateDict,
    io: &HashMap<String, Tensor>,
    device: &Device,
) -> Result<Errors> {
    let mut config = ClassifierConfig::from_guided_diffusion(&entry["config"])?;
    if entry["peer"] == "diffusion-anomaly" && config.pool == Pool::Spatial {
        config.pool = Pool::SpatialAverage8;
    }
    let net = Classifier::from_state_dict(&config, state, DType::F32, device)?;
    let there = |name: &str| Ok::<_, anyhow::Error>(io[name].to_device(device)?);
    let (x, t) = (there("x")?, there("t")?);
    let maps = net.forward_maps(&x, &t)?;
    let gradient = net.log_prob_gradient(&x, &t, &there("y")?)?;
    Ok(vec![
        ("middle block", error(&maps.middle, &io["middle_block"])?),
        ("output", error(&maps.logits, &io["output"])?),
        (
            "gradient",
            error(&gradient, &io["grad_x_of_selected_log_prob"])?,
        ),
    ])
}
