//! Methods that are trained and examined fold by fold: what choices are made by, with the test split left alone, and what a data set is
//! examined by that is too small for one.
//!
//! fndm reproduce folds --data lgg128 --folds assets/lgg/folds.json --bound
//! fndm reproduce folds --data ms_tbz --folds 4 --bound --whole -- --sequences flair --image-size 128 --separate

mod normal;
mod rows;
mod tables;
mod whole;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use fndm::data::{Folds, Limits, PatientSlices, Preprocess};
use fndm::{Method, ModelConfig};
use fndm_files::{Inputs, WorkFolder, counted};
use fndm_study::rivals::MethodSheet;
use fndm_study::student::{FoldRow, StudentPlan, examine_fold};
use fndm_study::{
    Arm, Evaluation, Level, MethodMap, Report, Source, TrainPlan, TrainingPlace, write_csv,
};

use crate::common::{self, cohort, place};
use crate::reproduce::wanted;
use crate::train::asked;
use crate::train::student::{self, Lesions};
use normal::NormalPixels;
use rows::Rows;

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// A model folder, for its sequences and its preprocessing, where no options of train are given
    #[arg(long, value_name = "DIR", default_value = "assets/lgg")]
    model: PathBuf,
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// JSON file of the folds, or how many folds all patients of the folder are dealt out into, by the seed
    #[arg(long, value_name = "FILE|K", visible_alias = "count")]
    folds: String,
    /// Only these folds, counted from 0; default: all
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "I,I",
        visible_alias = "fold"
    )]
    only: Option<Vec<usize>>,
    /// Iterations of each of the student's trainings
    #[arg(long, value_name = "N", default_value_t = 1200)]
    iterations: u64,
    /// Seed of weights and of everything drawn
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Train the student's network on the real masks too, as a bound
    #[arg(long)]
    bound: bool,
    /// The lesions that are to be found: what the student is taught, and what the diffusion model of --whole removes
    #[arg(long, value_enum, default_value = "any", value_name = "KIND")]
    lesions: Lesions,
    /// Any values of the student's plan, as JSON that is laid over it
    #[arg(long, value_name = "JSON")]
    plan: Option<String>,
    /// FLAIR above this quantile of the slice, inside the head eroded by so many pixels, as rows of their own; 0.98:8:clear leaves out what
    /// goes on into the rim
    #[arg(long, value_name = "QUANTILE:PX", value_parser = flair, value_delimiter = ',')]
    flair: Vec<(f64, usize, bool)>,
    /// A mask beside the sequences of pixels that look diseased and were judged normal: nwmh for <id>_nwmh.nii.gz. What is marked of them
    /// is counted apart, in the patients that have one
    #[arg(long, value_name = "NAME")]
    normal: Option<String>,
    /// Where checkpoints and results go; a run that was stopped goes on from there
    #[arg(long, value_name = "DIR", default_value = "out/folds")]
    output: PathBuf,
    /// cpu, or cuda where built with that feature
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Train the whole method by the options of train too, and examine all rows of table 2
    #[arg(long, requires = "train")]
    whole: bool,
    /// Options of fndm train but for data and output: sequences, size and slices are theirs
    #[arg(last = true, value_name = "OPTIONS OF TRAIN")]
    train: Vec<String>,
}

/// Slices of the picture, evenly spread from the best to the worst Dice of the student.
const SHOWN: usize = 12;

/// A quantile, the pixels of an erosion, and whether what goes on into the rim is left out.
fn flair(text: &str) -> Result<(f64, usize, bool), String> {
    let parts: Vec<&str> = text.split(':').collect();
    let parsed = match parts[..] {
        [a, b] => Some((a, b, false)),
        [a, b, "clear"] => Some((a, b, true)),
        _ => None,
    };
    parsed
        .and_then(|(a, b, clear)| Some((a.parse().ok()?, b.parse().ok()?, clear)))
        .filter(|(quantile, ..)| (0. ..=1.).contains(quantile))
        .ok_or_else(|| format!("expected a quantile and pixels, as 0.98:5, got {text}"))
}

/// What is trained and examined.
struct Study {
    /// Sequences and preprocessing.
    sequences: Vec<String>,
    preprocess: Preprocess,
    student: StudentPlan,
    /// The whole method beside the student.
    whole: Option<TrainPlan>,
}

