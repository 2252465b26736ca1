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
    let path = common::folder().join("timestep_embedding.safetensors");
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

/// What the manifest says of a case is so in its files.
#[test]
fn the_manifest_describes_its_files() {
    for case in common::cases() {
        let (name, entry, io) = (&case.name, &case.entry, case.load("io"));
        let shape: Vec<usize> = serde_json::from_value(entry["input_shape"].clone()).unwrap();
        assert_eq!(io["x"].dims(), shape, "{name}");
        let weights = case.load("weights");
        let elements: usize = weights.values().map(candle_core::Tensor::elem_count).sum();
        assert_eq!(entry["parameters"], elements, "{name}");
        let dtype = match entry["weights_stored_as"].as_str() {
            Some(stored) if stored.starts_with("F16") => DType::F16,
            _ => DType::F32,
        };
        assert!(weights.values().all(|w| w.dtype() == dtype), "{name}");
        if entry["t_dtype"] == "torch.int64" {
            let t = io["t"].to_dtype(DType::F64).unwrap();
            let whole = common::max_diff(&t, &t.round().unwrap()) == 0.;
            assert!(whole, "{name}: times that aren't whole");
        }
        for (key, tensor) in [
            ("output_abs_max", "output"),
            ("grad_abs_max", "grad_x_of_selected_log_prob"),
        ] {
            if let Some(said) = entry[key].as_f64() {
                let found = common::max_abs(&io[tensor]);
                let same = (found - said).abs() <= 1e-6 * said;
                assert!(same, "{name}: {key} {said}, found {found}");
            }
        }
        assert_eq!(
            entry["pt_file"].is_string(),
            case.path("pt").is_file(),
            "{name}: pt_file"
        );
        assert_eq!(entry["train"].is_object(), case.trains(), "{name}: train");
    }
}
