//! Checkpoints in and out: equal bits, all differences told, configs from shapes, both ways.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use fndm_models::{
    Classifier, ClassifierConfig, Error, Guess, Limits, Parameters, StateDict, UNet, UNetConfig,
};
use proptest::prelude::*;

fn read(path: &Path) -> StateDict {
    StateDict::read(path, &Limits::default()).unwrap()
}

fn same_bits(a: &StateDict, b: &StateDict) {
    let names = |s: &StateDict| s.tensors().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(a), names(b));
    for (name, x) in a.tensors() {
        let y = b.get(name).unwrap();
        assert_eq!((x.dims(), x.dtype()), (y.dims(), y.dtype()), "{name}");
        let bits = |t: &Tensor| -> Vec<u64> {
            let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
            t.to_vec1::<f64>()
                .unwrap()
                .iter()
                .map(|v| v.to_bits())
                .collect()
        };
        assert_eq!(bits(x), bits(y), "{name}");
    }
}

#[test]
fn pytorch_and_safetensors_of_one_model_have_the_same_bits() {
    for case in common::cases() {
        let path = case.path("pt");
        if !path.is_file() {
            continue;
        }
        let (pt, safe) = (read(&path), read(&case.path("weights.safetensors")));
        // The .pt is in f32 always.
        let widened = safe
            .tensors()
            .iter()
            .map(|(n, t)| (n.clone(), t.to_dtype(DType::F32).unwrap()))
            .collect();
        same_bits(&pt, &StateDict::new(widened));
        println!("{}: {} tensors equal", case.name, pt.tensors().len());
    }
}

/// Files that PyTorch wrote, with `golden/torch/make.py`: every format and protocol, views, parameters, whole trainings.
#[test]
fn what_pytorch_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch");
    let limits = Limits::default();
    let expected = |name: &str| read(&folder.join(name).with_extension("safetensors"));
    for (file, content) in [
        ("plain", "plain"),
        ("dict", "plain"),
        ("protocol4", "plain"),
        ("protocol5", "plain"),
        ("legacy", "plain"),
        ("legacy_protocol4", "plain"),
        ("parameters", "plain"),
        ("data_parallel", "plain"),
        ("module", "module"),
    ] {
        println!("{file}.pt");
        same_bits(
            &read(&folder.join(file).with_extension("pt")),
            &expected(content),
        );
    }
    for file in ["training.pt", "training_legacy.pt"] {
        let path = folder.join(file);
        for (key, content) in [("state_dict", "trained"), ("ema", "ema")] {
            let state = StateDict::read_key(&path, key, &limits).unwrap();
            same_bits(&state, &expected(content));
        }
        let error = StateDict::read(&path, &limits).unwrap_err().to_string();
        assert!(
            error.contains("name one of them: ema, state_dict"),
            "{error}"
        );
        let error = StateDict::read_key(&path, "optimizer", &limits).unwrap_err();
        assert!(
            error.to_string().contains("there is: ema, state_dict"),
            "{error}"
        );
    }
    let error = StateDict::read(folder.join("code.pt"), &limits).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("torch.nn.modules.container.Sequential"),
        "{text}"
    );
    assert!(text.contains("nothing is ever executed"), "{text}");
}

