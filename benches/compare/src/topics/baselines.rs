//! A slice's map by each of the rivals, fitted here to a few slices; the peer takes over what was fitted.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use fndm_baselines::cflow::{CflowMethod, CflowSettings};
use fndm_baselines::csflow::{CsFlowMethod, CsFlowSettings};
use fndm_baselines::fastflow::{FastFlowMethod, FastFlowSettings};
use fndm_baselines::padim::{PadimMethod, PadimSettings};
use fndm_baselines::patch_core::{self, PatchCoreMethod};
use fndm_baselines::reverse_distillation::{ReverseMethod, ReverseSettings};
use fndm_baselines::stfpm::{StfpmMethod, StfpmSettings};
use fndm_baselines::{Baseline, Extractor, Fit, Method};
use fndm_data::SliceSet;
use fndm_memory::{BackboneFeatures, Channels, MemoryConfig, PatchFeatures};
use fndm_models::{Backbone, BackboneKind, Limits, ResNetConfig};
use ndarray::Array4;
use serde_json::Value;

use super::{Case, number};
use crate::inputs::{floats, sample, tensor};

struct Map {
    baseline: Box<dyn Baseline>,
    slice: Tensor,
    found: Option<Tensor>,
}

impl Case for Map {
    fn run(&mut self) -> Result<()> {
        self.found = Some(self.baseline.maps(&self.slice)?);
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.found.as_ref().context("nothing has run")?)?)
    }
}

/// Healthy slices of three sequences, of noise: times don't depend on what is seen.
fn slices(count: usize, side: usize) -> Result<SliceSet> {
    let shape = (count, 3, side, side);
    let images = Array4::from_shape_vec(shape, floats(1, count * 3 * side * side))?;
    let patients: Vec<String> = (0..count).map(|n| format!("p{n}")).collect();
    let sequences = ["flair", "t1", "t1ce"];
    Ok(SliceSet::new(
        images,
        vec![0; count],
        &patients,
        &sequences,
    )?)
}

/// anomalib's settings, one pass.
fn method(spec: &Value, extractor: Extractor) -> Result<Box<dyn Method>> {
    let epochs = 1;
    Ok(match text(spec, "method")? {
        "stfpm" => Box::new(StfpmMethod {
            settings: StfpmSettings {
                epochs,
                ..StfpmSettings::anomalib()
            },
            extractor,
        }),
        "reverse_distillation" => Box::new(ReverseMethod {
            settings: ReverseSettings {
                mirror: Some(ResNetConfig::resnet18()),
                epochs,
                ..ReverseSettings::anomalib()
            },
            extractor,
        }),
        "cflow" => Box::new(CflowMethod {
            settings: CflowSettings {
                epochs,
                sub_epochs: 1,
                ..CflowSettings::anomalib()
            },
            extractor,
        }),
        "csflow" => Box::new(CsFlowMethod {
            settings: CsFlowSettings {
                image_size: Some((number(spec, "image")?, number(spec, "image")?)),
                epochs,
                ..CsFlowSettings::anomalib()
            },
            extractor,
        }),
        "fastflow" => Box::new(FastFlowMethod {
            settings: FastFlowSettings {
                epochs,
                ..FastFlowSettings::anomalib()
            },
            extractor,
        }),
        "padim" => Box::new(PadimMethod {
            settings: PadimSettings::anomalib(),
            extractor,
        }),
        "patch_core" => Box::new(PatchCoreMethod {
            config: MemoryConfig {
                patch: PatchFeatures {
                    pretrain_dimension: number(spec, "dimension")?,
                    target_dimension: number(spec, "dimension")?,
                    ..PatchFeatures::default()
                },
                ..patch_core::anomalib()
            },
            extractor,
        }),
        other => bail!("spec: no method {other:?}"),
    })
}

fn text<'a>(spec: &'a Value, key: &str) -> Result<&'a str> {
    let value = spec[key].as_str();
    value.with_context(|| format!("spec: expected a text {key:?}"))
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let kind: BackboneKind = serde_json::from_value(spec["backbone"].clone())?;
    let (device, limits) = (Device::Cpu, Limits::default());
    let maps = spec["maps"].as_array().context("spec: no maps")?;
    let features = BackboneFeatures {
        maps: maps
            .iter()
            .filter_map(|name| name.as_str().map(String::from))
            .collect(),
        channels: Channels::Colour,
        ..BackboneFeatures::new(Backbone::load(
            text(spec, "weights")?,
            kind,
            &limits,
            &device,
        )?)
    };
    let (count, side) = (number(spec, "slices")?, number(spec, "side")?);
    let method = method(spec, Arc::new(features))?;
    let baseline = method.fit(&slices(count, side)?, &Fit::new(0, &device))?;
    let folder = Path::new(text(spec, "folder")?);
    std::fs::create_dir_all(folder)?;
    baseline.save(folder)?;
    Ok(Box::new(Map {
        baseline,
        slice: tensor(2, &[1, 3, side, side])?,
        found: None,
    }))
}
