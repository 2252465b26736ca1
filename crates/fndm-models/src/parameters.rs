//! The ordered store of a network's trainable parameters.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use fnv::FnvHasher;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::Result;
use crate::checkpoint::{Limits, NetworkConfig, StateDict, build_strictly};

type Store = BTreeMap<String, Var>;

/// The trainable parameters of one network, by name, in the order of their names.
///
/// A network built on [`Parameters::builder`] creates what it asks for. The first values depend on the seed and
/// on the parameter's own name alone, so neither the order of creation nor the number of threads matters.
/// A clone is another handle on the same parameters.
///
/// # Example
/// ```
/// use candle_core::{DType, Device};
/// use fndm_models::{Parameters, UNet, UNetConfig};
///
/// let parameters = Parameters::new(7, DType::F32, &Device::Cpu);
/// let config = UNetConfig { image_size: 16, channel_mult: vec![1.], ..UNetConfig::default() };
/// let _unet = UNet::new(&config, parameters.builder())?;
/// assert!(parameters.get("input_blocks.0.0.weight").is_some());
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Parameters {
    store: Arc<RwLock<Store>>,
    seed: u64,
    dtype: DType,
    device: Device,
}

impl Parameters {
    /// An empty store whose parameters will be drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self {
            store: Arc::default(),
            seed,
            dtype,
            device: device.clone(),
        }
    }

    /// A builder that gives the parameters as variables, and creates those that aren't there yet.
    #[must_use]
    pub fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), self.dtype, self.device.clone())
    }

    /// A builder on a copy of today's values, which are plain tensors: nothing is tracked, and later training
    /// doesn't show. For evaluation during training.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn frozen(&self) -> Result<VarBuilder<'static>> {
        let tensors: HashMap<String, Tensor> = self.tensors()?.into_iter().collect();
        Ok(VarBuilder::from_tensors(tensors, self.dtype, &self.device))
    }

    /// A copy of today's values, untracked.
    ///
    /// # Errors
    /// When the device has no memory for the copy.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.iter()
            .map(|(name, var)| Ok((name, var.as_tensor().copy()?.detach())))
            .collect()
    }

    /// Today's values as a checkpoint.
    ///
    /// # Errors
    /// When there is no memory for the copy.
    pub fn state_dict(&self) -> Result<StateDict> {
        let tensors = self
            .tensors()?
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?)))
            .collect::<Result<_>>()?;
        Ok(StateDict::new(tensors))
    }

    /// Writes today's values as safetensors, with the network's config in the metadata.
    ///
    /// # Errors
    /// When the config's options don't fit together, or the file can't be written.
    pub fn save<C: NetworkConfig>(&self, path: impl AsRef<Path>, config: &C) -> Result<()> {
        self.state_dict()?.with_config(config)?.save(path)
    }

    /// Reads a checkpoint, and gives its values to the parameters that are there, which must be exactly the file's.
    /// So build the network first.
    ///
    /// # Errors
    /// When the file can't be read, or [`Error::Mismatch`](crate::Error::Mismatch) with everything that doesn't fit. Nothing has
    /// changed then.
    pub fn load(&self, path: impl AsRef<Path>, limits: &Limits) -> Result<()> {
        self.set(&StateDict::read(path, limits)?)
    }

    /// As [`Parameters::load`], from memory.
    ///
    /// # Errors
    /// As [`Parameters::load`].
    pub fn set(&self, state: &StateDict) -> Result<()> {
        let parameters: Vec<(String, Var)> = self.iter().collect();
        let values = build_strictly(state, self.dtype, &self.device, |vb| {
            parameters
                .iter()
                .map(|(name, var)| Ok(vb.to_dtype(var.dtype()).get(var.shape(), name)?))
                .collect::<Result<Vec<Tensor>>>()
        })?;
        for ((_, var), value) in parameters.iter().zip(values) {
            var.set(&value)?;
        }
        Ok(())
    }

    /// Every parameter in the order of the names. The variables are handles, not copies.
    pub fn iter(&self) -> impl Iterator<Item = (String, Var)> + use<> {
        let store = self.read().clone();
        store.into_iter()
    }

    /// The parameter of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Var> {
        self.read().get(name).cloned()
    }

    /// The number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether nothing has been created yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// The number of values in all tensors together.
    #[must_use]
    pub fn len_elements(&self) -> usize {
        self.read().values().map(|v| v.elem_count()).sum()
    }

    /// The type of the parameters, but for those that are wider for precision's sake: norms, embeddings, and on CPUs
    /// all of a network's convolutions.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the parameters are.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    // A panic of another thread can't leave the map half changed, so a poisoned lock is still good.
    fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Var> {
        let n = shape.elem_count();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(fnv1a(name));
        let mut normal = |mean: f64, stdev: f64| -> Vec<f32> {
            (0..n)
                .map(|_| (mean + stdev * rng.sample::<f64, _>(StandardNormal)) as f32)
                .collect()
        };
        let values: Vec<f32> = match init {
            Init::Const(c) => vec![c as f32; n],
            Init::Randn { mean, stdev } => normal(mean, stdev),
            Init::Uniform { lo, up } => uniform(&mut rng, n, lo, up),
            Init::Kaiming {
                dist,
                fan,
                non_linearity,
            } => {
                let std = non_linearity.gain() / (fan.for_shape(&shape) as f64).sqrt();
                match dist {
                    candle_nn::init::NormalOrUniform::Normal => normal(0., std),
                    candle_nn::init::NormalOrUniform::Uniform => {
                        let bound = 3f64.sqrt() * std;
                        uniform(&mut rng, n, -bound, bound)
                    }
                }
            }
        };
        Var::from_tensor(&Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
    }
}

impl SimpleBackend for Parameters {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut store = self.write();
        let var = match store.get(name) {
            Some(var) => {
                if var.shape() != &shape {
                    candle_core::bail!(
                        "parameter {name}: expected shape {shape:?}, the store has {:?}",
                        var.shape()
                    );
                }
                var.clone()
            }
            None => {
                let var = self.create(shape, name, init, dtype, device)?;
                store.insert(name.to_owned(), var.clone());
                var
            }
        };
        var.as_tensor().to_dtype(dtype)
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        _device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self.read().get(name) {
            Some(var) => var.as_tensor().to_dtype(dtype),
            None => {
                candle_core::bail!("parameter {name}: not in the store, and its shape is unknown")
            }
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.read().contains_key(name)
    }
}

fn uniform(rng: &mut ChaCha8Rng, n: usize, lo: f64, up: f64) -> Vec<f32> {
    (0..n)
        .map(|_| (lo + (up - lo) * rng.random::<f64>()) as f32)
        .collect()
}

/// FNV-1a, 64 bit: a fixed hash, since the standard library's may change between releases.
fn fnv1a(name: &str) -> u64 {
    let mut hash = FnvHasher::default();
    hash.write(name.as_bytes());
    hash.finish()
}
