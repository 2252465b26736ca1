//! A model of few steps, taught by a model of many.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use fndm::model_folder::{self, weight_bytes};
use fndm::{DetectConfig, Detector, Distilled, LongSteps, Method, ModelConfig, Start};
use fndm_data::PatientSlices;
use fndm_models::{Limits, StateDict, UNetConfig};
use fndm_train::{
    DistillTask, DistillTrainer, EmaConfig, Ended, Lessons, LoopConfig, OptimizerConfig,
};
use ndarray::{Array4, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::event::{OnEvent, TrainEvent};
use super::record::{StageRecord, record_json};
use super::run::{RUNS, run_stage};
use crate::{CohortEvent, Error, LeftOut, Patients, Result, Source, TrainingPlace, Truth};

/// Everything that decides what networks of long steps are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillPlan {
    /// The patients whose slices the teacher is watched on. Neither masks nor bits are used.
    pub source: Source,
    /// The row of the teacher that is learned.
    pub method: Method,
    /// Steps in each direction, one distillation after the other: each begins with the networks of the one before. A divisor of the
    /// teacher's steps each.
    pub steps: Vec<usize>,
    /// Most slices that are looked at; spread evenly over patients and heights.
    pub slices: usize,
    /// Each network's training.
    pub training: LoopConfig,
    /// Seed of everything drawn.
    pub seed: u64,
}

impl DistillPlan {
    /// To 2 and then to 1 step in each direction, on 1000 slices, 500 iterations for each network.
    #[must_use]
    pub fn new(source: Source, method: Method, seed: u64) -> Self {
        Self {
            source,
            method,
            steps: vec![2, 1],
            slices: 1000,
            training: LoopConfig {
                iterations: Some(500),
                optimizer: OptimizerConfig {
                    lr: 3e-4,
                    warm_up: 20,
                    clip: Some(1.),
                    ema: EmaConfig {
                        decays: vec![0.99],
                        warm_up: true,
                    },
                    ..OptimizerConfig::default()
                },
                ..LoopConfig::default()
            },
            seed,
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first that makes no sense.
    pub fn check(&self) -> Result<()> {
        self.source.check()?;
        self.training.check()?;
        if self.training.iterations.is_none() && self.training.time_budget_s.is_none() {
            return Err(Error::option("training.iterations", "a number", "none"));
        }
        if self.method.parts().is_none() {
            let got = self.method.key();
            return Err(Error::option("method", "a row with diffusion", got));
        }
        if self.steps.is_empty() || self.steps.contains(&0) {
            let got = format!("{:?}", self.steps);
            return Err(Error::option("steps", "numbers of 1 or more", got));
        }
        if self.slices == 0 {
            return Err(Error::option("slices", "1 or more", 0));
        }
        Ok(())
    }
}

/// The two networks of a distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To noise.
    Encode,
    /// Back.
    Sample,
}

impl Direction {
    /// The name in folders and progress.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encode => "encode",
            Self::Sample => "sample",
        }
    }
}

/// What networks were taught, by whom, and how: the record of a model of long steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DistillRecord {
    /// The command line that made it.
    pub command: String,
    /// The plan.
    pub plan: DistillPlan,
    /// The folder of the teacher.
    pub teacher: std::path::PathBuf,
    /// The patients that were used.
    pub patients: Vec<String>,
    /// Those that weren't.
    pub left_out: Vec<LeftOut>,
    /// Slices that were looked at.
    pub slices: usize,
    /// Each network's training, by steps and direction.
    pub stages: BTreeMap<String, StageRecord>,
}

/// The networks so far.
struct Networks {
    encode: Option<StateDict>,
    sample: StateDict,
}

