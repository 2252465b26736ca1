//! Names and shapes of the original's state dicts, and its errors, from the data that travels with the crate.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use fndm_models::{Classifier, ClassifierConfig, Conditions, HybridInput, Pool, UNet, UNetConfig};
use serde_json::{Value, json};

fn read(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_model_has_the_original_names_and_shapes() {
    let shapes = read("shapes.json");
    for entry in read("manifest.json")["models"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let case = common::Case {
            name: name.to_owned(),
            entry: entry.clone(),
            folder: PathBuf::new(),
        };
        let parameters = common::parameters(0);
        if case.is_unet() {
            UNet::new(&case.unet_config(), parameters.builder()).unwrap();
        } else {
            Classifier::new(&case.classifier_config(), parameters.builder()).unwrap();
        }
        let got: BTreeMap<String, Vec<usize>> = parameters
            .iter()
            .map(|(n, var)| (n, var.dims().to_vec()))
            .collect();
        let expected: BTreeMap<String, Vec<usize>> =
            serde_json::from_value(shapes[name].clone()).unwrap();
        assert_eq!(got, expected, "{name}");
        assert_eq!(
            parameters.len_elements() as u64,
            entry["parameters"].as_u64().unwrap()
        );
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

fn labels(n: usize) -> Tensor {
    Tensor::zeros(n, DType::U32, &Device::Cpu).unwrap()
}

/// The cases that the originals refuse: refused here as well, at the latest when the network runs.
#[test]
fn refused_cases() {
    for case in common::refused() {
        let name = &case.name;
        let run = || -> fndm_models::Result<()> {
            let shape: Vec<usize> =
                serde_json::from_value(case.entry["input_shape"].clone()).unwrap();
            let (x, t) = (zeros(&shape), zeros(&shape[..1]));
            let parameters = common::parameters(0);
            if case.is_unet() {
                let net = UNet::new(&case.try_unet_config()?, parameters.builder())?;
                let y = net.config().num_classes.map(|_| labels(shape[0]));
                net.forward(&x, &t, y.as_ref())?;
            } else {
                let config = case.try_classifier_config()?;
                Classifier::new(&config, parameters.builder())?.forward(&x, &t)?;
            }
            Ok(())
        };
        let said = (&case.entry["raises"], &case.entry["message"]);
        match run() {
            Ok(()) => panic!("{name}: the original raises {said:?}, here it runs"),
            Err(e) => println!("{name}: {e}; the original: {said:?}"),
        }
    }
}

/// What the originals say of wrong use: each is checked below under this name, or left out aloud.
const CHECKED: [&str; 8] = [
    "class-conditional model without y",
    "y given to an unconditional model",
    "side not divisible by the down-sampling",
    "channels not a multiple of 32",
    "channels not divisible by num_head_channels",
    "channel_mult[0] of 2 in diffusion-anomaly",
    "unknown pool",
    "attention pool without num_head_channels",
];

#[test]
fn no_error_of_the_original_is_passed_over() {
    let manifest = common::manifest();
    let Some(errors) = manifest["errors"].as_object() else {
        return common::aloud("errors: the manifest has none");
    };
    for (name, error) in errors {
        if !CHECKED.contains(&name.as_str()) {
            common::aloud(&format!("{name} ({error}): no check of it here"));
        }
    }
    // Where the two originals differ, guided-diffusion's way is taken: it multiplies the first channels, too.
    let wide = UNetConfig {
        channel_mult: vec![2.],
        ..UNetConfig::default()
    };
    assert!(UNet::new(&wide, common::parameters(0).builder()).is_ok());
}

/// Every wrong use that the originals refuse is an error here, and says what fits.
#[test]
fn what_the_original_refuses() {
    let base = UNetConfig {
        image_size: 16,
        channel_mult: vec![1., 1.],
        ..UNetConfig::default()
    };
    let build = |config: &UNetConfig| UNet::new(config, common::parameters(0).builder());
    let config_error = |config: UNetConfig| build(&config).unwrap_err().to_string();

    let plain = build(&base).unwrap();
    let classes = build(&UNetConfig {
        num_classes: Some(2),
        ..base.clone()
    })
    .unwrap();
    let (x, t) = (zeros(&[2, 1, 16, 16]), zeros(&[2]));
    let error = classes.forward(&x, &t, None).unwrap_err().to_string();
    assert!(error.contains("a label below 2 per image"), "{error}");
    let error = plain
        .forward(&x, &t, Some(&labels(2)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("no classes"), "{error}");
    let error = classes
        .forward(&x, &t, Some(&labels(3)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("(2) labels"), "{error}");
    // Out of range at either end; candle by itself takes -1 for "no row".
    for wrong in [[0i64, 2], [0, -1], [i64::from(u32::MAX), 0]] {
        let wrong = Tensor::new(&wrong, &Device::Cpu).unwrap();
        let error = classes.forward(&x, &t, Some(&wrong)).unwrap_err();
        assert!(error.to_string().contains("labels below 2"), "{error}");
    }
    let error = classes.forward(&x, &t, Some(&zeros(&[2]))).unwrap_err();
    assert!(error.to_string().contains("whole numbers"), "{error}");
    let error = plain
        .forward(&zeros(&[2, 1, 15, 16]), &t, None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("divisible by 2"), "{error}");
    let error = plain
        .forward(&x, &zeros(&[3]), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("(2) times"), "{error}");

    let cases = [
        (
            UNetConfig {
                model_channels: 48,
                ..base.clone()
            },
            "a multiple of 32",
        ),
        (
            UNetConfig {
                num_head_channels: Some(24),
                ..base.clone()
            },
            "a divisor of 32",
        ),
        (
            UNetConfig {
                num_heads: 5,
                ..base.clone()
            },
            "num_heads: expected a divisor",
        ),
        (
            UNetConfig {
                num_heads_upsample: Some(0),
                ..base.clone()
            },
            "num_heads_upsample",
        ),
        (
            UNetConfig {
                image_size: 15,
                ..base.clone()
            },
            "a multiple of 2",
        ),
        (
            UNetConfig {
                attention_resolutions: vec![12],
                ..base.clone()
            },
            "factors",
        ),
        (
            UNetConfig {
                channel_mult: vec![],
                ..base.clone()
            },
            "channel_mult",
        ),
        (
            UNetConfig {
                channel_mult: vec![f64::NAN],
                ..base.clone()
            },
            "channel_mult",
        ),
        (
            UNetConfig {
                channel_mult: vec![1e300],
                ..base.clone()
            },
            "channel_mult",
        ),
        (
            UNetConfig {
                dropout: 1.,
                ..base.clone()
            },
            "[0, 1)",
        ),
        (
            UNetConfig {
                dropout: f64::NAN,
                ..base.clone()
            },
            "[0, 1)",
        ),
        (
            UNetConfig {
                num_classes: Some(0),
                ..base.clone()
            },
            "num_classes",
        ),
        (
            UNetConfig {
                num_classes: Some(usize::MAX),
                ..base.clone()
            },
            "num_classes",
        ),
        (
            UNetConfig {
                in_channels: 0,
                ..base.clone()
            },
            "in_channels",
        ),
        (
            UNetConfig {
                num_res_blocks: 0,
                ..base.clone()
            },
            "num_res_blocks",
        ),
    ];
    for (config, wanted) in cases {
        let error = config_error(config);
        assert!(error.contains(wanted), "expected \"{wanted}\" in: {error}");
    }

    let attention = ClassifierConfig {
        pool: Pool::Attention,
        ..ClassifierConfig::default()
    };
    let error = attention.check().unwrap_err().to_string();
    assert!(error.contains("num_head_channels"), "{error}");
    let average = ClassifierConfig {
        pool: Pool::SpatialAverage8,
        channel_mult: vec![1., 3.],
        ..ClassifierConfig::default()
    };
    let error = average.check().unwrap_err().to_string();
    assert!(error.contains("a divisor of 256"), "{error}");
    let unknown = json!({"pool": "max"});
    assert!(ClassifierConfig::from_guided_diffusion(&unknown).is_err());
    assert!(UNetConfig::from_guided_diffusion(&json!({"dims": 3})).is_err());
    assert!(UNetConfig::from_guided_diffusion(&json!({"no_such_option": 1})).is_err());
    assert!(UNetConfig::from_guided_diffusion(&json!([1])).is_err());
    let flags =
        json!({"num_head_channels": -1, "use_fp16": true, "dims": 2, "channel_mult": [1, 2]});
    assert_eq!(
        UNetConfig::from_guided_diffusion(&flags)
            .unwrap()
            .channel_mult,
        [1., 2.]
    );
}

#[test]
fn classifier_inputs_that_do_not_fit() {
    let net = Classifier::new(
        &ClassifierConfig::small_64(1),
        common::parameters(0).builder(),
    );
    let net = net.unwrap();
    let (x, t) = (zeros(&[1, 1, 64, 64]), zeros(&[1]));
    assert_eq!(net.forward(&x, &t).unwrap().dims(), [1, 2]);
    // The attention pool has one position embedding per place.
    let error = net
        .forward(&zeros(&[1, 1, 32, 32]), &t)
        .unwrap_err()
        .to_string();
    assert!(error.contains("64 positions"), "{error}");
    let n = net.block_channels().len();
    assert!(net.feature_maps(&x, &t, &[n]).is_err());
    let maps = net.feature_maps(&x, &t, &[n - 1, 0]).unwrap();
    assert_eq!(maps[0].dims(), [1, 64, 8, 8]);
    assert_eq!(maps[1].dims(), [1, 32, 64, 64]);
    assert!(net.feature_maps(&x, &t, &[]).unwrap().is_empty());
    assert!(net.log_prob_gradient(&x, &t, &labels(2)).is_err());
    for far in [7i64, -1] {
        let far = Tensor::new(&[far], &Device::Cpu).unwrap();
        assert!(net.log_prob_gradient(&x, &t, &far).is_err());
    }
    let average = ClassifierConfig {
        pool: Pool::SpatialAverage8,
        ..ClassifierConfig::small_64(1)
    };
    let net = Classifier::new(&average, common::parameters(0).builder()).unwrap();
    let error = net.forward(&x, &t).unwrap_err().to_string();
    assert!(error.contains("256 values"), "{error}");
}

#[test]
fn hybrid_input_joins_in_its_order() {
    let state = (zeros(&[2, 3, 4, 4]) + 1.).unwrap();
    let image = (zeros(&[2, 3, 4, 4]) + 2.).unwrap();
    let coarse = (zeros(&[2, 4, 4]) + 3.).unwrap();
    let input = HybridInput {
        state: state.clone(),
        image: Some(image.clone()),
        coarse: Some(coarse.clone()),
    };
    let joined = input.concat().unwrap();
    let both = Conditions {
        image: true,
        coarse: true,
    };
    assert_eq!(input.conditions(), both);
    assert_eq!(joined.dims(), [2, both.in_channels(3), 4, 4]);
    let at: Vec<f32> = (0..7)
        .map(|c| {
            joined
                .get(1)
                .unwrap()
                .get(c)
                .unwrap()
                .flatten_all()
                .unwrap()
        })
        .map(|m| m.get(5).unwrap().to_scalar().unwrap())
        .collect();
    assert_eq!(at, [1., 1., 1., 2., 2., 2., 3.]);
    assert_eq!(
        HybridInput::new(state.clone()).concat().unwrap().dims(),
        [2, 3, 4, 4]
    );
    for (image, coarse) in [
        (Some(zeros(&[2, 2, 4, 4])), None),
        (None, Some(zeros(&[2, 4, 5]))),
        (None, Some(zeros(&[2, 2, 4, 4]))),
    ] {
        let input = HybridInput {
            state: state.clone(),
            image,
            coarse,
        };
        assert!(input.concat().is_err());
    }
}
