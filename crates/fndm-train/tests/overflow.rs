//! A network whose attention overflows.

mod common;

use candle_core::Device;
use common::{classifier, classifier_config, diffusion_config, slices, unet};
use fndm_train::{
    ClassifierTrainConfig, ClassifierTrainer, DiffusionConfig, DiffusionTrainer, Error,
};

/// Attention whose logits overflow: a softmax that clamps NaN away would make uniform attention of them, and the run would go on.
#[test]
fn logits_that_overflow_stop_both_trainings() {
    let loud = |parameters: &fndm_models::Parameters| {
        let mut found = 0;
        for (name, var) in parameters.iter() {
            if name.contains("qkv.weight") {
                // One head: queries, keys, values. The values stay as they are.
                let all = var.as_detached_tensor();
                let channels = all.dim(0).unwrap() / 3;
                let loud = all.narrow(0, 0, 2 * channels).unwrap();
                let loud = loud.zeros_like().unwrap().affine(1.0, 1e30).unwrap();
                let values = all.narrow(0, 2 * channels, channels).unwrap();
                var.set(&candle_core::Tensor::cat(&[loud, values], 0).unwrap())
                    .unwrap();
                found += 1;
            }
        }
        assert!(found > 0, "no attention");
    };
    let told = |error: Error| {
        let Error::NonFinite { what, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*what, "loss", "{error}");
    };
    let set = slices(6);
    for recompute in [false, true] {
        let config = DiffusionConfig {
            recompute,
            ..diffusion_config()
        };
        let mut trainer =
            DiffusionTrainer::new(&config, &unet(), set.clone(), 1, &Device::Cpu).unwrap();
        loud(trainer.parameters());
        told(trainer.step().unwrap_err());

        let config = ClassifierTrainConfig {
            recompute,
            ..classifier_config()
        };
        let mut trainer =
            ClassifierTrainer::new(&config, &classifier(), set.clone(), 2, &Device::Cpu).unwrap();
        loud(trainer.parameters());
        told(trainer.step().unwrap_err());
    }
}