impl Options {
    /// What would come to light when everything is trained.
    fn check(&self) -> Result<()> {
        let flair = &self.flair;
        let twice = (flair.iter().enumerate()).find(|&(at, row)| flair[..at].contains(row));
        if let Some((_, (quantile, pixels, _))) = twice {
            ensure!(
                false,
                "--flair: expected each row once, got {quantile}:{pixels} twice"
            );
        }
        Ok(())
    }

    fn study(&self) -> Result<Study> {
        let (sequences, preprocess, whole) = if self.train.is_empty() {
            let config = ModelConfig::read(&self.model.join(fndm::model_folder::CONFIG))?;
            (config.sequences, config.preprocess, None)
        } else {
            let mut plan = asked(&self.train, &self.data, self.lesions)?;
            plan.seed = self.seed;
            let (sequences, preprocess) = (plan.sequences.clone(), plan.preprocess.clone());
            (sequences, preprocess, self.whole.then_some(plan))
        };
        let size = preprocess.image_size;
        let numbers = (self.iterations, self.seed);
        let more = self.plan.as_deref().map(|text| ("--plan", text));
        let student = student::plan(self.lesions, &sequences, size, numbers, more)?;
        let whole = whole.map(|plan| TrainPlan {
            student: Some(student.clone()),
            ..plan
        });
        Ok(Study {
            sequences,
            preprocess,
            student,
            whole,
        })
    }

    /// The file of the folds, where they aren't to be dealt out.
    fn file(&self) -> Option<&Path> {
        match self.folds.parse::<usize>() {
            Ok(_) => None,
            Err(_) => Some(Path::new(&self.folds)),
        }
    }

