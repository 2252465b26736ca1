//! Finding a patient's files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::manifest::Files;
use super::masks::{Role, is_mask_word, is_other_word, mask_names, role, without_id};
use super::names::{check_sequences, common_name, has_agent, sequence_names};
use super::place::Place;
use super::walk::{files_below, stem};
use crate::{Error, Result};

/// The file of one sequence in a patient's folder.
///
/// # Errors
/// [`Error::MissingSequence`], [`Error::AmbiguousSequence`], [`Error::SeveralPatients`],
/// [`Error::OwnOutput`], [`Error::NotUtf8`], [`Error::Limit`], [`Error::Io`].
pub fn find_sequence(folder: impl AsRef<Path>, sequence: &str) -> Result<PathBuf> {
    let place = Place::of(folder.as_ref())?;
    sequence_among(&place, sequence, &files_below(&place.path)?)
}

/// The sequences that a patient's folder holds, by the ends of the names of its files, sorted. Those
/// that are known under several names have the one that [`find_sequence`] takes as the first: `flair`
/// for `t2f`. Masks are left out, and images named for what was cut away from them (`_brain`, `_bet`).
///
/// # Errors
/// [`Error::OwnOutput`], [`Error::NotUtf8`], [`Error::Limit`], [`Error::Io`].
pub fn list_sequences(folder: impl AsRef<Path>) -> Result<Vec<String>> {
    let place = Place::of(folder.as_ref())?;
    let files = files_below(&place.path)?;
    let mut found = BTreeSet::new();
    for file in &files {
        if role(file, &place.name, &files) != Role::Image {
            continue;
        }
        let stem = stem(file);
        let rest = without_id(&stem, &place.name);
        let end = rest.rsplit('_').next().unwrap_or(rest);
        let end = end.trim_start_matches(['-', '.']);
        let name = match common_name(end) {
            "t1" if has_agent(&stem) => "t1ce",
            name => name,
        };
        if !name.is_empty() && !is_other_word(name) && ends_in(rest, end) {
            found.insert(name.to_string());
        }
    }
    Ok(found.into_iter().collect())
}

/// The file of the lesion mask, if there is one: in the patient's folder, or in
/// `derivatives/<id>` beside it (BIDS), or beside the `rawdata` that it lies in.
///
/// Names that are taken are told by [`mask_names`]. A mask of the brain or of the head, as `BET`, HD-BET,
/// `SynthStrip` and fMRIPrep write it, is none, nor is a result of our own.
///
/// # Errors
/// [`Error::UnclearMask`] for a file that may be a lesion mask or not, if there is no other;
/// [`Error::AmbiguousSequence`] for two; [`Error::OwnOutput`], [`Error::NotUtf8`], [`Error::Limit`],
/// [`Error::Io`].
pub fn find_mask(folder: impl AsRef<Path>) -> Result<Option<PathBuf>> {
    mask_of(&Place::of(folder.as_ref())?)
}

fn mask_of(place: &Place) -> Result<Option<PathBuf>> {
    let own = mask_among(place, &files_below(&place.path)?)?;
    if own.is_some() {
        return Ok(own);
    }
    let Some(mut root) = place.path.parent() else {
        return Ok(None);
    };
    if let (true, Some(above)) = (root.ends_with("rawdata"), root.parent()) {
        root = above;
    }
    let beside = root.join("derivatives").join(&place.name);
    if !beside.is_dir() || super::is_own_output(&beside) {
        return Ok(None);
    }
    mask_among(place, &files_below(&beside)?)
}

impl Files {
    /// Finds the given sequences, and the lesion mask if there is one, in a patient's folder. The folder's name
    /// as given is the patient's id.
    ///
    /// # Errors
    /// Those of [`find_sequence`] and [`find_mask`];
    /// [`Error::InvalidConfig`] when no sequence is asked for or one is asked for twice.
    pub fn find<S: AsRef<str>>(folder: &Path, sequences: &[S]) -> Result<Self> {
        let place = Place::of(folder)?;
        Self::of(&place, sequences)?.with_mask(&place)
    }

