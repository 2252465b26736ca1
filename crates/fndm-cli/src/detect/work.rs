//! One patient from its files to its folder of results, in three steps that may run in threads of their own.

use std::collections::BTreeMap;

use anyhow::Result;
use fndm::data::PatientSlices;
use fndm::data::profile::Verdict;
use fndm::{DetectConfig, Detection, Detector, InputCheck, Method};
use fndm_files::{Inputs, OutputFolder};
use fndm_study::{PageBase, copies};
use serde::{Deserialize, Serialize};

use super::input::Input;
use super::{Options, output, target};
use crate::check::before_detection;
use crate::common;
use crate::shards::fingerprint::{self, Contents};
use crate::shards::pipeline::{Next, Steps};
use crate::shards::{How, Record, record};

/// What is the same for all patients.
pub(super) struct Work<'a> {
    pub(super) options: &'a Options,
    pub(super) detector: &'a Detector,
    /// What patients are compared with, where the model has it.
    pub(super) check: Option<&'a InputCheck>,
    pub(super) row: (Method, DetectConfig),
    pub(super) how: How,
    pub(super) inputs: Inputs,
}

/// A patient that was read. The volumes themselves aren't kept; what a page shows of them is.
pub(super) struct Ready<'a> {
    input: &'a Input,
    files: BTreeMap<String, Contents>,
    folder: OutputFolder,
    slices: PatientSlices,
    base: Option<PageBase>,
    verdict: Option<Verdict>,
}

/// A patient that was examined.
pub(super) struct Found<'a> {
    input: &'a Input,
    files: BTreeMap<String, Contents>,
    folder: OutputFolder,
    detection: Detection,
    base: Option<PageBase>,
    verdict: Option<Verdict>,
}

/// A patient that is done.
pub(super) enum Done {
    /// Its results were there, made the same way from the same files.
    Before,
    Now {
        /// Of the networks.
        milliseconds: f64,
    },
}

/// What a table over all patients has of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Slices that were examined.
    pub(crate) slices: usize,
    /// Those of them whose mask isn't empty.
    pub(crate) marked_slices: usize,
    /// Voxels of the mask, on the grid of the patient's volumes.
    pub(crate) mask_voxels: usize,
    /// Their volume in cubic millimetres.
    pub(crate) mask_mm3: f64,
    /// The highest value of the anomaly map.
    pub(crate) highest: f32,
    /// How likely the most suspicious slice is diseased, where the model has a student.
    pub(crate) likely: Option<f64>,
}

impl Figures {
    fn of(detection: &Detection) -> Self {
        let (mask, maps) = (&detection.mask, &detection.maps);
        let voxels = mask.data.iter().filter(|&&v| v > 0.).count();
        let [i, j, k] = mask.spacing();
        let marked = maps.mask.outer_iter();
        Self {
            slices: detection.slices.len(),
            marked_slices: marked.filter(|slice| slice.iter().any(|&v| v)).count(),
            mask_voxels: voxels,
            mask_mm3: voxels as f64 * i * j * k,
            highest: maps.anomaly.iter().copied().fold(0., f32::max),
            likely: maps
                .diseased
                .as_ref()
                .map(|all| all.iter().copied().fold(0., f64::max)),
        }
    }
}

impl<'b> Steps<'b> for Work<'_> {
    type Input = Input;
    type Read = Box<Ready<'b>>;
    type Found = Box<Found<'b>>;
    type Done = Done;

    /// Reads a patient, and makes its folder.
    fn read(&self, input: &'b Input) -> Result<Next<Self::Read, Done>> {
        let sequences = &self.detector.config().sequences;
        let (output, maker) = target(self.options, input);
        let files = fingerprint::of_files(&input.files(sequences)?)?;
        if !self.options.cohort.again()
            && record::is_of(&output, &input.id, &self.how, &files)
            && OutputFolder::is_finished(&output, &maker, &self.inputs)?
        {
            return Ok(Next::Done(Done::Before));
        }
        // Before the work: another process may be at it, and a disk may have filled up.
        let folder = OutputFolder::create(output, &maker, &self.inputs)?;
        let patient = input.read(sequences)?;
        if let Some(reason) = copies(&patient) {
            tell!("{}: warning: {reason}", input.id);
        }
        let turned = self.detector.turn(&patient)?;
        let verdict = before_detection(self.check, &input.id, &turned, self.options.strict)?;
        let slices = turned.slices()?;
        let base = self.options.report.base(&patient, &slices)?;
        Ok(Next::Step(Box::new(Ready {
            input,
            files,
            folder,
            slices,
            base,
            verdict,
        })))
    }

    /// Runs the networks on a patient.
    fn examine(&self, ready: Self::Read) -> Result<Self::Found> {
        let Ready {
            input,
            files,
            folder,
            slices,
            base,
            verdict,
        } = *ready;
        let (method, config) = &self.row;
        let bar = common::share_bar(&input.id);
        let progress = &mut |share| bar.set_position((share * 1000.) as u64);
        let detection = self
            .detector
            .detect_slices(*method, slices, config, progress)?;
        bar.finish();
        for note in &detection.slices.notes {
            tell!("{}: warning: {note}", input.id);
        }
        Ok(Box::new(Found {
            input,
            files,
            folder,
            detection,
            base,
            verdict,
        }))
    }

    /// Writes what was found, and puts the folder in its place.
    fn write(&self, found: Self::Found) -> Result<Done> {
        let Found {
            input,
            files,
            mut folder,
            detection,
            base,
            verdict,
        } = *found;
        output::fill(
            &mut folder,
            self.options,
            input,
            &self.row,
            &detection,
            base,
            verdict.as_ref(),
        )?;
        input.add_own(&mut folder, &self.row, &detection)?;
        let record = Record::new(&input.id, &self.how, files, Figures::of(&detection));
        folder.write_json(record::FILE, &record)?;
        folder.finish()?;
        Ok(Done::Now {
            milliseconds: detection.maps.milliseconds,
        })
    }
}
