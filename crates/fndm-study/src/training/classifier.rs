//! The classifier's stage.

use fndm_memory::ClassifierFeatures;
use fndm_models::StateDict;
use fndm_train::{ClassifierTrainer, Ended};

use super::Training;
use super::event::{OnEvent, TrainEvent};
use super::record::StageRecord;
use super::run::{Run, run_folder, run_stage};
use crate::Result;

/// Trains the classifier.
pub(super) struct ClassifierStage<'a> {
    pub(super) training: &'a Training<'a>,
}

/// What came of it.
pub(super) struct TrainedClassifier {
    pub(super) weights: StateDict,
    /// What the memory bank is built of.
    pub(super) features: ClassifierFeatures,
    pub(super) record: StageRecord,
}

impl ClassifierStage<'_> {
    /// The trained classifier; nothing where it was stopped.
    pub(super) fn run(self, on_event: OnEvent<'_>) -> Result<Option<TrainedClassifier>> {
        let training = self.training;
        let (plan, place) = (training.plan, training.place);
        let mut trainer = ClassifierTrainer::new(
            &plan.classifier_training,
            &plan.classifier,
            training.set.clone(),
            plan.seed,
            place.device,
        )?
        .in_group(training.group.clone())?;
        let folder = run_folder(place.folder, Run::Classifier);
        let mut tell = |_: &ClassifierTrainer, report: &_, share| {
            on_event(TrainEvent::Classifier(report, share));
            Ok(())
        };
        let (ended, record, _) = run_stage(&mut trainer, &folder, place.stop, &mut tell, None)?;
        if ended == Ended::Stopped {
            return Ok(None);
        }
        let weights = StateDict::new(trainer.ema_tensors()?);
        let features = ClassifierFeatures {
            classifier: trainer.ema_network()?,
            blocks: plan.features.blocks.clone(),
            t: plan.features.model_time,
            weights: Some(weights.fingerprint()?),
        };
        Ok(Some(TrainedClassifier {
            weights,
            features,
            record,
        }))
    }
}
