//! What methods have in common that learn an extractor's features of healthy slices by a network with batch norms.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_models::{BatchNorms, Limits, Mode, NetworkConfig, StateDict};
use fndm_train::{Draw, LoopConfig, Loss, OptimizerConfig, Setup, Task, Trainer};

use crate::fit::{Extractor, Fit};
use crate::fitted::{check_extractor, file_name, read};
use crate::flow_task::for_trainer;
use crate::healthy::{Healthy, SliceBatch};
use crate::{Error, Result};

/// Where a checkpoint has the running statistics.
const NORMS: &str = "norms/";

/// A network that learns features.
pub(crate) trait Learner: Debug + Sized {
    /// Sizes, and what its features are known by.
    type Config: NetworkConfig + Clone + Debug;

    fn build(config: &Self::Config, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self>;

    /// Its own maps, one for each of the extractor's.
    fn maps(&self, slices: &Tensor, features: &[Tensor], mode: Mode) -> Result<Vec<Tensor>>;

    /// The loss `(B)` of each slice.
    fn losses(config: &Self::Config, features: &[Tensor], maps: &[Tensor]) -> Result<Tensor>;

    /// The same for inference.
    fn folded(&self) -> Result<Self>;
}

/// How a network is trained.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) epochs: u64,
    pub(crate) batch: usize,
    pub(crate) optimizer: OptimizerConfig,
}

impl Schedule {
    pub(crate) fn common(&self, healthy: &Healthy, seed: u64) -> Result<LoopConfig> {
        if self.epochs == 0 || self.batch == 0 {
            let got = format!("{} and {}", self.epochs, self.batch);
            return Err(Error::config("epochs and batch", "1 or more", got));
        }
        let epochs = healthy.epochs(self.batch, seed);
        Ok(LoopConfig {
            batch: epochs.batch_size(),
            iterations: Some(self.epochs * epochs.batches()),
            optimizer: self.optimizer.clone(),
            ..LoopConfig::default()
        })
    }
}

/// The running statistics as a checkpoint has them.
pub(crate) fn norms_state(norms: &BatchNorms) -> fndm_train::Result<BTreeMap<String, Tensor>> {
    let all = norms.tensors()?.into_iter();
    Ok(all.map(|(k, t)| (format!("{NORMS}{k}"), t)).collect())
}

