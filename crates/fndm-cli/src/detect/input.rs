//! Which patients are looked at, and how each is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use fndm::data::layout::Files;
use fndm::data::{
    Limits, Patient, Volume, list_patients, nifti, read_sequences, read_sequences_below,
};
use fndm::{DetectConfig, Method, ModelConfig};
use fndm_files::{Inputs, OutputFolder, chain};

use super::Options;
use super::bids::{self, Derivative};
use super::dicom::{self, Chosen};
use crate::shards;
use crate::shards::list::check_id;

/// A patient still to be read. Lesion masks are not looked for: they aren't needed.
pub(super) struct Input {
    /// What the user calls the patient.
    pub(super) id: String,
    pub(super) place: Place,
    pub(super) names: Names,
}

/// What the files of results are called.
pub(super) enum Names {
    /// `<id>_mask.nii.gz` and so on.
    Plain,
    Bids(Derivative),
}

pub(super) enum Place {
    Folder(PathBuf),
    /// The patient of the id in a data folder.
    Below(PathBuf),
    /// In the order of the model's sequences.
    Files(Vec<(String, PathBuf)>),
    /// Series of the study in a folder.
    Dicom(PathBuf, Chosen),
    /// A list names the patient, and nobody of that name is there, or can be read for this reason.
    Absent(Option<String>),
}

fn absent(id: &str, reason: Option<&String>) -> anyhow::Error {
    match reason {
        Some(reason) => anyhow::anyhow!("{reason}"),
        None => anyhow::anyhow!("patient {id} is listed, but isn't in the data"),
    }
}

impl Input {
    pub(super) fn read(&self, sequences: &[String]) -> Result<Patient> {
        let limits = Limits::default();
        let mut patient = match &self.place {
            Place::Folder(path) => read_sequences(path, sequences, &limits)?,
            Place::Below(root) => read_sequences_below(root, &self.id, sequences, &limits)?,
            Place::Dicom(_, chosen) => chosen.read(&self.id)?,
            Place::Files(files) => Patient {
                id: self.id.clone(),
                sequences: files
                    .iter()
                    .map(|(name, path)| Ok((name.clone(), nifti::read(path, &limits)?)))
                    .collect::<Result<_>>()?,
                mask: None,
            },
            Place::Absent(reason) => return Err(absent(&self.id, reason.as_ref())),
        };
        patient.id.clone_from(&self.id);
        Ok(patient)
    }

    /// The files that [`Input::read`] reads, by sequence: a patient is examined anew when one of them has changed. A series of slices
    /// is a folder.
    pub(super) fn files(&self, sequences: &[String]) -> Result<Vec<(String, PathBuf)>> {
        Ok(match &self.place {
            Place::Folder(path) => Files::find_sequences(path, sequences)?.sequences,
            Place::Below(root) => Files::find_sequences_below(root, &self.id, sequences)?.sequences,
            Place::Files(files) => files.clone(),
            Place::Dicom(_, chosen) => chosen.files(),
            Place::Absent(reason) => return Err(absent(&self.id, reason.as_ref())),
        })
    }

    /// Whether [`Input::files`] are NIfTI files, which can be read one after the other.
    pub(super) fn is_nifti(&self) -> bool {
        !matches!(self.place, Place::Dicom(..))
    }

    /// What is read, so that it isn't written over.
    pub(super) fn add_to(&self, inputs: Inputs) -> Inputs {
        match &self.place {
            Place::Folder(path) | Place::Dicom(path, _) => inputs.folder(path),
            Place::Below(root) => inputs.folder(root.join(&self.id)),
            Place::Files(files) => files.iter().fold(inputs, |all, (_, path)| all.file(path)),
            Place::Absent(_) => inputs,
        }
    }

    /// The name of a file of results within the patient's folder; `what` is as in `mask.nii.gz`.
    pub(super) fn file(&self, what: &str) -> String {
        match &self.names {
            Names::Plain => format!("{}_{what}", self.file_name()),
            Names::Bids(derivative) => derivative.file(what),
        }
    }

    /// The last part of the id.
    fn file_name(&self) -> &str {
        self.id.rsplit('/').next().unwrap_or(&self.id)
    }

    /// Writes what the input's own format has beside NIfTI files, of the mask on the grid of the volumes.
    pub(super) fn add_own(
        &self,
        folder: &mut OutputFolder,
        row: &Row,
        mask: &Volume,
    ) -> Result<()> {
        if let Names::Bids(derivative) = &self.names {
            derivative.describe(folder, row.0)?;
        }
        if let Place::Dicom(_, chosen) = &self.place {
            chosen.segment(folder, &self.file("seg.dcm"), row, mask)?;
        }
        Ok(())
    }
}

/// A row of the method, and its settings.
pub(super) type Row = (Method, DetectConfig);

/// Who is looked at, and who was passed over.
pub(super) struct Listed {
    pub(super) inputs: Vec<Input>,
    pub(super) left_out: Vec<String>,
    /// Why folders that are left out can't be read, by what would be their patients' ids.
    pub(super) unreadable: BTreeMap<String, String>,
}

