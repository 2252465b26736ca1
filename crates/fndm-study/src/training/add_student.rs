//! A student for a model that is there, or by itself.

use std::collections::BTreeMap;
use std::path::Path;

use fndm::model_folder::{self, weight_bytes};
use fndm::{Method, ModelCard, ModelConfig};
use fndm_data::Preprocess;

use super::draft::with_student;
use super::load::load;
use super::record::{StudentRecord, TrainingRecord, record_json};
use super::student::StudentTraining;
use super::told::{self, Told};
use crate::student::StudentPlan;
use crate::{Error, LabelSource, Result, Source, TrainEvent, TrainingPlace};

/// What a student is added to.
#[derive(Debug, Clone, PartialEq)]
pub enum StudentBase<'a> {
    /// The model in this folder: the student has its sequences and preprocessing, and stands beside its networks.
    Model(&'a Path),
    /// Nothing: the new model is the student alone.
    Nothing {
        /// The sequences, in the order of the images' channels.
        sequences: &'a [String],
        /// From volumes to slices.
        preprocess: &'a Preprocess,
    },
}

impl StudentBase<'_> {
    /// The config of the model, still without the student.
    ///
    /// # Errors
    /// When the folder has no model.
    pub fn config(&self) -> Result<ModelConfig> {
        Ok(match self {
            Self::Model(folder) => ModelConfig::read(&folder.join(model_folder::CONFIG))?,
            Self::Nothing {
                sequences,
                preprocess,
            } => ModelConfig::without_diffusion(sequences.to_vec(), (*preprocess).clone()),
        })
    }

    /// Whether a student of this plan can be added, as far as is known before any patient is read. `config` is that of [`config`](Self::config).
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(config: &ModelConfig, plan: &StudentPlan, source: &Source) -> Result<()> {
        let (sequences, preprocess) = (&config.sequences, &config.preprocess);
        preprocess.check()?;
        plan.check_slices(sequences.len(), preprocess.image_size)?;
        source.check()
    }

    /// The model's files, by name.
    fn files(&self, config: &ModelConfig) -> Result<BTreeMap<String, Vec<u8>>> {
        let Self::Model(folder) = self else {
            return Ok(BTreeMap::new());
        };
        let read = |name: String| {
            let path = model_folder::file(folder, &name)?;
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            Ok((name, bytes))
        };
        model_folder::names_of(config)
            .into_iter()
            .map(read)
            .collect()
    }

    /// The bytes of the model's record, with that of the student. They are written into `folder`.
    fn record_with(&self, student: &StudentRecord, folder: &Path) -> Result<Vec<u8>> {
        match self {
            Self::Model(model) => {
                let record = TrainingRecord {
                    student: Some(student.clone()),
                    ..TrainingRecord::read(model)?
                };
                record_json(folder, &record)
            }
            Self::Nothing { .. } => record_json(folder, &BTreeMap::from([("student", student)])),
        }
    }
}

/// Trains a student on patients with their bits, and writes a model with it into the place's folder: that of a model, which may be the
/// same, or one of the student alone. The student is the row by which the new model examines patients where none is asked for.
///
/// Checkpoints go to `training` in the folder. Gives nothing where the place's flag was set before the end.
///
/// # Errors
/// When there is no model where one should be, no patient can be used, a setting makes no sense, or a file can't be written.
pub fn add_student(
    plan: &StudentPlan,
    source: &Source,
    labels: &LabelSource,
    base: &StudentBase<'_>,
    place: TrainingPlace<'_>,
    command: &str,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<StudentRecord>> {
    let mut config = base.config()?;
    let (sequences, preprocess) = (&config.sequences, &config.preprocess);
    StudentBase::check(&config, plan, source)?;
    let loaded = load(source, labels, sequences, preprocess, on_event)?;
    let stage = StudentTraining {
        plan,
        set: &loaded.set,
        labels: &loaded.labels,
        left_out: &loaded.left_out,
        command,
        place,
    };
    let Some((trained, record)) = stage.run(on_event)? else {
        return Ok(None);
    };
    let mut files = base.files(&config)?;
    let weights = weight_bytes(trained.weights.tensors())?;
    files.insert(model_folder::STUDENT.to_owned(), weights);
    let json = base.record_with(&record, place.folder)?;
    files.insert(model_folder::TRAINING.to_owned(), json);
    let before = config.clone();
    with_student(&mut config, trained.config, plan, Method::Student);
    // What a user says of a model stays; a new one gets words.
    if let Some(card) = files.get_mut(model_folder::METADATA) {
        *card = ModelCard::retold(card, &before, &config)?;
    }
    if matches!(base, StudentBase::Nothing { .. }) {
        let statistics = told::statistics(&loaded.profiles, source)?;
        let words = Told::of_student(&record, source);
        files.extend(told::told(&mut config, statistics.as_ref(), &words)?);
    }
    model_folder::replace(place.folder, &config, &files)?;
    Ok(Some(record))
}
