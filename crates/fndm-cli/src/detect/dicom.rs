//! A DICOM study in, a DICOM Segmentation beside the NIfTI files out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::Args;
use fndm::data::dicom::{self, Algorithm, Series, Study};
use fndm::data::{Limits, Patient, Volume, resample, resample_mask};
use fndm::{DetectConfig, Method};
use fndm_files::{OutputFolder, chain};
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct DicomOptions {
    /// One patient's DICOM study: a folder with its series, each told by description and times. A Segmentation object is written too
    #[arg(long, value_name = "DIR", group = "input")]
    pub(super) dicom: Option<PathBuf>,
    /// Which series a sequence is, where it isn't told rightly: flair=7 (its number) or flair=1.2.840… (its UID)
    #[arg(long = "series", value_name = "SEQUENCE=SERIES", requires = "dicom", conflicts_with_all = ["patient", "data", "files", "bids"])]
    series: Vec<String>,
    /// Bring sequences onto the grid of the model's first by linear interpolation. They must share a frame of reference; nothing is
    /// registered
    #[arg(long, requires = "dicom", conflicts_with_all = ["patient", "data", "files", "bids"])]
    pub(super) resample: bool,
}

/// The series of a study that are the model's sequences.
pub(super) struct Chosen {
    series: Vec<(String, Series)>,
    resample: bool,
    /// Which of them is a mask.
    brain_mask: Option<String>,
}

/// Finds the sequences in a study, and tells what it found and why.
pub(super) fn choose(
    root: &Path,
    options: &DicomOptions,
    sequences: &[String],
    brain_mask: Option<String>,
) -> Result<Chosen> {
    ensure!(
        root.is_dir(),
        "--dicom {}: expected a folder",
        root.display()
    );
    let study = dicom::read_study(root, &Limits::default())?;
    for file in study.unusable.iter().filter(|file| file.damaged) {
        tell!("left out: {}", chain(&file.reason));
    }
    if study.series.is_empty() {
        // Objects of another kind are worth a word where there is nothing else, as a scanner's mosaics.
        match study.unusable.iter().find(|file| !file.damaged) {
            Some(file) => bail!(
                "{}: no DICOM image is in it that can be used; {} of another kind, the first: {}",
                root.display(),
                fndm_files::counted(study.unusable.len(), "file"),
                chain(&file.reason)
            ),
            None => bail!("{}: no DICOM image is in it", root.display()),
        }
    }
    check_one_study(root, &study)?;
    let given = given(options, &study, sequences)?;
    say!("{}:", root.display());
    for series in &study.series {
        let named = given.iter().find(|(_, uid)| uid == series.uid());
        let kind = match named {
            Some((sequence, _)) => format!("{sequence} (as asked)"),
            None => series.kind().to_string(),
        };
        say!(
            "  series {}, {}: {kind}",
            series.number(),
            fndm_files::counted(series.len(), "slice")
        );
    }
    let mut chosen = Vec::new();
    for sequence in sequences {
        let series = one(&study, sequence, &given)?;
        say!(
            "{sequence} is series {} \"{}\"",
            series.number(),
            series.description()
        );
        chosen.push((sequence.clone(), series.clone()));
    }
    let distinct: BTreeSet<&str> = chosen.iter().map(|(_, series)| series.uid()).collect();
    ensure!(
        distinct.len() == chosen.len(),
        "one series is taken for two sequences: name each by --series"
    );
    Ok(Chosen {
        series: chosen,
        resample: options.resample,
        brain_mask,
    })
}

