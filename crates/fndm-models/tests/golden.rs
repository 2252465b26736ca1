//! Outputs, maps and gradients against guided-diffusion's own, with convolutions computed exactly.

mod common;

use candle_core::{DType, Device};
use fndm_kernels::{Precision, set_precision};
use fndm_models::timestep_embedding;

#[test]
fn outputs_and_gradients_in_exact_mode() {
    set_precision(Precision::Exact);
    common::check_forward(2e-5, 1e-4);
}

#[test]
fn timestep_embeddings() {
    let Some(folder) = common::folder() else {
        println!("skipped: no reference data");
        return;
    };
    let path = folder.join("timestep_embedding.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let t = tensors["t"].to_dtype(DType::F32).unwrap();
    for (name, expected) in tensors.iter().filter(|(name, _)| *name != "t") {
        let (_, dim) = expected.dims2().unwrap();
        let max_period = name
            .split_once(".max_period_")
            .map_or(10_000., |(_, p)| p.parse().unwrap());
        let got = timestep_embedding(&t, dim, max_period).unwrap();
        let error = common::max_diff(&got, expected);
        println!("{name}: {error:.1e}");
        // One unit in the last place of a frequency turns t = 1000 by 6e-5.
        assert!(error < 1e-4, "{name}: {error:.2e}");
    }
}
