use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use fndm_models::NetworkConfig;
use fndm_train::{Draw, LoopConfig, Loss, Setup, Task};

use crate::fit::Extractor;
use crate::flows::Source;
use crate::healthy::{Healthy, SliceBatch};
use crate::{Error, Result};

/// A flow that is trained on features, slice by slice.
pub(crate) trait FeatureFlow: Debug + Sized {
    /// Sizes and draws.
    type Config: NetworkConfig + Clone + Debug;
    /// What a checkpoint is known by.
    const KIND: &'static str;

    /// What is drawn once and isn't trained, by the names of the network.
    fn fixed(config: &Self::Config) -> Result<BTreeMap<String, Tensor>>;

    fn build(config: &Self::Config, source: &Source<'_>) -> Result<Self>;

    /// The loss `(B)` of each slice from its features.
    fn losses(&self, features: &[Tensor]) -> Result<Tensor>;

    /// The features of slices.
    fn features(
        config: &Self::Config,
        extractor: &Extractor,
        slices: &Tensor,
    ) -> Result<Vec<Tensor>>;
}

/// A builder on what isn't trained.
pub(crate) fn fixed_builder(
    tensors: &BTreeMap<String, Tensor>,
    device: &Device,
) -> VarBuilder<'static> {
    let all: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    VarBuilder::from_tensors(all, DType::F32, device)
}

/// An error of this crate as the trainer's.
pub(crate) fn for_trainer(error: Error) -> fndm_train::Error {
    match error {
        Error::Tensor(error) => fndm_train::Error::Tensor(error),
        Error::Train(error) => *error,
        other => fndm_train::Error::Tensor(candle_core::Error::wrap(other)),
    }
}

/// The training of a [`FeatureFlow`].
pub(crate) struct FlowTask<F: FeatureFlow> {
    pub(crate) model: F::Config,
    pub(crate) common: LoopConfig,
    pub(crate) extractor: Extractor,
    pub(crate) healthy: Healthy,
    pub(crate) fixed: BTreeMap<String, Tensor>,
}

impl<F: FeatureFlow> Task for FlowTask<F> {
    type Network = F;
    type Config = LoopConfig;
    type Model = F::Config;
    type Batch = SliceBatch;

    fn setup(&self) -> Setup<LoopConfig, F::Config> {
        Setup::new(
            F::KIND,
            self.common.clone(),
            self.model.clone(),
            self.common.clone(),
            self.healthy.fingerprint(),
        )
    }

    fn network(&self, vb: VarBuilder<'_>) -> fndm_train::Result<F> {
        let source = Source {
            fixed: fixed_builder(&self.fixed, vb.device()),
            trained: vb,
        };
        F::build(&self.model, &source).map_err(for_trainer)
    }

    fn batches(&self, seed: u64) -> fndm_train::Result<Draw<SliceBatch>> {
        Ok(self.healthy.epochs(self.common.batch, seed).draw())
    }

    fn loss(
        &self,
        network: &F,
        batch: SliceBatch,
        device: &Device,
        _: Option<u64>,
    ) -> fndm_train::Result<Loss> {
        let slices = self.healthy.gather(&batch.at, device)?;
        let features = F::features(&self.model, &self.extractor, &slices).map_err(for_trainer)?;
        Loss::mean(&network.losses(&features).map_err(for_trainer)?)
    }

    fn names(&self, samples: &[usize]) -> Vec<String> {
        self.healthy.names(samples)
    }
}
