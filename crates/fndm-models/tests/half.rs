//! Inference in 16 bits, against the same network in f32; batches of 1 to 64.

mod common;

use candle_core::{DType, Device, Tensor};
use fndm_kernels::{Precision, set_precision};
use fndm_models::{Classifier, ClassifierConfig, Limits, Parameters, StateDict, UNet};

/// Relative to the largest output: a few roundings of 2^-11 or 2^-8 through a dozen blocks.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F16 { 5e-3 } else { 4e-2 }
}

#[test]
fn outputs_in_16_bits_stay_near_those_in_f32() {
    let mut worst = common::Worst::default();
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
            worst.add(dtype.as_str(), error, &case.name);
            assert!(
                error < tolerance(dtype),
                "{} {dtype:?}: {error:.2e}",
                case.name
            );
        }
    }
}

/// Images of 16 bits too: the result is of their type, and so is the gradient for guidance.
#[test]
fn images_in_16_bits() {
    for case in common::cases() {
        let io = case.load("io");
        let state = StateDict::new(case.load("weights").into_iter().collect());
        for dtype in [DType::F16, DType::BF16] {
            let device = &Device::Cpu;
            let x = io["x"].to_dtype(dtype).unwrap();
            // The peer's input isn't one of 16 bits, so its rounding counts as well.
            let most = 2. * tolerance(dtype);
            if case.is_unet() {
                let net = UNet::from_state_dict(&case.unet_config(), &state, dtype, device);
                let net = net.unwrap();
                let y = net.config().num_classes.map(|_| &io["y"]);
                let output = net.forward(&x, &io["t"], y).unwrap();
                assert_eq!(output.dtype(), dtype);
                let error = common::relative(&output, &io["output"]);
                println!("{} {dtype:?}: {error:.1e}", case.name);
                assert!(error < most, "{} {dtype:?}: {error:.2e}", case.name);
            } else {
                let config = case.classifier_config();
                let net = Classifier::from_state_dict(&config, &state, dtype, device).unwrap();
                let found = net.log_prob_gradient(&x, &io["t"], &io["y"]).unwrap();
                assert_eq!(found.dtype(), dtype);
                let error = common::relative(&found, &io["grad_x_of_selected_log_prob"]);
                println!("{} {dtype:?} gradient: {error:.1e}", case.name);
                assert!(error < 2. * most, "{} {dtype:?}: {error:.2e}", case.name);
            }
        }
    }
}

/// Every image of a batch gets what it gets alone.
#[test]
fn batches_of_1_to_64() {
    set_precision(Precision::Exact);
    for case in common::cases() {
        let io = case.load("io");
        let state = StateDict::new(case.load("weights").into_iter().collect());
        let n = io["x"].dim(0).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let device = &Device::Cpu;
            type Run = Box<dyn Fn(&Tensor, &Tensor, &Tensor) -> Tensor>;
            let run: Run = if case.is_unet() {
                let net = UNet::from_state_dict(&case.unet_config(), &state, dtype, device);
                let net = net.unwrap();
                let labelled = net.config().num_classes.is_some();
                Box::new(move |x, t, y| net.forward(x, t, labelled.then_some(y)).unwrap())
            } else {
                let config = case.classifier_config();
                let net = Classifier::from_state_dict(&config, &state, dtype, device).unwrap();
                Box::new(move |x, t, _| net.forward(x, t).unwrap())
            };
            let part = |name: &str, i: usize| io[name].narrow(0, i % n, 1).unwrap();
            let y = |i: usize| match io.get("y") {
                Some(_) => part("y", i),
                None => part("t", i),
            };
            let alone: Vec<Tensor> = (0..n)
                .map(|i| run(&part("x", i), &part("t", i), &y(i)))
                .collect();
            for batch in [1, 2, 7, 64] {
                let join = |part: &dyn Fn(usize) -> Tensor| {
                    let parts: Vec<Tensor> = (0..batch).map(part).collect();
                    Tensor::cat(&parts, 0).unwrap()
                };
                let together = run(
                    &join(&|i| part("x", i)),
                    &join(&|i| part("t", i)),
                    &join(&y),
                );
                assert_eq!(together.dim(0).unwrap(), batch);
                let expected = join(&|i| alone[i % n].clone());
                let error = common::relative(&together, &expected);
                // In 16 bits a sum in another order may be rounded to the next number.
                let most = if dtype == DType::F32 {
                    5e-6
                } else {
                    tolerance(dtype)
                };
                assert!(error < most, "{} {dtype:?} {batch}: {error:.2e}", case.name);
            }
        }
    }
}

/// Parameters of 16 bits can be saved and loaded, though some are kept wider.
#[test]
fn parameters_in_16_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let config = ClassifierConfig::small_64(1);
    let x = Tensor::ones((1, 1, 64, 64), DType::F32, &Device::Cpu).unwrap();
    let t = Tensor::new(&[5f32], &Device::Cpu).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        let trained = Parameters::new(1, dtype, &Device::Cpu);
        let a = Classifier::new(&config, trained.builder()).unwrap();
        trained.save(&path, &config).unwrap();
        let loaded = Parameters::new(2, dtype, &Device::Cpu);
        let b = Classifier::new(&config, loaded.builder()).unwrap();
        loaded.load(&path, &Limits::default()).unwrap();
        let (a, b) = (a.forward(&x, &t).unwrap(), b.forward(&x, &t).unwrap());
        assert_eq!(common::max_diff(&a, &b), 0.);
    }
}
