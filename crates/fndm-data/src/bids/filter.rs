//! Which of several files is meant.

use std::fmt;
use std::str::FromStr;

use super::name::{Name, same_value};
use crate::{Error, Result};

/// An entity and the values that are wanted of it: `ses=pre,post`, `t1:run=2` for one sequence alone, `acq=` for files without it.
///
/// Of the files that could be a sequence it keeps those with one of the values, if any of them has the entity at all: `run=2` takes
/// the second run where there are runs, and a file without a run elsewhere. `sub` and `ses` say which sessions are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The one sequence that it is for.
    sequence: Option<String>,
    key: String,
    /// None: files without the entity.
    values: Vec<String>,
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let expected = "ENTITY=VALUE, as ses=pre, run=2 or acq=; for one sequence, as t1:run=2";
            Error::config("BIDS filter", expected, format!("{text:?}"))
        };
        let (left, right) = text.split_once('=').ok_or_else(wrong)?;
        let (sequence, key) = match left.split_once(':') {
            Some((sequence, key)) => (Some(sequence.to_ascii_lowercase()), key),
            None => (None, left),
        };
        let plain =
            |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric());
        if !plain(key) || sequence.as_deref().is_some_and(str::is_empty) {
            return Err(wrong());
        }
        // A value may be given as it stands in names: ses=ses-pre.
        let prefix = format!("{key}-");
        let values: Vec<String> = right
            .split(',')
            .filter(|value| !value.is_empty())
            .map(|value| value.strip_prefix(&prefix).unwrap_or(value).to_owned())
            .collect();
        let level = matches!(key, "sub" | "ses");
        if !values.iter().all(|value| plain(value)) || (level && sequence.is_some()) {
            return Err(wrong());
        }
        Ok(Self {
            sequence,
            key: key.into(),
            values,
        })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(sequence) = &self.sequence {
            write!(f, "{sequence}:")?;
        }
        write!(f, "{}={}", self.key, self.values.join(","))
    }
}

impl Filter {
    fn takes(&self, value: Option<&str>) -> bool {
        match value {
            None => self.values.is_empty(),
            Some(value) => self.values.iter().any(|own| same_value(own, value)),
        }
    }

    /// Whether a subject or session is looked at.
    pub(super) fn takes_level(&self, key: &str, value: Option<&str>) -> bool {
        self.key != key || self.takes(value)
    }

    /// Takes out those of the candidates for a sequence that aren't wanted.
    pub(super) fn narrow<T>(
        &self,
        sequence: &str,
        candidates: &mut Vec<T>,
        name: impl Fn(&T) -> &Name,
    ) {
        let named = sequence.to_ascii_lowercase();
        let other = self.sequence.as_ref().is_some_and(|own| *own != named);
        let level = matches!(self.key.as_str(), "sub" | "ses");
        let has = |c: &T| name(c).get(&self.key).is_some();
        if other || level || !candidates.iter().any(has) {
            return;
        }
        candidates.retain(|c| self.takes(name(c).get(&self.key)));
    }

    /// The sequence that the filter is for, if it is for one.
    #[must_use]
    pub fn sequence(&self) -> Option<&str> {
        self.sequence.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(filter: &str, sequence: &str, names: &[&str]) -> Vec<String> {
        let filter: Filter = filter.parse().unwrap();
        let names = names.iter().map(|name| Name::parse(name).unwrap());
        let mut candidates: Vec<Name> = names.collect();
        filter.narrow(sequence, &mut candidates, |name| name);
        candidates.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keeps_what_is_wanted_where_there_is_a_choice() {
        let runs = ["sub-1_run-1_T1w.nii", "sub-1_run-02_T1w.nii"];
        assert_eq!(kept("run=2", "t1", &runs), ["sub-1_run-02_T1w"]);
        assert_eq!(kept("t1:run=2", "t1", &runs), ["sub-1_run-02_T1w"]);
        assert_eq!(kept("t2:run=2", "t1", &runs).len(), 2);
        assert_eq!(kept("run=3", "t1", &runs).len(), 0);
        assert_eq!(kept("run=2", "t1", &["sub-1_T1w.nii"]), ["sub-1_T1w"]);
        let acquired = ["sub-1_acq-a_T1w.nii", "sub-1_T1w.nii"];
        assert_eq!(kept("acq=", "t1", &acquired), ["sub-1_T1w"]);
        assert_eq!(kept("acq=a,b", "t1", &acquired), ["sub-1_acq-a_T1w"]);
    }

    #[test]
    fn refused() {
        for wrong in [
            "", "run", "=2", "t1:=2", ":run=2", "run=a b", "ru-n=1", "t1:ses=2", "run=../x",
        ] {
            assert!(wrong.parse::<Filter>().is_err(), "{wrong}");
        }
        let prefixed: Filter = "ses=ses-pre,post".parse().unwrap();
        assert_eq!(prefixed.to_string(), "ses=pre,post");
    }
}
