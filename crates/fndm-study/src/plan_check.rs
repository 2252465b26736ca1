//! What can be told of a plan and of its output folder before anything is read or trained.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use fndm::{CoarseSource, DetectConfig, Method, ModelConfig, model_folder};
use fndm_models::Classifier;

use crate::training::{RUNS, Run, run_folder};
use crate::{Error, PHANTOM_SEQUENCES, Result, Source, TrainPlan};

/// Most patients of the phantom.
const MOST_PATIENTS: u64 = 1_000_000;

impl TrainPlan {
    /// Checks every setting of every stage, and whether the stages fit each other: all that can be told without reading a
    /// patient. [`train_model`](crate::train_model) begins with it.
    ///
    /// # Errors
    /// The first thing that is wrong, with the stage that it belongs to.
    pub fn check(&self) -> Result<()> {
        self.check_for(1)
    }

    /// As [`TrainPlan::check`], for a training in so many processes, among which every batch is divided.
    ///
    /// # Errors
    /// As [`TrainPlan::check`].
    pub fn check_for(&self, processes: usize) -> Result<()> {
        self.source.check().map_err(stage("patients"))?;
        check_sequences(&self.sequences, &self.source)?;
        self.preprocess.check()?;
        let channels = self.sequences.len();

        let training = &self.classifier_training;
        let own = || -> Result<()> {
            training.check_model(&self.classifier, channels)?;
            check_budget(training.iterations, training.time_budget_s)?;
            check_batch(training.batch, processes)?;
            if training.schedule != self.diffusion_training.schedule {
                return Err(Error::option(
                    "schedule",
                    "that of the diffusion model, on whose states the classifier is used",
                    "another one",
                ));
            }
            Ok(())
        };
        own().map_err(stage("classifier"))?;
        self.check_memory().map_err(stage("memory bank"))?;
        if let Some(contrast) = &self.contrast {
            contrast
                .check()
                .map_err(|error| stage("contrast")(error.into()))?;
        }

        let first = &self.diffusion_training;
        let own = || -> Result<()> {
            first.check_model(&self.unet, channels)?;
            check_budget(first.iterations, first.time_budget_s)?;
            check_batch(first.batch, processes)
        };
        own().map_err(stage("diffusion model"))?;
        for (method, plan) in &self.separate {
            let own = || -> Result<()> {
                let training = &plan.training;
                fndm::separate_channels(*method, channels)?;
                training.check_model(&plan.unet, channels)?;
                check_budget(training.iterations, training.time_budget_s)?;
                check_batch(training.batch, processes)?;
                if training.schedule != first.schedule {
                    return Err(Error::option(
                        "schedule",
                        "that of the first diffusion model",
                        "another",
                    ));
                }
                Ok(())
            };
            own().map_err(stage(method.title()))?;
        }

        if let Some(student) = &self.student {
            let size = self.preprocess.image_size;
            student
                .check_slices(channels, size)
                .map_err(stage("student"))?;
        } else {
            let of_student = |row: &DetectConfig| row.coarse_source == CoarseSource::Student;
            if let Some((method, _)) = self.detect.iter().find(|(_, row)| of_student(row)) {
                let expected = "one that is trained: the plan has no student";
                let error = Error::option("coarse source", expected, "student");
                return Err(stage(method.title())(error));
            }
        }
        let rows: Vec<Method> = self.separate.keys().copied().collect();
        let model = self.model_config(&rows);
        // First, for it names the row.
        self.check_detect(&model)?;
        model.check()?;
        self.check_validation(&model).map_err(stage("validation"))
    }

    fn check_memory(&self) -> Result<()> {
        self.memory.check()?;
        let features = &self.features;
        let steps = self.diffusion_training.schedule.build()?.steps() as f64;
        if !(0. ..=steps).contains(&features.model_time) {
            return Err(Error::option(
                "features.model_time",
                format!("0 to {steps}"),
                features.model_time,
            ));
        }
        // Zeros take no memory before they are looked at.
        let zeros = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let blocks = Classifier::new(&self.classifier, zeros)?
            .block_channels()
            .len();
        let unknown = features.blocks.iter().find(|&&block| block >= blocks);
        if features.blocks.is_empty() || unknown.is_some() {
            return Err(Error::option(
                "features.blocks",
                format!("one or more numbers below {blocks}, the classifier's input blocks"),
                format!("{:?}", features.blocks),
            ));
        }
        Ok(())
    }

    fn check_detect(&self, model: &ModelConfig) -> Result<()> {
        for (&method, config) in &model.detect {
            check_row(model, method, config).map_err(stage(method.title()))?;
        }
        Ok(())
    }

