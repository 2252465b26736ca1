//! The paper's first table: rivals that learn from healthy slices, beside our own methods.

mod folds;
mod ours;
mod rows;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use fndm::models::BackboneKind;
use fndm_files::{Inputs, WorkFolder};
use fndm_study::rivals::{Pretrained, RivalPlan, RivalRow, TableSettings};
use fndm_study::train::StopFlag;

use crate::common::{self, place};

#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The model folder: our own rows, and the classifier whose encoder gives features
    #[arg(long, value_name = "DIR", default_value = "assets/lgg")]
    model: PathBuf,
    /// Folder of patients: <id>/<id>_<sequence>.nii.gz and <id>/<id>_seg.nii.gz
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Which patients are examined: val or test of the split file. The rivals learn from the healthy slices of train
    #[arg(long, default_value = "val", conflicts_with = "folds")]
    split: String,
    /// JSON file with the lists train, val, test; default: splits.json in the data folder
    #[arg(long, value_name = "FILE", conflicts_with = "folds")]
    split_file: Option<PathBuf>,
    /// Choose settings: fit and examine the rivals fold by fold, by this JSON file, and try ways from a map to a mask
    #[arg(long, value_name = "FILE")]
    folds: Option<PathBuf>,
    /// Only these folds, counted from 0; default: all
    #[arg(long, value_delimiter = ',', value_name = "I,I", requires = "folds")]
    only: Option<Vec<usize>>,
    /// Settings of the rivals; default: table1.json in the model folder
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Weights of ImageNet, by timm's or torchvision's names; again for another network. Networks: efficientnet_lite0,
    /// efficientnet_b5, resnet18, resnet50, wide_resnet50_2
    #[arg(long, value_name = "NETWORK=FILE")]
    backbone: Vec<String>,
    /// Rows by their keys; default: all
    #[arg(long, value_delimiter = ',', value_name = "KEYS")]
    rows: Option<Vec<String>>,
    /// A second row of each rival, with its own way from a map to a mask
    #[arg(long)]
    own_post: bool,
    /// Where fitted rivals, checkpoints and results go; a run that was stopped or killed goes on from there
    #[arg(long, value_name = "DIR", default_value = "out/table1")]
    output: PathBuf,
    #[command(flatten)]
    device: common::DeviceOptions,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let stop = common::stop_by_ctrl_c()?;
    match &options.folds {
        Some(file) => folds::run(options, file, &stop),
        None => ours::run(options, &stop),
    }
}

impl Options {
    fn settings_file(&self) -> PathBuf {
        let default = || self.model.join("table1.json");
        self.settings.clone().unwrap_or_else(default)
    }

    /// What is read, and must not be written.
    fn inputs(&self) -> Result<Inputs> {
        let mut inputs = Inputs::new().whole(&self.model).file(self.settings_file());
        for (_, path) in self.backbones()? {
            inputs = inputs.file(path);
        }
        Ok(inputs)
    }

    fn backbones(&self) -> Result<Vec<(BackboneKind, PathBuf)>> {
        let parse = |text: &String| {
            let parts = text.split_once('=');
            let kind = parts.and_then(|(name, _)| {
                serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
            });
            let (Some(kind), Some((_, path))) = (kind, parts) else {
                anyhow::bail!("--backbone: expected NETWORK=FILE, got {text}");
            };
            Ok((kind, PathBuf::from(path)))
        };
        self.backbone.iter().map(parse).collect()
    }

    /// The rivals that can be fitted, and the seed of their trainings.
    fn plan(&self) -> Result<(RivalPlan, u64)> {
        let settings = TableSettings::read(&self.settings_file())?;
        let device = self.device.device()?;
        let networks = self.backbones()?.into_iter().map(|(kind, path)| {
            Pretrained::read(kind, &path, &device).with_context(|| path.display().to_string())
        });
        let networks = networks.collect::<Result<Vec<_>>>()?;
        let mut plan = settings.plan(&self.model, &networks, &device)?;
        if !plan.without_weights.is_empty() {
            tell!(
                "no rows with weights of ImageNet for {}: give --backbone NETWORK=FILE",
                plan.without_weights.join(", ")
            );
        }
        if let Some(keys) = &self.rows {
            plan.rows.retain(|row| keys.contains(&row.key));
        }
        Ok((plan, settings.seed))
    }

    /// Fails on a key of `--rows` that is none of these.
    fn check_rows(&self, rivals: &[RivalRow], others: &[&str]) -> Result<()> {
        for key in self.rows.iter().flatten() {
            let known = others.contains(&key.as_str()) || rivals.iter().any(|row| row.key == *key);
            ensure!(
                known,
                "--rows: expected {} or METHOD_BACKBONE, as stfpm_classifier or dae, got {key}",
                others.join(", ")
            );
        }
        Ok(())
    }

    fn folder(&self, inputs: &Inputs) -> Result<WorkFolder> {
        let maker = place::maker("reproduce", "table 1");
        place::check_work(&self.output, &maker, inputs)?;
        Ok(WorkFolder::open(&self.output, &maker, inputs)?)
    }

    /// Where the fitted rivals lie.
    fn fits(&self) -> PathBuf {
        self.output.join("fits")
    }
}

/// Whether a run is to end, which is then said.
fn stopped(stop: &StopFlag) -> bool {
    if stop.is_set() {
        say!("stopped; run the same command again to go on");
    }
    stop.is_set()
}