/// Teaches networks to take the steps of one row of the model `teacher` several at a time, and writes them as a model of that row into
/// the place's folder, with the teacher's other files. Checkpoints go to `training` in it; a run that was stopped goes on from
/// there, after the teacher has been watched again.
///
/// Gives nothing where the place's flag was set before the end.
///
/// # Errors
/// When there is no model, no patient can be used, the steps don't divide the teacher's, or a file can't be written.
pub fn distill(
    plan: &DistillPlan,
    teacher: &Path,
    place: TrainingPlace<'_>,
    command: &str,
    on_event: OnEvent<'_>,
) -> Result<Option<DistillRecord>> {
    plan.check()?;
    let detector = Detector::load(teacher, place.device)?;
    let (config, settings) = (
        detector.config(),
        detector.config().detect_config(plan.method),
    );
    let unet = config
        .unet
        .clone()
        .ok_or_else(|| lacks_diffusion(teacher))?;
    config.check_row(plan.method, &settings)?;
    // Told before anything is read.
    let all = settings.encode_steps.unwrap_or(settings.steps);
    let whole = |&n: &usize| settings.steps % n == 0 && all % n == 0;
    if let Some(steps) = plan.steps.iter().copied().find(|n| !whole(n)) {
        let expected = format!("divisors of the teacher's {} steps", settings.steps);
        return Err(Error::option("steps", expected, steps));
    }
    let own = config.separate.get(&plan.method);
    let (file, unet) = match own {
        Some(own) => (model_folder::separate(plan.method), own.unet.clone()),
        None => (model_folder::UNET.to_owned(), unet),
    };
    let weights = StateDict::read(model_folder::file(teacher, &file)?, &Limits::default())?;
    let encodes = settings.start == Start::Encoded;
    let mut networks = Networks {
        encode: encodes.then(|| weights.clone()),
        sample: weights,
    };
    let (picked, mut record) = pick(plan, &detector, teacher, command, on_event)?;
    for &steps in &plan.steps {
        let taught = watch(&detector, &settings, &picked, steps, place, on_event)?;
        let Some((encode, sample)) = taught else {
            return Ok(None);
        };
        for (direction, lessons) in [
            (Direction::Encode, encode),
            (Direction::Sample, Some(sample)),
        ] {
            let before = match direction {
                Direction::Encode => networks.encode.as_ref(),
                Direction::Sample => Some(&networks.sample),
            };
            let (Some(lessons), Some(before)) = (lessons, before) else {
                continue;
            };
            let name = format!("distill_{steps}_{}", direction.name());
            let stage = Stage {
                plan,
                place,
                name: &name,
                direction,
                steps,
            };
            let Some((weights, stage)) = stage.train(&unet, lessons, before, on_event)? else {
                return Ok(None);
            };
            record.stages.insert(name, stage);
            match direction {
                Direction::Encode => networks.encode = Some(weights),
                Direction::Sample => networks.sample = weights,
            }
        }
    }
    write(
        plan, teacher, config, &settings, &unet, &networks, &record, place,
    )?;
    Ok(Some(record))
}

/// Slices of one patient, and which of them are looked at.
struct Picked {
    slices: PatientSlices,
    which: Vec<usize>,
}

/// Which of a patient's `n` slices are looked at, of `most` over all patients: as many of each as of any other but for one, in the middles
/// of equal parts of the head, which move up from patient to patient where each gives but one or two.
fn spread(most: usize, (patient, patients): (usize, usize), n: usize) -> Vec<usize> {
    let share =
        |patient: usize| (most as u128 * patient as u128 / patients.max(1) as u128) as usize;
    let count = (share(patient + 1) - share(patient)).min(n);
    // The golden ratio's multiples fill an interval evenly, however many there are: by slices, for most patients may give none.
    let offset = (0.5 + 0.618_033_988_75 * share(patient) as f64).fract();
    (0..count)
        .map(|i| (((i as f64 + offset) * n as f64 / count as f64) as usize).min(n - 1))
        .collect()
}

