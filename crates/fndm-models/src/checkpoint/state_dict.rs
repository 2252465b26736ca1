//! A checkpoint in memory: tensors by name, and what is known about them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_files::AtomicFile;
use half::slice::HalfFloatSliceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Limits, safetensors, torch, torch_write};
use crate::{ClassifierConfig, Error, Result, UNetConfig};

const KIND: &str = "fndm.kind";
const CONFIG: &str = "fndm.config";

/// A config that can stand in a checkpoint's metadata.
pub trait NetworkConfig: Serialize + DeserializeOwned {
    /// What the network is called in the metadata.
    const KIND: &'static str;

    /// Whether the options fit together.
    ///
    /// # Errors
    /// When they don't.
    fn check(&self) -> Result<()>;
}

impl NetworkConfig for UNetConfig {
    const KIND: &'static str = "unet";

    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

impl NetworkConfig for ClassifierConfig {
    const KIND: &'static str = "classifier";

    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

/// Tensors by name in the order of the names, untracked and in main memory, with the file's own metadata.
///
/// # Example
/// ```
/// use candle_core::{DType, Device};
/// use fndm_models::{Limits, Parameters, StateDict, UNet, UNetConfig};
///
/// let config = UNetConfig { channel_mult: vec![1., 1.], ..UNetConfig::default() };
/// let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
/// UNet::new(&config, parameters.builder())?;
///
/// let folder = tempfile::tempdir().unwrap();
/// let path = folder.path().join("unet.safetensors");
/// parameters.state_dict()?.with_config(&config)?.save(&path)?;
///
/// let state = StateDict::read(&path, &Limits::default())?;
/// assert_eq!(state.config::<UNetConfig>()?, Some(config.clone()));
/// let unet = UNet::from_state_dict(&config, &state, DType::F32, &Device::Cpu)?;
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StateDict {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
    source: String,
}

impl StateDict {
    /// Tensors that don't come from a file.
    #[must_use]
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Self {
        Self {
            tensors,
            metadata: BTreeMap::new(),
            source: "state dict".to_owned(),
        }
    }

    /// Reads a checkpoint: safetensors, or PyTorch's `.pt` / `.pth`, today's or from before 1.6. The content decides,
    /// not the file's name.
    ///
    /// Of a PyTorch file only tensors by name are taken. No code is ever executed, and a file that asks for some is an
    /// error. Where all names begin with `module.`, as PyTorch's parallel training writes, that is taken off.
    ///
    /// A trainer's file has the state dict beside other things. It is the one dictionary that holds weights: tensors of real
    /// numbers with more than one value, which accuracies and states of random generators aren't.
    ///
    /// # Errors
    /// When the file can't be read, is malformed, asks for more than `limits`, or has several dictionaries of weights, which
    /// the error names; also when tensors of the state dict stand under keys that aren't text.
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        Self::read_from(path.as_ref(), None, limits)
    }

    /// As [`StateDict::read`], for a PyTorch file that has several state dicts: `key` names the one to take. Keys of dictionaries
    /// in dictionaries are joined by `/`, and `.` is the file's own.
    ///
    /// # Errors
    /// As [`StateDict::read`], and when there is nothing of that name.
    pub fn read_key(path: impl AsRef<Path>, key: &str, limits: &Limits) -> Result<Self> {
        Self::read_from(path.as_ref(), Some(key), limits)
    }

    fn read_from(path: &Path, key: Option<&str>, limits: &Limits) -> Result<Self> {
        if cfg!(target_endian = "big") {
            return Err(Error::malformed(
                path,
                "checkpoints are little-endian, which this machine isn't",
            ));
        }
        let mut begin = [0; 9];
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut n = 0;
        while n < begin.len() {
            match file.read(&mut begin[n..]).map_err(Error::io(path))? {
                0 => break,
                more => n += more,
            }
        }
        let (tensors, metadata) = if begin.starts_with(b"PK\x03\x04") {
            (torch::read_zip(path, key, limits)?, BTreeMap::new())
        } else if matches!(begin, [0x80, 2..=5, ..]) && begin[8] != b'{' {
            (torch::read_legacy(path, key, limits)?, BTreeMap::new())
        } else if begin[8] == b'{' && key.is_none() {
            safetensors::read(path, limits)?
        } else if begin[8] == b'{' {
            return Err(Error::malformed(
                path,
                "a safetensors file has one state dict, and no key for it",
            ));
        } else {
            return Err(Error::malformed(
                path,
                "expected safetensors or a PyTorch file, this is neither",
            ));
        };
        tracing::debug!(file = %path.display(), tensors = tensors.len(), "weights read");
        Ok(Self {
            tensors: without_module(tensors),
            metadata,
            source: path.display().to_string(),
        })
    }

    /// All tensors.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The tensor of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The number of values in all tensors together.
    #[must_use]
    pub fn len_elements(&self) -> usize {
        self.tensors.values().map(Tensor::elem_count).sum()
    }

