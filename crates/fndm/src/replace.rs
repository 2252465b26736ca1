//! Putting one model in the place of another, as a whole.
//!
//! A model is several files, and no file system renames several at once. So `model.json` alone decides: it is the last to
//! change, by one rename, and the files that it speaks of are never written to. New files get the name that the present
//! `model.json` doesn't use: NAME, or NAME.new, which `model.json` then lists under `staged`. Afterwards NAME is made of NAME.new
//! and `model.json` written once more. Whenever the process ends, the folder holds the old model or the new one, whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use fndm_files::{read_json, sync_folder, write_atomic, write_json};
use serde_json::Value;

use crate::model_folder as file_names;
use crate::{Error, Method, ModelConfig, Result};

/// Key of `model.json`: the files that stand under their other name.
const STAGED: &str = "staged";

/// What runs before every change of the folder: a test ends the work there.
type Before<'a> = &'a mut dyn FnMut() -> Result<()>;

/// Writes a model into `folder`: its config as `model.json`, and its other files by name. One that is there is replaced, at one
/// moment. Files of the folder that don't belong to a model are left alone.
///
/// # Errors
/// When a file can't be written, a `model.json` that is there can't be understood, or a name isn't one of a model's files. The
/// old model then is as it was.
pub fn replace(
    folder: &Path,
    config: &ModelConfig,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    replace_with(folder, config, files, &mut || Ok(()))
}

