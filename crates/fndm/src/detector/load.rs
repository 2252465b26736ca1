//! From a model folder, and into one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use fndm_memory::{Contrast, MemoryBank};
use fndm_models::{Limits, StateDict};

use super::{Detector, Parts};
use crate::{Error, ModelConfig, Result, model_folder as names};

/// How often a model folder is read again that changes while it is read.
const ATTEMPTS: usize = 5;

impl Detector {
    /// Loads a model folder.
    ///
    /// # Errors
    /// When a file is missing or broken, or a tensor is missing or of the wrong shape: the error names the file.
    pub fn load(folder: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::load_in(folder, device, DType::F32)
    }

    /// As [`Detector::load`], with a UNet that computes in `dtype`: bf16 halves its memory, and is faster on GPUs that have it. The
    /// classifier, whose features are compared with those in the bank, stays f32.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn load_in(folder: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Self> {
        let folder = folder.as_ref();
        // A training may replace the model meanwhile: then what was read may be of both.
        for _ in 0..ATTEMPTS {
            let before = fs::read(folder.join(names::CONFIG)).ok();
            let loaded = load_once(folder, device, dtype);
            if fs::read(folder.join(names::CONFIG)).ok() == before {
                return loaded;
            }
            tracing::warn!(folder = %folder.display(), "the model changed while it was read: once more");
        }
        Err(Error::Input {
            what: format!("model folder {}", folder.display()),
            expected: "one that stays as it is while it is read".into(),
            got: format!("{ATTEMPTS} changes"),
        })
    }
}

fn load_once(folder: &Path, device: &Device, dtype: DType) -> Result<Detector> {
    let config = ModelConfig::read(&file_in(folder, names::CONFIG)?)?;
    let mut builder = Detector::builder(config.clone())
        .device(device)
        .precision(dtype)
        .named_by(folder);
    if config.unet.is_some() {
        builder = builder
            .unet(tensors(folder, names::UNET)?)
            .classifier(tensors(folder, names::CLASSIFIER)?)
            .bank(MemoryBank::load(names::file(folder, names::MEMORY)?)?);
    }
    if config.distilled.as_ref().is_some_and(|d| d.encoder) {
        builder = builder.encoder(tensors(folder, names::ENCODER)?);
    }
    for &method in config.separate.keys() {
        builder = builder.separate(method, tensors(folder, &names::separate(method))?);
    }
    // Where model.json speaks of none, a file of that name is another model's.
    if config.contrast {
        builder = builder.contrast(Contrast::load(names::file(folder, names::CONTRAST)?)?);
    }
    if config.student.is_some() {
        builder = builder.student(tensors(folder, names::STUDENT)?);
    }
    let detector = builder.build()?;
    tracing::info!(
        folder = %folder.display(),
        sequences = config.sequences.join(","),
        diffusion = config.unet.is_some(),
        separate = config.separate.len(),
        contrast = config.contrast,
        student = config.student.is_some(),
        "model loaded"
    );
    Ok(Detector {
        parts: Parts::Folder(folder.to_path_buf()),
        ..detector
    })
}

fn file_in(folder: &Path, file: &str) -> Result<PathBuf> {
    let path = folder.join(file);
    if !path.is_file() {
        return Err(Error::MissingModelFile {
            folder: folder.to_path_buf(),
            file: file.to_string(),
        });
    }
    Ok(path)
}

/// The tensors of a network's file, read within limits. They are stored in half precision; who builds the network widens them,
/// and refuses those that it doesn't know. Errors name the file.
fn tensors(folder: &Path, file: &str) -> Result<StateDict> {
    let path = names::file(folder, file)?;
    Ok(StateDict::read(path, &Limits::default())?)
}

pub(super) fn save(detector: &Detector, folder: &Path) -> Result<()> {
    let config = &mut detector.config.clone();
    let mut files = BTreeMap::new();
    match &detector.parts {
        Parts::Folder(from) => {
            let present = ModelConfig::read(&file_in(from, names::CONFIG)?)?;
            if present != *config {
                return Err(Error::Input {
                    what: format!("model folder {}", from.display()),
                    expected: "the model that was read from it".into(),
                    got: "another one".into(),
                });
            }
            for name in names::names_of(config) {
                let path = names::file(from, &name)?;
                files.insert(name, fs::read(&path).map_err(Error::io(&path))?);
            }
            if let Ok(path) = names::file(from, names::TRAINING) {
                let bytes = fs::read(&path).map_err(Error::io(&path))?;
                files.insert(names::TRAINING.to_owned(), bytes);
            }
        }
        Parts::Given {
            networks,
            bank,
            contrast,
        } => {
            // These are of the folder that the config is from.
            (config.data_statistics, config.metadata) = (false, false);
            for (name, state) in networks {
                files.insert(name.clone(), names::weight_bytes(state.tensors())?);
            }
            if let Some(bank) = bank {
                files.insert(names::MEMORY.to_owned(), bank.to_bytes()?);
            }
            if let Some(contrast) = contrast {
                files.insert(names::CONTRAST.to_owned(), contrast.to_bytes()?);
            }
        }
    }
    names::replace(folder, config, &files)
}
