//! The stage of the models of healthy tissue: memory bank and contrast.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use fndm::{batch_tensor, model_folder};
use fndm_data::SliceSet;
use fndm_memory::{
    ClassifierFeatures, Contrast, ContrastConfig, HealthyModel, MemoryBank, intensities,
};
use fndm_train::made_by_the_first;
use ndarray::{Array3, Axis};

use super::Training;
use super::event::{OnEvent, TrainEvent};
use crate::{Result, TrainPlan};

/// One training patient in this many is held apart from the memory bank: its healthy slices calibrate the threshold.
const CALIBRATION_SHARE: usize = 8;

/// Builds the memory bank of the classifier's features, and the contrast where the plan has one.
pub(super) struct CoarseStage<'a> {
    pub(super) training: &'a Training<'a>,
    pub(super) features: ClassifierFeatures,
}

/// What came of it.
pub(super) struct CoarseModels {
    pub(super) bank: MemoryBank,
    pub(super) contrast: Option<Contrast>,
    /// Their files, by name.
    pub(super) files: Vec<(&'static str, Vec<u8>)>,
}

impl CoarseStage<'_> {
    /// Both models, alike in all processes; nothing where it was stopped.
    pub(super) fn run(self, on_event: OnEvent<'_>) -> Result<Option<CoarseModels>> {
        let training = self.training;
        let (plan, set, place) = (training.plan, &training.set, training.place);
        let group = training.group.as_ref();
        let built = made_by_the_first(group, place.stop, |stopped| {
            build_bank(plan, set, &self.features, place.device, stopped, on_event)
        })?;
        let Some(bytes) = built else { return Ok(None) };
        let bank = MemoryBank::from_bytes(&bytes)?;
        let mut files = vec![(model_folder::MEMORY, bytes)];
        let contrast = match &plan.contrast {
            Some(config) => {
                let built = made_by_the_first(group, place.stop, |stopped| {
                    build_contrast(config, set, place.device, stopped)
                })?;
                let Some(bytes) = built else { return Ok(None) };
                let contrast = Contrast::from_bytes(&bytes)?;
                files.push((model_folder::CONTRAST, bytes));
                Some(contrast)
            }
            None => None,
        };
        Ok(Some(CoarseModels {
            bank,
            contrast,
            files,
        }))
    }
}

/// The bytes of the memory bank; none where it was stopped.
fn build_bank(
    plan: &TrainPlan,
    set: &SliceSet,
    features: &ClassifierFeatures,
    device: &Device,
    stopped: &mut dyn FnMut() -> bool,
    on_event: OnEvent<'_>,
) -> Result<Option<Vec<u8>>> {
    let Shares { kept, apart, .. } = Shares::of(set);
    let mut on_progress = |progress| {
        on_event(TrainEvent::Memory(progress));
        go_on(stopped)
    };
    let (images, head) = pick(set, &kept, device)?;
    let built = MemoryBank::build(
        &plan.memory,
        features,
        &images,
        Some(head.view()),
        &mut on_progress,
    );
    let (images, head) = pick(set, &apart, device)?;
    let calibrated = built.and_then(|mut bank| {
        bank.calibrate(features, &images, head.view(), &mut on_progress)?;
        bank.to_bytes()
    });
    unless_stopped(calibrated)
}

fn go_on(stopped: &mut dyn FnMut() -> bool) -> ControlFlow<()> {
    match stopped() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

fn unless_stopped(built: fndm_memory::Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match built {
        Ok(bytes) => Ok(Some(bytes)),
        Err(fndm_memory::Error::Cancelled { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Which slices make a model of healthy tissue, and which calibrate it.
struct Shares {
    /// Healthy slices that are learned.
    kept: Vec<usize>,
    /// Healthy slices of other patients.
    apart: Vec<usize>,
    /// All slices of the patients that are learned from.
    learned: Vec<usize>,
}

impl Shares {
    fn of(set: &SliceSet) -> Self {
        let (apart, learned): (Vec<usize>, Vec<usize>) = (0..set.labels.len())
            .partition(|&i| set.patient[i] % CALIBRATION_SHARE == CALIBRATION_SHARE - 1);
        let healthy = |indices: &[usize]| -> Vec<usize> {
            let healthy = indices.iter().filter(|&&i| set.labels[i] == 0);
            healthy.copied().collect()
        };
        let (kept, apart) = (healthy(&learned), healthy(&apart));
        Self {
            // A handful of patients can't spare one: then the learned slices calibrate.
            apart: if apart.is_empty() {
                kept.clone()
            } else {
                apart
            },
            kept,
            learned,
        }
    }
}

fn pick(set: &SliceSet, indices: &[usize], device: &Device) -> Result<(Tensor, Array3<bool>)> {
    let images = set.images.select(Axis(0), indices);
    let head = set.head.select(Axis(0), indices);
    Ok((batch_tensor(&images.view(), device)?, head))
}

/// The bytes of the contrast; none where it was stopped.
fn build_contrast(
    config: &ContrastConfig,
    set: &SliceSet,
    device: &Device,
    stopped: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<u8>>> {
    let shares = Shares::of(set);
    let labels: Vec<u8> = shares.learned.iter().map(|&i| set.labels[i]).collect();
    let (images, _) = pick(set, &shares.learned, device)?;
    let mut on_progress = |_| go_on(stopped);
    let built = Contrast::build(config, &intensities, &images, &labels, &mut on_progress);
    let (images, head) = pick(set, &shares.apart, device)?;
    let calibrated = built.and_then(|mut contrast| {
        contrast.calibrate(&intensities, &images, head.view(), &mut on_progress)?;
        contrast.to_bytes()
    });
    unless_stopped(calibrated)
}
