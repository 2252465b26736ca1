//! The paper's tables and figure on real data: the ablation, Dice against steps, and the settings behind them.
//!
//! fndm reproduce table2 --data lgg128 --split test
//! fndm reproduce fig4 --data lgg128 --split test

mod plot;
mod settings;
mod sizes;
mod steps;
mod table2;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use fndm::Detector;

use crate::common::{self, Cohort};

/// The paper's ablation (table 2), Dice against steps (figure 4), and the settings behind them, on a folder of patients.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The ablation beside DiffANO, FLAIR and the coarse map, with intervals by patient and Dice by lesion size
    Table2(table2::Options),
    /// Dice against the number of steps, DiffANO and FNDM
    Fig4(steps::Options),
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
    fn open(&self) -> Result<(Detector, Cohort)> {
        let detector = self.device.load(&self.model)?;
        let source = common::folder(&self.data, &self.split, self.split_file.as_deref())?;
        let cohort = Cohort::read(&detector, &source)?;
        println!("{}: {}", self.split, cohort.words());
        std::fs::create_dir_all(&self.output)
            .with_context(|| format!("cannot create {}", self.output.display()))?;
        Ok((detector, cohort))
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match &options.what {
        What::Table2(options) => table2::run(options),
        What::Fig4(options) => steps::run(options),
        What::Settings(options) => settings::run(options),
    }
}
