//! The table itself: all rows on one side of the split.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use fndm::{Detector, Method, model_folder};
use fndm_data::SliceSet;
use fndm_study::rivals::MethodSheet;
use fndm_study::train::StopFlag;
use fndm_study::{
    Arm, Comparison, Level, MethodMap, Patients, Report, Source, TrainingRecord, Truth, write_csv,
};

use super::super::{Where, table2};
use super::rows::{Examined, fit_all};
use super::words::{TableRow, paper, tables};
use super::{Options, stopped};
use crate::common::{self, cohort};

/// Our own rows and the plain ones, by their keys in table 2.
const ARMS: [&str; 6] = [
    "diffano",
    "flair",
    "flair_quantile",
    "memory",
    "fndm",
    "student",
];
/// Rows whose title says something else here.
const CONTRAST: (&str, &str) = ("memory", "contrast");
/// Slices of the picture.
const SHOWN: usize = 12;

pub(super) fn run(options: &Options, stop: &StopFlag) -> Result<ExitCode> {
    let place = Where {
        model: options.model.clone(),
        data: options.data.clone(),
        split: options.split.clone(),
        split_file: options.split_file.clone(),
        output: options.output.clone(),
        device: options.device.clone(),
    };
    let learned = common::folder(&options.data, "train", options.split_file.as_deref())?;
    let detector = place.detector()?;
    let arms = arms(&detector, options.rows.as_deref());
    for arm in &arms {
        detector.config().check_row(arm.method, &arm.config)?;
    }
    let (plan, seed) = options.plan()?;
    options.check_rows(&plan.rows, &ARMS)?;
    let inputs = common::add_source(
        options.inputs()?,
        &place.source()?,
        options.split_file.as_deref(),
    );
    let mut folder = options.folder(&common::add_source(inputs, &learned, None))?;

    let device = options.device.device()?;
    let set = slices(&detector, &learned)?;
    let fitted = fit_all(&plan.rows, &set, seed, (&options.fits(), &device), stop)?;
    let Some(fitted) = fitted else {
        return Ok(ExitCode::SUCCESS);
    };
    let rows = plan.rows.into_iter().zip(fitted);
    let mut rivals: Vec<Examined> = rows
        .map(|(row, fitted)| Examined::new(row, fitted, options.own_post))
        .collect();
    let names = rivals.iter().map(Examined::name);
    let ours = arms.iter().map(|arm| match arm.key.as_str() {
        "fndm" => "FNDM".to_owned(),
        _ => arm.title.clone(),
    });
    let mut sheet = MethodSheet::new(names.chain(ours).collect());
    let mut comparison = Comparison::by_masks(arms.clone(), &Level::ALL);
    let cohort = place.each(&detector, |read, progress| {
        if stop.is_set() {
            return Err(fndm_study::Error::Cancelled.into());
        }
        let found = rivals.iter_mut().map(|r| r.add(&read.slices, &device));
        let mut found = found.collect::<Result<Vec<MethodMap>>>()?;
        found.extend(comparison.add(&detector, &read.slices, progress)?);
        let maps: Vec<&MethodMap> = found.iter().collect();
        Ok(sheet.add(&read.slices, &maps)?)
    });
    if stopped(stop) {
        return Ok(ExitCode::SUCCESS);
    }
    let cohort = cohort?;

    let mut rows = Vec::new();
    for rival in rivals {
        for outcome in rival.finish()? {
            rows.push(TableRow {
                key: outcome.key,
                title: outcome.title,
                backbone: outcome.backbone,
                training_s: Some(outcome.record.seconds),
                bytes: outcome.record.bytes,
                found: outcome.evaluations,
            });
        }
    }
    let settings = comparison.settings();
    for (arm, found) in arms.iter().zip(comparison.finish()?) {
        rows.push(TableRow {
            key: arm.key.clone(),
            title: arm.title.clone(),
            backbone: "-".into(),
            training_s: seconds(&options.model, arm.method),
            bytes: bytes(&options.model, &detector, arm),
            found,
        });
    }
    if let Some(by) = ["student", "fndm"]
        .iter()
        .find_map(|key| rows.iter().find(|row| row.key == *key))
        .or(rows.first())
    {
        let by = &by.found[0];
        folder.write_by("table1.png", |path| -> Result<()> {
            Ok(sheet.save(by, SHOWN, path)?)
        })?;
    }
    let words = tables(&rows)?;
    let evaluations: Vec<_> = rows.iter().flat_map(|row| row.found.clone()).collect();
    let report = Report::new(
        &common::command(),
        &format!("{}: {}", options.split, cohort::words(&cohort)),
        &evaluations,
        settings,
        cohort.left_out.clone(),
    );
    folder.write_json("table1.json", &report)?;
    folder.write_json("table1_rows.json", &rows)?;
    folder.write_json("table1_cases.json", &evaluations)?;
    folder.write("table1.tex", paper(&rows))?;
    folder.write("table1.md", &words)?;
    let flat = [report.rows.clone(), report.volumes.clone()].concat();
    folder.write_by("table1.csv", |path| -> Result<()> {
        Ok(write_csv(&flat, path)?)
    })?;
    say!("{words}");
    say!(
        "wrote table1.md, table1.tex, table1.json, table1_rows.json, table1_cases.json, table1.csv, table1.png to {}",
        options.output.display()
    );
    cohort::tell_left_out(&cohort);
    Ok(cohort::code(&cohort))
}

