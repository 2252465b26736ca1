//! What is marked of pixels that a reader has looked at and judged normal.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use fndm::data::layout::find_sequence;
use fndm::data::{Error, Limits, PatientSlices, Preprocess, nifti};
use fndm::ndarray::Array3;
use fndm_study::student::{FoldMaps, FoldRow};
use fndm_study::{Source, markdown};
use serde::Serialize;

use super::super::table2;

/// Pixels of all patients that have such a mask.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Counts {
    /// Marked by the row.
    marked: u64,
    /// Of these, in the lesion mask.
    lesion: u64,
    /// Of these, in the mask of normal pixels, and in no lesion.
    normal: u64,
    /// In the mask of normal pixels, marked or not.
    all_normal: u64,
}

/// The masks of the patients that have one, and what each row marks.
#[derive(Debug, Default)]
pub(super) struct NormalPixels {
    masks: BTreeMap<String, Array3<bool>>,
    counts: BTreeMap<FoldRow, Counts>,
    /// Patients with such a mask that were examined.
    pub(super) patients: usize,
}

impl NormalPixels {
    /// The masks of this name beside the sequences of these patients, cut as the slices are. Not every patient has one.
    pub(super) fn read(
        name: &str,
        source: &Source,
        used: &BTreeMap<String, PatientSlices>,
        preprocess: &Preprocess,
    ) -> Result<Self> {
        let mut masks = BTreeMap::new();
        if let Source::Folder { path, patients } = source {
            for (index, id) in patients.iter().enumerate() {
                let Some(slices) = used.get(id) else {
                    continue;
                };
                let file = match find_sequence(path.join(id), name) {
                    Ok(file) => file,
                    Err(Error::MissingSequence { .. }) => continue,
                    Err(error) => return Err(error.into()),
                };
                let mut patient =
                    source.patient(index, &preprocess.names_to_read(&slices.sequences))?;
                patient.mask = Some(nifti::read(file, &Limits::default())?);
                let slices = preprocess.apply(&patient)?;
                masks.extend(slices.mask.map(|mask| (id.clone(), mask)));
            }
        }
        ensure!(
            !masks.is_empty(),
            "--normal {name}: expected a patient with <id>_{name}.nii.gz, got none"
        );
        Ok(Self {
            masks,
            ..Self::default()
        })
    }

    /// Counts what the rows mark of a patient.
    pub(super) fn add(&mut self, slices: &PatientSlices, found: &FoldMaps) {
        let (Some(normal), Some(lesion)) = (self.masks.get(&slices.id), &slices.mask) else {
            return;
        };
        self.patients += 1;
        for (row, map) in found {
            let counts = self.counts.entry(*row).or_default();
            for ((&marked, &normal), &lesion) in map.mask.iter().zip(normal).zip(lesion) {
                counts.marked += u64::from(marked);
                counts.lesion += u64::from(marked && lesion);
                counts.normal += u64::from(marked && normal && !lesion);
                counts.all_normal += u64::from(normal && !lesion);
            }
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<&str, Counts> {
        let rows = self.counts.iter();
        rows.map(|(row, counts)| (row.key(), *counts)).collect()
    }

    pub(super) fn table(&self) -> String {
        let header = [
            "method",
            "pixels marked",
            "lesion",
            "judged normal",
            "neither",
            "of those judged normal",
        ];
        let mut cells = vec![header.map(String::from).to_vec()];
        for (row, counts) in &self.counts {
            let share = |part: u64, all: u64| {
                let share = (all > 0).then(|| part as f64 / all as f64);
                table2::figure(share, 3)
            };
            let other = counts.marked - counts.lesion - counts.normal;
            cells.push(vec![
                row.title().to_owned(),
                counts.marked.to_string(),
                share(counts.lesion, counts.marked),
                share(counts.normal, counts.marked),
                share(other, counts.marked),
                share(counts.normal, counts.all_normal),
            ]);
        }
        markdown(&cells)
    }
}
