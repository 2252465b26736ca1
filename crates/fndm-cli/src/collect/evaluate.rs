//! The evaluation of many patients, joined from their scores.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fndm::{DetectConfig, Method};
use fndm_files::{OutputFolder, read_json};
use fndm_study::fndm_report::IndexPage;
use fndm_study::{
    Arm, BIT_DEFINITIONS, BitReport, BitScores, EvaluationPages, LabelRecord, LeftOut, PagePart,
    PatientBits, Report, bit_table, settings_section, versions_section, write_csv,
};

use super::joined::{Joined, State};
use crate::common;
use crate::detect::index::relative;
use crate::evaluate::COUNTING;
use crate::evaluate::parts::{PAGE, PART, PICTURES, arms_of};
use crate::shards::Record;
use crate::shards::scores::{Counts, Scores, go_through};

/// What was read of the patients.
struct Read {
    scores: Scores,
    /// Where the pixels are, which the scores lack.
    places: Vec<PathBuf>,
    pages: Option<EvaluationPages>,
    slices: usize,
    diseased: usize,
    bits: Vec<PatientBits>,
}

/// Writes what `evaluate` writes of an undivided cohort, but for times and the picture; the words for the screen. `output` is where the
/// folder will be.
pub(super) fn write(joined: &Joined, output: &Path, folder: &mut OutputFolder) -> Result<String> {
    let arms = arms_of(&joined.how)?;
    let settings: Vec<_> = arms.iter().map(|a| (a.method, a.config.clone())).collect();
    let Read {
        scores,
        places,
        pages,
        slices,
        diseased,
        bits,
    } = read(joined, &arms, output)?;
    let patients = places.len();
    let mut words = joined.words();
    match scores {
        Scores::Masks(arms) => {
            let cohort = format!(
                "{}, {}, {diseased} with a lesion",
                fndm_files::counted(patients, "patient"),
                fndm_files::counted(slices, "slice")
            );
            let mut evaluations = Vec::new();
            for arm in arms {
                let key = arm.method().to_owned();
                // The pixels of one patient are in memory at a time.
                evaluations.extend(arm.finish_by::<anyhow::Error>(COUNTING, &mut |next| {
                    let mut places = places.iter();
                    places.try_for_each(|place| go_through(place, &key, next))
                })?);
            }
            let report = Report::new(
                &common::command(),
                &cohort,
                &evaluations,
                settings,
                left_out(joined),
            );
            folder.write_json("report.json", &report)?;
            let rows = [report.rows.clone(), report.volumes.clone()].concat();
            write_csv(&rows, &folder.file("report.csv")?)?;
            folder.write_json("cases.json", &evaluations)?;
            if let Some(pages) = pages {
                let index = pages.by_masks(&report, &evaluations)?;
                write_index(index, &report.settings, folder)?;
            }
            let _ = write!(words, "\n{cohort}\n\n{}", report.tables());
        }
        Scores::Bits(arms) => {
            let cohort = format!(
                "{}, {} with a label, {diseased} diseased",
                fndm_files::counted(patients, "patient"),
                fndm_files::counted(slices, "slice")
            );
            let finished = arms.into_iter().map(BitScores::finish);
            let source = joined.study["labels"].as_str().unwrap_or_default();
            let report = BitReport {
                command: common::command(),
                fndm_version: joined.how.fndm_version.clone(),
                cohort: cohort.clone(),
                labels: LabelRecord {
                    source: source.to_owned(),
                    patients: bits,
                },
                settings,
                rows: finished.collect::<Result<_, _>>()?,
                left_out: left_out(joined),
                definitions: BIT_DEFINITIONS.map(String::from).to_vec(),
            };
            folder.write_json("report.json", &report)?;
            if let Some(pages) = pages {
                write_index(pages.by_bits(&report)?, &report.settings, folder)?;
            }
            let _ = write!(
                words,
                "\n{cohort}\n\nNo masks: by {source}\n{}",
                bit_table(&report.rows)
            );
        }
    }
    let mut text = words.trim_end().to_owned() + "\n";
    for line in joined.missing_in_words(usize::MAX) {
        let _ = write!(text, "\n{line}");
    }
    folder.write("report.txt", text.trim_end().to_owned() + "\n")?;
    Ok(words)
}

/// Joins the scores in the order of the list, as an undivided run adds them.
fn read(joined: &Joined, arms: &[Arm], output: &Path) -> Result<Read> {
    let mut all: Option<Read> = None;
    for (_, state) in &joined.patients {
        let State::Done(place) = state else { continue };
        let record = Record::<Counts>::read(place);
        let record =
            record.with_context(|| format!("{}: no record of evaluate", place.display()))?;
        let counts = record.figures;
        let more = Scores::read(place)?;
        let all = match &mut all {
            None => all.insert(Read {
                scores: more,
                places: Vec::new(),
                pages: None,
                slices: 0,
                diseased: 0,
                bits: Vec::new(),
            }),
            Some(all) => {
                all.scores.join(more)?;
                all
            }
        };
        if let Some(part) = part(place, output)? {
            let pages = match &mut all.pages {
                None => all.pages.insert(new_pages(joined, arms)?),
                Some(pages) => pages,
            };
            pages.join(part);
        }
        all.places.push(place.clone());
        all.slices += counts.slices;
        all.diseased += counts.diseased;
        all.bits.extend(counts.bits);
    }
    match all {
        Some(all) => Ok(all),
        None => bail!("{}: there is nothing to join", joined.words()),
    }
}

/// The page of all patients, without any.
fn new_pages(joined: &Joined, arms: &[Arm]) -> Result<EvaluationPages> {
    let reference: Method = serde_json::from_value(joined.study["reference"].clone())
        .context("record of a shard: the method that others are held against")?;
    let about = versions_section(&[
        ("Program", format!("fndm {}", joined.how.fndm_version)),
        ("Model, by its hash", joined.how.model.clone()),
        ("Command", common::command()),
    ]);
    Ok(EvaluationPages::new(arms, reference, about))
}

/// What the page of all has of a patient; none where no pages were wanted.
fn part(place: &Path, output: &Path) -> Result<Option<PagePart>> {
    let path = place.join(PART);
    if !path.is_file() {
        return Ok(None);
    }
    let part: PagePart = read_json(&path, "part of a page")?;
    let page = relative(output, place).map(|link| format!("{link}/{PAGE}"));
    let part = part.with_pictures(page.as_deref(), &mut |name| {
        let path = place.join(PICTURES).join(name);
        std::fs::read(&path).with_context(|| path.display().to_string())
    });
    part.map(Some)
}

fn write_index(
    mut page: IndexPage,
    settings: &[(Method, DetectConfig)],
    folder: &mut OutputFolder,
) -> Result<()> {
    let titled = settings
        .iter()
        .map(|(m, c)| (m.title().to_string(), c.clone()));
    page.after
        .push(settings_section(&titled.collect::<Vec<_>>())?);
    Ok(folder.write(PAGE, page.html())?)
}

/// Everybody who isn't counted, those passed over first, as an undivided run has them.
fn left_out(joined: &Joined) -> Vec<LeftOut> {
    let others = joined.those(|state| match state {
        State::Done(_) => None,
        State::LeftOut(reason) | State::Failed(reason) | State::Missing(reason) => Some(reason),
    });
    joined.passed_over().chain(others).collect()
}
