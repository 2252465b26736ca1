//! What a shard knows of its patients: who is expected, and who failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use fndm_files::{Inputs, Maker, WorkFolder, read_json};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FOLDER, How, Shard};
use crate::common::{self, place};

/// Names in a shard's two folders.
const FILE: &str = "shard.json";
const TIMES: &str = "times.json";

/// Version of the format.
const FORMAT: u32 = 1;

/// What one shard says of the cohort. It has no times, so that a run that was killed and begun again ends with the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Division {
    format: u32,
    #[serde(flatten)]
    pub(crate) how: How,
    /// This shard.
    pub(crate) shard: Shard,
    /// Every patient that is expected, of all shards, in the order of a report.
    pub(crate) patients: Vec<String>,
    /// Folders that were passed over: they may hold patients. The first shard has them.
    pub(crate) passed_over: Vec<String>,
    /// Patients of this shard that can't be used, and why: no failure.
    pub(crate) left_out: BTreeMap<String, String>,
    /// Patients of this shard that failed, with their errors.
    pub(crate) failed: BTreeMap<String, String>,
    /// Whether each of its patients was tried.
    pub(crate) finished: bool,
    /// What a report says beside its figures, of the study as a whole.
    pub(crate) study: Value,
}

impl Division {
    pub(crate) fn new(how: &How, shard: Shard, patients: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            how: how.clone(),
            shard,
            patients,
            passed_over: Vec::new(),
            left_out: BTreeMap::new(),
            failed: BTreeMap::new(),
            finished: false,
            study: Value::Null,
        }
    }

    /// The ids of this shard's patients, sorted.
    pub(crate) fn own(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.patients.iter().map(String::as_str).collect();
        all.sort_unstable();
        let own = all.into_iter().enumerate();
        own.filter(|(place, _)| self.shard.has(*place))
            .map(|(_, id)| id)
            .collect()
    }

    /// Those in a folder of results, by shard.
    ///
    /// # Errors
    /// When one can't be read.
    pub(crate) fn read_all(output: &Path) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for folder in folders(output, "shard-")? {
            // Killed in its first moment: nothing was begun.
            let file = folder.join(FILE);
            if matches!(file.try_exists(), Ok(false)) {
                continue;
            }
            let division: Self = read_json(file, "record of a shard")?;
            anyhow::ensure!(
                division.format == FORMAT,
                "{}: expected format {FORMAT}, got {}",
                folder.display(),
                division.format
            );
            all.push(division);
        }
        all.sort_by_key(|division| division.shard);
        Ok(all)
    }
}

/// How long things took: apart from what is compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) command: String,
    /// Wall time of the last run, in seconds.
    pub(crate) seconds: f64,
    /// Of each patient that the last run examined, milliseconds of the networks.
    pub(crate) milliseconds: BTreeMap<String, f64>,
}

impl Times {
    /// Those in a folder of results; what can't be read is passed over.
    pub(crate) fn read_all(output: &Path) -> Vec<Self> {
        let folders = folders(output, "times-").unwrap_or_default();
        let read = folders.iter().map(|f| read_json(f.join(TIMES), "times"));
        read.flatten().collect()
    }
}

