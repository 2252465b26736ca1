//! Which part of a cohort a process works on.

use std::fmt::{self, Display};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

/// One of so many parts of a cohort. Of the patients in the order of their ids, each goes to the next part in turn: number 0 to the
/// first, number 1 to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Shard {
    /// From 1.
    index: usize,
    of: usize,
}

impl Shard {
    /// All patients.
    pub(crate) const WHOLE: Self = Self { index: 1, of: 1 };

    fn new(index: usize, of: usize) -> Option<Self> {
        (1..=of).contains(&index).then_some(Self { index, of })
    }

    /// How many parts there are.
    pub(crate) fn of(self) -> usize {
        self.of
    }

    /// All parts.
    pub(crate) fn all(of: usize) -> impl Iterator<Item = Self> {
        (1..=of).map(move |index| Self { index, of })
    }

    pub(crate) fn is_first(self) -> bool {
        self.index == 1
    }

    /// Whether the patient at this place, from 0, of the sorted ids is this part's.
    pub(crate) fn has(self, place: usize) -> bool {
        place % self.of + 1 == self.index
    }

    /// As a part of a folder's name: `3-of-16`.
    pub(crate) fn name(self) -> String {
        format!("{}-of-{}", self.index, self.of)
    }

    /// The part that a task of a Slurm array is, by the variables of its environment; none outside an array.
    fn of_slurm(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let number = text.parse();
            Ok(Some(number.with_context(|| {
                format!("{name}: expected a number, got {text:?}")
            })?))
        };
        let Some(id) = number("SLURM_ARRAY_TASK_ID")? else {
            return Ok(None);
        };
        let (Some(min), Some(count)) = (
            number("SLURM_ARRAY_TASK_MIN")?,
            number("SLURM_ARRAY_TASK_COUNT")?,
        ) else {
            bail!(
                "SLURM_ARRAY_TASK_ID is set, but not SLURM_ARRAY_TASK_MIN and SLURM_ARRAY_TASK_COUNT: expected --shard I/N"
            );
        };
        let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
        let from_min = id.checked_sub(min).filter(|above| above % step == 0);
        let index = from_min.map(|above| above / step + 1);
        let last = number("SLURM_ARRAY_TASK_MAX")?;
        let without_gaps = last.is_none_or(|last| last.saturating_sub(min) / step + 1 == count);
        match index.and_then(|index| Self::new(index, count)) {
            Some(shard) if without_gaps => Ok(Some(shard)),
            _ => bail!(
                "the tasks of this Slurm array are no evenly spaced numbers (task {id}, {count} tasks from {min}): expected --shard I/N"
            ),
        }
    }
}

impl Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl From<Shard> for String {
    fn from(shard: Shard) -> Self {
        shard.to_string()
    }
}

impl TryFrom<String> for Shard {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for Shard {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let shard = numbers.and_then(|(index, of)| Self::new(index, of));
        shard.with_context(|| format!("expected I/N with I from 1 to N, got {text:?}"))
    }
}

/// Which part of the cohort is this process', and whether what is done is done again.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cohorts: see docs/cohorts.md")]
pub(crate) struct ShardOptions {
    /// Examine part I of N alone, so that N processes share the patients: of the sorted ids each goes to the next part in turn. In a
    /// task of a Slurm array the default is the task's part. Leaves a record for `fndm collect`
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Examine patients anew whose results are there, made by the same model, settings, input and version
    #[arg(long)]
    again: bool,
}

impl ShardOptions {
    /// Whether patients that are done are done again.
    pub(crate) fn again(&self) -> bool {
        self.again
    }

    /// The part that was asked for, or that a task of a Slurm array is; tells of the latter.
    pub(crate) fn shard(&self) -> Result<Option<Shard>> {
        if self.shard.is_some() {
            return Ok(self.shard);
        }
        let shard = Shard::of_slurm(&|name| std::env::var(name).ok())?;
        if let Some(shard) = shard {
            tell!("part {shard} of the patients, as a task of a Slurm array; --shard 1/1 for all");
        }
        Ok(shard)
    }

    /// Refuses a part where there is one patient alone.
    pub(crate) fn check_one(&self) -> Result<()> {
        ensure!(
            self.shard.is_none(),
            "--shard: expected many patients, by --data or --list"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patient_is_in_one_part() {
        for of in 1..9 {
            for place in 0..40 {
                let parts = Shard::all(of).filter(|shard| shard.has(place));
                assert_eq!(parts.count(), 1);
            }
        }
        let second: Shard = "2/4".parse().unwrap();
        let places: Vec<usize> = (0..12).filter(|&place| second.has(place)).collect();
        assert_eq!(places, [1, 5, 9]);
    }

    #[test]
    fn parts_are_written_as_they_are_read() {
        assert_eq!("3/16".parse::<Shard>().unwrap().to_string(), "3/16");
        for wrong in [
            "", "3", "0/4", "5/4", "1/0", "-1/4", "a/b", "1/4/2", "1.5/4", "1 / 4",
        ] {
            let error = wrong.parse::<Shard>().unwrap_err().to_string();
            assert!(error.contains("I/N"), "{error}");
        }
    }

    fn slurm(variables: &[(&str, &str)]) -> Result<Option<Shard>> {
        Shard::of_slurm(&|name| {
            let name = name.strip_prefix("SLURM_ARRAY_TASK_").unwrap();
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_string())
        })
    }

    /// The variables as sbatch's manual has them.
    #[test]
    fn tasks_of_slurm_are_parts() {
        assert_eq!(slurm(&[]).unwrap(), None);
        let of = |id: &str, min: &str, max: &str, step: &str, count: &str| {
            let shard = slurm(&[
                ("ID", id),
                ("MIN", min),
                ("MAX", max),
                ("STEP", step),
                ("COUNT", count),
            ]);
            shard.map(|shard| shard.unwrap().to_string())
        };
        // --array=0-3, 1-4, 0-15:4
        assert_eq!(of("0", "0", "3", "1", "4").unwrap(), "1/4");
        assert_eq!(of("3", "0", "3", "1", "4").unwrap(), "4/4");
        assert_eq!(of("4", "1", "4", "1", "4").unwrap(), "4/4");
        assert_eq!(of("8", "0", "12", "4", "4").unwrap(), "3/4");
        // --array=1,3: two tasks that aren't 1/2 and 2/2 of what four were.
        assert!(of("3", "1", "3", "1", "2").is_err());
        assert!(of("x", "1", "3", "1", "2").is_err());
        assert!(slurm(&[("ID", "1")]).is_err());
    }
}
