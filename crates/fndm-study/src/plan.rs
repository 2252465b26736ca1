//! The plan of a training, and the one that the program starts from.

use std::collections::BTreeMap;

use fndm::{
    CoarseSource, DetectConfig, FeatureConfig, GuidedSmoothing, Method, ModelConfig, ResidualSide,
    SeparateModel, VolumeScale,
};
use fndm_data::Preprocess;
use fndm_data::corrupt::{PastedLesion, PseudoLesion};
use fndm_memory::{ContrastConfig, MemoryConfig, Score};
use fndm_models::{ClassifierConfig, UNetConfig};
use fndm_train::{ClassifierTrainConfig, DiffusionConfig, TimeSampling};
use serde::{Deserialize, Serialize};

use crate::student::{StudentPlan, TeacherConfig};
use crate::{LabelSource, Source, ValidationPlan};

/// Everything that decides what comes out of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainPlan {
    /// The patients.
    pub source: Source,
    /// Where the bit of each slice comes from.
    #[serde(default)]
    pub labels: LabelSource,
    /// The sequences, in the order of the images' channels.
    pub sequences: Vec<String>,
    /// From volumes to slices.
    pub preprocess: Preprocess,
    /// The classifier.
    pub classifier: ClassifierConfig,
    /// Its training.
    pub classifier_training: ClassifierTrainConfig,
    /// The classifier's features that go into the memory bank.
    pub features: FeatureConfig,
    /// The memory bank.
    pub memory: MemoryConfig,
    /// The Gaussians of healthy and diseased slices beside the bank; none to leave them out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contrast: Option<ContrastConfig>,
    /// The noise-prediction network.
    pub unet: UNetConfig,
    /// Its training.
    pub diffusion_training: DiffusionConfig,
    /// What finds the lesions that are cut from diseased slices and pasted into healthy ones. Default: the contrast, with the settings of
    /// a student's teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pasted_by: Option<TeacherConfig>,
    /// Rows of the ablation that get a noise-prediction network of their own, trained after the first one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub separate: BTreeMap<Method, SeparatePlan>,
    /// The student, trained last; none to leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<StudentPlan>,
    /// How each row of the ablation is run by default.
    pub detect: BTreeMap<Method, DetectConfig>,
    /// Validation while the diffusion model trains; none to write the last state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationPlan>,
    /// Seed of the weights, the order of the slices, and all noise.
    pub seed: u64,
}