/// A folder of two patients or two studies is no place to choose from.
fn check_one_study(root: &Path, study: &Study) -> Result<()> {
    // A name may be spelt in two ways; an id isn't.
    let called = |series: &Series| match series.patient() {
        (id, name) if id.is_empty() => name,
        (id, _) => id,
    };
    let patients: BTreeSet<_> = study.series.iter().map(called).collect();
    ensure!(
        patients.len() == 1,
        "{} has series of {} patients: expected one patient's study",
        root.display(),
        patients.len()
    );
    let studies: BTreeSet<_> = study.series.iter().map(Series::study).collect();
    ensure!(
        studies.len() == 1,
        "{} has series of {} studies: give the folder of one ({})",
        root.display(),
        studies.len(),
        studies.into_iter().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

/// The series of `--series`: sequence and UID.
fn given(
    options: &DicomOptions,
    study: &Study,
    sequences: &[String],
) -> Result<Vec<(String, String)>> {
    let mut out: Vec<(String, String)> = Vec::new();
    for text in &options.series {
        let Some((sequence, wanted)) = text.split_once('=') else {
            bail!("--series {text}: expected SEQUENCE=SERIES");
        };
        ensure!(
            sequences.iter().any(|own| own == sequence),
            "--series {text}: the model takes {}",
            sequences.join(", ")
        );
        ensure!(
            out.iter().all(|(other, _)| other != sequence),
            "--series {text}: {sequence} is given twice"
        );
        let is = |series: &&Series| series.uid() == wanted || series.number().to_string() == wanted;
        let found: Vec<&Series> = study.series.iter().filter(is).collect();
        match found.as_slice() {
            [one] => out.push((sequence.into(), one.uid().into())),
            [] => bail!(
                "--series {text}: no such series; there are {}",
                listed(&study.series)
            ),
            several => bail!(
                "--series {text}: {} series have this number: give the UID, {}",
                several.len(),
                several
                    .iter()
                    .map(|s| s.uid())
                    .collect::<Vec<_>>()
                    .join(" or ")
            ),
        }
    }
    Ok(out)
}

fn listed<'a>(series: impl IntoIterator<Item = &'a Series>) -> String {
    let named = series.into_iter();
    let named = named.map(|s| format!("{} \"{}\"", s.number(), s.description()));
    named.collect::<Vec<_>>().join(", ")
}

/// The series of a sequence: the one asked for, else the only one told so. Of several those as acquired are preferred to computed ones.
fn one<'a>(study: &'a Study, sequence: &str, given: &[(String, String)]) -> Result<&'a Series> {
    if let Some((_, uid)) = given.iter().find(|(own, _)| own == sequence) {
        let found = study.series.iter().find(|series| series.uid() == uid);
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let taken = |series: &Series| given.iter().any(|(_, uid)| uid == series.uid());
    let fitting = study
        .series
        .iter()
        .filter(|s| !taken(s) && s.kind().is(sequence));
    let mut fitting: Vec<&Series> = fitting.collect();
    if fitting.iter().any(|series| series.kind().original) {
        fitting.retain(|series| series.kind().original);
    }
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => bail!(
            "no series is told to be {sequence}: name it, as --series {sequence}=NUMBER; there are {}",
            listed(&study.series)
        ),
        [first, ..] => bail!(
            "{sequence} could be {}: choose one, as --series {sequence}={}",
            listed(fitting.iter().copied()),
            first.number()
        ),
    }
}

impl Chosen {
    /// Every file of every series, by sequence and number.
    pub(super) fn files(&self) -> Vec<(String, PathBuf)> {
        let mut all = Vec::new();
        for (name, series) in &self.series {
            let paths = series.paths().into_iter().enumerate();
            all.extend(paths.map(|(n, path)| (format!("{name} {n:05}"), path.to_path_buf())));
        }
        all
    }

    pub(super) fn read(&self, id: &str) -> Result<Patient> {
        let mut sequences: Vec<(String, Volume)> = Vec::new();
        for (name, series) in &self.series {
            let volume = series.read(&Limits::default())?;
            sequences.push((name.clone(), volume));
        }
        if self.resample {
            self.onto_first(&mut sequences)?;
        }
        let patient = Patient {
            id: id.to_owned(),
            sequences,
            mask: None,
        };
        match patient.check() {
            Err(error @ fndm::data::Error::GridMismatch { .. }) if !self.resample => {
                let hint = "the model takes sequences on one grid: --resample brings them onto the first one's";
                Err(anyhow::Error::new(error).context(hint))
            }
            checked => Ok(checked.map(|()| patient)?),
        }
    }

    fn onto_first(&self, sequences: &mut [(String, Volume)]) -> Result<()> {
        let (Some((first, rest)), Some((_, reference))) =
            (sequences.split_first_mut(), self.series.first())
        else {
            return Ok(());
        };
        for ((name, volume), (_, series)) in rest.iter_mut().zip(self.series.iter().skip(1)) {
            let same = volume.shape() == first.1.shape() && volume.affine == first.1.affine;
            if same {
                continue;
            }
            let space = reference.frame_of_reference();
            ensure!(
                !space.is_empty() && space == series.frame_of_reference(),
                "{name} and {} have no frame of reference in common: where one lies in the other isn't known",
                first.0
            );
            *volume = match self.brain_mask.as_ref() == Some(name) {
                // Between brain and not there is nothing.
                true => resample_mask(volume, &first.1)?,
                false => resample(volume, &first.1)?,
            };
            tell!("{name} is brought onto the grid of {}", first.0);
        }
        Ok(())
    }

    /// Writes the Segmentation.
    pub(super) fn segment(
        &self,
        folder: &mut OutputFolder,
        name: &str,
        (method, config): &(Method, DetectConfig),
        mask: &Volume,
    ) -> Result<()> {
        let sources: Vec<&Series> = self.series.iter().map(|(_, series)| series).collect();
        let algorithm = Algorithm {
            name: format!("fndm, {}", method.title()),
            version: env!("CARGO_PKG_VERSION").into(),
            settings: json!({ "method": method, "settings": config, "resampled": self.resample })
                .to_string(),
        };
        let path = folder.file(name)?;
        Ok(dicom::write_segmentation(path, mask, &sources, &algorithm)?)
    }
}
