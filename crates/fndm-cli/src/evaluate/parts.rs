//! The evaluation of a part of a cohort: each patient's scores are kept, to be joined by `fndm collect`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use fndm::Detector;
use fndm::data::PatientSlices;
use fndm::data::layout::Files;
use fndm_files::{Inputs, Maker, OutputFolder, chain};
use fndm_study::fndm_report::PatientPage;
use fndm_study::{
    Arm, Comparison, EvaluationPages, Labelling, LeftOut, Level, Method, MethodMap, PageBase,
    PagePart, PatientBits, PatientRead, Patients, Source, Truth,
};
use indicatif::ProgressBar;
use serde_json::json;

use super::Options;
use crate::common::{self, place, report};
use crate::shards::fingerprint::{self, Contents, Hashed};
use crate::shards::pipeline::{self, Next, Steps};
use crate::shards::progress::Division;
use crate::shards::scores::{Counts, Scores};
use crate::shards::{self, How, Progress, Record, Shard, record};

/// What the index of `fndm collect` has of a patient, and the folder of its pictures, in the patient's folder.
pub(crate) const PART: &str = "page.json";
pub(crate) const PICTURES: &str = "pictures";
/// The page of a patient.
pub(crate) const PAGE: &str = "report.html";

/// What is the same for all patients.
struct Work<'a> {
    options: &'a Options,
    detector: &'a Detector,
    arms: Vec<Arm>,
    source: &'a Source,
    labels: Option<&'a Labelling>,
    how: How,
    inputs: Inputs,
    bar: &'a ProgressBar,
}

/// A patient: its number in the source, and its id.
type Numbered = (usize, String);

/// A patient that was read. The volumes themselves aren't kept; what a page shows of them is.
struct Ready {
    id: String,
    input: BTreeMap<String, Contents>,
    folder: OutputFolder,
    slices: PatientSlices,
    bits: Option<PatientBits>,
    base: Option<PageBase>,
}

/// A patient that was examined.
struct Found {
    id: String,
    input: BTreeMap<String, Contents>,
    folder: OutputFolder,
    scores: Scores,
    counts: Counts,
    page: Option<(PatientPage, PagePart)>,
}

/// What came of a patient.
enum Tried {
    Before,
    Done { milliseconds: f64 },
    LeftOut(String),
}

/// What is scored of a patient, by number: scores of earlier versions, which lack the Dice over whole volumes and took Otsu's masks for
/// the method's own by bits, can't be joined with these.
const FIGURES: u32 = 2;

pub(super) fn run(
    options: &Options,
    detector: &Detector,
    arms: Vec<Arm>,
    source: &Source,
    passed_over: Vec<LeftOut>,
    shard: Shard,
    inputs: Inputs,
) -> Result<ExitCode> {
    let labels = options.labels.source();
    let labelling = match &labels {
        Some(labels) => Some(labels.open(source)?),
        None => None,
    };
    let table = match options.labels.file() {
        Some(file) => Some(Contents::of(file)?),
        None => None,
    };
    let arms_as_json: Vec<_> = arms.iter().map(arm_as_json).collect();
    let settings = json!({
        "figures": FIGURES,
        "device": options.device.kind(),
        "arms": arms_as_json,
        "labels": table.map(|table| options.labels.how(table)),
        "report": options.report,
    });
    let model = fingerprint::of_model(&options.model, detector.config())?;
    let how = How::new("evaluate", model, &settings)?;
    let ids = source.ids();
    let mut division = Division::new(&how, shard, ids.clone());
    if shard.is_first() {
        let reasons = passed_over
            .into_iter()
            .map(|l| format!("{}: {}", l.patient, l.reason));
        division.passed_over = reasons.collect();
    }
    division.study = json!({
        "labels": labels.as_ref().map(fndm_study::LabelSource::words),
        "reference": detector.config().method,
    });
    let own: BTreeSet<String> = division.own().into_iter().map(String::from).collect();
    let passed_over = division.passed_over.clone();
    let bar = common::bar(own.len() as u64, "patients");
    let work = Work {
        options,
        detector,
        arms,
        source,
        labels: labelling.as_ref(),
        how,
        inputs,
        bar: &bar,
    };
    work.check_outputs(&own)?;
    let mut progress = Progress::begin(&options.output, division, &work.inputs)?;
    let numbered: Vec<Numbered> = ids
        .into_iter()
        .enumerate()
        .filter(|(_, id)| own.contains(id))
        .collect();
    let (mut done, mut before, mut left_out, mut failed) = (0, 0, 0, Vec::new());
    pipeline::each(
        options.out_of_core,
        &work,
        &numbered,
        &mut |(_, id), tried| {
            match tried {
                Ok(Tried::Before) => before += 1,
                Ok(Tried::Done { milliseconds }) => {
                    done += 1;
                    progress.took(id, milliseconds);
                }
                Ok(Tried::LeftOut(reason)) => {
                    left_out += 1;
                    bar.suspend(|| tell!("left out {id}: {reason}"));
                    progress.left_out(id, &reason)?;
                }
                Err(error) if is_of_the_table(&error) => return Err(error),
                Err(error) => {
                    let error = chain(error.as_ref());
                    bar.suspend(|| tell!("{id}: {error}"));
                    progress.failed(id, &error)?;
                    failed.push((id, error));
                }
            }
            bar.inc(1);
            Ok(())
        },
    )?;
    bar.set_message("");
    bar.finish();
    progress.finish()?;
    for reason in &passed_over {
        tell!("left out: {reason}");
    }
    say!(
        "part {shard}: {} evaluated ({before} before), {left_out} left out, {} failed; scores in {}; fndm collect joins them",
        fndm_files::counted(done + before, "patient"),
        failed.len(),
        options.output.display()
    );
    let whole = failed.is_empty() && passed_over.is_empty();
    Ok(ExitCode::from(match whole {
        true => 0,
        false if done + before + left_out == 0 => 1,
        false => 2,
    }))
}