    /// As [`find`](Self::find), for the patient `id` of a data folder: the path of the patient's folder below it.
    ///
    /// # Errors
    /// As [`find`](Self::find); [`Error::InvalidConfig`] for an id that is no path below the data folder.
    pub fn find_below<S: AsRef<str>>(root: &Path, id: &str, sequences: &[S]) -> Result<Self> {
        let place = Place::below(root, id)?;
        Self::of(&place, sequences)?.with_mask(&place)
    }

    /// As [`find`](Self::find), but no lesion mask is looked for.
    ///
    /// # Errors
    /// Those of [`find_sequence`]; [`Error::InvalidConfig`] as [`find`](Self::find).
    pub fn find_sequences<S: AsRef<str>>(folder: &Path, sequences: &[S]) -> Result<Self> {
        Self::of(&Place::of(folder)?, sequences)
    }

    /// As [`find_below`](Self::find_below), but no lesion mask is looked for.
    ///
    /// # Errors
    /// Those of [`find_sequence`]; [`Error::InvalidConfig`] as [`find_below`](Self::find_below).
    pub fn find_sequences_below<S: AsRef<str>>(
        root: &Path,
        id: &str,
        sequences: &[S],
    ) -> Result<Self> {
        Self::of(&Place::below(root, id)?, sequences)
    }

    fn with_mask(mut self, place: &Place) -> Result<Self> {
        self.mask = mask_of(place)?;
        if let Some(file) = &self.mask {
            tracing::debug!(patient = place.id, file = %file.display(), "lesion mask");
        }
        Ok(self)
    }

    fn of<S: AsRef<str>>(place: &Place, sequences: &[S]) -> Result<Self> {
        check_sequences(sequences)?;
        if !place.path.is_dir() {
            let kind = std::io::ErrorKind::NotFound;
            let error = std::io::Error::new(kind, "the patient's folder does not exist");
            return Err(Error::io(&place.path)(error));
        }
        let files = files_below(&place.path)?;
        let mut found = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let name = sequence.as_ref();
            let file = sequence_among(place, name, &files)?;
            tracing::debug!(patient = place.id, sequence = name, file = %file.display(), "file of a sequence");
            found.push((name.to_string(), file));
        }
        Ok(Self {
            id: place.id.clone(),
            sequences: found,
            mask: None,
        })
    }
}

/// The file whose name ends in the first of the sequence's names that any file's name ends in.
fn sequence_among(place: &Place, sequence: &str, files: &[PathBuf]) -> Result<PathBuf> {
    let names = sequence_names(sequence);
    // `<id>_<name>` itself is meant even where a longer name ends the same way.
    let exact = |name: &str| {
        let meant = format!("{}_{name}", place.name).to_ascii_lowercase();
        move |stem: &str| stem == meant
    };
    let with_agent = common_name(&sequence.to_ascii_lowercase()) == "t1ce";
    for name in &names {
        let fitting = files.iter().filter(|file| {
            let stem = stem(file);
            // `ce-gadolinium_T1w` ends as a T1 without an agent does.
            let plain = common_name(name) == "t1" && has_agent(&stem);
            !plain && ends_in(without_id(&stem, &place.name), name)
        });
        let fitting: Vec<&PathBuf> = fitting.collect();
        if let Some(file) = choose(place, sequence, exact(name), &fitting)? {
            return Ok(file);
        }
    }
    if with_agent {
        let agent = |file: &&PathBuf| {
            let stem = stem(file);
            has_agent(&stem) && ends_in(&stem, "t1w")
        };
        let fitting: Vec<&PathBuf> = files.iter().filter(agent).collect();
        if let Some(file) = choose(place, sequence, exact("t1w"), &fitting)? {
            return Ok(file);
        }
    }
    Err(Error::MissingSequence {
        patient: place.id.clone(),
        sequence: sequence.to_string(),
        folder: place.path.clone(),
        expected: names
            .iter()
            .map(|name| format!("{}_{name}.nii.gz", place.name))
            .collect(),
    })
}