#[test]
fn both_formats_come_back_as_they_went() {
    let folder = tempfile::tempdir().unwrap();
    let device = &Device::Cpu;
    let mut tensors = BTreeMap::new();
    for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
        let t = Tensor::new(&[[-1.5f32, 0., 2.25], [3e4, -0.1, 1e-3]], device).unwrap();
        tensors.insert(format!("{dtype:?}"), t.to_dtype(dtype).unwrap());
    }
    tensors.insert(
        "count".into(),
        Tensor::new(&[-7i64, 1 << 40], device).unwrap(),
    );
    tensors.insert("bytes".into(), Tensor::new(&[0u8, 255], device).unwrap());
    tensors.insert("scalar".into(), Tensor::new(4.5f32, device).unwrap());
    let transposed = Tensor::arange(0f32, 6., device)
        .unwrap()
        .reshape((2, 3))
        .unwrap();
    tensors.insert("transposed".into(), transposed.t().unwrap());
    let state = StateDict::new(tensors).with_metadata("note", "kept");

    let path = folder.path().join("a.safetensors");
    state.save(&path).unwrap();
    let back = read(&path);
    same_bits(&state, &back);
    assert_eq!(back.metadata().get("note").unwrap(), "kept");
    // candle's own reader agrees.
    let candles = candle_core::safetensors::load(&path, device).unwrap();
    assert_eq!(candles.len(), state.tensors().len());

    let path = folder.path().join("a.pt");
    state.save_torch(&path).unwrap();
    same_bits(&state, &read(&path));
    let candles = candle_core::pickle::read_all(&path).unwrap();
    assert_eq!(candles.len(), state.tensors().len());

    // Equal tensors give equal files, and nothing else is left in the folder.
    let again = folder.path().join("b.pt");
    state.save_torch(&again).unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(&again).unwrap()
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn every_difference_is_told_in_one_error() {
    let config = UNetConfig {
        channel_mult: vec![1.],
        num_classes: Some(2),
        ..UNetConfig::default()
    };
    let parameters = common::parameters(1);
    UNet::new(&config, parameters.builder()).unwrap();
    let mut tensors = parameters.tensors().unwrap();
    tensors.remove("label_emb.weight").unwrap();
    tensors.remove("out.2.bias").unwrap();
    let device = &Device::Cpu;
    tensors.insert(
        "out.9.bias".into(),
        Tensor::zeros(3, DType::F32, device).unwrap(),
    );
    tensors.insert(
        "out.0.bias".into(),
        Tensor::zeros(33, DType::F32, device).unwrap(),
    );
    tensors.insert(
        "out.0.weight".into(),
        Tensor::zeros(32, DType::I64, device).unwrap(),
    );
    let state = StateDict::new(tensors);
    for error in [
        UNet::from_state_dict(&config, &state, DType::F32, device).unwrap_err(),
        parameters.set(&state).unwrap_err(),
    ] {
        let text = error.to_string();
        let Error::Mismatch { mismatch, .. } = error else {
            panic!("{text}");
        };
        assert_eq!(mismatch.len(), 5, "{text}");
        let missing: Vec<_> = mismatch.missing.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(missing, ["label_emb.weight", "out.2.bias"]);
        assert_eq!(mismatch.unexpected, ["out.9.bias"]);
        assert_eq!(
            mismatch.shapes,
            [("out.0.bias".to_owned(), vec![32], vec![33])]
        );
        assert_eq!(
            mismatch.types,
            [("out.0.weight".to_owned(), "I64".to_owned())]
        );
        for name in [
            "label_emb.weight",
            "out.2.bias",
            "out.9.bias",
            "out.0.bias",
            "out.0.weight",
        ] {
            assert!(text.contains(name), "{text}");
        }
    }
}

#[test]
fn the_config_travels_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.safetensors");
    let config = ClassifierConfig::small_64(3);
    let parameters = common::parameters(1);
    let trained = Classifier::new(&config, parameters.builder()).unwrap();
    parameters.save(&path, &config).unwrap();

    let limits = Limits::default();
    let loaded = Classifier::load(&path, &limits, DType::F32, &Device::Cpu).unwrap();
    assert_eq!(loaded.config(), &config);
    let x = Tensor::ones((1, 3, 64, 64), DType::F32, &Device::Cpu).unwrap();
    let t = Tensor::new(&[5f32], &Device::Cpu).unwrap();
    let (a, b) = (
        trained.forward(&x, &t).unwrap(),
        loaded.forward(&x, &t).unwrap(),
    );
    assert!(a.track_op() && !b.track_op());
    assert_eq!(common::max_diff(&a, &b), 0.);

    let other = Parameters::new(2, DType::F32, &Device::Cpu);
    Classifier::new(&config, other.builder()).unwrap();
    other.load(&path, &limits).unwrap();
    for ((name, a), (_, b)) in parameters.iter().zip(other.iter()) {
        assert_eq!(common::max_diff(&a, &b), 0., "{name}");
    }
    let error = UNet::load(&path, &limits, DType::F32, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("no config of a unet"), "{error}");
}