fn replace_with(
    folder: &Path,
    config: &ModelConfig,
    parts: &BTreeMap<String, Vec<u8>>,
    before: Before<'_>,
) -> Result<()> {
    config.check()?;
    if let Some(name) = parts.keys().find(|name| !is_part(name)) {
        return Err(Error::option("model file", names().join(", "), name));
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let json = folder.join(file_names::CONFIG);
    let present = read_staged(&json)?;
    // Of a model that is there what the new one hasn't is its own too, and would be taken for somebody's later.
    let old =
        ModelConfig::read(&json).map_or_else(|_| Vec::new(), |old| file_names::names_of(&old));
    let mut staged = BTreeSet::new();
    for (name, bytes) in parts {
        let (plain, new) = (folder.join(name), staged_path(folder, name));
        // Where the present model has this file, and where it hasn't. Without a model nothing is in use.
        let (used, free) = match &present {
            None => (&plain, &plain),
            Some(there) if there.contains(name) => (&new, &plain),
            Some(_) => (&plain, &new),
        };
        let target = if holds(used, bytes)? {
            used
        } else {
            before()?;
            write_atomic(free, bytes)?;
            free
        };
        if target == &new {
            staged.insert(name.clone());
        }
    }
    before()?;
    write_config(&json, config, &staged)?;
    // From here on it is the new model. What is left gives its files their own names.
    for name in &staged {
        if let Some(bytes) = parts.get(name) {
            before()?;
            write_atomic(folder.join(name), bytes)?;
        }
    }
    if !staged.is_empty() {
        before()?;
        write_config(&json, config, &BTreeSet::new())?;
    }
    let leftover = old.iter().filter(|name| !parts.contains_key(*name));
    let leftover = leftover.map(|name| folder.join(name));
    let staged = names().into_iter().map(|name| staged_path(folder, &name));
    for path in staged.chain(leftover) {
        if path.is_file() {
            before()?;
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
    }
    sync_folder(folder);
    Ok(())
}

/// Changes the config of the model in `folder` and adds these files, or puts them in the place of those of the same name; all others stay.
///
/// # Errors
/// As [`replace`]; when there is no model, or a file of it is missing.
pub fn extend(
    folder: &Path,
    more: BTreeMap<String, Vec<u8>>,
    change: impl FnOnce(&mut ModelConfig),
) -> Result<()> {
    let json = folder.join(file_names::CONFIG);
    if !json.is_file() {
        return Err(Error::MissingModelFile {
            folder: folder.to_path_buf(),
            file: file_names::CONFIG.to_owned(),
        });
    }
    let mut config = ModelConfig::read(&json)?;
    let mut files = BTreeMap::new();
    let training = file(folder, file_names::TRAINING).is_ok();
    let training = training.then(|| file_names::TRAINING.to_owned());
    for name in names_of(&config).into_iter().chain(training) {
        let path = file(folder, &name)?;
        files.insert(name, fs::read(&path).map_err(Error::io(&path))?);
    }
    let foreign = more
        .keys()
        .find(|name| !files.contains_key(*name) && folder.join(name).exists());
    if let Some(name) = foreign {
        return Err(Error::Input {
            what: folder.join(name).display().to_string(),
            expected: "no file, for the model has none of this name".into(),
            got: "one that isn't the model's".into(),
        });
    }
    files.extend(more);
    change(&mut config);
    replace(folder, &config, &files)
}

/// The file of the model in `folder` that goes by this name.
///
/// # Errors
/// When `model.json` isn't valid, or there is no such file.
pub fn file(folder: &Path, name: &str) -> Result<PathBuf> {
    let staged = read_staged(&folder.join(file_names::CONFIG))?;
    let path = match staged.is_some_and(|staged| staged.contains(name)) {
        true => staged_path(folder, name),
        false => folder.join(name),
    };
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::MissingModelFile {
        folder: folder.to_path_buf(),
        file: name.to_owned(),
    })
}

/// All names that a model's files may have, `model.json` apart.
#[must_use]
pub fn names() -> Vec<String> {
    let fixed = [
        file_names::UNET,
        file_names::ENCODER,
        file_names::CLASSIFIER,
        file_names::MEMORY,
        file_names::CONTRAST,
        file_names::STUDENT,
        file_names::TRAINING,
        file_names::DATA,
        file_names::METADATA,
    ];
    let rows = Method::ALL.map(file_names::separate);
    fixed.map(String::from).into_iter().chain(rows).collect()
}

/// The names of the files that a model of this config has, `model.json` and `training.json` apart.
#[must_use]
pub fn names_of(config: &ModelConfig) -> Vec<String> {
    let diffusion = [file_names::UNET, file_names::CLASSIFIER, file_names::MEMORY];
    let diffusion = diffusion.into_iter().filter(|_| config.unet.is_some());
    let encoder = config.distilled.as_ref().is_some_and(|d| d.encoder);
    let encoder = encoder.then_some(file_names::ENCODER);
    let contrast = config.contrast.then_some(file_names::CONTRAST);
    let student = config.student.is_some().then_some(file_names::STUDENT);
    let data = config.data_statistics.then_some(file_names::DATA);
    let metadata = config.metadata.then_some(file_names::METADATA);
    let named = diffusion.chain(encoder).chain(contrast).chain(student);
    let named = named.chain(data).chain(metadata);
    let rows = config.separate.keys().map(|&row| file_names::separate(row));
    named.map(String::from).chain(rows).collect()
}

/// A network's tensors as the bytes of its file: in half precision, which is exact enough for inference and half the size. A tensor with a
/// value beyond its range stays in full.
///
/// # Errors
/// When a value isn't finite: such a network is of no use.
pub fn weight_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let first = |tensor: &Tensor| fndm_kernels::first_non_finite(tensor);
    let narrowed = tensors
        .iter()
        .map(|(name, tensor)| {
            if first(tensor)?.is_some() {
                return Err(Error::Input {
                    what: format!("parameter {name}"),
                    expected: "finite numbers".into(),
                    got: "NaN or infinity".into(),
                });
            }
            let half = tensor.to_dtype(DType::F16)?;
            match first(&half)? {
                None => Ok((name, half)),
                Some(_) => Ok((name, tensor.clone())),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    safetensors::serialize(narrowed, None).map_err(|e| Error::ModelFile {
        path: PathBuf::from("weights"),
        source: Box::new(e),
    })
}

fn is_part(name: &str) -> bool {
    names().iter().any(|known| known == name)
}

fn staged_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.new"))
}

fn holds(path: &Path, bytes: &[u8]) -> Result<bool> {
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io(path)(error)),
    };
    if length != bytes.len() as u64 {
        return Ok(false);
    }
    Ok(fs::read(path).map_err(Error::io(path))? == bytes)
}

