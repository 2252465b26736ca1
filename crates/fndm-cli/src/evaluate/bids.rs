//! The sessions of a BIDS data set, with masks of lesions among their images or in a derivative.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use fndm::data::Limits;
use fndm::data::bids::{Filter, Session, Tree};
use fndm::data::layout::Files;
use fndm_files::{Inputs, chain};
use fndm_study::{LeftOut, Source};

#[derive(Debug, Args)]
pub(super) struct BidsOptions {
    /// A BIDS data set instead of --data: each session of a subject is a patient. The truth is its mask of lesions, by names such as
    /// _label-lesion_mask, _label-L_mask or _desc-tumor_dseg. All sessions count, whatever --split says
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "phantom", "split_file"])]
    pub(super) bids: Option<PathBuf>,
    /// The derivative that has the masks of lesions, by the same subjects and sessions. There _mask and _dseg will do
    #[arg(long = "bids-masks", value_name = "DIR", requires = "bids")]
    masks: Option<PathBuf>,
    /// Which files are meant, where several fit: ses=pre, run=2, acq= (without one), t1:run=2 (for one sequence), mask:desc=manual (for
    /// the mask of lesions)
    #[arg(long = "bids-filter", value_name = "ENTITY=VALUE", requires = "bids", num_args = 1..)]
    filters: Vec<Filter>,
}

impl BidsOptions {
    /// What is read beside the patients' own files.
    pub(super) fn add_to(&self, inputs: Inputs) -> Inputs {
        let folders = self.bids.iter().chain(&self.masks);
        folders.fold(inputs, Inputs::folder)
    }
}

/// The sessions that can be used, and why others can't.
pub(super) fn source(
    root: &Path,
    options: &BidsOptions,
    sequences: &[String],
) -> Result<(Source, Vec<LeftOut>)> {
    for filter in &options.filters {
        if let Some(named) = filter.sequence() {
            let mut known = sequences.iter().map(String::as_str).chain([Session::MASK]);
            ensure!(
                known.any(|name| name.eq_ignore_ascii_case(named)),
                "--bids-filter {filter}: the model takes {}, and there is {}",
                sequences.join(", "),
                Session::MASK
            );
        }
    }
    let limits = Limits::default();
    let tree = Tree::read(root, &options.filters, &limits)?;
    let masks = match &options.masks {
        Some(masks) => {
            let tree = Tree::read(masks, &options.filters, &limits).context("--bids-masks")?;
            let sessions = tree.sessions.into_iter();
            Some(sessions.map(|s| (s.id(), s)).collect::<BTreeMap<_, _>>())
        }
        None => None,
    };
    let mut left_out: Vec<LeftOut> = tree
        .left_out
        .iter()
        .map(|left_out| LeftOut {
            patient: left_out.path.display().to_string(),
            reason: chain(&left_out.reason),
        })
        .collect();
    let mut patients = Vec::new();
    for session in &tree.sessions {
        let with_mask = match &masks {
            Some(masks) => masks.get(&session.id()),
            None => Some(session),
        };
        match files(session, with_mask, masks.is_some(), options, sequences) {
            Ok(files) => patients.push(files),
            Err(error) => left_out.push(LeftOut {
                patient: session.id(),
                reason: chain(error.as_ref()),
            }),
        }
    }
    let path = root.to_owned();
    Ok((Source::Files { path, patients }, left_out))
}

fn files(
    session: &Session,
    with_mask: Option<&Session>,
    masks_alone: bool,
    options: &BidsOptions,
    sequences: &[String],
) -> Result<Files> {
    let chosen = session.choose(sequences, &options.filters)?;
    let mask = match with_mask {
        Some(session) => session.lesion_mask(&options.filters, masks_alone)?,
        None => None,
    };
    Ok(Files {
        id: session.id(),
        sequences: chosen
            .into_iter()
            .map(|(name, image)| (name, image.path.clone()))
            .collect(),
        mask: mask.map(|image| image.path.clone()),
    })
}
