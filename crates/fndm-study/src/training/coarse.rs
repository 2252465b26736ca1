//! The stage of the models of healthy tissue: memory bank and contrast.

use std::collections::BTreeSet;
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

/// Of the training patients with healthy slices one in this many is held apart from the memory bank, and one at least of two: its healthy
/// slices calibrate the threshold.
const CALIBRATION_SHARE: usize = 8;

/// So many slices of either kind are left to be learned from, where there are as many.
const LEAST: usize = 2;

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
        let with = |indices: &[usize], bit: u8| -> Vec<usize> {
            let all = indices.iter().copied();
            all.filter(|&i| set.labels[i] == bit).collect()
        };
        let all: Vec<usize> = (0..set.labels.len()).collect();
        let spared = spared(set);
        let (apart, learned): (Vec<usize>, Vec<usize>) = all
            .iter()
            .copied()
            .partition(|&i| spared.contains(&set.patient[i]));
        // The bank and the contrast learn from what is left.
        let left = [0, 1]
            .into_iter()
            .all(|bit| with(&learned, bit).len() >= LEAST.min(with(&all, bit).len()));
        if apart.is_empty() || !left {
            tracing::warn!(
                "no patient with healthy slices can be spared: x_seg's threshold is calibrated on those that were learned, and is low"
            );
            let kept = with(&all, 0);
            return Self {
                apart: kept.clone(),
                kept,
                learned: all,
            };
        }
        Self {
            kept: with(&learned, 0),
            apart: with(&apart, 0),
            learned,
        }
    }
}

/// The patients that may be held apart: of those with healthy slices, which calibrate, every so manieth, or one of fewer; none of one.
fn spared(set: &SliceSet) -> BTreeSet<usize> {
    let healthy = (0..set.labels.len()).filter(|&i| set.labels[i] == 0);
    let patients: BTreeSet<usize> = healthy.map(|i| set.patient[i]).collect();
    let first = (CALIBRATION_SHARE - 1).min(patients.len().saturating_sub(1));
    match first {
        0 => BTreeSet::new(),
        _ => patients
            .into_iter()
            .skip(first)
            .step_by(CALIBRATION_SHARE)
            .collect(),
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

#[cfg(test)]
mod tests {
    use ndarray::Array4;

    use super::*;

    /// Two slices of each patient, both of one bit.
    fn set(bits: &[u8]) -> SliceSet {
        let names: Vec<String> = (0..2 * bits.len()).map(|i| (i / 2).to_string()).collect();
        let labels = bits.iter().flat_map(|&bit| [bit, bit]).collect();
        SliceSet::new(
            Array4::zeros((names.len(), 1, 4, 4)),
            labels,
            &names,
            &["flair"],
        )
        .unwrap()
    }

    /// The patients of these slices.
    fn patients(slices: &[usize]) -> Vec<usize> {
        let mut of: Vec<usize> = slices.iter().map(|i| i / 2).collect();
        of.dedup();
        of
    }

    /// By the number among all patients the diseased ones alone would be held apart, for nothing.
    #[test]
    fn patients_with_healthy_slices_are_held_apart() {
        for (healthy, apart) in [
            (1, vec![0]),
            (2, vec![1]),
            (7, vec![6]),
            (8, vec![7]),
            (17, vec![7, 15]),
        ] {
            let bits = [vec![0; healthy], vec![1; 40]].concat();
            let shares = Shares::of(&set(&bits));
            assert_eq!(patients(&shares.apart), apart, "{healthy}");
            assert!(shares.apart.len() == 2 * apart.len());
            let spared = if healthy == 1 { 0 } else { apart.len() };
            assert_eq!(patients(&shares.kept).len(), healthy - spared);
            assert_eq!(patients(&shares.learned).len(), healthy + 40 - spared);
        }
    }

    /// The only patient with diseased slices has healthy ones too.
    #[test]
    fn what_is_learned_from_keeps_both_kinds() {
        let names = ["a", "a", "b", "b", "b"];
        let images = Array4::zeros((5, 1, 4, 4));
        let set = SliceSet::new(images, vec![0, 0, 0, 1, 1], &names, &["flair"]).unwrap();
        let shares = Shares::of(&set);
        assert_eq!(shares.learned, [0, 1, 2, 3, 4]);
        assert_eq!((shares.kept, shares.apart), (vec![0, 1, 2], vec![0, 1, 2]));
    }
}
