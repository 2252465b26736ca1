//! The whole method on a cohort that everybody has: the phantom, with the weights in assets/.
//!
//! fndm quickstart

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use fndm::SliceMaps;
use fndm::data::{Patient, PatientSlices, nifti};
use fndm_files::{Inputs, OutputFolder};
use fndm_study::{
    Comparison, Gallery, Level, PatientRead, Patients, Report, Source, TrainingRecord, Truth,
    write_csv,
};

use crate::common::{self, cohort, place};

/// Find the lesions of phantom patients that the networks never saw, by the whole method, by its ablations, and by
/// plain FLAIR thresholding.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where the table, the pictures and the masks go
    #[arg(long, value_name = "DIR", default_value = "out/quickstart")]
    output: PathBuf,
    /// The model folder
    #[arg(long, value_name = "DIR", default_value = MODEL)]
    model: PathBuf,
    /// Seed of the first test patient; the networks were trained on seeds below 10000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    first_seed: u64,
    /// How many test patients
    #[arg(long, value_name = "N", default_value_t = 8)]
    patients: u64,
    #[command(flatten)]
    report: common::report::ReportOptions,
    #[command(flatten)]
    device: common::DeviceOptions,
    #[command(flatten)]
    method: common::RunOptions,
}

/// Where the weights are in a checkout of the project.
const MODEL: &str = "assets/phantom";

/// The model folder that was asked for; without one that of the checkout that the program is run in, or was built in.
fn model(asked: &Path) -> Result<PathBuf> {
    if asked.exists() || asked != Path::new(MODEL) {
        return Ok(asked.to_path_buf());
    }
    let here = std::env::current_dir()?;
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = here.ancestors().chain(built_in.ancestors());
    match folders.find(|folder| folder.join(MODEL).is_dir()) {
        Some(folder) => Ok(folder.join(MODEL)),
        None => bail!(
            "--model: expected the weights of the phantom, {MODEL} of the project's sources; found none in {} or above",
            here.display()
        ),
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let model = model(&options.model)?;
    let detector = options.device.load(&model)?;
    let record = TrainingRecord::read(&model)?;
    let Source::Phantom {
        config,
        first_seed,
        patients,
    } = &record.plan.source
    else {
        bail!("{}: expected a model of the phantom", model.display());
    };
    let source = Source::Phantom {
        config: config.clone(),
        first_seed: options.first_seed,
        patients: options.patients,
    };
    source.check()?;
    let trained = *first_seed..first_seed.saturating_add(*patients);
    let tested = options.first_seed..options.first_seed.saturating_add(options.patients);
    if tested.is_empty() || (tested.start < trained.end && trained.start < tested.end) {
        bail!(
            "--first-seed, --patients: expected seeds outside {trained:?}, which were trained on, got {tested:?}"
        );
    }
    let methods = common::usual_methods(&detector);
    let arms = common::arms(&detector, &methods, &options.method)?;
    let inputs = Inputs::new().whole(&model);
    let maker = place::maker("quickstart", "phantom");
    place::check_output(&options.output, &maker, &inputs)?;
    let mut folder = OutputFolder::create(&options.output, &maker, &inputs)?;

    let mut pages = common::report::Pages::new(&options.report, &model, &detector, &arms);
    let mut comparison = Comparison::by_masks(arms, &Level::ALL);
    let mut gallery = Gallery::default();
    let cohort = cohort::each(
        &Patients::of(&detector, &source, Truth::Mask),
        Vec::new(),
        false,
        |read, progress| {
            let found = comparison.add(&detector, &read.slices, progress)?;
            let base = pages.base(&read)?;
            pages.add(base, &read.slices, &found, &mut folder)?;
            let PatientRead { patient, slices } = read;
            if let Some(maps) = found.iter().find_map(|found| found.maps.as_ref()) {
                gallery.add(&slices, maps)?;
                write_patient(&mut folder, &patient, &slices, maps)?;
            }
            Ok(())
        },
    )?;
    let words = format!(
        "{} (seeds {tested:?}), {}, {} with a lesion",
        fndm_files::counted(
            usize::try_from(options.patients).unwrap_or(usize::MAX),
            "phantom patient"
        ),
        fndm_files::counted(cohort.slices, "slice"),
        cohort.diseased
    );
    say!("{words}");

    let settings = comparison.settings();
    let evaluations = comparison.finish()?.concat();
    let command = common::command();
    let report = Report::new(&command, &words, &evaluations, settings, cohort.left_out);
    folder.write_json("report.json", &report)?;
    let settings = &report.settings;
    pages.finish(&mut folder, settings, |all| {
        all.by_masks(&report, &evaluations)
    })?;
    write_csv(
        &[report.rows.clone(), report.volumes.clone()].concat(),
        &folder.file("report.csv")?,
    )?;
    let sheet = folder.file("sheet.png")?;
    gallery.save(&gallery.spread(14), &sheet)?;
    folder.finish()?;
    say!("\n{}", report.tables());
    say!(
        "wrote {}report.json, report.csv, sheet.png and a folder for each patient to {}",
        common::report::named(&options.report),
        options.output.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The patient's volumes and what was found, side by side for a NIfTI viewer.
fn write_patient(
    folder: &mut OutputFolder,
    patient: &Patient,
    slices: &PatientSlices,
    maps: &SliceMaps,
) -> Result<()> {
    let id = &patient.id;
    let mut file = |what: &str| folder.file(&format!("{id}/{id}_{what}.nii.gz"));
    for (name, volume) in &patient.sequences {
        nifti::write_map(file(name)?, volume)?;
    }
    if let Some(truth) = &patient.mask {
        nifti::write_mask(file("seg")?, truth)?;
    }
    nifti::write_mask(file("mask")?, &maps.to_mask(slices)?)?;
    nifti::write_map(file("anomaly")?, &slices.to_volume(&maps.anomaly)?)?;
    Ok(())
}