fn arm_as_json(arm: &Arm) -> serde_json::Value {
    json!({"key": arm.key, "method": arm.method, "config": arm.config, "flair_quantile": arm.flair_quantile})
}

/// The arms, as [`arm_as_json`] wrote them.
pub(crate) fn arms_of(how: &How) -> Result<Vec<Arm>> {
    let Some(arms) = how.settings["arms"].as_array() else {
        bail!("the record of an evaluation names no arms");
    };
    let arm = |arm: &serde_json::Value| -> Result<Arm> {
        let method: Method = serde_json::from_value(arm["method"].clone())?;
        let config = serde_json::from_value(arm["config"].clone())?;
        Ok(Arm {
            key: serde_json::from_value(arm["key"].clone())?,
            flair_quantile: serde_json::from_value(arm["flair_quantile"].clone())?,
            ..Arm::new(method, config)
        })
    };
    arms.iter().map(arm).collect()
}

fn is_of_the_table(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<fndm_study::Error>();
    error.is_some_and(fndm_study::Error::is_of_the_table)
}

impl Work<'_> {
    fn target(&self, id: &str) -> (PathBuf, Maker) {
        let maker = place::maker("evaluate", &format!("scores of patient {id}"));
        (self.options.output.join(id), maker)
    }

    fn check_outputs(&self, own: &BTreeSet<String>) -> Result<()> {
        for id in own {
            if id.split('/').next() == Some(shards::FOLDER) {
                bail!("patient {id}: {} is the folder of records", shards::FOLDER);
            }
        }
        shards::check_each(own.iter().map(|id| {
            let (output, maker) = self.target(id);
            OutputFolder::check(output, &maker, &self.inputs)
        }))?;
        if let Some(id) = own.first() {
            fndm_files::check_writable(self.target(id).0)?;
        }
        Ok(())
    }

    /// What the patient's scores follow from.
    fn input(&self, index: usize, id: &str) -> Result<Hashed> {
        let names = self.detector.config().names_to_read();
        match self.source {
            Source::Phantom {
                config, first_seed, ..
            } => {
                let made_of = Contents::of_json(&(config, first_seed + index as u64))?;
                Ok(Hashed::made(BTreeMap::from([(
                    "phantom".to_owned(),
                    made_of,
                )])))
            }
            Source::Folder { path, .. } => {
                let files = match self.labels {
                    Some(_) => Files::find_sequences_below(path, id, &names)?,
                    None => Files::find_below(path, id, &names)?,
                };
                let mask = files.mask.map(|mask| ("mask".to_owned(), mask));
                let all: Vec<_> = files.sequences.into_iter().chain(mask).collect();
                Hashed::of(&all)
            }
            Source::Files { patients, .. } => {
                let files = &patients[index];
                let mask = files.mask.iter().filter(|_| self.labels.is_none());
                let mask = mask.map(|mask| ("mask".to_owned(), mask.clone()));
                let all: Vec<_> = files.sequences.iter().cloned().chain(mask).collect();
                Hashed::of(&all)
            }
            Source::Sides { .. } | Source::Given { .. } => {
                bail!("expected patients of one folder, or of the phantom")
            }
        }
    }

    fn scores(&self, slices: &PatientSlices, id: &str) -> Result<(Scores, Vec<MethodMap>)> {
        let mut show = |arm: &Arm, share: f64| {
            let message = format!("{id}: {} {:.0} %", arm.title, share * 100.);
            self.bar.set_message(message);
            ControlFlow::Continue(())
        };
        let arms = self.arms.clone();
        Ok(match self.labels {
            None => {
                let mut comparison = Comparison::by_masks(arms, &Level::ALL);
                let found = comparison.add(self.detector, slices, &mut show)?;
                (Scores::Masks(comparison.into_scores()), found)
            }
            Some(_) => {
                let mut comparison = Comparison::by_bits(arms);
                let found = comparison.add(self.detector, slices, &mut show)?;
                (Scores::Bits(comparison.into_scores()), found)
            }
        })
    }

    /// The page of a patient, and what the index has of it.
    fn page(
        &self,
        base: PageBase,
        slices: &PatientSlices,
        found: &[MethodMap],
    ) -> Result<Option<(PatientPage, PagePart)>> {
        let about = report::versions(&self.options.model, false);
        let reference = self.detector.config().method;
        let mut pages = EvaluationPages::new(&self.arms, reference, about);
        let (_, mut page) = pages.add(base, slices, found)?;
        // Where the page of all patients will be isn't known.
        page.back = None;
        Ok(pages.into_part().map(|part| (page, part)))
    }
}

