//! Statistics of the training data for a model that is there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use fndm::{ModelConfig, model_folder};
use fndm_data::profile::{DataStatistics, PatientProfile};

use crate::{CohortEvent, Error, Patients, Result, Source, Truth};

/// Measures the patients that a model was trained on, and puts what they have in common into its folder, as `data.json`. Neither masks
/// nor bits are used, and no weight changes. Patients that can't be used are left out, as a training leaves them out.
///
/// # Errors
/// When there is no model, no patient can be used, or a file can't be written; [`Error::Cancelled`] where `on_event` breaks.
pub fn describe(
    model: &Path,
    source: &Source,
    on_event: &mut dyn FnMut(CohortEvent<'_>) -> ControlFlow<()>,
) -> Result<DataStatistics> {
    let config = ModelConfig::read(&model.join(model_folder::CONFIG))?;
    let patients = Patients {
        source,
        sequences: &config.sequences,
        preprocess: &config.preprocess,
        truth: Truth::Nothing,
    };
    let mut profiles = Vec::new();
    let cohort = patients.each(on_event, |read| -> Result<()> {
        profiles.push(PatientProfile::of(&read.patient, &config.preprocess)?);
        Ok(())
    })?;
    if profiles.is_empty() {
        return Err(Error::Input {
            what: "patients of the training".into(),
            expected: "at least one that can be used".into(),
            got: format!("{} left out", cohort.left_out.len()),
        });
    }
    let statistics = DataStatistics::learn(&profiles, source.words())?;
    let file = (model_folder::DATA.to_owned(), statistics.to_bytes()?);
    model_folder::extend(model, BTreeMap::from([file]), |config| {
        config.data_statistics = true;
    })?;
    Ok(statistics)
}