    /// The folds, and the patients to be read for them. Those of a number are dealt out when it is known who can be used.
    fn source(&self) -> Result<(Option<Folds>, Source)> {
        match self.file() {
            Some(file) => {
                let folds = Folds::read(file, &Limits::default())?;
                let patients = folds.folds.iter().flatten().cloned().collect();
                let path = self.data.clone();
                Ok((Some(folds), Source::Folder { path, patients }))
            }
            None => Ok((None, Source::folder(&self.data, None, None)?)),
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let device = common::device(&options.device)?;
    options.check()?;
    let study = options.study()?;
    let (folds, source) = options.source()?;
    source.check()?;
    let count = match &folds {
        Some(folds) => folds.len(),
        None => options.folds.parse().unwrap_or_default(),
    };
    let wanted = wanted(options.only.as_deref(), count)?;
    let mut inputs = Inputs::new();
    if options.train.is_empty() {
        inputs = inputs.whole(&options.model);
    }
    if let Some(file) = options.file() {
        inputs = inputs.file(file);
    }
    let inputs = common::add_source(inputs, &source, None);
    let maker = place::maker("reproduce", "folds");
    place::check_work(&options.output, &maker, &inputs)?;
    let mut folder = WorkFolder::open(&options.output, &maker, &inputs)?;

    let (patients, cohort) =
        cohort::slices_with_masks(&source, &study.sequences, &study.preprocess)?;
    let folds = match folds {
        Some(folds) => folds,
        None => {
            let one_stratum = |id: &String| (id.clone(), String::new());
            let all: Vec<(String, String)> = patients.keys().map(one_stratum).collect();
            Folds::stratified(&all, count, options.seed)?
        }
    };
    folder.write_json("folds.json", &folds)?;
    let mut normal = match &options.normal {
        Some(name) => Some(NormalPixels::read(
            name,
            &source,
            &patients,
            &study.preprocess,
        )?),
        None => None,
    };
    let stop = common::stop_by_ctrl_c()?;

    let mut rows = Rows::default();
    let mut sheet: Option<MethodSheet> = None;
    let mut counts = 0;
    for &fold in &wanted {
        let of = |ids: &[String]| -> Vec<PatientSlices> {
            let found = ids.iter().filter_map(|id| patients.get(id));
            found.cloned().collect()
        };
        let (learned, held_out) = (of(&folds.train(fold)?), of(folds.held_out(fold)?));
        counts += held_out.len();
        let folder = options.output.join(format!("fold{fold}"));
        let place = TrainingPlace::new(&folder, &device, &stop);
        let examined = examine(
            options,
            &study,
            fold,
            (&learned, &held_out),
            place,
            (&mut rows, &mut sheet, &mut normal),
        )?;
        if !examined {
            say!("stopped; run the same command again to go on");
            return Ok(ExitCode::SUCCESS);
        }
    }

    let titles = rows.titles();
    let found: Vec<Vec<Evaluation>> = rows.finish()?;
    let words = format!(
        "{} of {}",
        counted(counts, "patient"),
        counted(wanted.len(), "fold")
    );
    say!("{}", tables::words(&words, &titles, &found)?);
    if let Some(normal) = &normal {
        let patients = counted(normal.patients, "patient");
        say!("By each row's own mask, in {patients} with pixels that were judged normal:");
        say!("");
        say!("{}", normal.table());
        folder.write_json("folds_normal.json", &normal.counts())?;
    } else {
        folder.discard("folds_normal.json")?;
    }
    let evaluations: Vec<Evaluation> = Level::ALL
        .iter()
        .enumerate()
        .flat_map(|(level, _)| found.iter().map(move |found| found[level].clone()))
        .collect();
    let words = format!("{} of folds {wanted:?}", counted(counts, "patient"));
    let (command, left_out) = (common::command(), cohort.left_out);
    let report = Report::new(&command, &words, &evaluations, Vec::new(), left_out);
    folder.write_json("folds_report.json", &report)?;
    folder.write_json("folds_plan.json", &study.student)?;
    folder.write_json("folds_cases.json", &evaluations)?;
    let all = [report.rows.clone(), report.volumes.clone()].concat();
    folder.write_by("folds.csv", |path| -> Result<()> {
        Ok(write_csv(&all, path)?)
    })?;
    let student = (found.iter()).find(|found| found[0].row.method == FoldRow::Student.key());
    let drawn = sheet.as_ref().filter(|sheet| !sheet.is_empty());
    let mut more = Vec::from_iter(normal.is_some().then_some("folds_normal.json"));
    match (drawn, student) {
        (Some(sheet), Some(student)) => {
            folder.write_by("folds.png", |path| -> Result<()> {
                Ok(sheet.save(&student[0], SHOWN, path)?)
            })?;
            more.push("folds.png");
        }
        _ => folder.discard("folds.png")?,
    }
    let more: String = more.iter().map(|file| format!(", {file}")).collect();
    say!(
        "wrote folds.json, folds_plan.json, folds_report.json, folds_cases.json, folds.csv{more} to {}",
        options.output.display()
    );
    Ok(ExitCode::from(if report.left_out.is_empty() {
        0
    } else {
        2
    }))
}

/// Trains on the first patients and adds what is said of the second ones to the rows. False where it was stopped.
fn examine(
    options: &Options,
    study: &Study,
    fold: usize,
    (learned, held_out): (&[PatientSlices], &[PatientSlices]),
    place: TrainingPlace<'_>,
    (rows, sheet, normal): (
        &mut Rows,
        &mut Option<MethodSheet>,
        &mut Option<NormalPixels>,
    ),
) -> Result<bool> {
    let bar = common::share_bar(&format!("fold {fold}"));
    let found = examine_fold(
        &study.student,
        options.bound,
        learned,
        held_out,
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
        &mut |slices, found| {
            let names = || found.iter().map(|(row, _)| row.key().to_owned()).collect();
            if let Some(normal) = normal {
                normal.add(slices, found);
            }
            let sheet = sheet.get_or_insert_with(|| MethodSheet::new(names()));
            let maps: Vec<&MethodMap> = found.iter().map(|(_, map)| map).collect();
            sheet.add(slices, &maps)
        },
    )?;
    bar.finish_and_clear();
    let Some(found) = found else {
        return Ok(false);
    };
    for (row, cases) in found {
        rows.add_cases(row, &cases, &study.student)?;
    }
    for &flair in &options.flair {
        rows.add_flair(flair, held_out)?;
    }
    match &study.whole {
        Some(plan) => {
            // The student has a row already.
            let arms = |detector: &fndm::Detector| -> Vec<Arm> {
                let mut arms = super::table2::arms(detector);
                arms.retain(|arm| arm.method != Method::Student);
                arms
            };
            whole::examine(plan, &options.data, (learned, held_out), place, &arms, rows)
        }
        None => Ok(true),
    }
}
