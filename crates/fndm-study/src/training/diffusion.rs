//! The stages of the diffusion models: the first one, which every row can run on, and those of single rows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use fndm::{Detector, Method, model_folder};
use fndm_memory::{Contrast, MemoryBank};
use fndm_models::{StateDict, UNetConfig};
use fndm_train::{
    DiffusionConfig, DiffusionTask, DiffusionTrainer, Ended, StepReport, Validation, agree,
};

use super::Training;
use super::draft::Draft;
use super::event::{OnEvent, TrainEvent};
use super::record::StageRecord;
use super::run::{CHECKPOINT_EVERY, Run, Validate, run_folder, run_stage};
use super::validation::{ValidationPlan, ValidationRecord, Validator};
use crate::donors::donors_for;
use crate::{Result, SeparatePlan, TrainPlan};

/// Trains the first diffusion model, which the others of the plan are compared with.
pub(super) struct DiffusionStage<'a> {
    pub(super) training: &'a Training<'a>,
    /// The classifier, the bank and the contrast of the model that the validation examines.
    pub(super) classifier: StateDict,
    pub(super) bank: MemoryBank,
    pub(super) contrast: Option<Contrast>,
    pub(super) validator: Option<&'a Validator<'a>>,
}

/// What came of it.
pub(super) struct TrainedUNet {
    /// The weights of the best state by the validation, or of the last one.
    pub(super) weights: BTreeMap<String, Tensor>,
    pub(super) record: StageRecord,
    /// The state that was chosen.
    pub(super) validation: Option<ValidationRecord>,
    pub(super) ended: Ended,
}

impl DiffusionStage<'_> {
    /// The trained network, or what was trained of it before it was stopped. `draft` is written with every checkpoint.
    pub(super) fn run(self, draft: &mut Draft<'_>, on_event: OnEvent<'_>) -> Result<TrainedUNet> {
        let training = self.training;
        let (plan, place) = (training.plan, training.place);
        let mut trainer = training.diffusion(&plan.diffusion_training, &plan.unet)?;
        // Both hooks of the run below tell the caller.
        let on_event = RefCell::new(on_event);
        let (stage, tell) = (&self, &on_event);
        let mut validate = self.validator.map(|validator| {
            move |trainer: &DiffusionTrainer| -> Result<Validation> {
                let found = validator.score(trainer, &stage.detector(trainer)?)?;
                let event = TrainEvent::Validation(trainer.iteration(), &found);
                (tell.borrow_mut())(event);
                Ok(found)
            }
        });
        let validate = match (validate.as_mut(), &plan.validation) {
            (Some(validate), Some(validation)) => Some(Validate {
                every: validation.every,
                by: validated_by(plan, validation)?,
                validate,
            }),
            _ => None,
        };
        let folder = run_folder(place.folder, Run::Diffusion);
        let (ended, record, best) = run_stage(
            &mut trainer,
            &folder,
            place.stop,
            &mut |trainer, report, share| {
                (on_event.borrow_mut())(TrainEvent::Diffusion(report, share));
                // A model that can already be tried, beside every checkpoint.
                if training.writes() && report.iteration % CHECKPOINT_EVERY == 0 {
                    draft.record.diffusion = StageRecord {
                        iterations: report.iteration,
                        seconds: report.elapsed_s,
                        loss: Some(report.loss),
                    };
                    draft.add_weights(model_folder::UNET, &trainer.ema_tensors()?)?;
                    draft.write()?;
                }
                Ok(())
            },
            validate,
        )?;
        // The first process has written it.
        let (weights, validation) = match best.filter(|_| training.writes()) {
            Some(best) => {
                let json = best.with_file_name("best.json");
                let validation = fndm_files::read_json(json, "the best validation")?;
                let weights = fndm_train::read_checkpoint_ema(&best, place.device)?;
                (weights, Some(validation))
            }
            None => (trainer.ema_tensors()?, None),
        };
        Ok(TrainedUNet {
            weights,
            record,
            validation,
            ended,
        })
    }

    /// The model so far.
    fn detector(&self, trainer: &DiffusionTrainer) -> Result<Detector> {
        let mut parts = Detector::builder(self.training.plan.model_config(&[]))
            .device(self.training.place.device)
            .unet(StateDict::new(trainer.ema_tensors()?))
            .classifier(self.classifier.clone())
            .bank(self.bank.clone());
        if let Some(contrast) = &self.contrast {
            parts = parts.contrast(contrast.clone());
        }
        Ok(parts.build()?)
    }
}

/// All that the score of a state hangs on beside the state.
fn validated_by(plan: &TrainPlan, validation: &ValidationPlan) -> Result<String> {
    let settings = plan.model_config(&[]).detect_config(Method::Fndm);
    let ids = validation.source.ids();
    let all = (&*ids, validation.slices, &plan.labels, settings);
    let text = serde_json::to_string(&all).map_err(fndm_files::Error::json(
        Path::new("best.json"),
        "what the validation is made by",
    ))?;
    Ok(text)
}

impl Training<'_> {
    /// The trainer of a diffusion model, with the lesions that it pastes.
    fn diffusion(&self, config: &DiffusionConfig, unet: &UNetConfig) -> Result<DiffusionTrainer> {
        let (set, device) = (&self.set, self.place.device);
        let lesion = config.lesion.as_ref();
        let pasted_by = self.plan.pasted_by.clone().unwrap_or_default();
        let donors = donors_for(lesion, &pasted_by, set, device);
        let donors = agree(self.group.as_ref(), donors)?;
        let task = DiffusionTask::with_donors(config, unet, set.clone(), donors)?;
        let trainer = DiffusionTrainer::with_task(task, self.plan.seed, device)?;
        Ok(trainer.in_group(self.group.clone())?)
    }
}

/// Trains the diffusion model of one row of the ablation.
pub(super) struct SeparateStage<'a> {
    pub(super) training: &'a Training<'a>,
    pub(super) method: Method,
    pub(super) plan: &'a SeparatePlan,
}

impl SeparateStage<'_> {
    /// The trained network, or what was trained of it before it was stopped.
    pub(super) fn run(self, on_event: OnEvent<'_>) -> Result<TrainedUNet> {
        let (training, plan) = (self.training, self.plan);
        let place = training.place;
        let mut trainer = training.diffusion(&plan.training, &plan.unet)?;
        let folder = run_folder(place.folder, Run::Separate(self.method));
        let mut tell = |_: &DiffusionTrainer, report: &StepReport, share| {
            on_event(TrainEvent::Separate(self.method, report, share));
            Ok(())
        };
        let (ended, record, _) = run_stage(&mut trainer, &folder, place.stop, &mut tell, None)?;
        Ok(TrainedUNet {
            weights: trainer.ema_tensors()?,
            record,
            validation: None,
            ended,
        })
    }
}
