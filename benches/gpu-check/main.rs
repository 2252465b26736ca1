//! Checks the kernels for CUDA against the CPU and times them, on a machine with a GPU. It builds nothing: see docs/gpu.md.

mod golden;
mod kernels;
mod report;
mod timing;
mod training;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use fndm::candle_core::Device;

use report::Report;

/// Compares the GPU with the CPU, and times it.
#[derive(Debug, Parser)]
struct Options {
    /// What to do; default: all
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// cuda or cuda:N; cpu compares the CPU with itself, which tries this program alone
    #[arg(long, default_value = "cuda")]
    device: String,
    /// The reference data of guided-diffusion: the folder with unet/manifest.json
    #[arg(long, value_name = "DIR", default_value = "../shared/golden")]
    golden: PathBuf,
    /// The model folder whose settings the detection has
    #[arg(long, value_name = "DIR", default_value = "assets/phantom")]
    model: PathBuf,
    /// Iterations of the training that is compared
    #[arg(long, value_name = "N", default_value_t = 100)]
    iterations: usize,
    /// Side of the images and size of the batch that are timed
    #[arg(long, value_name = "PX", default_value_t = 256)]
    size: usize,
    /// Images of a batch that is timed
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// How often a pass or a step is timed
    #[arg(long, value_name = "N", default_value_t = 20)]
    repetitions: usize,
    /// Evaluations of the UNet in each direction of the detection that is timed
    #[arg(long, value_name = "N", default_value_t = 50)]
    evaluations: usize,
    /// Slices of the volume whose detection is timed
    #[arg(long, value_name = "N", default_value_t = 100)]
    slices: usize,
    /// Where every figure goes, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Every operation and its gradients, f32, TF32 and bf16
    Kernels,
    /// The networks of the reference data
    Golden,
    /// A training on the CPU and on the GPU from one seed
    Training,
    /// Forward pass, training step, detection of a volume
    Timing,
}

const NO_GPU: u8 = 3;

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let device = match fndm::kernels::device(&options.device) {
        Ok(device) => device,
        Err(e) => {
            let message = e.to_string();
            eprintln!(
                "gpu-check: no GPU, so nothing was checked: {}",
                message.lines().next().unwrap_or_default()
            );
            return Ok(ExitCode::from(NO_GPU));
        }
    };
    let mut report = Report::new(options.json.as_deref())?;
    let wanted = |part| options.parts.is_empty() || options.parts.contains(&part);
    if wanted(Part::Kernels) {
        kernels::check(&device, &mut report)?;
    }
    if wanted(Part::Golden) {
        golden::check(&device, &options.golden, &mut report)?;
    }
    if wanted(Part::Training) {
        training::check(&device, options.iterations, &mut report)?;
    }
    if wanted(Part::Timing) {
        timing::run(&device, &options, &mut report)?;
    }
    Ok(if report.finish() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether 16-bit types can be computed with there.
fn has_bf16(device: &Device) -> bool {
    device.is_cuda()
}