impl<'b> Steps<'b> for Work<'_> {
    type Input = Numbered;
    type Read = Box<Ready>;
    type Found = Box<Found>;
    type Done = Tried;

    fn read(&self, (index, id): &'b Numbered) -> Result<Next<Self::Read, Tried>> {
        let input = self.input(*index, id)?;
        let (output, maker) = self.target(id);
        if !self.options.cohort.again()
            && record::is_of(&output, id, &self.how, &input.contents)
            && OutputFolder::is_finished(&output, &maker, &self.inputs)?
        {
            return Ok(Next::Done(Tried::Before));
        }
        let folder = OutputFolder::create(output, &maker, &self.inputs)?;
        let truth = self.labels.map_or(Truth::Mask, Truth::Bits);
        let patients = Patients::of(self.detector, self.source, truth);
        let mut bits = Vec::new();
        let PatientRead { patient, slices } = match patients.read(*index, &mut bits)? {
            Ok(read) => read,
            Err(reason) => return Ok(Next::Done(Tried::LeftOut(reason))),
        };
        input.check_unchanged()?;
        for note in &slices.notes {
            self.bar.suspend(|| tell!("{id}: warning: {note}"));
        }
        Ok(Next::Step(Box::new(Ready {
            id: id.clone(),
            input: input.contents,
            folder,
            base: self.options.report.base(&patient, &slices)?,
            slices,
            bits: bits.pop(),
        })))
    }

    fn examine(&self, ready: Self::Read) -> Result<Self::Found> {
        let Ready {
            id,
            input,
            folder,
            slices,
            bits,
            base,
        } = *ready;
        let (scores, found) = self.scores(&slices, &id)?;
        let page = match base {
            Some(base) => self.page(base, &slices, &found)?,
            None => None,
        };
        let labels = slices.labels.iter().flatten();
        let counts = Counts {
            slices: slices.len(),
            diseased: labels.filter(|&&label| label == 1).count(),
            bits,
        };
        Ok(Box::new(Found {
            id,
            input,
            folder,
            scores,
            counts,
            page,
        }))
    }

    fn write(&self, found: Self::Found) -> Result<Tried> {
        let Found {
            id,
            input,
            mut folder,
            scores,
            counts,
            page,
        } = *found;
        scores.write(&mut folder)?;
        if let Some((page, part)) = page {
            report::write_page(&mut folder, PAGE, &page)?;
            folder.write_json(PART, &part)?;
            for (name, png) in part.pictures() {
                folder.write(&format!("{PICTURES}/{name}"), png)?;
            }
        }
        let record = Record::new(&id, &self.how, input, counts);
        folder.write_json(record::FILE, &record)?;
        folder.finish()?;
        let times = scores.milliseconds();
        Ok(Tried::Done {
            milliseconds: times.iter().map(|(_, ms)| ms).sum(),
        })
    }
}