/// Both configs as JSON, without the options that shapes can't tell and the factors that no level has.
fn same_but_for<C: serde::Serialize>(what: &str, guess: &Guess<C>, known: &C) {
    let told = |config: &C| {
        let mut value = serde_json::to_value(config).unwrap();
        let options = value.as_object_mut().unwrap();
        for name in &guess.undetermined {
            options.remove(*name);
        }
        let levels = options["channel_mult"].as_array().unwrap().len();
        let mut factors: Vec<u64> =
            serde_json::from_value(options["attention_resolutions"].clone()).unwrap();
        factors.retain(|f| *f < 1 << levels);
        factors.sort_unstable();
        options["attention_resolutions"] = factors.into();
        value
    };
    assert_eq!(told(&guess.config), told(known), "{what}");
}

#[test]
fn configs_from_shapes_of_reference_models() {
    for case in common::cases() {
        let state = read(&case.path("weights.safetensors"));
        let several = |e: Error| {
            assert!(
                e.to_string().contains("several configs"),
                "{}: {e}",
                case.name
            );
            println!("{}: {e}", case.name);
        };
        if case.is_unet() {
            assert!(ClassifierConfig::guess(&state).is_err());
            match UNetConfig::guess(&state) {
                Ok(guess) => same_but_for(&case.name, &guess, &case.unet_config()),
                Err(e) => several(e),
            }
        } else {
            assert!(UNetConfig::guess(&state).is_err());
            match ClassifierConfig::guess(&state) {
                Ok(guess) => same_but_for(&case.name, &guess, &case.classifier_config()),
                Err(e) => several(e),
            }
        }
    }
}

#[test]
fn configs_from_shapes_of_presets() {
    let unets = [
        UNetConfig::small_64(9, 4),
        UNetConfig {
            model_channels: 32,
            ..UNetConfig::paper_256(5, 2)
        },
        UNetConfig {
            model_channels: 64,
            channel_mult: vec![0.5, 1., 1.5],
            ..UNetConfig::paper_64(5, 2)
        },
    ];
    for known in unets {
        let parameters = common::parameters(0);
        UNet::new(&known, parameters.builder()).unwrap();
        let guess = UNetConfig::guess(&parameters.state_dict().unwrap()).unwrap();
        let filled = UNetConfig {
            image_size: known.image_size,
            num_head_channels: known.num_head_channels,
            ..guess.config
        };
        assert_eq!(filled, known);
    }
    // A multiplier that has no short decimal form comes back from the file's text with all its bits.
    let mult = |channels: f64| {
        let mult = channels / 52.;
        if mult * 52. < channels {
            mult.next_up()
        } else {
            mult
        }
    };
    let third = UNetConfig {
        model_channels: 52,
        channel_mult: [32., 64., 96., 160.].map(mult).to_vec(),
        num_head_channels: Some(32),
        ..UNetConfig::default()
    };
    let state = StateDict::default().with_config(&third).unwrap();
    let folder = tempfile::tempdir().unwrap();
    state.save(folder.path().join("c")).unwrap();
    let back = read(&folder.path().join("c"));
    assert_eq!(back.config::<UNetConfig>().unwrap(), Some(third));
    for known in [ClassifierConfig::small_64(4), ClassifierConfig::paper_64(1)] {
        let parameters = common::parameters(0);
        Classifier::new(&known, parameters.builder()).unwrap();
        let guess = ClassifierConfig::guess(&parameters.state_dict().unwrap()).unwrap();
        assert_eq!(guess.config, known);
    }
}

