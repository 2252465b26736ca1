//! Networks as feature extractors: which maps come out, of which sequence.

use candle_core::{DType, Device, Tensor};
use fndm_memory::{
    BackboneFeatures, Channels, ClassifierFeatures, Error, FeatureExtractor, HealthyModel,
    MemoryBank, MemoryConfig, silent,
};
use fndm_models::{Backbone, BackboneKind, Classifier, ClassifierConfig, Parameters, StateDict};

/// A network of drawn weights.
fn backbone(kind: BackboneKind) -> Backbone {
    let parameters = Parameters::new(5, DType::F32, &Device::Cpu);
    Backbone::new(kind, parameters.builder()).unwrap();
    let tensors = parameters.tensors().unwrap().into_iter();
    let tensors = tensors.map(|(name, tensor)| {
        let shape = tensor.dims().to_vec();
        let count = tensor.elem_count();
        let tensor = if shape.len() > 1 {
            // Weights without a pattern, that keep the size of what passes through.
            let scale = (6.0 * shape[0] as f32 / count as f32).sqrt();
            let value =
                |i: usize| (((i * 7919 + 13) % 10_007) as f32 / 10_007.0 - 0.5) * 2.0 * scale;
            let values: Vec<f32> = (0..count).map(value).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        } else if name.ends_with("weight") || name.ends_with("running_var") {
            tensor.ones_like().unwrap()
        } else {
            tensor.zeros_like().unwrap()
        };
        (name, tensor)
    });
    let state = StateDict::new(tensors.collect());
    Backbone::from_state_dict(kind, &state, &Device::Cpu).unwrap()
}

fn images(b: usize, c: usize, side: usize) -> Tensor {
    let n = b * c * side * side;
    let values: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
    Tensor::from_vec(values, (b, c, side, side), &Device::Cpu).unwrap()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn backbones_give_an_eighth_and_a_sixteenth_for_each_sequence() {
    for (kind, channels) in [
        (BackboneKind::EfficientNetLite0, [40, 112]),
        (BackboneKind::ResNet18, [128, 256]),
        (BackboneKind::WideResNet50, [512, 1024]),
    ] {
        let extractor = BackboneFeatures::new(backbone(kind)).enlarged_to(64, 64);
        let x = images(2, 2, 32);
        let maps = extractor.maps(&x).unwrap();
        assert_eq!(maps[0].dims(), [2, 2 * channels[0], 8, 8], "{kind:?}");
        assert_eq!(maps[1].dims(), [2, 2 * channels[1], 4, 4], "{kind:?}");
        // The second sequence of the first image, by itself.
        let one = x.narrow(0, 0, 1).unwrap().narrow(1, 1, 1).unwrap();
        let alone = extractor.maps(&one.contiguous().unwrap()).unwrap();
        for ((map, alone), channels) in maps.iter().zip(&alone).zip(channels) {
            let part = map
                .narrow(0, 0, 1)
                .unwrap()
                .narrow(1, channels, channels)
                .unwrap();
            let (part, alone) = (values(&part), values(alone));
            let top = alone.iter().fold(0f32, |a, v| a.max(v.abs()));
            assert!(top > 0.0, "{kind:?}");
            for (a, b) in part.iter().zip(&alone) {
                assert!((a - b).abs() <= 1e-5 * top, "{kind:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn three_sequences_can_be_one_colour_picture() {
    let extractor = BackboneFeatures {
        channels: Channels::Colour,
        maps: vec!["stem".into()],
        ..BackboneFeatures::new(backbone(BackboneKind::ResNet18))
    };
    assert_eq!(
        extractor.maps(&images(2, 3, 32)).unwrap()[0].dims(),
        [2, 64, 8, 8]
    );
    assert!(matches!(
        extractor.maps(&images(2, 2, 32)),
        Err(Error::Shape { .. })
    ));
}

#[test]
fn wrong_settings_of_a_backbone_are_errors() {
    let extractor = BackboneFeatures::new(backbone(BackboneKind::ResNet18));
    let x = images(1, 1, 32);
    let none = BackboneFeatures {
        maps: Vec::new(),
        ..extractor.clone()
    };
    assert!(matches!(none.maps(&x), Err(Error::Empty { .. })));
    let unknown = BackboneFeatures {
        maps: vec!["layer9".into()],
        ..extractor.clone()
    };
    assert!(matches!(unknown.maps(&x), Err(Error::Extractor(_))));
    assert!(matches!(
        extractor.enlarged_to(0, 32).maps(&x),
        Err(Error::Config { field: "size", .. })
    ));
}

#[test]
fn a_bank_of_a_backbone_finds_a_foreign_patch() {
    let extractor = BackboneFeatures::new(backbone(BackboneKind::ResNet18)).enlarged_to(64, 64);
    let healthy = images(3, 1, 32);
    let bank = MemoryBank::build(
        &MemoryConfig::default(),
        &extractor,
        &healthy,
        None,
        &mut silent,
    )
    .unwrap();
    let mut values = values(&healthy.narrow(0, 0, 1).unwrap());
    for y in 4..12 {
        values[y * 32 + 4..y * 32 + 12].fill(1.0);
    }
    let test = Tensor::from_vec(values, (1, 1, 32, 32), &Device::Cpu).unwrap();
    let map = bank.score_maps(&extractor, &test, None).unwrap();
    // Healthy patches are in the bank, but those that see the foreign one.
    assert!(
        map[(0, 8, 8)] > 0.0 && map[(0, 8, 8)] > 2.0 * map[(0, 28, 28)],
        "{map:?}"
    );
}

#[test]
fn the_classifier_is_an_extractor() {
    let config = ClassifierConfig::small_64(2);
    let parameters = Parameters::new(3, DType::F32, &Device::Cpu);
    Classifier::new(&config, parameters.builder()).unwrap();
    let classifier = Classifier::new(&config, parameters.frozen().unwrap()).unwrap();
    let features = ClassifierFeatures {
        weights: None,
        classifier,
        blocks: vec![3, 5],
        t: 0.0,
    };
    let images = Tensor::zeros((2, 2, 64, 64), DType::F32, &Device::Cpu).unwrap();
    let bank = MemoryBank::build(
        &MemoryConfig::default(),
        &features,
        &images,
        None,
        &mut silent,
    )
    .unwrap();
    // Two equal images: each patch's distance to its twin is 0.
    let map = bank.score_maps(&features, &images, None).unwrap();
    assert_eq!(map.dim(), (2, 64, 64));
    assert!(
        map.iter().all(|v| *v < 1e-3),
        "{:?}",
        map.iter().copied().fold(0f32, f32::max)
    );
    let none = ClassifierFeatures {
        weights: None,
        blocks: Vec::new(),
        ..features
    };
    assert!(matches!(
        bank.score_maps(&none, &images, None),
        Err(Error::Empty { .. })
    ));
}
