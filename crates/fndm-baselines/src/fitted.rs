use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use fndm_models::{Limits, NetworkConfig, StateDict};
use fndm_train::{LoopConfig, Trainer};

use crate::fit::{Extractor, Fit};
use crate::flow_task::{FeatureFlow, FlowTask};
use crate::flows::Source;
use crate::healthy::Healthy;
use crate::{Error, Result};

/// Where a fitted method's weights stand in a folder.
pub(crate) fn file_name(kind: &str) -> String {
    format!("{kind}.safetensors")
}

/// Reads a method's config and weights, every one of which must be a number.
pub(crate) fn read<C: NetworkConfig>(folder: &Path, limits: &Limits) -> Result<(C, StateDict)> {
    let path = folder.join(file_name(C::KIND));
    let state = StateDict::read(&path, limits)?;
    for (name, tensor) in state.tensors() {
        if !all_finite(tensor)? {
            return Err(Error::NonFinite {
                what: format!("{}: {name}", path.display()),
            });
        }
    }
    match state.config::<C>()? {
        Some(config) => Ok((config, state)),
        None => Err(Error::Malformed {
            path,
            message: format!("expected the config of a {}, found none", C::KIND),
            source: None,
        }),
    }
}

/// Whether no value is NaN or infinite; whole numbers are none of these.
fn all_finite(tensor: &Tensor) -> Result<bool> {
    if !tensor.dtype().is_float() {
        return Ok(true);
    }
    let values = tensor
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    Ok(values.iter().all(|v| v.is_finite()))
}

/// Fails where an extractor isn't the one that a method was fitted with, as far as both are known.
pub(crate) fn check_extractor(fitted: Option<&String>, extractor: &Extractor) -> Result<()> {
    match (fitted, extractor.fingerprint()) {
        (Some(expected), Some(got)) if *expected != got => Err(Error::OtherExtractor {
            expected: expected.clone(),
            got,
        }),
        _ => Ok(()),
    }
}

/// The features of one slice: `[C, h, w]` of each map.
pub(crate) fn feature_shapes(maps: &[Tensor]) -> Result<Vec<[usize; 3]>> {
    maps.iter()
        .map(|map| {
            let (_, c, h, w) = map.dims4()?;
            Ok([c, h, w])
        })
        .collect()
}

/// A trained flow with the extractor of its features.
pub(crate) struct Fitted<F: FeatureFlow> {
    pub(crate) config: F::Config,
    pub(crate) network: F,
    pub(crate) extractor: Extractor,
    state: BTreeMap<String, Tensor>,
}

impl<F: FeatureFlow> std::fmt::Debug for Fitted<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fitted")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<F: FeatureFlow> Fitted<F> {
    /// Trains on the healthy slices.
    pub(crate) fn train(
        config: F::Config,
        common: LoopConfig,
        extractor: &Extractor,
        healthy: Healthy,
        fit: &Fit,
    ) -> Result<Self> {
        let fixed = F::fixed(&config)?;
        let task = FlowTask::<F> {
            model: config.clone(),
            common,
            extractor: extractor.clone(),
            healthy,
            fixed: fixed.clone(),
        };
        let mut trainer = Trainer::with_task(task, fit.seed, &fit.device)?;
        fit.train(&mut trainer)?;
        let mut state = fixed;
        state.extend(trainer.weights()?);
        Self::of(config, &StateDict::new(state), extractor, &fit.device)
    }

    /// Builds the network on a state, which must be exactly its.
    fn of(
        config: F::Config,
        state: &StateDict,
        extractor: &Extractor,
        device: &Device,
    ) -> Result<Self> {
        let mut failed = None;
        let network = state.build(DType::F32, device, |vb| {
            match F::build(&config, &Source::of(vb)) {
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
        let network = network?.ok_or_else(|| Error::config("network", "one", "none"))?;
        Ok(Self {
            config,
            network,
            extractor: extractor.clone(),
            state: state.tensors().clone(),
        })
    }

    pub(crate) fn load(
        folder: &Path,
        fingerprint: impl Fn(&F::Config) -> Option<String>,
        extractor: &Extractor,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        let (config, state) = read::<F::Config>(folder, limits)?;
        check_extractor(fingerprint(&config).as_ref(), extractor)?;
        Self::of(config, &state, extractor, device)
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let kind = <F::Config as NetworkConfig>::KIND;
        let tensors = self
            .state
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), tensor.to_device(&Device::Cpu)?)))
            .collect::<Result<_>>()?;
        let state = StateDict::new(tensors).with_config(&self.config)?;
        Ok(state.save(folder.join(file_name(kind)))?)
    }

    pub(crate) fn features(&self, slices: &Tensor) -> Result<Vec<Tensor>> {
        F::features(&self.config, &self.extractor, slices)
    }
}
