//! Parts of a patient go through narrow networks side by side. How many threads there are changes nothing.

use candle_core::{DType, Device};
use fndm::data::phantom::PhantomConfig;
use fndm::models::{Classifier, ClassifierConfig, Parameters, UNet, UNetConfig};
use fndm::{DetectConfig, Detector, ModelConfig, Parts, SliceMaps};

const SIDE: usize = 16;

#[test]
fn a_patient_has_the_same_bits_with_one_thread_and_with_several() {
    let unet = UNetConfig {
        image_size: SIDE,
        channel_mult: vec![1., 1.],
        attention_resolutions: vec![2],
        ..UNetConfig::small_64(5, 2)
    };
    let classifier = ClassifierConfig {
        image_size: SIDE,
        channel_mult: vec![1., 1.],
        attention_resolutions: vec![2],
        ..ClassifierConfig::small_64(2)
    };
    let weights = [5, 6].map(|seed| Parameters::new(seed, DType::F32, &Device::Cpu));
    UNet::new(&unet, weights[0].builder()).unwrap();
    Classifier::new(&classifier, weights[1].builder()).unwrap();
    let [unet_weights, classifier_weights] = weights.map(|w| w.state_dict().unwrap());
    let config = ModelConfig::new(&["flair", "t1"], unet, classifier);
    let detector = Detector::builder(config)
        .unet(unet_weights)
        .classifier(classifier_weights)
        .build()
        .unwrap();
    let phantom = PhantomConfig {
        size: SIDE,
        slices: 13,
        ..PhantomConfig::default()
    };
    let mut patient = phantom.patient(4).unwrap();
    patient
        .sequences
        .retain(|(name, _)| ["flair", "t1"].contains(&name.as_str()));
    let slices = detector.slices(&patient).unwrap();
    let config = DetectConfig {
        steps: 2,
        // Three parts at a time.
        batch: 18,
        coarse_weight: 0.,
        parts: Parts {
            memory_bank: false,
            ..Parts::FNDM
        },
        ..DetectConfig::default()
    };
    let run = || -> (SliceMaps, Vec<f64>) {
        let mut shares = Vec::new();
        let found = detector.examine(&slices, &config, &mut |share| shares.push(share));
        (found.unwrap(), shares)
    };
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1);
    let (expected, _) = alone.build().unwrap().install(run);
    let (found, shares) = run();
    assert!(slices.len() > 12, "{} slices", slices.len());
    assert_eq!(found.healthy, expected.healthy);
    assert_eq!(found.anomaly, expected.anomaly);
    // The progress is told in the caller's thread, upwards, and ends with the end.
    assert!(
        shares.is_sorted() && shares.last() == Some(&1.),
        "{shares:?}"
    );
}
