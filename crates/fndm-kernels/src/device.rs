//! The one place that turns a name into a device.

use candle_core::{Device, Result};

/// The device of this name: `cpu`, `cuda` (the first GPU) or `cuda:1` and so on.
///
/// All work of a CUDA device goes through one stream, so its tensors may be used from any thread.
///
/// # Errors
/// When the name is none of these, the crate was built without the feature `cuda`, or there is no such GPU or no driver for it.
///
/// ```
/// assert!(fndm_kernels::device("cpu").unwrap().is_cpu());
/// let e = fndm_kernels::device("tpu").unwrap_err();
/// assert!(e.to_string().contains("expected cpu, cuda or cuda:N"));
/// ```
pub fn device(name: &str) -> Result<Device> {
    let number = match name.split_once(':') {
        _ if name == "cpu" => return Ok(chosen(name, Device::Cpu)),
        None if name == "cuda" => Some(0),
        Some(("cuda", number)) => number.parse().ok(),
        _ => None,
    };
    match number {
        Some(number) => Ok(chosen(name, cuda(number)?)),
        None => candle_core::bail!("{name:?} is no device: expected cpu, cuda or cuda:N"),
    }
}

fn chosen(name: &str, device: Device) -> Device {
    tracing::debug!(name, "device");
    device
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device> {
    match crate::cuda::open(number) {
        Ok(device) => Ok(device),
        Err(e) => candle_core::bail!(
            "cuda:{number}: expected a GPU with a driver for CUDA 13 (see nvidia-smi), got: {}",
            reason(&e)
        ),
    }
}

/// An error without the backtrace that candle may put behind it.
#[cfg(feature = "cuda")]
fn reason(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device> {
    candle_core::bail!(
        "cuda:{number}: expected a program built with the feature `cudnn` (or `cuda`), got one for the CPU alone; \
         docs/gpu.md says how to build it"
    )
}

#[cfg(test)]
mod tests {
    use super::device;

    #[test]
    fn names_are_checked() {
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA"] {
            let e = device(name).expect_err(name).to_string();
            assert!(e.contains("expected cpu, cuda or cuda:N"), "{name}: {e}");
        }
        assert!(device("cpu").is_ok_and(|d| d.is_cpu()));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_says_so() {
        let e = device("cuda:3").expect_err("no CUDA").to_string();
        assert!(e.contains("cuda:3") && e.contains("feature `cudnn`"), "{e}");
    }
}