#[test]
fn half_precision_weights_widen() {
    let config = ClassifierConfig::small_64(1);
    let parameters = common::parameters(1);
    Classifier::new(&config, parameters.builder()).unwrap();
    let full = parameters.tensors().unwrap();
    let x = Tensor::ones((1, 1, 64, 64), DType::F32, &Device::Cpu).unwrap();
    let t = Tensor::new(&[5f32], &Device::Cpu).unwrap();
    for dtype in [DType::F16, DType::BF16] {
        let convert = |to: DType| -> StateDict {
            StateDict::new(
                full.iter()
                    .map(|(n, v)| (n.clone(), v.to_dtype(dtype).unwrap().to_dtype(to).unwrap()))
                    .collect(),
            )
        };
        let logits = |state: StateDict| {
            Classifier::from_state_dict(&config, &state, DType::F32, &Device::Cpu)
                .unwrap()
                .forward(&x, &t)
                .unwrap()
        };
        let (half, wide) = (logits(convert(dtype)), logits(convert(DType::F32)));
        assert_eq!(common::max_diff(&half, &wide), 0.);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the options, the shapes give them back, or the error says that several configs fit.
    #[test]
    fn configs_from_shapes_of_any_unet(
        mult in prop::collection::vec(1usize..=3, 1..=3),
        num_res_blocks in 1usize..=3,
        resample in 0..3,
        attention in 0usize..8,
        use_scale_shift_norm: bool,
        num_classes in prop::option::of(1usize..4),
        in_channels in 1usize..6,
        out_channels in 1usize..6,
    ) {
        let known = UNetConfig {
            in_channels,
            out_channels,
            num_res_blocks,
            attention_resolutions: (0..3).filter(|i| attention & (1 << i) != 0).map(|i| 1 << i).collect(),
            channel_mult: mult.iter().map(|m| *m as f64).collect(),
            conv_resample: resample != 1,
            resblock_updown: resample == 2,
            use_scale_shift_norm,
            num_classes,
            ..UNetConfig::default()
        };
        let parameters = common::parameters(0);
        UNet::new(&known, parameters.builder()).unwrap();
        let state = parameters.state_dict().unwrap();
        match UNetConfig::guess(&state) {
            Ok(guess) => {
                same_but_for("guess", &guess, &known);
                // And the network of the guess takes the tensors.
                UNet::from_state_dict(&guess.config, &state, DType::F32, &Device::Cpu).unwrap();
            }
            Err(e) => prop_assert!(e.to_string().contains("several configs"), "{}: {:?}", e, known),
        }
    }
}

/// What a model folder is read with: half precision widens, and everything that doesn't fit is told.
#[test]
fn a_file_is_loaded_strictly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unet.safetensors");
    let config = UNetConfig {
        image_size: 16,
        channel_mult: vec![1.],
        ..UNetConfig::default()
    };
    let parameters = common::parameters(1);
    UNet::new(&config, parameters.builder()).unwrap();
    let narrow = |t: &Tensor| t.to_dtype(DType::F16).unwrap();
    let mut half: BTreeMap<String, Tensor> = parameters.tensors().unwrap();
    half.values_mut().for_each(|t| *t = narrow(t));
    StateDict::new(half.clone()).save(&path).unwrap();

    let device = &Device::Cpu;
    let load = |limits: &Limits| {
        StateDict::load(&path, limits, DType::F32, device, |vb| {
            // Whatever the file holds, this is what the network gets.
            assert_eq!(vb.get(32, "input_blocks.0.0.bias")?.dtype(), DType::F32);
            UNet::new(&config, vb)
        })
    };
    let unet = load(&Limits::default()).unwrap();
    let x = Tensor::ones((1, 1, 16, 16), DType::F32, device).unwrap();
    let t = Tensor::new(&[5f32], device).unwrap();
    let widened = StateDict::new(half.clone());
    let other = UNet::from_state_dict(&config, &widened, DType::F32, device).unwrap();
    let (a, b) = (unet.forward(&x, &t, None), other.forward(&x, &t, None));
    assert_eq!(common::max_diff(&a.unwrap(), &b.unwrap()), 0.);

    let small = Limits {
        tensor_bytes: 1000,
        ..Limits::default()
    };
    assert!(matches!(load(&small), Err(Error::Limit { .. })));
    let mut wrong = half.clone();
    wrong.insert("left.over".into(), half["out.2.bias"].clone());
    wrong.remove("out.2.weight");
    wrong.insert("out.2.bias".into(), narrow(&x));
    StateDict::new(wrong).save(&path).unwrap();
    let Err(Error::Mismatch { file, mismatch }) = load(&Limits::default()) else {
        panic!("expected a mismatch");
    };
    assert_eq!(file, path.display().to_string());
    assert_eq!(mismatch.unexpected, ["left.over"]);
    assert_eq!(mismatch.missing.len(), 1);
    assert_eq!(mismatch.shapes.len(), 1);

    let mut broken = half;
    assert_eq!(
        StateDict::new(broken.clone()).first_non_finite().unwrap(),
        None
    );
    let inf = Tensor::new(&[0f32, f32::INFINITY], device).unwrap();
    broken.insert("b".into(), inf);
    let broken = StateDict::new(broken);
    assert_eq!(broken.first_non_finite().unwrap(), Some(("b", 1)));
}
