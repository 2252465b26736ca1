use std::path::Path;

use fndm_data::profile::{DataStatistics, PatientProfile, Verdict};
use fndm_data::{Patient, Preprocess, Turned};

use crate::{Error, ModelConfig, Result, model_folder};

/// Compares patients with those that a model was trained on.
///
/// ```no_run
/// use fndm::{InputCheck, data};
///
/// # fn main() -> fndm::Result<()> {
/// let check = InputCheck::load("assets/lgg")?.expect("a model with data.json");
/// let patient = data::read_patient("patient_01", &check.names_to_read(), &data::Limits::default())?;
/// let verdict = check.patient(&patient);
/// println!("{}", verdict.light); // green, yellow or red
/// for finding in &verdict.findings {
///     println!("{}: {}; {}", finding.aspect, finding.reason, finding.advice);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct InputCheck {
    sequences: Vec<String>,
    preprocess: Preprocess,
    statistics: DataStatistics,
}

impl InputCheck {
    /// Of a model folder; `None` where it has no statistics of its training data.
    ///
    /// # Errors
    /// When there is no model, or a file of it is missing or broken.
    pub fn load(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let json = folder.join(model_folder::CONFIG);
        if !json.is_file() {
            return Err(Error::MissingModelFile {
                folder: folder.to_path_buf(),
                file: model_folder::CONFIG.to_owned(),
            });
        }
        let config = ModelConfig::read(&json)?;
        if !config.data_statistics {
            return Ok(None);
        }
        let path = model_folder::file(folder, model_folder::DATA)?;
        let statistics = DataStatistics::read(&path)?;
        Ok(Some(Self::new(&config, statistics)))
    }

    /// Of statistics that were learned with the model's sequences and preprocessing.
    #[must_use]
    pub fn new(config: &ModelConfig, statistics: DataStatistics) -> Self {
        Self {
            sequences: config.sequences.clone(),
            preprocess: config.preprocess.clone(),
            statistics,
        }
    }

    /// The model's sequences, in the order of the images' channels.
    #[must_use]
    pub fn sequences(&self) -> &[String] {
        &self.sequences
    }

    /// What has to be read of a patient: the sequences, and the brain mask where the model takes one.
    #[must_use]
    pub fn names_to_read(&self) -> Vec<String> {
        self.preprocess.names_to_read(&self.sequences)
    }

    /// What is known of the training's patients.
    #[must_use]
    pub fn statistics(&self) -> &DataStatistics {
        &self.statistics
    }

    /// Judges a patient. One that can't be measured is red; sequences may be missing.
    #[must_use]
    pub fn patient(&self, patient: &Patient) -> Verdict {
        self.measured(&patient.id, PatientProfile::of(patient, &self.preprocess))
    }

    /// Judges a patient whose head was found already, as [`Detector::turn`](crate::Detector::turn) does for the slices.
    #[must_use]
    pub fn turned(&self, id: &str, turned: &Turned<'_>) -> Verdict {
        self.measured(id, PatientProfile::of_turned(turned))
    }

    fn measured(&self, id: &str, profile: fndm_data::Result<PatientProfile>) -> Verdict {
        match profile {
            Ok(profile) => self.statistics.judge(&profile),
            Err(error) => Verdict::unreadable(id, fndm_files::chain(&error)),
        }
    }
}
