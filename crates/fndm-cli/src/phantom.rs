//! Writes phantom patients as volumes, for trials and measurements without data.
//!
//! fndm phantom --patients 40 --output data

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use fndm::data::nifti;
use fndm::data::phantom::PhantomConfig;

use crate::common;

/// Write patients of the procedural phantom as NIfTI volumes with lesion masks: a cohort to try commands on. Existing files are never
/// replaced
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many patients
    #[arg(long, value_name = "N", default_value_t = 8)]
    patients: u64,
    /// Seed of the first patient; the networks in assets/phantom were trained on seeds below 10000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    first_seed: u64,
    /// Pixels of a slice in each direction
    #[arg(long, value_name = "PX", default_value_t = PhantomConfig::default().size)]
    size: usize,
    /// Slices of a volume
    #[arg(long, value_name = "N", default_value_t = PhantomConfig::default().slices)]
    slices: usize,
    /// Where a folder for each patient goes: a new folder
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let config = PhantomConfig {
        size: options.size,
        slices: options.slices,
        ..PhantomConfig::default()
    };
    let phantom = config.build()?;
    ensure!(
        options.patients > 0,
        "--patients: expected one or more, got 0"
    );
    let Some(end) = options.first_seed.checked_add(options.patients) else {
        bail!(
            "--first-seed, --patients: expected seeds below {}",
            u64::MAX
        );
    };
    let shown = options.output.display();
    let there = fs::read_dir(&options.output).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !there,
        "--output {shown}: expected a new or an empty folder"
    );
    fndm_files::check_writable(options.output.join("patient"))?;
    let bar = common::bar(options.patients, "patients");
    for seed in options.first_seed..end {
        let id = format!("phantom_{seed:05}");
        let patient = phantom.patient(seed);
        let folder = options.output.join(&id);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let file = |what: &str| folder.join(format!("{id}_{what}.nii.gz"));
        for (name, volume) in &patient.sequences {
            nifti::write_map(file(name), volume)?;
        }
        if let Some(mask) = &patient.mask {
            nifti::write_mask(file("seg"), mask)?;
        }
        bar.inc(1);
    }
    bar.finish();
    let patients = fndm_files::counted(options.patients as usize, "phantom patient");
    say!("{patients} written to {shown}");
    Ok(ExitCode::SUCCESS)
}
