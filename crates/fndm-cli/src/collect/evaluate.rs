//! The evaluation of many patients, joined from their scores.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use fndm_files::OutputFolder;
use fndm_study::{
    BIT_DEFINITIONS, BitReport, BitScores, LabelRecord, LeftOut, MaskScores, PatientBits, Report,
    bit_table, table, write_csv,
};

use super::joined::{Joined, State};
use crate::common;
use crate::evaluate::parts::settings_of;
use crate::shards::Record;
use crate::shards::scores::{Counts, Scores};

/// What was read of the patients.
struct Read {
    scores: Scores,
    patients: usize,
    slices: usize,
    diseased: usize,
    bits: Vec<PatientBits>,
}

/// Writes what `evaluate` writes of an undivided cohort, but for times and the picture; the words for the screen.
pub(super) fn write(joined: &Joined, folder: &mut OutputFolder) -> Result<String> {
    let Read {
        scores,
        patients,
        slices,
        diseased,
        bits,
    } = read(joined)?;
    let mut words = joined.words();
    match scores {
        Scores::Masks(arms) => {
            let cohort = format!(
                "{}, {}, {diseased} with a lesion",
                fndm_files::counted(patients, "patient"),
                fndm_files::counted(slices, "slice")
            );
            let finished = arms.into_iter().map(MaskScores::finish);
            let evaluations = finished.collect::<Result<Vec<_>, _>>()?.concat();
            let report = Report::new(
                &common::command(),
                &cohort,
                &evaluations,
                settings_of(&joined.how)?,
                left_out(joined),
            );
            folder.write_json("report.json", &report)?;
            let rows = [report.rows.clone(), report.volumes.clone()].concat();
            write_csv(&rows, &folder.file("report.csv")?)?;
            folder.write_json("cases.json", &evaluations)?;
            let _ = write!(
                words,
                "\n{cohort}\n\nPer slice with a lesion ({diseased}):\n{}\nPer volume ({patients}):\n{}",
                table(&report.rows),
                table(&report.volumes)
            );
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
                settings: settings_of(&joined.how)?,
                rows: finished.collect::<Result<_, _>>()?,
                left_out: left_out(joined),
                definitions: BIT_DEFINITIONS.map(String::from).to_vec(),
            };
            folder.write_json("report.json", &report)?;
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
fn read(joined: &Joined) -> Result<Read> {
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
                patients: 0,
                slices: 0,
                diseased: 0,
                bits: Vec::new(),
            }),
            Some(all) => {
                all.scores.join(more)?;
                all
            }
        };
        all.patients += 1;
        all.slices += counts.slices;
        all.diseased += counts.diseased;
        all.bits.extend(counts.bits);
    }
    match all {
        Some(all) => Ok(all),
        None => bail!("{}: there is nothing to join", joined.words()),
    }
}

/// Everybody who isn't counted, those passed over first, as an undivided run has them.
fn left_out(joined: &Joined) -> Vec<LeftOut> {
    let passed_over = joined.passed_over.iter().map(|words| {
        let (patient, reason) = words.split_once(": ").unwrap_or((words, ""));
        LeftOut {
            patient: patient.to_owned(),
            reason: reason.to_owned(),
        }
    });
    let others = joined.those(|state| match state {
        State::Done(_) => None,
        State::LeftOut(reason) | State::Failed(reason) | State::Missing(reason) => Some(reason),
    });
    passed_over.chain(others).collect()
}