/// The files of the present model that stand under their other name; `None` where there is no model.
fn read_staged(json: &Path) -> Result<Option<BTreeSet<String>>> {
    if !json.exists() {
        return Ok(None);
    }
    let mut value: Value = read_json(json, "model config")?;
    take_staged(json, &mut value).map(Some)
}

/// Takes the list out of what `model.json` holds.
pub(crate) fn take_staged(json: &Path, value: &mut Value) -> Result<BTreeSet<String>> {
    let listed = value
        .as_object_mut()
        .and_then(|object| object.remove(STAGED));
    let Some(listed) = listed else {
        return Ok(BTreeSet::new());
    };
    let staged: BTreeSet<String> =
        serde_json::from_value(listed).map_err(fndm_files::Error::json(json, "model config"))?;
    // A name from a file becomes a path: only those that we know.
    match staged.iter().find(|name| !is_part(name)) {
        Some(name) => Err(Error::option("staged", names().join(", "), name)),
        None => Ok(staged),
    }
}

fn write_config(json: &Path, config: &ModelConfig, staged: &BTreeSet<String>) -> Result<()> {
    let mut value =
        serde_json::to_value(config).map_err(fndm_files::Error::json(json, "model config"))?;
    if let (Some(object), false) = (value.as_object_mut(), staged.is_empty()) {
        let list = staged.iter().cloned().map(Value::from).collect();
        object.insert(STAGED.to_owned(), Value::Array(list));
    }
    Ok(write_json(json, &value)?)
}

#[cfg(test)]
mod tests {
    use fndm_models::{ClassifierConfig, UNetConfig};

    use super::*;

    /// A model whose every file says which version it is of.
    fn model(version: u32, with_contrast: bool) -> (ModelConfig, BTreeMap<String, Vec<u8>>) {
        let mut config = ModelConfig::new(
            &["flair"],
            UNetConfig::small_64(3, 1),
            ClassifierConfig::small_64(1),
        );
        config.fndm_version = version.to_string();
        config.contrast = with_contrast;
        let mut names = vec![
            file_names::UNET,
            file_names::CLASSIFIER,
            file_names::MEMORY,
            file_names::TRAINING,
        ];
        if with_contrast {
            names.push(file_names::CONTRAST);
        }
        let files = names.into_iter().map(|name| {
            let text = format!("{name} of version {version}");
            (name.to_owned(), text.into_bytes())
        });
        (config, files.collect())
    }

    /// The version in the folder, once every file is seen to be of it.
    fn whole(folder: &Path) -> Option<u32> {
        let json = folder.join(file_names::CONFIG);
        if !json.exists() {
            return None;
        }
        let config = ModelConfig::read(&json).unwrap();
        let version: u32 = config.fndm_version.parse().unwrap();
        let (_, files) = model(version, config.contrast);
        for (name, bytes) in files {
            let path = file(folder, &name).unwrap();
            assert_eq!(fs::read(path).unwrap(), bytes, "{name}");
        }
        Some(version)
    }

    fn killed() -> Error {
        Error::option("a test", "to go on", "killed")
    }

    /// Replaces the model and dies before change number `at`; whether it came that far.
    fn dies_at(folder: &Path, version: u32, contrast: bool, at: usize) -> bool {
        let (config, files) = model(version, contrast);
        let mut left = at;
        let ended = replace_with(folder, &config, &files, &mut || {
            left = left.checked_sub(1).ok_or_else(killed)?;
            Ok(())
        });
        ended.is_err()
    }

