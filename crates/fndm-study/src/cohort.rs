//! One loop over the patients of a study: read, checked, handed on, counted. One patient is in memory at a time, or two where the next is
//! read meanwhile.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::thread;

use fndm::Detector;
use fndm::kernels::keeping_nothing;
use fndm_data::{Patient, PatientSlices, Preprocess, find_identical_sequences};
use fndm_files::chain;
use serde::{Deserialize, Serialize};

use crate::{Error, Labelling, PatientBits, Result, Source};

/// A patient that wasn't used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// The patient.
    pub patient: String,
    /// Why.
    pub reason: String,
}

/// What must be known of a patient's slices.
#[derive(Debug, Clone, Copy)]
pub enum Truth<'a> {
    /// A lesion mask.
    Mask,
    /// The bit of each slice; slices without one are left out, and so is the mask, where there is one.
    Bits(&'a Labelling),
    /// Nothing: all slices are used, whatever is known of them.
    Nothing,
}

/// The patients of a source, and how they are read.
#[derive(Debug, Clone, Copy)]
pub struct Patients<'a> {
    /// Where they come from.
    pub source: &'a Source,
    /// The sequences, in the order of the images' channels.
    pub sequences: &'a [String],
    /// From volumes to slices.
    pub preprocess: &'a Preprocess,
    /// What must be known of them.
    pub truth: Truth<'a>,
}

/// A patient that can be used.
#[derive(Debug)]
pub struct PatientRead {
    /// The volumes.
    pub patient: Patient,
    /// The slices, as the model takes them; at least one.
    pub slices: PatientSlices,
}