/// Whether a file's name is `name` or ends in it after one of `_ - .`, and the word before doesn't make it
/// a mask (`_mask_t1`).
fn ends_in(rest: &str, name: &str) -> bool {
    let Some(before) = rest.strip_suffix(name) else {
        return false;
    };
    let Some(before) = before.strip_suffix(['_', '-', '.']) else {
        return before.is_empty();
    };
    !is_mask_word(before.rsplit(['_', '-', '.']).next().unwrap_or(before))
}

fn mask_among(place: &Place, files: &[PathBuf]) -> Result<Option<PathBuf>> {
    let roles: Vec<Role> = files
        .iter()
        .map(|file| role(file, &place.name, files))
        .collect();
    let with = |wanted: Role| -> Vec<&PathBuf> {
        let of_role = files
            .iter()
            .zip(&roles)
            .filter(|(_, role)| **role == wanted);
        of_role.map(|(file, _)| file).collect()
    };
    let best = roles.iter().filter_map(|role| match role {
        Role::Lesion(rank) => Some(*rank),
        _ => None,
    });
    if let Some(best) = best.min() {
        // `<id>_seg` is meant where a longer name, or one without the id, is there as well.
        let exact = |stem: &str| {
            let rest = without_id(stem, &place.name);
            rest.len() < stem.len() && !rest[1..].contains(['_', '-', '.'])
        };
        return choose(place, "mask", exact, &with(Role::Lesion(best)));
    }
    match with(Role::Unclear).first() {
        None => Ok(None),
        Some(file) => Err(Error::UnclearMask {
            patient: place.id.clone(),
            file: (*file).clone(),
            expected: mask_names().join(", ").replace("<id>", &place.name),
        }),
    }
}

/// The one file of those that fit, or the one of them whose name is exact. Links to one file are one.
fn choose(
    place: &Place,
    sequence: &str,
    exact: impl Fn(&str) -> bool,
    fitting: &[&PathBuf],
) -> Result<Option<PathBuf>> {
    let [first, others @ ..] = fitting else {
        return Ok(None);
    };
    let real = |path: &PathBuf| path.canonicalize().ok();
    let same = |other: &&&PathBuf| real(other).is_some() && real(other) == real(first);
    let Some(second) = others.iter().find(|other| !same(other)) else {
        return Ok(Some((*first).clone()));
    };
    let mut exact = fitting.iter().filter(|path| exact(&stem(path)));
    if let (Some(one), None) = (exact.next(), exact.next()) {
        return Ok(Some((*one).clone()));
    }
    Err(match apart(&place.path, first, second) {
        Some((a, b)) => Error::SeveralPatients {
            folder: place.path.clone(),
            sequence: sequence.to_string(),
            first: a,
            second: b,
        },
        _ => Error::AmbiguousSequence {
            patient: place.id.clone(),
            sequence: sequence.to_string(),
            first: (*first).clone(),
            second: (*second).clone(),
        },
    })
}

/// The folders of two files where their paths below `root` part, if they look like two patients': directly below it, or with files
/// named after them. (Deeper, `anat` and `dwi` are folders of one patient.)
fn apart(root: &Path, first: &Path, second: &Path) -> Option<(PathBuf, PathBuf)> {
    let inside = |file: &Path| -> Option<Vec<OsString>> {
        let inside = file.strip_prefix(root).ok()?;
        Some(inside.iter().map(OsString::from).collect())
    };
    let (a, b) = (inside(first)?, inside(second)?);
    let depth = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let folder = |parts: &[OsString], file: &Path| -> Option<PathBuf> {
        // The last part is the file itself.
        let name = parts[..parts.len() - 1].get(depth)?;
        let own = file.file_name()?.as_encoded_bytes();
        let named = own.starts_with(name.as_encoded_bytes());
        (depth == 0 || named).then(|| {
            parts[..=depth]
                .iter()
                .fold(root.to_path_buf(), |all, part| all.join(part))
        })
    };
    Some((folder(&a, first)?, folder(&b, second)?))
}