/// A noise-prediction network for one row of the ablation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeparatePlan {
    /// The network. Its input channels say what it is shown: C (nothing), 2C (the image).
    pub unet: UNetConfig,
    /// Its training, which has the first network's schedule.
    pub training: DiffusionConfig,
}

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
            .filter(|row| !matches!(row, Method::Diffano | Method::FndmStudent));
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
            pasted_by: None,
            separate: BTreeMap::new(),
            student: None,
            detect: rows.filter_map(row).collect(),
            validation: None,
            seed: 0,
        }
    }

    /// The same for lesions that are small, and brighter than tissue in the sequence of this number, as those of multiple sclerosis are in
    /// FLAIR: small regions are drawn, what is pasted is cut by [`TeacherConfig::small_bright`], and maps are smoothed less. Where a student
    /// is trained too, its map is the coarse one, for the contrast knows nothing of lesions that may lie anywhere.
    #[must_use]
    pub fn small_bright(mut self, sequence: usize) -> Self {
        let teacher = TeacherConfig::small_bright(sequence, self.preprocess.image_size);
        let separate = self.separate.values_mut().map(|own| &mut own.training);
        for training in separate.chain([&mut self.diffusion_training]) {
            let lesion = training.lesion.take();
            training.lesion = lesion.map(|lesion| lesion.small_bright(sequence));
        }
        for row in self.detect.values_mut() {
            row.smoothing = teacher.smoothing;
            row.z_smoothing = teacher.z_smoothing;
            row.head_erosion = teacher.head_erosion;
            // Otsu's threshold of the volume divides tissues where lesions are a hundredth of the pixels.
            row.volume_scale = None;
            // Lesions of a few pixels would flow into what is around them.
            row.guided_smoothing = None;
            if self.student.is_some() && row.parts.memory_bank {
                row.coarse_source = CoarseSource::Student;
                // It knows far more of these than the residual does.
                (row.coarse_weight, row.map_power) = (2.0, 0.35);
            }
        }
        self.pasted_by = Some(teacher);
        self
    }

    /// The settings of the rows while there is no student: what will have its map as the coarse one has another meanwhile.
    fn detect_without_student(&self) -> BTreeMap<Method, DetectConfig> {
        let instead = match self.contrast {
            Some(_) => CoarseSource::Contrast,
            None => CoarseSource::Bank,
        };
        let mut detect = self.detect.clone();
        for row in detect.values_mut() {
            if row.coarse_source == CoarseSource::Student {
                row.coarse_source = instead;
            }
        }
        detect
    }

    /// The config of a model with these rows' own networks, before there is a student.
    pub(crate) fn model_config(&self, rows: &[Method]) -> ModelConfig {
        let own = self.separate.iter().filter(|(row, _)| rows.contains(row));
        let separate = own.map(|(&row, own)| {
            let own = SeparateModel {
                unet: own.unet.clone(),
                prediction: Some(own.training.prediction),
                from_image: own.training.from_image,
            };
            (row, own)
        });
        ModelConfig {
            format: ModelConfig::FORMAT,
            fndm_version: env!("CARGO_PKG_VERSION").to_string(),
            sequences: self.sequences.clone(),
            preprocess: self.preprocess.clone(),
            schedule: self.diffusion_training.schedule.clone(),
            prediction: self.diffusion_training.prediction,
            from_image: self.diffusion_training.from_image,
            unet: Some(self.unet.clone()),
            classifier: Some(self.classifier.clone()),
            features: self.features.clone(),
            contrast: self.contrast.is_some(),
            student: None,
            method: Method::Fndm,
            detect: self.detect_without_student(),
            separate: separate.collect(),
            distilled: None,
            data_statistics: false,
            metadata: false,
        }
    }

    /// The same with a diffusion model that learns to remove lesions from healthy slices ([`DiffusionConfig::removing`]), and rows
    /// that use it in one evaluation a slice ([`DetectConfig::removing`]). Such a network knows no labels, for all its targets are
    /// healthy, and sees no x_seg: the coarse map has its say in the anomaly map, and in what lesions are pasted.
    ///
    /// Where there is a `flair`, what is brighter there than its reconstruction makes the map, and no other difference: lesions of
    /// most kinds are bright in it, and each further sequence adds what isn't lesion.
    #[must_use]
    pub fn removing(mut self) -> Self {
        self.diffusion_training = DiffusionConfig::removing(PseudoLesion {
            pasted: Some(PastedLesion::default()),
            ..PseudoLesion::of_sequences(&self.sequences)
        });
        self.unet.num_classes = None;
        self.unet.in_channels = 2 * self.sequences.len();
        // A wider network with attention is no better at this, and takes more than twice as long.
        self.unet.channel_mult.fill(1.);
        self.unet.attention_resolutions.clear();
        let is_flair = |name: &String| name == "flair";
        let sides: Vec<ResidualSide> = match self.sequences.iter().any(is_flair) {
            true => self
                .sequences
                .iter()
                .map(|name| match is_flair(name) {
                    true => ResidualSide::Brighter,
                    false => ResidualSide::Neither,
                })
                .collect(),
            false => Vec::new(),
        };
        // CG alone takes a network that sees no image.
        self.detect.retain(|_, row| row.parts.image_condition);
        let smoothing = GuidedSmoothing::of_size(self.preprocess.image_size);
        for (method, row) in &mut self.detect {
            *row = DetectConfig {
                parts: row.parts,
                residual_sides: sides.clone(),
                guided_smoothing: Some(smoothing),
                ..DetectConfig::removing()
            };
            // Without a coarse map the map is the residual alone.
            if *method == Method::CgNm {
                row.map_power = 1.;
                // That of the others, on the residual's own scale.
                row.volume_scale = row.volume_scale.map(|scale| VolumeScale {
                    least: 0.06,
                    ..scale
                });
            }
        }
        self
    }
}
