//! Healthy, diseased or unknown: what is known of a slice without any mask.
//!
//! A mask gives bits by itself (see [`Preprocess::apply`](crate::Preprocess::apply)). Where there is
//! none, they come from a table ([`Labels::read`]), from two folders of volumes that are wholly healthy and wholly diseased, or
//! from the program that calls ([`Labels::set`]). A slice that nothing is said of is [`Label::Unknown`], never healthy:
//! [`PatientSlices::labelled`](crate::PatientSlices::labelled) leaves it out.

mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::preprocess::Geometry;
use crate::{Error, PatientSlices, Result};

pub use table::{SlicesFrom, TableOptions};

/// What is known of one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// No lesion anywhere in the slice.
    Healthy,
    /// A lesion somewhere in the slice.
    Diseased,
    /// Not known: the slice is left out of training.
    Unknown,
}

impl Label {
    /// 0 for healthy, 1 for diseased, none for unknown.
    #[must_use]
    pub fn bit(self) -> Option<u8> {
        match self {
            Self::Healthy => Some(0),
            Self::Diseased => Some(1),
            Self::Unknown => None,
        }
    }

    /// The word in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Diseased => "diseased",
            Self::Unknown => "unknown",
        }
    }
}

/// How the numbers of slices count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SliceOrder {
    /// As the file stores them: the index along the volume's slice axis, which viewers and nibabel show.
    #[default]
    Stored,
    /// From the lower end of the head upwards, however the file stores them: [`PatientSlices::z`].
    Upward,
}

/// Where a label was said: line of the table, or none.
type Line = Option<u64>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Of {
    whole: Option<(Label, Line)>,
    slices: BTreeMap<usize, (Label, Line)>,
}

/// Labels by patient and slice.
///
/// ```
/// use fndm_data::labels::{Label, Labels, SlicesFrom, TableOptions};
/// let text = "patient,slice,label\np01,17-20,diseased\np01,21,0\np02,,healthy\n";
/// let options = TableOptions { slices_from: Some(SlicesFrom::Zero), ..TableOptions::default() };
/// let labels = Labels::parse(text, &options).map_err(|problem| problem.to_string())?;
/// assert_eq!(labels.get("p01", 18), Label::Diseased);
/// assert_eq!(labels.get("p01", 21), Label::Healthy);
/// assert_eq!(labels.get("p01", 22), Label::Unknown);
/// assert_eq!(labels.get("p02", 3), Label::Healthy);
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    order: SliceOrder,
    /// What messages call a volume's first slice: as the table does.
    first: usize,
    patients: BTreeMap<String, Of>,
}

/// Two labels that can't both be true, or one that fits nothing. It says what, and in which lines of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", line.map_or_else(String::new, |line| format!("line {line}: ")))]
#[non_exhaustive]
pub struct LabelProblem {
    /// Line of the table, from 1; none for a label that came from the program.
    pub line: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

impl Labels {
    /// No labels yet; the numbers of slices will count in this order.
    #[must_use]
    pub fn new(order: SliceOrder) -> Self {
        Self {
            order,
            first: 0,
            patients: BTreeMap::new(),
        }
    }

    /// Says what is known of slice `slice` (from 0, in this value's order) of a patient, or of all its slices. A slice's own label
    /// counts before the whole patient's.
    ///
    /// # Errors
    /// When it contradicts what was said before: one slice healthy and diseased, or a diseased slice of a patient that is healthy as a
    /// whole.
    pub fn set(
        &mut self,
        patient: &str,
        slice: Option<usize>,
        label: Label,
    ) -> std::result::Result<(), LabelProblem> {
        self.set_from(patient, slice, label, None)
    }

    fn set_from(
        &mut self,
        patient: &str,
        slice: Option<usize>,
        label: Label,
        line: Line,
    ) -> std::result::Result<(), LabelProblem> {
        let first = self.first;
        let of = self.patients.entry(patient.to_string()).or_default();
        let other = match slice {
            Some(slice) => of.slices.get(&slice).copied(),
            None => of.whole,
        };
        let problem = |reason: String, other: Line| {
            let also = other.map_or_else(String::new, |other| format!(" (line {other})"));
            LabelProblem {
                line,
                reason: reason + &also,
            }
        };
        let what = slice.map_or_else(
            || "all slices".into(),
            |slice| format!("slice {}", slice + first),
        );
        if let Some((before, at)) = other
            && before != label
        {
            let (now, before) = (label.name(), before.name());
            let reason = format!("patient {patient}, {what}: {now} here, {before} before");
            return Err(problem(reason, at));
        }
        match slice {
            Some(slice) => of.slices.insert(slice, (label, line)),
            None => of.whole.replace((label, line)),
        };
        // The same, whichever of the two was said first.
        let diseased = match slice {
            Some(slice) if label == Label::Diseased => Some((slice, line)),
            Some(_) => None,
            None => {
                let mut slices = of.slices.iter();
                slices.find_map(|(&slice, &(label, at))| {
                    (label == Label::Diseased).then_some((slice, at))
                })
            }
        };
        if let (Some((Label::Healthy, whole)), Some((slice, at))) = (of.whole, diseased) {
            let other = if slice_is_new(line, at) { whole } else { at };
            let reason = format!(
                "patient {patient}: healthy as a whole, and slice {} diseased",
                slice + first
            );
            return Err(problem(reason, other));
        }
        Ok(())
    }