/// Our own rows and the plain ones that were asked for.
fn arms(detector: &Detector, keys: Option<&[String]>) -> Vec<Arm> {
    let mut arms = table2::arms(detector);
    arms.retain(|arm| ARMS.contains(&arm.key.as_str()));
    if let Some(keys) = keys {
        arms.retain(|arm| keys.contains(&arm.key));
    }
    for arm in &mut arms {
        if arm.key == CONTRAST.0 && detector.config().contrast {
            arm.title = CONTRAST.1.into();
        }
    }
    arms
}

/// The slices that the rivals learn from, with their bits.
fn slices(detector: &Detector, source: &Source) -> Result<SliceSet> {
    let mut all = Vec::new();
    let read = cohort::each(
        &Patients::of(detector, source, Truth::Mask),
        Vec::new(),
        false,
        |read, _| {
            all.push(read.slices);
            Ok(())
        },
    )?;
    cohort::tell_left_out(&read);
    Ok(SliceSet::from_patients(all)?)
}

/// What the model folder says of the training of a row's network.
fn seconds(model: &Path, method: Method) -> Option<f64> {
    let record = TrainingRecord::read(model).ok()?;
    match method {
        Method::Fndm => Some(record.diffusion.seconds),
        Method::Student => Some(record.student?.seconds),
        Method::Flair => Some(0.),
        _ => record.separate.get(&method).map(|stage| stage.seconds),
    }
}

/// Bytes of the files that a row needs.
fn bytes(model: &Path, detector: &Detector, arm: &Arm) -> u64 {
    let coarse = match detector.config().contrast {
        true => model_folder::CONTRAST,
        false => model_folder::MEMORY,
    };
    let (unet, names) = (model_folder::UNET, model_folder::CLASSIFIER);
    let files: Vec<String> = match arm.method {
        Method::Flair => Vec::new(),
        Method::Memory => vec![coarse.into()],
        Method::Student => vec![model_folder::STUDENT.into()],
        Method::Fndm => vec![unet.into(), coarse.into()],
        Method::FndmStudent => vec![unet.into(), model_folder::STUDENT.into()],
        // DiffANO runs on the network of CG where there is one.
        _ => {
            let own = "unet_cg.safetensors";
            let unet = match model_folder::file(model, own) {
                Ok(_) => own,
                Err(_) => unet,
            };
            vec![unet.into(), names.into()]
        }
    };
    let length = |name: &String| {
        let path = model_folder::file(model, name).ok()?;
        Some(std::fs::metadata(path).ok()?.len())
    };
    files.iter().filter_map(length).sum()
}
