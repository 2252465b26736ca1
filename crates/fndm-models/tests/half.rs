//! Inference with weights of 16 bits, against the same network in f32.

mod common;

use candle_core::{DType, Device};
use fndm_models::{Classifier, StateDict, UNet};

/// Relative to the largest output: a few roundings of 2^-11 or 2^-8 through a dozen blocks.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F16 { 5e-3 } else { 4e-2 }
}

#[test]
fn outputs_in_16_bits_stay_near_those_in_f32() {
    for case in common::cases() {
        let io = case.load("io");
        let state = StateDict::new(case.load("weights").into_iter().collect());
        for dtype in [DType::F16, DType::BF16] {
            let device = &Device::Cpu;
            let output = if case.is_unet() {
                let net = UNet::from_state_dict(&case.unet_config(), &state, dtype, device);
                let net = net.unwrap();
                let y = net.config().num_classes.map(|_| &io["y"]);
                net.forward(&io["x"], &io["t"], y).unwrap()
            } else {
                let config = case.classifier_config();
                let net = Classifier::from_state_dict(&config, &state, dtype, device).unwrap();
                net.forward(&io["x"], &io["t"]).unwrap()
            };
            // The result has the type of the input, whatever the weights are.
            assert_eq!(output.dtype(), DType::F32);
            let error = common::relative(&output, &io["output"]);
            println!("{} {dtype:?}: {error:.1e}", case.name);
            assert!(
                error < tolerance(dtype),
                "{} {dtype:?}: {error:.2e}",
                case.name
            );
        }
    }
}