/// What a loop over patients reports while it runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum CohortEvent<'a> {
    /// Something about a patient that a user should read.
    Note(&'a str, String),
    /// A patient that isn't used.
    LeftOut(&'a LeftOut),
    /// So many patients of so many are done.
    Done(usize, usize),
}

/// What came of a loop over patients.
#[derive(Debug, Clone, Default)]
pub struct Cohort {
    /// Patients that were used.
    pub patients: usize,
    /// Their slices.
    pub slices: usize,
    /// Those of them that are diseased.
    pub diseased: usize,
    /// Bits of every patient, where bits were asked for.
    pub bits: Vec<PatientBits>,
    /// Patients that weren't used, and why.
    pub left_out: Vec<LeftOut>,
    /// How many of these couldn't be read.
    pub unreadable: usize,
}

/// What [`Patients::read`] came to, and the bits that were read.
type Tried = (
    Result<std::result::Result<PatientRead, String>>,
    Vec<PatientBits>,
);

impl<'a> Patients<'a> {
    /// As a detector takes them.
    #[must_use]
    pub fn of(detector: &'a Detector, source: &'a Source, truth: Truth<'a>) -> Self {
        let config = detector.config();
        Self {
            source,
            sequences: &config.sequences,
            preprocess: &config.preprocess,
            truth,
        }
    }

    /// Reads one patient after the other, and hands on those that can be used. One that can't be read, is no patient of several
    /// sequences (see [`copies`]) or has no truth is left out. `on_event` may break, which ends the loop.
    ///
    /// # Errors
    /// Those of `visit`; [`Error::Cancelled`]; a fault of the table of labels, which makes all its rows doubtful.
    pub fn each<E: From<Error>>(
        &self,
        on_event: &mut dyn FnMut(CohortEvent<'_>) -> ControlFlow<()>,
        visit: impl FnMut(PatientRead) -> std::result::Result<(), E>,
    ) -> std::result::Result<Cohort, E> {
        self.go_through(false, on_event, visit)
    }

    /// As [`Patients::each`], with the next patient read in a thread of its own while `visit` has the last one: two are in memory.
    ///
    /// # Errors
    /// As there.
    pub fn each_reading_ahead<E: From<Error>>(
        &self,
        on_event: &mut dyn FnMut(CohortEvent<'_>) -> ControlFlow<()>,
        visit: impl FnMut(PatientRead) -> std::result::Result<(), E>,
    ) -> std::result::Result<Cohort, E> {
        self.go_through(true, on_event, visit)
    }

    fn go_through<E: From<Error>>(
        &self,
        ahead: bool,
        on_event: &mut dyn FnMut(CohortEvent<'_>) -> ControlFlow<()>,
        mut visit: impl FnMut(PatientRead) -> std::result::Result<(), E>,
    ) -> std::result::Result<Cohort, E> {
        let ids = self.source.ids();
        let mut cohort = Cohort::default();
        let mut tell = |event: CohortEvent<'_>| match on_event(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        };
        let mut next = |index: usize, (read, bits): Tried| {
            let id = &ids[index];
            cohort.bits.extend(bits);
            let reason = match read {
                Ok(Ok(read)) => {
                    for note in &read.slices.notes {
                        tracing::info!(patient = id, %note, "note");
                        tell(CohortEvent::Note(id, note.to_string()))?;
                    }
                    let labels = read.slices.labels.iter().flatten();
                    cohort.diseased += labels.filter(|&&label| label == 1).count();
                    cohort.slices += read.slices.len();
                    cohort.patients += 1;
                    visit(read)?;
                    None
                }
                Ok(Err(reason)) => Some(reason),
                Err(error) if error.is_of_the_table() => return Err(error.into()),
                Err(error) => {
                    cohort.unreadable += 1;
                    Some(chain(&error))
                }
            };
            if let Some(reason) = reason {
                tracing::warn!(patient = id, reason, "patient left out");
                let patient = id.clone();
                let left_out = LeftOut { patient, reason };
                tell(CohortEvent::LeftOut(&left_out))?;
                cohort.left_out.push(left_out);
            }
            tell(CohortEvent::Done(index + 1, ids.len()))?;
            Ok::<(), E>(())
        };
        let read = |index| -> Tried {
            let mut bits = Vec::new();
            (self.read(index, &mut bits), bits)
        };
        if ahead {
            thread::scope(|scope| {
                let (to_here, all) = sync_channel(0);
                // An error of `send` says that the loop below has ended.
                let count = ids.len();
                // Blocks as large as a patient: none of them is kept.
                scope.spawn(move || {
                    keeping_nothing(|| {
                        for n in 0..count {
                            if to_here.send(read(n)).is_err() {
                                return;
                            }
                        }
                    });
                });
                all.iter()
                    .enumerate()
                    .try_for_each(|(index, read)| next(index, read))
            })?;
        } else {
            (0..ids.len()).try_for_each(|index| next(index, read(index)))?;
        }
        Ok(cohort)
    }

    /// Reads patient number `index`, or says why it can't be used. Its bits are added to `all`.
    ///
    /// # Errors
    /// When the patient can't be read; a fault of the table of labels ([`Error::is_of_the_table`]).
    pub fn read(
        &self,
        index: usize,
        all: &mut Vec<PatientBits>,
    ) -> Result<std::result::Result<PatientRead, String>> {
        let names = self.preprocess.names_to_read(self.sequences);
        let patient = match self.truth {
            Truth::Mask | Truth::Nothing => self.source.patient(index, &names)?,
            Truth::Bits(labels) => labels.patient(self.source, index, &names)?,
        };
        if let Some(reason) = copies(&patient) {
            return Ok(Err(reason));
        }
        let slices = match self.truth {
            Truth::Mask if patient.mask.is_none() => {
                return Ok(Err("no lesion mask".to_string()));
            }
            Truth::Mask | Truth::Nothing => self.preprocess.apply(&patient)?,
            Truth::Bits(labels) => {
                let (slices, bits) = labels.apply(&patient, self.preprocess)?;
                all.push(bits);
                slices
            }
        };
        if slices.is_empty() {
            return Ok(Err("no slice with a label".to_string()));
        }
        Ok(Ok(PatientRead { patient, slices }))
    }
}

/// Why a patient isn't fit for a model of several sequences: some of them are copies of each other.
///
/// Data sets fill in sequences that were never acquired; a network must not learn that.
#[must_use]
pub fn copies(patient: &Patient) -> Option<String> {
    copies_among(&find_identical_sequences(patient))
}

/// As [`copies`], by the pairs of sequences that are one image.
#[must_use]
pub fn copies_among(pairs: &[(String, String)]) -> Option<String> {
    if pairs.is_empty() {
        return None;
    }
    let pairs: Vec<String> = pairs.iter().map(|(a, b)| format!("{a} = {b}")).collect();
    Some(format!(
        "sequences are copies of each other ({})",
        pairs.join(", ")
    ))
}