    /// What is known of a slice, counted as this value counts.
    #[must_use]
    pub fn get(&self, patient: &str, slice: usize) -> Label {
        let Some(of) = self.patients.get(patient) else {
            return Label::Unknown;
        };
        let own = of.slices.get(&slice).or(of.whole.as_ref());
        own.map_or(Label::Unknown, |&(label, _)| label)
    }

    /// The patients that something is said of.
    pub fn patients(&self) -> impl Iterator<Item = &str> {
        self.patients.keys().map(String::as_str)
    }

    /// Whether nothing is said of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patients.is_empty()
    }

    /// Checks that everyone who is spoken of is among these patients.
    ///
    /// # Errors
    /// The first one who isn't, with the line.
    pub fn check_patients<S: AsRef<str>>(
        &self,
        known: &[S],
    ) -> std::result::Result<(), LabelProblem> {
        let known: std::collections::BTreeSet<&str> = known.iter().map(AsRef::as_ref).collect();
        let stranger = self
            .patients
            .iter()
            .find(|(id, _)| !known.contains(id.as_str()));
        let Some((id, of)) = stranger else {
            return Ok(());
        };
        let lines = of
            .whole
            .iter()
            .chain(of.slices.values())
            .map(|&(_, line)| line);
        Err(LabelProblem {
            line: lines.min().flatten(),
            reason: format!(
                "patient {id}: no such patient in the data, which has {}{}",
                known.iter().take(3).copied().collect::<Vec<_>>().join(", "),
                if known.len() > 3 { ", …" } else { "" }
            ),
        })
    }

    /// Checks that a patient's volume has every slice that is spoken of.
    ///
    /// # Errors
    /// The first slice beyond the volume, with the line.
    pub fn check_slices(
        &self,
        patient: &str,
        total: usize,
    ) -> std::result::Result<(), LabelProblem> {
        let of = self.patients.get(patient);
        let beyond = of.and_then(|of| of.slices.range(total..).next());
        let Some((slice, &(_, line))) = beyond else {
            return Ok(());
        };
        Err(LabelProblem {
            line,
            reason: format!(
                "patient {patient}: slice {}, but the volume has {total} slices, counted from {}",
                slice + self.first,
                self.first
            ),
        })
    }

    /// What is known of each of a patient's slices, in their order.
    ///
    /// # Errors
    /// [`Error::Label`] for a slice beyond the volume.
    pub fn of(&self, slices: &PatientSlices) -> Result<Vec<Label>> {
        let geometry = &slices.geometry;
        self.check_slices(&slices.id, geometry.total_slices())
            .map_err(Error::from)?;
        let label = |&z: &usize| self.get(&slices.id, self.number(geometry, z));
        Ok(slices.z.iter().map(label).collect())
    }

    fn number(&self, geometry: &Geometry, z: usize) -> usize {
        match self.order {
            SliceOrder::Stored => geometry.stored_slice(z),
            SliceOrder::Upward => z,
        }
    }
}

impl PatientSlices {
    /// The slices that these labels know, with their bits; unknown slices are left out, and so is the mask, if there was one.
    ///
    /// # Errors
    /// [`Error::Label`] for a label of a slice beyond the volume.
    pub fn labelled(&self, labels: &Labels) -> Result<Self> {
        let bits: Vec<Option<u8>> = labels.of(self)?.into_iter().map(Label::bit).collect();
        let known: Vec<usize> = (0..bits.len()).filter(|&n| bits[n].is_some()).collect();
        Ok(Self {
            labels: Some(bits.into_iter().flatten().collect()),
            mask: None,
            // They are about the mask.
            notes: Vec::new(),
            ..self.select(&known)?
        })
    }
}

/// Whether the slice's label is the newer of the two, so that the other one is the patient's.
fn slice_is_new(now: Line, slice: Line) -> bool {
    now == slice
}

impl From<LabelProblem> for Error {
    fn from(problem: LabelProblem) -> Self {
        Self::Label { source: problem }
    }
}

#[cfg(test)]
mod tests;