/// Takes over what [`norms_state`] gave.
pub(crate) fn restore_norms(
    norms: &BatchNorms,
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
) -> fndm_train::Result<()> {
    let all: BTreeMap<String, Tensor> = tensors
        .iter()
        .filter_map(|(k, t)| Some((k.strip_prefix(NORMS)?.to_owned(), t.clone())))
        .collect();
    norms.set(&all).map_err(|e| fndm_train::Error::Checkpoint {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

/// The training of a [`Learner`]. Processes that train together have running statistics of their own; the first one's are saved.
pub(crate) struct LearnerTask<L: Learner> {
    model: L::Config,
    common: LoopConfig,
    extractor: Extractor,
    healthy: Healthy,
    norms: BatchNorms,
}

impl<L: Learner> Task for LearnerTask<L> {
    type Network = L;
    type Config = LoopConfig;
    type Model = L::Config;
    type Batch = SliceBatch;

    fn setup(&self) -> Setup<LoopConfig, L::Config> {
        Setup::new(
            <L::Config as NetworkConfig>::KIND,
            self.common.clone(),
            self.model.clone(),
            self.common.clone(),
            self.healthy.fingerprint(),
        )
    }

    fn network(&self, vb: VarBuilder<'_>) -> fndm_train::Result<L> {
        L::build(&self.model, &vb, &self.norms).map_err(for_trainer)
    }

    fn batches(&self, seed: u64) -> fndm_train::Result<Draw<SliceBatch>> {
        Ok(self.healthy.epochs(self.common.batch, seed).draw())
    }

    fn loss(
        &self,
        network: &L,
        batch: SliceBatch,
        device: &Device,
        _: Option<u64>,
    ) -> fndm_train::Result<Loss> {
        let slices = self.healthy.gather(&batch.at, device)?;
        let each = self
            .extractor
            .maps(&slices)
            .map_err(Error::from)
            .and_then(|features| {
                let features: Vec<Tensor> = features.iter().map(Tensor::detach).collect();
                let maps = network.maps(&slices, &features, Mode::Train)?;
                L::losses(&self.model, &features, &maps)
            });
        Loss::mean(&each.map_err(for_trainer)?)
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        self.healthy.names(samples)
    }

    fn state(&self) -> fndm_train::Result<BTreeMap<String, Tensor>> {
        norms_state(&self.norms)
    }

    fn restore(
        &mut self,
        path: &Path,
        tensors: &BTreeMap<String, Tensor>,
    ) -> fndm_train::Result<()> {
        restore_norms(&self.norms, path, tensors)
    }
}

/// A network with its weights and running statistics, as it is saved.
pub(crate) struct Saved<C> {
    pub(crate) config: C,
    state: BTreeMap<String, Tensor>,
}

impl<C: NetworkConfig + Clone> Saved<C> {
    pub(crate) fn new(config: C, state: BTreeMap<String, Tensor>) -> Self {
        Self { config, state }
    }

    /// What `build` makes of the state, all of which it must ask for.
    pub(crate) fn build<T>(
        &self,
        device: &Device,
        build: impl FnOnce(&C, &VarBuilder<'_>, &BatchNorms) -> Result<T>,
    ) -> Result<T> {
        let counts = |name: &str| name.ends_with("num_batches_tracked");
        let state = StateDict::new(self.state.clone()).without(counts);
        let mut failed = None;
        let norms = BatchNorms::from_weights();
        let network = state.build(DType::F32, device, |vb| {
            match build(&self.config, &vb, &norms) {
                Ok(network) => Ok(Some(network)),
                Err(error) => {
                    failed = Some(error);
                    Ok(None)
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        network?.ok_or_else(|| Error::config("network", "one", "none"))
    }

    pub(crate) fn load(folder: &Path, limits: &Limits) -> Result<Self> {
        let (config, state) = read::<C>(folder, limits)?;
        Ok(Self::new(config, state.tensors().clone()))
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let tensors = self
            .state
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(&Device::Cpu)?)))
            .collect::<Result<_>>()?;
        let state = StateDict::new(tensors).with_config(&self.config)?;
        Ok(state.save(folder.join(file_name(C::KIND)))?)
    }
}

/// A trained [`Learner`] with the extractor of its features.
pub(crate) struct Distilled<L: Learner> {
    saved: Saved<L::Config>,
    network: L,
    extractor: Extractor,
}

impl<L: Learner> Debug for Distilled<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distilled")
            .field("config", &self.saved.config)
            .finish_non_exhaustive()
    }
}

impl<L: Learner> Distilled<L> {
    pub(crate) fn train(
        config: L::Config,
        schedule: &Schedule,
        extractor: &Extractor,
        healthy: Healthy,
        fit: &Fit,
    ) -> Result<Self> {
        let norms = BatchNorms::fresh();
        let task = LearnerTask::<L> {
            model: config.clone(),
            common: schedule.common(&healthy, fit.seed)?,
            extractor: extractor.clone(),
            healthy,
            norms: norms.clone(),
        };
        let mut trainer = Trainer::with_task(task, fit.seed, &fit.device)?;
        fit.train(&mut trainer)?;
        let mut state = trainer.weights()?;
        state.extend(norms.tensors()?);
        Self::of(Saved::new(config, state), extractor, &fit.device)
    }

    fn of(saved: Saved<L::Config>, extractor: &Extractor, device: &Device) -> Result<Self> {
        let network = saved.build(device, L::build)?;
        Ok(Self {
            network: network.folded()?,
            saved,
            extractor: extractor.clone(),
        })
    }

    pub(crate) fn load(
        folder: &Path,
        fingerprint: impl Fn(&L::Config) -> Option<String>,
        extractor: &Extractor,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        let saved = Saved::<L::Config>::load(folder, limits)?;
        check_extractor(fingerprint(&saved.config).as_ref(), extractor)?;
        Self::of(saved, extractor, device)
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        self.saved.save(folder)
    }

    pub(crate) fn config(&self) -> &L::Config {
        &self.saved.config
    }

    /// The extractor's features of slices, and what the network makes of them.
    pub(crate) fn pairs(&self, slices: &Tensor) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let features = self.extractor.maps(slices)?;
        let maps = self.network.maps(slices, &features, Mode::Evaluate)?;
        Ok((features, maps))
    }
}
