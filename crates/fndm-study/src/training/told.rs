//! What a model folder says of itself: what its patients are like, and what it is for.

use std::collections::BTreeMap;

use fndm::{ModelCard, ModelConfig, model_folder};
use fndm_data::profile::{DataStatistics, PatientProfile};
use serde_json::{Value, json};

use super::record::{StudentRecord, TrainingRecord};
use crate::{Result, Source};

/// What a record of a training says in a card.
pub(super) struct Told {
    data: BTreeMap<String, Value>,
}

impl Told {
    pub(super) fn of(record: &TrainingRecord) -> Self {
        let mut data = patients(record.patients.len(), record.left_out.len());
        data.insert("healthy slices".into(), json!(record.healthy_slices));
        data.insert("diseased slices".into(), json!(record.diseased_slices));
        data.insert("source".into(), json!(record.plan.source.words()));
        data.insert("bits from".into(), json!(record.labels.source));
        data.insert("command".into(), json!(record.command));
        Self { data }
    }

    pub(super) fn of_student(record: &StudentRecord, source: &Source) -> Self {
        let mut data = patients(record.patients.len(), record.left_out.len());
        let sum = |of: fn(&crate::PatientBits) -> usize| -> usize {
            record.labels.patients.iter().map(of).sum()
        };
        data.insert("healthy slices".into(), json!(sum(|bits| bits.healthy)));
        data.insert("diseased slices".into(), json!(sum(|bits| bits.diseased)));
        data.insert("source".into(), json!(source.words()));
        data.insert("bits from".into(), json!(record.labels.source));
        data.insert("command".into(), json!(record.command));
        Self { data }
    }
}

fn patients(used: usize, left_out: usize) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("patients".to_owned(), json!(used)),
        ("patients left out".to_owned(), json!(left_out)),
    ])
}

/// What the measured patients are like; nothing where none was measured.
pub(super) fn statistics(
    profiles: &[PatientProfile],
    source: &Source,
) -> Result<Option<DataStatistics>> {
    match profiles.is_empty() {
        true => Ok(None),
        false => Ok(Some(DataStatistics::learn(profiles, source.words())?)),
    }
}

/// The files of a model's statistics and of its card, which the config then speaks of.
pub(super) fn told(
    config: &mut ModelConfig,
    statistics: Option<&DataStatistics>,
    told: &Told,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if let Some(statistics) = statistics {
        config.data_statistics = true;
        files.insert(model_folder::DATA.to_owned(), statistics.to_bytes()?);
    }
    config.metadata = true;
    let card = ModelCard {
        training_data: told.data.clone(),
        ..ModelCard::of(config)
    };
    files.insert(model_folder::METADATA.to_owned(), card.to_bytes()?);
    Ok(files)
}