/// The folders of shards in a folder of results, by the beginning of their names.
fn folders(output: &Path, begin: &str) -> Result<Vec<PathBuf>> {
    let place = output.join(FOLDER);
    if !place.is_dir() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&place)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(begin) && path.is_dir() {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// The record of a shard as it is being written.
pub(crate) struct Progress {
    folder: WorkFolder,
    times_folder: WorkFolder,
    division: Division,
    times: Times,
    begun: Instant,
    /// Whether somebody asked for it: then what can't be written is an error.
    asked: bool,
}

fn maker(program: &str, what: &str) -> Maker {
    place::maker(program, &format!("{what} of a cohort"))
}

impl Progress {
    /// Begins, or goes on with, the record of a shard. Records of other numbers of shards are removed: they are of an earlier run.
    ///
    /// # Errors
    /// When the folder isn't ours, or another process is at this shard.
    pub(crate) fn begin(output: &Path, division: Division, inputs: &Inputs) -> Result<Self> {
        let program = division.how.program.clone();
        let shard = division.shard;
        let place = |begin: &str| output.join(FOLDER).join(format!("{begin}{}", shard.name()));
        let folder = WorkFolder::open(place("shard-"), &maker(&program, "shard"), inputs)?;
        let times_folder = WorkFolder::open(place("times-"), &maker(&program, "times"), inputs)?;
        let of = format!("-of-{}", shard.of());
        for (begin, what) in [("shard-", "shard"), ("times-", "times")] {
            for other in folders(output, begin)? {
                let name = other.file_name().unwrap_or_default().to_string_lossy();
                if name.ends_with(&of) {
                    continue;
                }
                // One that another process is at, or that was changed, stays.
                let removed = WorkFolder::remove(&other, &maker(&program, what));
                if begin == "shard-" {
                    let end = match removed {
                        Ok(_) => "is removed, with what it knew of failures".to_owned(),
                        Err(error) => format!("stays, and fndm collect will refuse it: {error}"),
                    };
                    tell!(
                        "{}: the record of a run of another number of shards {end}",
                        other.display()
                    );
                }
            }
        }
        let mut progress = Self {
            folder,
            times_folder,
            division,
            times: Times {
                command: common::command(),
                ..Times::default()
            },
            begun: Instant::now(),
            asked: true,
        };
        progress.write()?;
        Ok(progress)
    }

    /// As [`Progress::begin`], for a run that nobody asked to be a part: its record is there for `fndm collect`, and no reason to fail. Records of
    /// shards are left as they are.
    pub(crate) fn begin_undivided(
        output: &Path,
        division: Division,
        inputs: &Inputs,
    ) -> Option<Self> {
        let own = division.shard.name();
        let others = folders(output, "shard-").unwrap_or_default();
        let is_other = |folder: &PathBuf| !folder.ends_with(format!("shard-{own}"));
        if others.iter().any(is_other) {
            tell!(
                "{} has records of shards, which stay: this run leaves none for fndm collect; --shard 1/1 replaces them",
                output.join(FOLDER).display()
            );
            return None;
        }
        match Self::begin(output, division, inputs) {
            Ok(progress) => Some(Self {
                asked: false,
                ..progress
            }),
            Err(error) => {
                no_record(&error);
                None
            }
        }
    }

    fn write(&mut self) -> Result<()> {
        let written = self.folder.write_json(FILE, &self.division);
        self.or_told(written)
    }

    /// What came of writing; only told where nobody asked for the record.
    fn or_told(&self, written: fndm_files::Result<()>) -> Result<()> {
        match written.map_err(anyhow::Error::from) {
            Err(error) if !self.asked => {
                no_record(&error);
                Ok(())
            }
            written => written,
        }
    }

    /// A patient that failed.
    ///
    /// # Errors
    /// When that can't be written.
    pub(crate) fn failed(&mut self, patient: &str, error: &str) -> Result<()> {
        let failed = &mut self.division.failed;
        failed.insert(patient.to_owned(), error.to_owned());
        self.write()
    }

    /// A patient that can't be used.
    ///
    /// # Errors
    /// When that can't be written.
    pub(crate) fn left_out(&mut self, patient: &str, reason: &str) -> Result<()> {
        let left_out = &mut self.division.left_out;
        left_out.insert(patient.to_owned(), reason.to_owned());
        self.write()
    }

    /// How long the networks took for a patient.
    pub(crate) fn took(&mut self, patient: &str, milliseconds: f64) {
        let all = &mut self.times.milliseconds;
        all.insert(patient.to_owned(), milliseconds);
    }

    /// Every patient was tried.
    ///
    /// # Errors
    /// When that can't be written.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.division.finished = true;
        self.write()?;
        self.times.seconds = self.begun.elapsed().as_secs_f64();
        let written = self.times_folder.write_json(TIMES, &self.times);
        self.or_told(written)
    }
}

fn no_record(error: &anyhow::Error) {
    let error = fndm_files::chain(error.as_ref());
    tell!("warning: no record for fndm collect is left: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that nobody asked for is no reason to fail, whenever it can't be written; one that was asked for is.
    #[test]
    fn a_record_that_is_lost_on_the_way() {
        for asked in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let how = How::new("detect", String::new(), &Value::Null).unwrap();
            let division = Division::new(&how, Shard::WHOLE, vec!["p".into()]);
            let inputs = Inputs::new();
            let mut progress = match asked {
                true => Progress::begin(root.path(), division, &inputs).unwrap(),
                false => Progress::begin_undivided(root.path(), division, &inputs).unwrap(),
            };
            std::fs::remove_dir_all(root.path().join(FOLDER)).unwrap();
            assert_eq!(progress.failed("p", "broken").is_err(), asked);
            assert_eq!(progress.finish().is_err(), asked);
        }
    }
}