/// The slices that are looked at.
fn pick(
    plan: &DistillPlan,
    detector: &Detector,
    teacher: &Path,
    command: &str,
    on_event: OnEvent<'_>,
) -> Result<(Vec<Picked>, DistillRecord)> {
    let total = plan.source.ids().len();
    let number = Cell::new(0);
    let mut picked = Vec::new();
    let patients = Patients::of(detector, &plan.source, Truth::Nothing);
    let mut tell = |event: CohortEvent<'_>| {
        match event {
            CohortEvent::Note(id, note) => on_event(TrainEvent::Note(format!("{id}: {note}"))),
            CohortEvent::LeftOut(left) => {
                let note = format!("left out {}: {}", left.patient, left.reason);
                on_event(TrainEvent::Note(note));
            }
            CohortEvent::Done(done, all) => {
                number.set(done);
                on_event(TrainEvent::Loaded(done, all));
            }
        }
        ControlFlow::Continue(())
    };
    let cohort = patients.each(&mut tell, |read| -> Result<()> {
        let which = spread(plan.slices, (number.get(), total), read.slices.len());
        if !which.is_empty() {
            picked.push(Picked {
                slices: read.slices,
                which,
            });
        }
        Ok(())
    })?;
    if picked.is_empty() {
        return Err(Error::Input {
            what: "patients to watch the teacher on".into(),
            expected: "at least one that can be read".into(),
            got: format!("{} left out", cohort.left_out.len()),
        });
    }
    let record = DistillRecord {
        command: command.to_owned(),
        plan: plan.clone(),
        teacher: teacher.to_path_buf(),
        patients: picked.iter().map(|p| p.slices.id.clone()).collect(),
        left_out: cohort.left_out,
        slices: picked.iter().map(|p| p.which.len()).sum(),
        stages: BTreeMap::new(),
    };
    Ok((picked, record))
}

/// What the networks are to learn; nothing where it was stopped.
fn watch(
    detector: &Detector,
    settings: &DetectConfig,
    picked: &[Picked],
    steps: usize,
    place: TrainingPlace<'_>,
    on_event: OnEvent<'_>,
) -> Result<Option<(Option<Lessons>, Lessons)>> {
    let (mut encode, mut sample) = (Vec::new(), Vec::new());
    for (i, Picked { slices, which }) in picked.iter().enumerate() {
        if place.stop.is_set() {
            return Ok(None);
        }
        let (there, back) = detector.long_steps(slices, which, settings, steps)?;
        encode.extend(there.map(|there| (slices.id.as_str(), there)));
        sample.push((slices.id.as_str(), back));
        on_event(TrainEvent::Watched(i + 1, picked.len()));
    }
    let encode = (!encode.is_empty()).then(|| lessons(&encode)).transpose()?;
    Ok(Some((encode, lessons(&sample)?)))
}

fn lessons(parts: &[(&str, LongSteps)]) -> Result<Lessons> {
    let all = |of: fn(&LongSteps) -> &Array4<f32>| -> Result<Array4<f32>> {
        let views: Vec<_> = parts.iter().map(|(_, part)| of(part).view()).collect();
        concatenate(Axis(0), &views).map_err(|e| Error::Input {
            what: "slices of different patients".into(),
            expected: "one shape".into(),
            got: e.to_string(),
        })
    };
    let names = |(id, part): &(&str, LongSteps)| -> Vec<String> {
        part.z.iter().map(|z| format!("{id} z={z}")).collect()
    };
    Ok(Lessons {
        inputs: all(|part| &part.inputs)?,
        targets: all(|part| &part.targets)?,
        model_times: parts
            .iter()
            .flat_map(|(_, p)| p.model_times.clone())
            .collect(),
        labels: parts.iter().flat_map(|(_, p)| p.labels.clone()).collect(),
        names: parts.iter().flat_map(names).collect(),
    })
}

/// The training of one network.
struct Stage<'a> {
    plan: &'a DistillPlan,
    place: TrainingPlace<'a>,
    name: &'a str,
    direction: Direction,
    steps: usize,
}

