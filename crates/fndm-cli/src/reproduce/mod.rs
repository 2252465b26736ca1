//! The paper's tables and figure on real data: the rivals, the ablation, Dice against steps, and the settings behind them.
//!
//! fndm reproduce table1 --data lgg128 --split test
//! fndm reproduce table2 --data lgg128 --split test
//! fndm reproduce fig4 --data lgg128 --split test

mod folds;
mod reliability;
mod settings;
mod sizes;
mod steps;
mod table1;
mod table2;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use fndm::Detector;
use fndm_files::{Inputs, WorkFolder};
use fndm_study::{Cohort, PatientRead, Patients, Source, Truth};

use crate::common::cohort::{self, Progress};
use crate::common::{self, place};

/// The paper's rivals (table 1) and ablation (table 2), Dice against steps (figure 4), and the settings behind them, on a folder of patients.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The rivals: STFPM, Reverse Distillation, CFlow, CS-Flow, FastFlow, PaDiM, PatchCore, DAE, beside DiffANO, FLAIR and our own
    Table1(table1::Options),
    /// The ablation beside DiffANO, FLAIR and the coarse map, with intervals by patient and Dice by lesion size
    Table2(table2::Options),
    /// Dice against the number of steps, DiffANO and FNDM
    Fig4(steps::Options),
    /// A student beside its teachers, trained and examined fold by fold
    Folds(folds::Options),
    /// Whether the student's probabilities, of pixels and of slices, mean what they say
    Reliability(reliability::Options),
    /// One row for each of some settings of a method
    Settings(settings::Options),
}

/// The model and the patients.
#[derive(Debug, Clone, Args)]
struct Where {
    /// The model folder
    #[arg(long, value_name = "DIR", default_value = "assets/lgg")]
    model: PathBuf,
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Which patients: train, val or test of the split file, or all
    #[arg(long, default_value = "val")]
    split: String,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder
    #[arg(long, value_name = "FILE")]
    split_file: Option<PathBuf>,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "out/reproduce")]
    output: PathBuf,
    #[command(flatten)]
    device: common::DeviceOptions,
}

impl Where {
    /// The model, after a check of what can be checked without it.
    fn detector(&self) -> Result<Detector> {
        self.source()?;
        self.device.load(&self.model)
    }

    fn source(&self) -> Result<Source> {
        common::folder(&self.data, &self.split, self.split_file.as_deref())
    }

    /// Hands on the patients one by one, and says how many they are.
    fn each(
        &self,
        detector: &Detector,
        visit: impl FnMut(PatientRead, Progress<'_>) -> Result<()>,
    ) -> Result<Cohort> {
        let source = self.source()?;
        let passed_over = common::passed_over(&source, &self.split)?;
        let cohort = cohort::each(
            &Patients::of(detector, &source, Truth::Mask),
            passed_over,
            false,
            visit,
        )?;
        say!("{}: {}", self.split, cohort::words(&cohort));
        Ok(cohort)
    }

    /// The folder of all tables and figures, which grows file by file.
    fn folder(&self) -> Result<WorkFolder> {
        let inputs = Inputs::new().whole(&self.model);
        let inputs = common::add_source(inputs, &self.source()?, self.split_file.as_deref());
        let maker = place::maker("reproduce", "tables and figures");
        place::check_work(&self.output, &maker, &inputs)?;
        Ok(WorkFolder::open(&self.output, &maker, &inputs)?)
    }
}

/// The folds that are wanted: all of so many, or those that are named.
///
/// # Errors
/// For a fold that is named twice, or isn't there.
fn wanted(only: Option<&[usize]>, folds: usize) -> Result<Vec<usize>> {
    let Some(only) = only else {
        return Ok((0..folds).collect());
    };
    for (at, fold) in only.iter().enumerate() {
        ensure!(
            !only[..at].contains(fold),
            "--only: expected each fold once, got {fold} twice"
        );
        ensure!(
            *fold < folds,
            "--only: expected folds below {folds}, got {fold}"
        );
    }
    Ok(only.to_vec())
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.what {
        What::Table1(options) => table1::run(options),
        What::Table2(options) => table2::run(options),
        What::Fig4(options) => steps::run(options),
        What::Folds(options) => folds::run(options),
        What::Reliability(options) => reliability::run(options),
        What::Settings(options) => settings::run(options),
    }
}
