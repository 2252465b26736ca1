//! A student beside its teachers and its bound, fold by fold: what choices are made by, with the test split left alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use fndm::ModelConfig;
use fndm::data::{Folds, Limits, PatientSlices};
use fndm_files::{Inputs, WorkFolder};
use fndm_study::student::{FoldRow, StudentPlan, examine_fold};
use fndm_study::{Case, Level, Report, Source, TrainingPlace, evaluate, write_csv};

use super::table2::differences;
use crate::common::{self, cohort, place};

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A model folder, for its sequences and its preprocessing
    #[arg(long, value_name = "DIR", default_value = "assets/lgg")]
    model: PathBuf,
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// JSON file of the folds
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "count",
        required_unless_present = "count"
    )]
    folds: Option<PathBuf>,
    /// Deal all patients of the folder out into so many folds instead, by the seed
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Only these folds, counted from 0; default: all
    #[arg(long, value_delimiter = ',', value_name = "I,I")]
    only: Option<Vec<usize>>,
    /// Iterations of each training
    #[arg(long, value_name = "N", default_value_t = 1200)]
    iterations: u64,
    /// Seed of weights and of everything drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Train the student's network on the real masks too, as a bound
    #[arg(long)]
    bound: bool,
    /// Any values of the student's plan, as JSON that is laid over it
    #[arg(long, value_name = "JSON")]
    plan: Option<String>,
    /// Where checkpoints and results go; a run that was stopped goes on from there
    #[arg(long, value_name = "DIR", default_value = "out/folds")]
    output: PathBuf,
    /// cpu, or cuda where built with that feature
    #[arg(long, default_value = "cpu")]
    device: String,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let device = common::device(&options.device)?;
    let config = ModelConfig::read(&options.model.join(fndm::model_folder::CONFIG))?;
    let size = config.preprocess.image_size;
    let mut plan = StudentPlan::new(&config.sequences, size, options.iterations, options.seed);
    if let Some(text) = &options.plan {
        plan = common::overlay(&plan, text).context("--plan")?;
    }
    plan.check_slices(config.sequences.len(), size)?;
    let mut inputs = Inputs::new().whole(&options.model);
    let (folds, source) = match &options.folds {
        Some(file) => {
            inputs = inputs.file(file);
            let folds = Folds::read(file, &Limits::default())?;
            let patients = folds.folds.iter().flatten().cloned().collect();
            let path = options.data.clone();
            (Some(folds), Source::Folder { path, patients })
        }
        None => (None, Source::folder(&options.data, None, None)?),
    };
    source.check()?;
    let inputs = common::add_source(inputs, &source, None);
    let maker = place::maker("reproduce", "folds");
    place::check_work(&options.output, &maker, &inputs)?;
    let mut folder = WorkFolder::open(&options.output, &maker, &inputs)?;

    let (patients, cohort) = cohort::slices_with_masks(&source, &config)?;
    let folds = match (folds, options.count) {
        (Some(folds), _) => folds,
        (None, Some(count)) => {
            let all: Vec<(String, String)> = patients
                .keys()
                .map(|id| (id.clone(), String::new()))
                .collect();
            Folds::stratified(&all, count, options.seed)?
        }
        (None, None) => bail!("expected --folds FILE or --count N"),
    };
    folder.write_json("folds.json", &folds)?;
    let wanted = match &options.only {
        Some(only) => only.clone(),
        None => (0..folds.folds.len()).collect(),
    };
    let of = |ids: &[String]| -> Vec<PatientSlices> {
        ids.iter()
            .filter_map(|id| patients.get(id))
            .cloned()
            .collect()
    };
    let stop = common::stop_by_ctrl_c()?;

    let mut rows: BTreeMap<FoldRow, Vec<Case>> = BTreeMap::new();
    for &fold in &wanted {
        let (learned, held_out) = (of(&folds.train(fold)?), of(folds.held_out(fold)?));
        let folder = options.output.join(format!("fold{fold}"));
        let place = TrainingPlace::new(&folder, &device, &stop);
        let bar = common::share_bar(&format!("fold {fold}"));
        let found = examine_fold(
            &plan,
            options.bound,
            &learned,
            &held_out,
            place,
            &mut |row, report, share| {
                bar.set_position((share * 1000.) as u64);
                bar.set_message(format!("{} loss {:.4}", row.title(), report.loss));
                let every = report.iteration.is_multiple_of(200);
                if bar.is_hidden() && every {
                    let (title, n) = (row.title(), report.iteration);
                    tell!(
                        "fold {fold}, {title}: iteration {n}, {:.0} s",
                        report.elapsed_s
                    );
                }
            },
        )?;
        bar.finish_and_clear();
        let Some(found) = found else {
            say!("stopped; run the same command again to go on");
            return Ok(ExitCode::SUCCESS);
        };
        for (row, cases) in found {
            rows.entry(row).or_default().extend(cases);
        }
    }

    let mut evaluations = Vec::new();
    let counted = rows.values().next().map_or(0, Vec::len);
    for level in [Level::Slice, Level::Volume] {
        let mut found = Vec::new();
        for (row, cases) in &rows {
            let evaluations = match row {
                FoldRow::Student | FoldRow::Bound => 1 + usize::from(plan.mirror),
                FoldRow::Contrast => 0,
                FoldRow::Remover | FoldRow::Teacher => 1,
            };
            found.push((
                row.title(),
                evaluate(row.key(), level, cases, evaluations, 0)?,
            ));
        }
        let name = match level {
            Level::Slice => "Per slice with a lesion",
            Level::Volume => "Per volume",
        };
        let table: Vec<_> = found.iter().map(|(title, e)| (*title, e)).collect();
        say!(
            "\n{name}, {} of {}:\n",
            fndm_files::counted(counted, "patient"),
            fndm_files::counted(wanted.len(), "fold")
        );
        say!("{}", super::table2::figures(&table));
        say!("{}", differences(&table, "student")?);
        evaluations.extend(found.into_iter().map(|(_, e)| e));
    }
    let words = format!(
        "{} of folds {wanted:?}",
        fndm_files::counted(counted, "patient")
    );
    let report = Report::new(
        &common::command(),
        &words,
        &evaluations,
        Vec::new(),
        cohort.left_out,
    );
    folder.write_json("folds_report.json", &report)?;
    folder.write_json("folds_plan.json", &plan)?;
    folder.write_json("folds_cases.json", &evaluations)?;
    let all = [report.rows.clone(), report.volumes.clone()].concat();
    folder.write_by("folds.csv", |path| -> Result<()> {
        Ok(write_csv(&all, path)?)
    })?;
    say!(
        "wrote folds.json, folds_plan.json, folds_report.json, folds_cases.json and folds.csv to {}",
        options.output.display()
    );
    Ok(ExitCode::from(if report.left_out.is_empty() {
        0
    } else {
        2
    }))
}