impl Stage<'_> {
    /// The averaged weights; nothing where it was stopped.
    fn train(
        self,
        unet: &UNetConfig,
        lessons: Lessons,
        weights: &StateDict,
        on_event: OnEvent<'_>,
    ) -> Result<Option<(StateDict, StageRecord)>> {
        let config = &self.plan.training;
        let task = DistillTask::new(config, unet, Arc::new(lessons), weights.clone())?;
        let mut trainer = DistillTrainer::with_task(task, self.plan.seed, self.place.device)?;
        let folder = self.place.folder.join(RUNS).join(self.name);
        let mut tell = |_: &DistillTrainer, report: &fndm_train::StepReport, share| {
            on_event(TrainEvent::Distill(
                self.direction,
                self.steps,
                report,
                share,
            ));
            Ok(())
        };
        let (ended, record, _) =
            run_stage(&mut trainer, &folder, self.place.stop, &mut tell, None)?;
        if ended == Ended::Stopped {
            return Ok(None);
        }
        Ok(Some((StateDict::new(trainer.ema_tensors()?), record)))
    }
}

#[allow(clippy::too_many_arguments, reason = "all that a model is made of")]
fn write(
    plan: &DistillPlan,
    teacher: &Path,
    config: &ModelConfig,
    settings: &DetectConfig,
    unet: &UNetConfig,
    networks: &Networks,
    record: &DistillRecord,
    place: TrainingPlace<'_>,
) -> Result<()> {
    let steps = plan.steps.last().copied().unwrap_or(1);
    let own = config.separate.get(&plan.method);
    let mut new = ModelConfig {
        unet: Some(unet.clone()),
        prediction: own
            .and_then(|own| own.prediction)
            .unwrap_or(config.prediction),
        from_image: own.map_or(config.from_image, |own| own.from_image),
        separate: BTreeMap::new(),
        distilled: Some(Distilled {
            row: plan.method,
            steps,
            encoder: networks.encode.is_some(),
        }),
        // What is said of the teacher isn't said of this one.
        metadata: false,
        ..config.clone()
    };
    new.detect.retain(|row, _| row.parts().is_none());
    new.detect
        .insert(plan.method, Detector::in_long_steps(settings, steps));
    if new.method.parts().is_some() {
        new.method = plan.method;
    }
    let mut files = BTreeMap::new();
    for name in model_folder::names_of(&new) {
        let bytes = match name.as_str() {
            model_folder::UNET => weight_bytes(networks.sample.tensors())?,
            model_folder::ENCODER => match &networks.encode {
                Some(encode) => weight_bytes(encode.tensors())?,
                None => continue,
            },
            _ => {
                let path = model_folder::file(teacher, &name)?;
                std::fs::read(&path).map_err(Error::io(&path))?
            }
        };
        files.insert(name, bytes);
    }
    let json = record_json(place.folder, record)?;
    files.insert(model_folder::TRAINING.to_owned(), json);
    Ok(model_folder::replace(place.folder, &new, &files)?)
}

fn lacks_diffusion(teacher: &Path) -> Error {
    Error::Input {
        what: format!("model folder {}", teacher.display()),
        expected: "one with a diffusion".into(),
        got: "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_slices_than_asked_for_and_from_all_heights() {
        for (most, patients, n) in [
            (4, 10, 24),
            (1000, 2000, 18),
            (1000, 600, 18),
            (1080, 90, 20),
        ] {
            let all: Vec<Vec<usize>> = (0..patients)
                .map(|patient| spread(most, (patient, patients), n))
                .collect();
            assert_eq!(all.iter().map(Vec::len).sum::<usize>(), most);
            assert!(all.iter().flatten().all(|&z| z < n));
            assert!(all.iter().all(|which| which.is_sorted_by(|a, b| a < b)));
            // Each third of the height has about a third of them.
            let mut thirds = [0usize; 3];
            for &z in all.iter().flatten() {
                thirds[3 * z / n] += 1;
            }
            let least = thirds.iter().min().copied().unwrap();
            assert!(5 * least >= most, "{most} of {patients}: {thirds:?}");
        }
        // A patient of few slices gives all of them.
        assert_eq!(spread(100, (0, 2), 3), [0, 1, 2]);
        assert!(spread(100, (0, 2), 0).is_empty());
    }
}