    fn listed(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn killed_anywhere_it_is_the_old_model_or_the_new_one() {
        let (mut first, mut second) = (0, 0);
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let (config, files) = model(1, true);
            replace(folder, &config, &files).unwrap();
            assert_eq!(whole(folder), Some(1));
            if !dies_at(folder, 2, false, at) {
                assert_eq!(whole(folder), Some(2));
                let names = listed(folder);
                assert!(names.iter().all(|name| !name.ends_with(".new")));
                // What the old model had and the new one hasn't would be taken for a user's.
                assert!(!names.iter().any(|name| name == file_names::CONTRAST));
                break;
            }
            first += 1;
            assert!(matches!(whole(folder), Some(1 | 2)));
            // The next training dies as well, anywhere.
            for again in 0.. {
                let copy = tempfile::tempdir().unwrap();
                for name in listed(folder) {
                    fs::copy(folder.join(&name), copy.path().join(&name)).unwrap();
                }
                let died = dies_at(copy.path(), 3, true, again);
                let there = whole(copy.path());
                assert!(there == Some(3) || died && there == whole(folder));
                if !died {
                    let names = listed(copy.path());
                    assert!(names.iter().all(|name| !name.ends_with(".new")));
                    break;
                }
                second += 1;
            }
        }
        // Four files twice, and two configs, at least.
        assert!(first >= 10 && second > 50, "{first} {second}");
    }

    #[test]
    fn a_new_folder_is_no_model_before_all_is_there() {
        for at in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let died = dies_at(folder.path(), 1, true, at);
            assert_eq!(whole(folder.path()), (!died).then_some(1));
            if !died {
                let names = listed(folder.path());
                assert_eq!(names.len(), 6, "{names:?}");
                break;
            }
        }
    }

    #[test]
    fn what_did_not_change_is_not_written_and_the_users_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let (config, mut files) = model(1, false);
        replace(folder, &config, &files).unwrap();
        fs::write(folder.join("README.md"), "mine").unwrap();
        let date = |name: &str| folder.join(name).metadata().unwrap().modified().unwrap();
        let classifier = date(file_names::CLASSIFIER);
        files.insert(file_names::UNET.to_owned(), b"another".to_vec());
        replace(folder, &config, &files).unwrap();
        assert_eq!(date(file_names::CLASSIFIER), classifier);
        let unet = file(folder, file_names::UNET).unwrap();
        assert_eq!(fs::read(unet).unwrap(), b"another");
        assert_eq!(fs::read(folder.join("README.md")).unwrap(), b"mine");
    }

    #[test]
    fn weights_are_halved_where_that_loses_no_value() {
        let cpu = &candle_core::Device::Cpu;
        let small = Tensor::new(&[0.1f32, -65_504.], cpu).unwrap();
        let large = Tensor::new(&[0.1f32, 65_520.], cpu).unwrap();
        let tensors = BTreeMap::from([("small".into(), small), ("large".into(), large.clone())]);
        let bytes = weight_bytes(&tensors).unwrap();
        let read = candle_core::safetensors::load_buffer(&bytes, cpu).unwrap();
        assert_eq!(read["small"].dtype(), DType::F16);
        let kept = read["large"].to_vec1::<f32>().unwrap();
        assert_eq!(kept, large.to_vec1::<f32>().unwrap());
        for bad in [f32::NAN, f32::INFINITY] {
            let tensors = BTreeMap::from([("bad".into(), Tensor::new(&[bad], cpu).unwrap())]);
            let error = weight_bytes(&tensors).unwrap_err();
            assert!(error.to_string().contains("parameter bad"), "{error}");
        }
    }

    #[test]
    fn names_that_are_no_models_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (config, mut files) = model(1, false);
        files.insert("../elsewhere".to_owned(), Vec::new());
        assert!(replace(folder.path(), &config, &files).is_err());
        assert!(listed(folder.path()).is_empty());
        let json = folder.path().join(file_names::CONFIG);
        fs::write(&json, r#"{"staged": ["../elsewhere"]}"#).unwrap();
        assert!(file(folder.path(), file_names::UNET).is_err());
        // A model.json that isn't one of ours is not written over.
        fs::write(&json, "mine").unwrap();
        files.remove("../elsewhere");
        assert!(replace(folder.path(), &config, &files).is_err());
        assert_eq!(fs::read(&json).unwrap(), b"mine");
    }
}
