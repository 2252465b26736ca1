//! What became of each patient of a cohort, by the records of all shards.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use fndm_files::is_complete;
use fndm_study::LeftOut;
use serde::Serialize;
use serde_json::Value;

use crate::shards::progress::Division;
use crate::shards::{FOLDER, How, Record, Shard};

/// What became of a patient.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Its results are in this folder.
    Done(PathBuf),
    /// It can't be used, which is no failure.
    LeftOut(String),
    Failed(String),
    Missing(String),
}

/// A cohort, joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) how: How,
    /// How many shards there are.
    pub(super) of: usize,
    /// Every patient that is expected, in the order of a report.
    pub(super) patients: Vec<(String, State)>,
    /// Folders that were passed over, with reasons.
    pub(super) passed_over: Vec<String>,
    /// What the shards say of the study as a whole.
    pub(super) study: Value,
}

/// How many patients came to what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) expected: usize,
    pub(super) done: usize,
    pub(super) left_out: usize,
    pub(super) failed: usize,
    pub(super) missing: usize,
}

impl Joined {
    /// Reads the records in these folders.
    ///
    /// # Errors
    /// When there are none, one can't be read, or they are of different runs.
    pub(super) fn read(folders: &[PathBuf]) -> Result<Self> {
        let mut divisions: Vec<(Division, &Path)> = Vec::new();
        for folder in folders {
            ensure!(folder.is_dir(), "{}: no such folder", folder.display());
            let found = Division::read_all(folder)?;
            ensure!(
                !found.is_empty(),
                "{}: expected records of shards in {FOLDER}; `--shard 1/1` leaves one, and passes over patients that are done",
                folder.display()
            );
            divisions.extend(found.into_iter().map(|d| (d, folder.as_path())));
        }
        let [(first, first_folder), others @ ..] = divisions.as_slice() else {
            bail!("expected folders with records of shards");
        };
        for (other, folder) in others {
            let differs = if other.shard.of() != first.shard.of() {
                "numbers of shards"
            } else if other.how != first.how {
                "models, settings or versions of fndm"
            } else if other.patients != first.patients {
                "lists of patients"
            } else {
                continue;
            };
            bail!(
                "shards {} in {} and {} in {} are of different {differs}: run those of one kind again",
                first.shard,
                first_folder.display(),
                other.shard,
                folder.display()
            );
        }
        let (how, of) = (first.how.clone(), first.shard.of());
        let states = states(&divisions, folders, &how, of);
        let patients = first.patients.iter().map(|id| {
            let state = states.get(id).cloned();
            let nobodys = || State::Missing("no shard has it".into());
            (id.clone(), state.unwrap_or_else(nobodys))
        });
        let mut passed_over = Vec::new();
        for reason in divisions.iter().flat_map(|(d, _)| &d.passed_over) {
            if !passed_over.contains(reason) {
                passed_over.push(reason.clone());
            }
        }
        Ok(Self {
            patients: patients.collect(),
            passed_over,
            study: first.study.clone(),
            how,
            of,
        })
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |of: fn(&State) -> bool| self.patients.iter().filter(|(_, s)| of(s)).count();
        Counts {
            expected: self.patients.len(),
            done: count(|s| matches!(s, State::Done(_))),
            left_out: count(|s| matches!(s, State::LeftOut(_))),
            failed: count(|s| matches!(s, State::Failed(_))),
            missing: count(|s| matches!(s, State::Missing(_))),
        }
    }

    /// Whether nobody is missing, failed, or was passed over.
    pub(super) fn is_whole(&self) -> bool {
        let counts = self.counts();
        counts.failed + counts.missing == 0 && self.passed_over.is_empty()
    }

