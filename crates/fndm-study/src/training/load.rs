//! The slices of a training, read or given.

use std::ops::ControlFlow;

use fndm_data::profile::PatientProfile;
use fndm_data::{PatientSlices, Preprocess, SliceSet};

use super::event::{OnEvent, TrainEvent};
use crate::{
    CohortEvent, Error, LabelRecord, LabelSource, LeftOut, PatientBits, Patients, Result, Source,
    TrainPlan, Truth,
};

/// What is trained on.
pub(super) struct Loaded {
    pub(super) set: SliceSet,
    /// Where the bits came from.
    pub(super) labels: LabelRecord,
    pub(super) left_out: Vec<LeftOut>,
    /// How many of those couldn't be read.
    pub(super) unreadable: usize,
    /// What the patients are like; of none where slices were given.
    pub(super) profiles: Vec<PatientProfile>,
}

/// Checks slices of the calling program against the plan, and counts them.
pub(super) fn given(plan: &TrainPlan, set: SliceSet) -> Result<Loaded> {
    set.check()?;
    let size = plan.preprocess.image_size;
    let (_, _, height, width) = set.images.dim();
    let source = Source::Given {
        patients: set.ids.clone(),
    };
    if plan.source != source || plan.labels != LabelSource::Given {
        return Err(Error::Input {
            what: "source and labels of the plan".into(),
            expected: format!("those that were given, of {}", set.ids.join(", ")),
            got: format!("{:?}, {:?}", plan.source, plan.labels),
        });
    }
    if (height, width) != (size, size) || set.sequences != plan.sequences {
        return Err(Error::Input {
            what: "slices".into(),
            expected: format!("{size} x {size} pixels of {}", plan.sequences.join(", ")),
            got: format!("{height} x {width} of {}", set.sequences.join(", ")),
        });
    }
    let bits = |(p, id): (usize, &String)| {
        let of = |label: u8| {
            let both = set.patient.iter().zip(&set.labels);
            both.filter(|&(&of, &bit)| of == p && bit == label).count()
        };
        PatientBits {
            patient: id.clone(),
            healthy: of(0),
            diseased: of(1),
            unknown: 0,
        }
    };
    let labels = LabelRecord {
        source: plan.labels.words(),
        patients: set.ids.iter().enumerate().map(bits).collect(),
    };
    Ok(Loaded {
        set,
        labels,
        left_out: Vec::new(),
        unreadable: 0,
        profiles: Vec::new(),
    })
}

/// Reads the patients. Those that can't be used are left out.
pub(super) fn load(
    source: &Source,
    labels: &LabelSource,
    sequences: &[String],
    preprocess: &Preprocess,
    on_event: OnEvent<'_>,
) -> Result<Loaded> {
    let labelling = labels.open(source)?;
    let patients = Patients {
        source,
        sequences,
        preprocess,
        truth: Truth::Bits(&labelling),
    };
    let mut all: Vec<PatientSlices> = Vec::new();
    let mut profiles: Vec<PatientProfile> = Vec::new();
    let mut tell = |event: CohortEvent<'_>| {
        on_event(match event {
            CohortEvent::Note(id, note) => TrainEvent::Note(format!("{id}: {note}")),
            CohortEvent::LeftOut(LeftOut { patient, reason }) => {
                TrainEvent::Note(format!("left out {patient}: {reason}"))
            }
            CohortEvent::Done(done, total) => TrainEvent::Loaded(done, total),
        });
        ControlFlow::Continue(())
    };
    let cohort = patients.each(&mut tell, |read| -> Result<()> {
        match PatientProfile::of(&read.patient, preprocess) {
            Ok(profile) => profiles.push(profile),
            // Slices can be cut from it all the same.
            Err(error) => tracing::warn!(patient = read.patient.id, %error, "not measured"),
        }
        all.push(read.slices);
        Ok(())
    })?;
    if all.is_empty() {
        return Err(Error::Input {
            what: "patients for training".into(),
            expected: "at least one that can be used".into(),
            got: format!("none of {}", source.ids().len()),
        });
    }
    let labels = LabelRecord {
        source: labels.words(),
        patients: cohort.bits,
    };
    let set = SliceSet::from_patients(all)?;
    Ok(Loaded {
        set,
        labels,
        left_out: cohort.left_out,
        unreadable: cohort.unreadable,
        profiles,
    })
}