    fn check_validation(&self, model: &ModelConfig) -> Result<()> {
        let Some(validation) = &self.validation else {
            return Ok(());
        };
        validation.check()?;
        if let Some(patient) = validation.source.shared_with(&self.source) {
            let expected = "patients that the model doesn't train on";
            return Err(Error::option("source", expected, patient));
        }
        if matches!(self.source, Source::Given { .. }) {
            let expected = "none, where the calling program gives the slices";
            return Err(Error::option("validation", expected, "one"));
        }
        if let Source::Phantom { .. } = &validation.source {
            check_sequences(&self.sequences, &validation.source)?;
        }
        let config = model.detect_config(Method::Fndm);
        check_row(model, Method::Fndm, &config)
    }
}

fn check_row(model: &ModelConfig, method: Method, config: &DetectConfig) -> Result<()> {
    match method {
        // It comes with the training.
        Method::Student => Ok(config.check()?),
        _ => Ok(model.check_row(method, config)?),
    }
}

/// Puts an error into the stage of the plan that it belongs to.
fn stage(name: &str) -> impl FnOnce(Error) -> Error {
    let stage = name.to_owned();
    move |error| Error::Plan {
        stage,
        source: Box::new(error),
    }
}

fn check_budget(iterations: Option<u64>, seconds: Option<f64>) -> Result<()> {
    if iterations.is_none() && seconds.is_none() {
        let expected = "one of them at least: without either it never ends";
        return Err(Error::option("iterations, time_budget_s", expected, "none"));
    }
    Ok(())
}

fn check_batch(batch: usize, processes: usize) -> Result<()> {
    if batch.is_multiple_of(processes.max(1)) {
        return Ok(());
    }
    let expected = format!("a multiple of the {processes} processes");
    Err(Error::option("batch", expected, batch))
}

fn check_sequences(sequences: &[String], source: &Source) -> Result<()> {
    if sequences.is_empty() {
        return Err(Error::option("sequences", "one or more", "none"));
    }
    let mut seen = BTreeSet::new();
    for name in sequences {
        if !seen.insert(name) {
            return Err(Error::option("sequences", "each named once", name));
        }
        let phantom = matches!(source, Source::Phantom { .. });
        if phantom && !PHANTOM_SEQUENCES.contains(&name.as_str()) {
            return Err(Error::option(
                "sequences",
                format!("those of the phantom: {}", PHANTOM_SEQUENCES.join(", ")),
                name,
            ));
        }
    }
    Ok(())
}

impl Source {
    /// Whether there are patients, each named once. No folder is looked at.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Phantom {
                config,
                first_seed,
                patients,
            } => {
                config.build()?;
                if !(1..=MOST_PATIENTS).contains(patients) {
                    let expected = format!("1 to {MOST_PATIENTS}");
                    return Err(Error::option("patients", expected, patients));
                }
                if first_seed.checked_add(*patients).is_none() {
                    return Err(Error::option(
                        "first seed",
                        format!("at most {}, for {patients} patients", u64::MAX - patients),
                        first_seed,
                    ));
                }
                Ok(())
            }
            Self::Folder { .. } | Self::Files { .. } | Self::Sides { .. } | Self::Given { .. } => {
                let patients = self.ids();
                if patients.is_empty() {
                    return Err(Error::option("patients", "one or more", "none"));
                }
                let mut seen = BTreeSet::new();
                match patients.iter().find(|id| !seen.insert(*id)) {
                    Some(twice) => Err(Error::option("patients", "each named once", twice)),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Whether a training by `plan` can write into `folder`, and go on from what lies there.
pub(crate) fn check_output(plan: &TrainPlan, folder: &Path, writes: bool) -> Result<()> {
    let runs = folder.join(RUNS);
    let seed = plan.seed;
    let training = &plan.classifier_training;
    training.check_resume(&plan.classifier, seed, &run_folder(folder, Run::Classifier))?;
    let training = &plan.diffusion_training;
    training.check_resume(&plan.unet, seed, &run_folder(folder, Run::Diffusion))?;
    for (&method, own) in &plan.separate {
        let place = run_folder(folder, Run::Separate(method));
        own.training.check_resume(&own.unet, seed, &place)?;
    }
    if !writes {
        return Ok(());
    }
    let json = folder.join(model_folder::CONFIG);
    if json.exists() {
        // Not one of ours, or of a newer version: it isn't written over.
        ModelConfig::read(&json)?;
    } else if !runs.exists()
        && let Some(name) = model_folder::names()
            .into_iter()
            .find(|name| folder.join(name).exists())
    {
        return Err(Error::Input {
            what: format!("output folder {}", folder.display()),
            expected: "a new folder, or one of an earlier training".into(),
            got: format!("{name}, which no training has left there"),
        });
    }
    fs::create_dir_all(&runs).map_err(Error::io(&runs))?;
    let probe = runs.join(format!(".{}.tmp", std::process::id()));
    fs::write(&probe, b"can this be written?").map_err(Error::io(&probe))?;
    fs::remove_file(&probe).map_err(Error::io(&probe))
}