    /// Folders that were passed over, as patients that can't be used.
    pub(super) fn passed_over(&self) -> impl Iterator<Item = LeftOut> + '_ {
        self.passed_over.iter().map(|words| {
            let (patient, reason) = words.split_once(": ").unwrap_or((words, ""));
            LeftOut {
                patient: patient.to_owned(),
                reason: reason.to_owned(),
            }
        })
    }

    /// Patients that a pick takes, with its words.
    pub(super) fn those<'a>(
        &'a self,
        pick: impl Fn(&'a State) -> Option<&'a str> + 'a,
    ) -> impl Iterator<Item = LeftOut> + 'a {
        self.patients.iter().filter_map(move |(id, state)| {
            Some(LeftOut {
                patient: id.clone(),
                reason: pick(state)?.to_owned(),
            })
        })
    }

    pub(super) fn failed(&self) -> Vec<LeftOut> {
        let failed = self.those(|state| match state {
            State::Failed(error) => Some(error),
            _ => None,
        });
        failed.collect()
    }

    pub(super) fn missing(&self) -> Vec<LeftOut> {
        let missing = self.those(|state| match state {
            State::Missing(reason) => Some(reason),
            _ => None,
        });
        missing.collect()
    }

    /// "40 patients expected, 38 done, 1 failed, 1 missing; 4 shards".
    pub(super) fn words(&self) -> String {
        let counts = self.counts();
        let mut words = format!(
            "{} expected, {} done",
            fndm_files::counted(counts.expected, "patient"),
            counts.done
        );
        for (count, what) in [
            (counts.left_out, "left out"),
            (counts.failed, "failed"),
            (counts.missing, "missing"),
        ] {
            if count > 0 {
                words = format!("{words}, {count} {what}");
            }
        }
        if !self.passed_over.is_empty() {
            let folders = fndm_files::counted(self.passed_over.len(), "folder");
            words = format!("{words}, {folders} passed over");
        }
        match self.of {
            1 => words,
            of => format!("{words}; {of} shards"),
        }
    }

    /// Who failed, is missing, was left out or passed over, a line each, at most so many of a kind.
    pub(super) fn missing_in_words(&self, most: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |title: &str, all: Vec<String>| {
            if all.is_empty() {
                return;
            }
            lines.push(format!("{title}:"));
            let more = all.len().saturating_sub(most);
            lines.extend(all.into_iter().take(most).map(|line| format!("  {line}")));
            if more > 0 {
                lines.push(format!("  and {more} more"));
            }
        };
        let named = |all: Vec<LeftOut>| {
            let line = |LeftOut { patient, reason }| format!("{patient}: {reason}");
            all.into_iter().map(line).collect()
        };
        add("failed", named(self.failed()));
        add("missing", named(self.missing()));
        let left_out = self.those(|state| match state {
            State::LeftOut(reason) => Some(reason),
            _ => None,
        });
        add("left out", named(left_out.collect()));
        add("passed over", self.passed_over.clone());
        lines
    }
}

/// What became of each patient.
fn states(
    divisions: &[(Division, &Path)],
    folders: &[PathBuf],
    how: &How,
    of: usize,
) -> BTreeMap<String, State> {
    let mut states = BTreeMap::new();
    let mut begun = BTreeSet::new();
    for (division, _) in divisions {
        begun.insert(division.shard);
        for id in division.own() {
            let state = if let Some(error) = division.failed.get(id) {
                State::Failed(error.clone())
            } else if let Some(reason) = division.left_out.get(id) {
                State::LeftOut(reason.clone())
            } else {
                let shard = division.shard;
                let stopped = format!("shard {shard} was stopped, or is still running");
                match division.finished {
                    true => found(folders, id, how, "its results are gone", ""),
                    false => found(folders, id, how, &stopped, &stopped),
                }
            };
            states.insert(id.to_owned(), state);
        }
    }
    if let Some((first, _)) = divisions.first() {
        for shard in Shard::all(of).filter(|shard| !begun.contains(shard)) {
            let whole = Division::new(how, shard, first.patients.clone());
            for id in whole.own() {
                let why = format!("shard {shard} was never begun");
                states.insert(id.to_owned(), found(folders, id, how, &why, &why));
            }
        }
    }
    states
}

/// Where a patient's results are; else why there are none, in other words where something else is there.
fn found(folders: &[PathBuf], id: &str, how: &How, none: &str, other: &str) -> State {
    let mut there = None;
    for folder in folders {
        let place = folder.join(id);
        let record = Record::<Value>::read(&place);
        let what = match record {
            Some(record) if record.patient != id => {
                format!("is of patient {}", record.patient)
            }
            Some(record) if record.how != *how => {
                "is of another model, other settings or another version".to_owned()
            }
            Some(_) if is_complete(&place) => return State::Done(place),
            None if !place.exists() => continue,
            _ => "isn't what fndm wrote: files were changed, or are gone".to_owned(),
        };
        there = Some(format!("what lies in {} {what}", place.display()));
    }
    State::Missing(match there {
        Some(there) if other.is_empty() => there,
        Some(there) => format!("{other}; {there}"),
        None => none.to_owned(),
    })
}
