//! The plan that the program starts from.

use std::collections::BTreeMap;

use fndm::{DetectConfig, FeatureConfig, Method};
use fndm_data::Preprocess;
use fndm_memory::{ContrastConfig, MemoryConfig, Score};
use fndm_models::{ClassifierConfig, UNetConfig};
use fndm_train::{ClassifierTrainConfig, DiffusionConfig, TimeSampling};

use crate::{LabelSource, Source, TrainPlan};

impl TrainPlan {
    /// A plan for short trainings of small networks on a CPU, which is that of `fndm train` without options: 15 minutes for the
    /// classifier, 60 for the diffusion model, a memory bank of 2 MB, a contrast. `image_size` is the side of the slices in pixels, a
    /// multiple of 8. Every field can be changed afterwards; [`TrainPlan::check`] says what doesn't fit.
    #[must_use]
    pub fn small(
        source: Source,
        labels: LabelSource,
        sequences: Vec<String>,
        image_size: usize,
    ) -> Self {
        let channels = sequences.len();
        let rows = Method::ALL
            .into_iter()
            .filter(|&row| row != Method::Diffano);
        let row = |method: Method| {
            let parts = method.parts()?;
            let config = DetectConfig {
                parts,
                ..DetectConfig::default()
            };
            Some((method, config))
        };
        Self {
            source,
            labels,
            sequences,
            preprocess: Preprocess {
                image_size,
                ..Preprocess::default()
            },
            classifier: ClassifierConfig {
                image_size,
                ..ClassifierConfig::small_64(channels)
            },
            classifier_training: ClassifierTrainConfig {
                batch: 16,
                time_budget_s: Some(15. * 60.),
                // The memory bank takes its features at low noise, and guidance needs all levels: lean to the former.
                times: TimeSampling::Power { exponent: 2. },
                ..ClassifierTrainConfig::default()
            },
            features: FeatureConfig::default(),
            memory: MemoryConfig {
                budget_bytes: 2 << 20,
                position_weight: 2.,
                // Squared distances have a few huge values, and Otsu's threshold then keeps only the middle of a lesion.
                score: Score::Euclidean,
                ..MemoryConfig::default()
            },
            contrast: Some(ContrastConfig::default()),
            unet: UNetConfig {
                image_size,
                ..UNetConfig::small_64(2 * channels + 1, channels)
            },
            diffusion_training: DiffusionConfig {
                time_budget_s: Some(60. * 60.),
                ..DiffusionConfig::default()
            },
            separate: BTreeMap::new(),
            student: None,
            detect: rows.filter_map(row).collect(),
            validation: None,
            seed: 0,
        }
    }
}
