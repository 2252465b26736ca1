//! Names of files: entities and a suffix.

use std::fmt;

/// The name of a file, without its ending: `sub-01_ses-pre_ce-gadolinium_run-2_T1w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Key and value of each entity, in the order of the name.
    pub entities: Vec<(String, String)>,
    /// What the image is: `T1w`.
    pub suffix: String,
}

impl Name {
    /// The parts of the name of a NIfTI file; `None` for every other file, and for names that BIDS doesn't have: no subject, an
    /// entity twice, a part without a dash.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        let stem = file
            .strip_suffix(".nii.gz")
            .or_else(|| file.strip_suffix(".nii"))?;
        let (entities, suffix) = stem.rsplit_once('_')?;
        if suffix.is_empty() || !suffix.chars().all(|c| c.is_ascii_alphanumeric()) {
            return None;
        }
        let mut name = Self {
            entities: Vec::new(),
            suffix: suffix.into(),
        };
        for entity in entities.split('_') {
            let (key, value) = entity.split_once('-')?;
            if key.is_empty() || value.is_empty() || name.get(key).is_some() {
                return None;
            }
            name.entities.push((key.into(), value.into()));
        }
        let subject = name.entities.first().is_some_and(|(key, _)| key == "sub");
        subject.then_some(name)
    }

    /// The value of an entity.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.entities.iter().find(|(own, _)| own == key);
        found.map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.entities {
            write!(f, "{key}-{value}_")?;
        }
        f.write_str(&self.suffix)
    }
}

/// Whether two values of an entity are the same: `run-1` and `run-01` are.
pub(super) fn same_value(a: &str, b: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    a == b || number(a).is_some_and(|n| Some(n) == number(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = Name::parse("sub-01_ses-pre_ce-gd_run-2_T1w.nii.gz").unwrap();
        assert_eq!(name.get("ce"), Some("gd"));
        assert_eq!(name.get("acq"), None);
        assert_eq!(name.suffix, "T1w");
        assert_eq!(name.to_string(), "sub-01_ses-pre_ce-gd_run-2_T1w");
        for wrong in [
            "sub-01_T1w.json",
            "sub-01.nii",
            "T1w.nii.gz",
            "sub-01_T1w_.nii",
            "sub-_T1w.nii",
            "sub-01_acq_T1w.nii",
            "sub-01_acq-a_acq-b_T1w.nii",
            "ses-1_T1w.nii",
            "",
        ] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn runs_are_numbers() {
        assert!(same_value("1", "01"));
        assert!(same_value("pre", "pre"));
        assert!(!same_value("1", "10"));
        assert!(!same_value("pre", "Pre"));
    }
}