impl Listed {
    /// Those that a list names, in its order: by their ids, whatever they came from.
    fn only(mut self, names: Vec<String>) -> Self {
        let mut all: BTreeMap<String, Input> = std::mem::take(&mut self.inputs)
            .into_iter()
            .map(|input| (input.id.clone(), input))
            .collect();
        let found = names.into_iter().map(|id| match all.remove(&id) {
            Some(input) => input,
            None => Input {
                place: Place::Absent(self.unreadable.remove(&id)),
                names: Names::Plain,
                id,
            },
        });
        Self {
            inputs: found.collect(),
            left_out: Vec::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// The patients' folders, named one by one; each is called by its name.
    fn folders(paths: &[String]) -> Self {
        let input = |path: &String| {
            let place = PathBuf::from(path);
            let name = place.file_name().map(|name| name.to_string_lossy());
            Input {
                id: name.map_or_else(|| path.clone(), Cow::into_owned),
                place: Place::Folder(place),
                names: Names::Plain,
            }
        };
        Self {
            inputs: paths.iter().map(input).collect(),
            left_out: Vec::new(),
            unreadable: BTreeMap::new(),
        }
    }

    fn one(id: String, place: Place) -> Self {
        Self {
            inputs: vec![Input {
                id,
                place,
                names: Names::Plain,
            }],
            left_out: Vec::new(),
            unreadable: BTreeMap::new(),
        }
    }
}

/// Those that are asked for, as far as a list names them.
pub(super) fn list(options: &Options, model: &ModelConfig, row: &Row) -> Result<Listed> {
    let Some(file) = &options.list else {
        return list_all(options, model, row);
    };
    let names = shards::list::read(file)?;
    let listed = match options.data.is_some() || options.bids.bids.is_some() {
        false => Listed::folders(&names),
        true => list_all(options, model, row)?.only(names),
    };
    for input in &listed.inputs {
        check_id(&input.id).context("--list")?;
    }
    Ok(listed)
}

fn list_all(options: &Options, model: &ModelConfig, row: &Row) -> Result<Listed> {
    let sequences = &model.names_to_read();
    if let Some(root) = &options.bids.bids {
        return bids::list(root, &options.bids, sequences, row);
    }
    if let Some(id) = &options.id {
        check_id(id).context("--id")?;
    }
    if let Some(root) = &options.dicom.dicom {
        let id = match &options.id {
            Some(id) => id.clone(),
            None => folder_name(root)?,
        };
        check_id(&id)?;
        let chosen = dicom::choose(
            root,
            &options.dicom,
            sequences,
            model.preprocess.brain_mask.clone(),
        )?;
        return Ok(Listed::one(id, Place::Dicom(root.clone(), chosen)));
    }
    match (&options.patient, &options.data, options.files.as_slice()) {
        (Some(path), None, []) => {
            ensure!(
                path.is_dir(),
                "--patient {}: expected a folder",
                path.display()
            );
            // A missing sequence is told now.
            let found = Files::find_sequences(path, sequences)?;
            let id = options.id.clone().unwrap_or(found.id);
            check_id(&id).context("--id")?;
            Ok(Listed::one(id, Place::Folder(path.clone())))
        }
        (None, Some(root), []) => {
            let listed = list_patients(root)?;
            let inputs = listed.ids.into_iter().map(|id| Input {
                id,
                place: Place::Below(root.clone()),
                names: Names::Plain,
            });
            let left_out = listed.left_out.iter();
            let unreadable = left_out.clone().filter_map(|l| {
                let id = l.path.strip_prefix(root).ok()?.to_str()?;
                Some((id.to_owned(), chain(&l.reason)))
            });
            Ok(Listed {
                inputs: inputs.collect(),
                left_out: left_out.map(|l| chain(&l.reason)).collect(),
                unreadable: unreadable.collect(),
            })
        }
        (None, None, files @ [_, ..]) => {
            let Some(id) = &options.id else {
                bail!("--file: expected --id ID too, which the results are written under");
            };
            Ok(Listed::one(
                id.clone(),
                Place::Files(named(files, sequences)?),
            ))
        }
        _ => bail!(
            "expected --patient DIR, --data DIR, --list FILE, --bids DIR, --dicom DIR, or --file SEQUENCE=FILE for each sequence"
        ),
    }
}

/// The name of a folder, also where it is given as `.`.
fn folder_name(folder: &Path) -> Result<String> {
    let full;
    let name = match folder.file_name() {
        Some(name) => Some(name),
        None => {
            full = folder
                .canonicalize()
                .with_context(|| format!("{}", folder.display()))?;
            full.file_name()
        }
    };
    match name.and_then(OsStr::to_str) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("{}: give the patient's id by --id", folder.display()),
    }
}

/// The files of `--file`, in the order of the sequences; each sequence once.
fn named(files: &[OsString], sequences: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut given: Vec<(String, PathBuf)> = Vec::new();
    for text in files {
        let shown = text.display();
        let Some((name, path)) = split(text) else {
            bail!("--file {shown}: expected SEQUENCE=FILE");
        };
        ensure!(!path.is_empty(), "--file {shown}: expected a path");
        ensure!(
            sequences.contains(&name),
            "--file {shown}: the model takes {}",
            sequences.join(", ")
        );
        ensure!(
            given.iter().all(|(other, _)| *other != name),
            "--file {shown}: {name} is given twice"
        );
        let path = PathBuf::from(path);
        ensure!(
            path.exists(),
            "--file {name}={}: no such file",
            path.display()
        );
        given.push((name, path));
    }
    let mut ordered = Vec::new();
    for name in sequences {
        let Some(found) = given.iter().find(|(other, _)| other == name) else {
            bail!(
                "expected --file {name}=FILE: the model takes {}",
                sequences.join(", ")
            );
        };
        ordered.push(found.clone());
    }
    Ok(ordered)
}

/// Name and path of `NAME=PATH`; a path may be any bytes.
fn split(text: &OsStr) -> Option<(String, OsString)> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let bytes = text.as_bytes();
        let at = bytes.iter().position(|&byte| byte == b'=')?;
        let name = std::str::from_utf8(&bytes[..at]).ok()?;
        Some((name.into(), OsStr::from_bytes(&bytes[at + 1..]).into()))
    }
    #[cfg(not(unix))]
    {
        let (name, path) = text.to_str()?.split_once('=')?;
        Some((name.into(), path.into()))
    }
}
