//! A model folder's networks as ONNX files.

use std::process::ExitCode;

use anyhow::{Result, bail};
use fndm::candle_core::DType;
use fndm_files::{Inputs, OutputFolder};
use fndm_onnx::{OPSET, Stored, model_folder};

use super::Options;
use crate::common::place;

pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let stored = match options.dtype {
        None | Some(DType::F32) => Stored::F32,
        Some(DType::F16) => Stored::F16,
        Some(other) => bail!("--dtype {}: ONNX files have f32 or f16", other.as_str()),
    };
    if !options.input.is_dir() {
        bail!(
            "{}: with --onnx, expected a model folder",
            options.input.display()
        );
    }
    let inputs = Inputs::new().whole(&options.input);
    let maker = place::maker("convert", "networks as ONNX");
    place::check_output(&options.output, &maker, &inputs)?;
    let networks = model_folder(&options.input, stored)?;
    let mut folder = OutputFolder::create(&options.output, &maker, &inputs)?;
    let mut lines = Vec::new();
    for (name, network) in &networks {
        let bytes = network.to_bytes()?;
        folder.write(name, &bytes)?;
        lines.push(format!("{name}: {} bytes", bytes.len()));
    }
    folder.finish()?;
    for line in lines {
        say!("{line}");
    }
    say!(
        "{} of {} in opset {OPSET}, written to {}",
        fndm_files::counted(networks.len(), "network"),
        options.input.display(),
        options.output.display()
    );
    Ok(ExitCode::SUCCESS)
}