    /// What tells these weights from others: a hash of names, shapes and values in half precision, in which published weights are
    /// stored. So a network has the same before it is saved and after.
    ///
    /// # Errors
    /// When a tensor can't be brought to the CPU.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for (name, tensor) in &self.tensors {
            hash.update(format!("{name}:{:?}\n", tensor.dims()).as_bytes());
            let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F16)?;
            let values = values.flatten_all()?.to_vec1::<half::f16>()?;
            hash.update(bytemuck::cast_slice(values.reinterpret_cast()));
        }
        Ok(format!("{:016x}", hash.digest()))
    }

    /// What a safetensors file says about itself.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Where the tensors came from, for messages.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The config in the metadata, if there is one of this kind.
    ///
    /// # Errors
    /// When there is one that can't be read or doesn't fit together.
    pub fn config<C: NetworkConfig>(&self) -> Result<Option<C>> {
        if self.metadata.get(KIND).map(String::as_str) != Some(C::KIND) {
            return Ok(None);
        }
        let Some(text) = self.metadata.get(CONFIG) else {
            return Ok(None);
        };
        let config: C = serde_json::from_str(text)
            .map_err(|e| Error::Config(format!("{}: {CONFIG}: {e}", self.source)))?;
        config.check()?;
        Ok(Some(config))
    }

    /// The same, with a config in the metadata.
    ///
    /// # Errors
    /// When the config's options don't fit together.
    pub fn with_config<C: NetworkConfig>(mut self, config: &C) -> Result<Self> {
        config.check()?;
        let text = serde_json::to_string(config).map_err(|e| Error::Config(e.to_string()))?;
        self.metadata.insert(KIND.to_owned(), C::KIND.to_owned());
        self.metadata.insert(CONFIG.to_owned(), text);
        Ok(self)
    }

    /// The same, with a word more in the metadata.
    #[must_use]
    pub fn with_metadata(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// The same without the tensors whose names `drop` picks.
    #[must_use]
    pub fn without(&self, drop: impl Fn(&str) -> bool) -> Self {
        let mut kept = self.clone();
        kept.tensors.retain(|name, _| !drop(name));
        kept
    }

    /// Reads a file's tensors into what `build` makes of them, a network or a part of one, in `dtype` on `device`: weights in
    /// half precision widen on the way, if `dtype` is wider. Strict: `build` must ask for every tensor of the file.
    ///
    /// # Errors
    /// Those of [`StateDict::read`] and [`StateDict::build`].
    ///
    /// # Example
    /// ```
    /// use candle_core::{DType, Device};
    /// use fndm_models::{Limits, Parameters, StateDict, UNet, UNetConfig};
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("unet.safetensors");
    /// # let config = UNetConfig { image_size: 16, channel_mult: vec![1.], ..UNetConfig::default() };
    /// # let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    /// # UNet::new(&config, parameters.builder())?;
    /// # parameters.save(&path, &config)?;
    /// let limits = Limits::default();
    /// let unet = StateDict::load(&path, &limits, DType::F32, &Device::Cpu, |vb| UNet::new(&config, vb))?;
    /// # Ok::<(), fndm_models::Error>(())
    /// ```
    pub fn load<T>(
        path: impl AsRef<Path>,
        limits: &Limits,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
    ) -> Result<T> {
        Self::read(path, limits)?.build(dtype, device, build)
    }

    /// What `build` makes of the tensors, in `dtype` on `device`. Strict: `build` must ask for every tensor, by its shape.
    ///
    /// # Errors
    /// Those of `build`, or [`Error::Mismatch`] with all missing, unexpected, wrongly shaped and wrongly typed tensors.
    pub fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'static>) -> Result<T>,
    ) -> Result<T> {
        super::build_strictly(self, dtype, device, build)
    }

    /// The first tensor, in the order of the names, with a value that is NaN or infinite, and that value's index.
    ///
    /// # Errors
    /// Those of candle.
    pub fn first_non_finite(&self) -> Result<Option<(&str, usize)>> {
        for (name, tensor) in &self.tensors {
            if let Some(at) = fndm_kernels::first_non_finite(tensor)? {
                return Ok(Some((name, at)));
            }
        }
        Ok(None)
    }

    /// A builder on the tensors that isn't strict: what no one asks for is no error.
    #[must_use]
    pub fn builder(&self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        let tensors: HashMap<String, Tensor> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect();
        VarBuilder::from_tensors(tensors, dtype, device)
    }

    /// Writes safetensors, with the metadata. A file that is there is replaced only when all is written.
    ///
    /// # Errors
    /// When the file can't be written, or a tensor has a type that the format lacks.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        replace(path.as_ref(), |path, file| {
            safetensors::write(path, file, &self.tensors, &self.metadata)
        })
    }

    /// Writes what `torch.save` writes for a state dict. The metadata isn't kept: the format has no place for it.
    ///
    /// # Errors
    /// As [`StateDict::save`].
    pub fn save_torch(&self, path: impl AsRef<Path>) -> Result<()> {
        replace(path.as_ref(), |path, file| {
            torch_write::write(path, file, &self.tensors)
        })
    }
}

fn without_module(tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    const PREFIX: &str = "module.";
    if tensors.is_empty() || !tensors.keys().all(|name| name.starts_with(PREFIX)) {
        return tensors;
    }
    tensors
        .into_iter()
        .map(|(name, tensor)| (name[PREFIX.len()..].to_owned(), tensor))
        .collect()
}

/// Writes to a new file in the same folder, and gives it the name when it is whole.
fn replace(path: &Path, write: impl FnOnce(&Path, &mut AtomicFile) -> Result<()>) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    write(path, &mut file)?;
    Ok(file.commit()?)
}
