//! One patient from its files to its folder of results, in three steps that may run in threads of their own.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use fndm::data::profile::Verdict;
use fndm::data::{ImagesOnDisk, Limits, PatientSlices, SliceImages, Turned};
use fndm::{Detector, InputCheck, SliceMaps};
use fndm_files::{Inputs, OutputFolder};
use fndm_study::fndm_report::Measure;
use fndm_study::{PageBase, copies_among};
use serde::{Deserialize, Serialize};

use super::input::{Input, Row};
use super::{Options, output, target};
use crate::check::{before_detection, done_before};
use crate::common;
use crate::shards::fingerprint::Hashed;
use crate::shards::pipeline::{Next, Steps};
use crate::shards::{How, Record, record};

/// What is the same for all patients.
pub(super) struct Work<'a> {
    pub(super) options: &'a Options,
    pub(super) detector: &'a Detector,
    /// What patients are compared with, where the model has it.
    pub(super) check: Option<&'a InputCheck>,
    pub(super) row: Row,
    pub(super) how: How,
    pub(super) inputs: Inputs,
}

/// A patient that was read. The volumes themselves aren't kept; what a page shows of them is.
pub(super) struct Ready<'a> {
    read: Read<'a>,
    slices: Slices,
}

/// A patient that was examined.
pub(super) struct Found<'a> {
    read: Read<'a>,
    slices: Slices,
    maps: SliceMaps,
}

/// What is known of a patient that was read, beside its slices.
pub(super) struct Read<'a> {
    pub(super) input: &'a Input,
    files: Hashed,
    folder: OutputFolder,
    pub(super) base: Option<PageBase>,
    pub(super) verdict: Option<Verdict>,
}

/// A patient's slices.
enum Slices {
    Memory(PatientSlices),
    /// With `--out-of-core`: however many there are, a few of their images are in memory.
    Disk(PatientSlices<ImagesOnDisk>),
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
    /// By the maps of the slices, and the mask on the grid of the volumes.
    fn of(maps: &SliceMaps, mask: &Measure) -> Self {
        let marked = maps.mask.outer_iter();
        Self {
            slices: maps.mask.dim().0,
            marked_slices: marked.filter(|slice| slice.iter().any(|&v| v)).count(),
            mask_voxels: mask.voxels,
            mask_mm3: mask.mm3,
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
        let names = self.detector.config().names_to_read();
        let (output, maker) = target(self.options, input);
        let found = input.files(&names)?;
        let files = Hashed::of(&found)?;
        let paths = input.is_nifti().then_some(found);
        if !self.options.cohort.again()
            && record::is_of(&output, &input.id, &self.how, &files.contents)
            && OutputFolder::is_finished(&output, &maker, &self.inputs)?
        {
            if self.options.strict {
                done_before(&output.join(input.file("report.json")))?;
            }
            return Ok(Next::Done(Done::Before));
        }
        // Before the work: another process may be at it, and a disk may have filled up.
        let folder = OutputFolder::create(output, &maker, &self.inputs)?;
        let mut read = Read {
            input,
            files,
            folder,
            base: None,
            verdict: None,
        };
        let slices = match paths.filter(|_| self.options.out_of_core) {
            Some(paths) => Slices::Disk(self.cut_on_disk(&mut read, &paths)?),
            None => Slices::Memory(self.cut(&mut read)?),
        };
        read.files.check_unchanged()?;
        Ok(Next::Step(Box::new(Ready { read, slices })))
    }

    /// Runs the networks on a patient.
    fn examine(&self, ready: Self::Read) -> Result<Self::Found> {
        let Ready { read, slices } = *ready;
        let maps = match &slices {
            Slices::Memory(slices) => self.maps(read.input, slices),
            Slices::Disk(slices) => self.maps(read.input, slices),
        }?;
        Ok(Box::new(Found { read, slices, maps }))
    }

    /// Writes what was found, and puts the folder in its place.
    fn write(&self, found: Self::Found) -> Result<Done> {
        let Found { read, slices, maps } = *found;
        match slices {
            Slices::Memory(slices) => self.fill(read, &slices, &maps)?,
            Slices::Disk(slices) => self.fill(read, &slices, &maps)?,
        }
        Ok(Done::Now {
            milliseconds: maps.milliseconds,
        })
    }
}

impl Work<'_> {
    /// The slices of a patient whose volumes are all read at once.
    fn cut(&self, read: &mut Read<'_>) -> Result<PatientSlices> {
        let patient = read.input.read(&self.detector.config().names_to_read())?;
        let turned = self.detector.turn(&patient)?;
        self.check(read, &turned)?;
        let slices = turned.slices()?;
        read.base = self.options.report.base_of(&turned, &slices)?;
        Ok(slices)
    }

    /// The slices of a patient whose volumes are read one after the other. What is in memory of them later is a batch.
    fn cut_on_disk(
        &self,
        read: &mut Read<'_>,
        paths: &[(String, PathBuf)],
    ) -> Result<PatientSlices<ImagesOnDisk>> {
        let place = read.folder.path().to_owned();
        let (id, limits) = (&read.input.id, Limits::default());
        let turned = self
            .detector
            .turn_files(id, paths, &limits, working_file(&place)?)?;
        self.check(read, &turned)?;
        let slices = turned.slices_on_disk(working_file(&place)?)?;
        read.base = self.options.report.base_of(&turned, &slices)?;
        Ok(slices)
    }

    /// Whether the patient is like those of the training; by `--strict` an error where it isn't.
    fn check(&self, read: &mut Read<'_>, turned: &Turned<'_>) -> Result<()> {
        let id = &read.input.id;
        if let Some(reason) = copies_among(&turned.identical_sequences()?) {
            tell!("{id}: warning: {reason}");
        }
        read.verdict = before_detection(self.check, id, turned, self.options.strict)?;
        Ok(())
    }

    fn maps<I: SliceImages>(&self, input: &Input, slices: &PatientSlices<I>) -> Result<SliceMaps> {
        let (method, config) = &self.row;
        let bar = common::share_bar(&input.id);
        let progress = &mut |share| bar.set_position((share * 1000.) as u64);
        let maps = self
            .detector
            .examine_by(*method, slices, config, progress)?;
        bar.finish();
        for note in &slices.notes {
            tell!("{}: warning: {note}", input.id);
        }
        Ok(maps)
    }

    fn fill<I: SliceImages>(
        &self,
        mut read: Read<'_>,
        slices: &PatientSlices<I>,
        maps: &SliceMaps,
    ) -> Result<()> {
        let mut folder = read.folder;
        let base = read.base.take();
        let about = output::About {
            options: self.options,
            input: read.input,
            row: &self.row,
            verdict: read.verdict.as_ref(),
            calibrated: (self.detector.student())
                .is_some_and(|student| student.config().calibration.is_learned()),
        };
        let measured = output::fill(&mut folder, &about, slices, maps, base)?;
        let figures = Figures::of(maps, &measured);
        let record = Record::new(&read.input.id, &self.how, read.files.contents, figures);
        folder.write_json(record::FILE, &record)?;
        Ok(folder.finish()?)
    }
}

/// A file without a name in the folder that is being made: nothing is left of it, however the program ends.
fn working_file(folder: &Path) -> Result<File> {
    let file = tempfile::tempfile_in(folder);
    file.with_context(|| format!("cannot make a working file in {}", folder.display()))
}
