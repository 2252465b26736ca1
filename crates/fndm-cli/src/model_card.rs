//! What a model is for, in words.
//!
//! fndm model-card out/model

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use fndm::{ModelCard, model_folder};

/// Show what a model is, what it is for and what it was trained on; or add to what its folder says.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The model folder
    model: PathBuf,
    /// As JSON, with the keys of MONAI's bundles
    #[arg(long)]
    json: bool,
    /// Lay this JSON object over the card, key by key, and keep it in the folder (metadata.json)
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    set: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(given) = &options.set {
        add(&options.model, given)?;
        say!("{}", options.model.join(model_folder::METADATA).display());
        return Ok(ExitCode::SUCCESS);
    }
    let card = ModelCard::read(&options.model)?;
    match options.json {
        true => say!("{}", serde_json::to_string_pretty(&card)?),
        false => say!("{}", card.markdown().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays a user's JSON object over the card in a model folder.
pub(crate) fn add(model: &Path, given: &Path) -> Result<()> {
    let card = ModelCard::read(model)?.with(given)?;
    card.check()?;
    let file = (model_folder::METADATA.to_owned(), card.to_bytes()?);
    Ok(model_folder::extend(
        model,
        BTreeMap::from([file]),
        |config| config.metadata = true,
    )?)
}
