//! The time-dependent classifier whose gradient guides the sampling.

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::VarBuilder;

use crate::checkpoint::{Limits, StateDict, build_strictly};
use crate::config::ClassifierConfig;
use crate::dropout::Pass;
use crate::encoder::Encoder;
use crate::pool::PoolHead;
use crate::unet::check_input;
use crate::{Error, Result, labels};

/// guided-diffusion's `EncoderUNetModel` in two dimensions.
#[derive(Clone, Debug)]
pub struct Classifier {
    config: ClassifierConfig,
    pub(crate) encoder: Encoder,
    pub(crate) pool: PoolHead,
    pub(crate) dtype: DType,
}

/// What a pass through the classifier gives on the way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClassifierMaps {
    /// Outputs of all input blocks, the first convolution's first.
    pub blocks: Vec<Tensor>,
    /// Output of the middle block.
    pub middle: Tensor,
    /// The logits, `(B, out_channels)`.
    pub logits: Tensor,
}

impl Classifier {
    /// Builds the network on `vb`: [`Parameters::builder`](crate::Parameters::builder) to train,
    /// a builder of plain tensors for inference.
    ///
    /// # Errors
    /// When the config doesn't fit together, or `vb` lacks a parameter or has it in another shape.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "builders are passed by value throughout candle"
    )]
    pub fn new(config: &ClassifierConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let options = config.encoder();
        let encoder = Encoder::new(&options, &vb)?;
        let pool = PoolHead::new(config, &encoder.channels, &vb)?;
        Ok(Self {
            config: config.clone(),
            encoder,
            pool,
            dtype: vb.dtype(),
        })
    }

    /// Builds the network on the tensors of a checkpoint, as [`UNet::from_state_dict`](crate::UNet::from_state_dict).
    ///
    /// # Errors
    /// When the config doesn't fit together; or [`Error::Mismatch`] with all that is missing, unexpected or of a
    /// wrong shape.
    pub fn from_state_dict(
        config: &ClassifierConfig,
        state: &StateDict,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        build_strictly(state, dtype, device, |vb| Self::new(config, vb))
    }

    /// Loads a checkpoint that has its config in its metadata, as this crate saves it.
    ///
    /// # Errors
    /// When the file can't be read, has no config, or its tensors aren't those of the config's network.
    pub fn load(
        path: impl AsRef<Path>,
        limits: &Limits,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let state = StateDict::read(path, limits)?;
        match state.config::<ClassifierConfig>()? {
            Some(config) => Self::from_state_dict(&config, &state, dtype, device),
            None => Err(Error::Config(format!(
                "{}: no config of a classifier in the metadata; ClassifierConfig::guess tells what its shapes tell",
                state.source()
            ))),
        }
    }

    /// The config that the network was built from.
    #[must_use]
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// Channels of each input block's output, the first convolution's first.
    #[must_use]
    pub fn block_channels(&self) -> &[usize] {
        &self.encoder.channels
    }

    /// The logits `(B, out_channels)` of noisy images `x` `(B, in_channels, H, W)` at model times `t` `(B)`. No dropout.
    ///
    /// # Errors
    /// When a shape doesn't fit.
    pub fn forward(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        Ok(self.run(x, t, Pass::default())?.logits)
    }

    /// As [`Classifier::forward`], with dropout whose masks are drawn from `seed`.
    ///
    /// # Errors
    /// As [`Classifier::forward`].
    pub fn forward_train(&self, x: &Tensor, t: &Tensor, seed: u64) -> Result<Tensor> {
        let pass = Pass {
            dropout: Some(seed),
            ..Pass::default()
        };
        Ok(self.run(x, t, pass)?.logits)
    }

    /// As [`Classifier::forward`], with what comes up on the way.
    ///
    /// # Errors
    /// As [`Classifier::forward`].
    pub fn forward_maps(&self, x: &Tensor, t: &Tensor) -> Result<ClassifierMaps> {
        self.run(x, t, Pass::default())
    }

    /// The outputs of the input blocks numbered in `blocks`, in that order. Later blocks aren't run.
    ///
    /// # Errors
    /// When a shape doesn't fit or there is no such block.
    pub fn feature_maps(&self, x: &Tensor, t: &Tensor, blocks: &[usize]) -> Result<Vec<Tensor>> {
        let n = self.encoder.input_blocks.len();
        if let Some(&b) = blocks.iter().find(|&&b| b >= n) {
            return Err(Error::input("blocks", format!("numbers below {n}"), b));
        }
        self.check(x, t)?;
        let last = blocks.iter().max().map_or(0, |b| b + 1);
        let pass = Pass::default();
        let embedding = fndm_kernels::silu(&self.encoder.time.forward(t, pass)?)?;
        let mut outputs = Vec::with_capacity(last);
        let mut h = x.to_dtype(self.dtype)?;
        for block in self.encoder.input_blocks.iter().take(last) {
            h = block.forward(&h, &embedding, pass)?;
            outputs.push(h.clone());
        }
        Ok(blocks.iter().map(|&b| outputs[b].clone()).collect())
    }

    /// The gradient with respect to `x` of `log p(y | x, t)`, one label `y` (B) per image: `(B, in_channels, H, W)`.
    ///
    /// Only `x` is differentiated: no gradient of a weight is computed, even where the weights are variables. Source: the
    /// guidance of Dhariwal and Nichol 2021, algorithm 2.
    ///
    /// # Errors
    /// When a shape doesn't fit, a label isn't below the number of logits, or a tape records on this thread already.
    pub fn log_prob_gradient(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<Tensor> {
        let (x, gradients) = self.differentiate(x, t, y)?;
        match gradients.get(x.as_tensor()) {
            Some(gradient) => Ok(gradient.detach()),
            None => Ok(x.as_tensor().zeros_like()?.detach()),
        }
    }

    /// A copy of `x` as a variable, and all gradients that were computed.
    fn differentiate(&self, x: &Tensor, t: &Tensor, y: &Tensor) -> Result<(Var, GradStore)> {
        self.check(x, t)?;
        let y = labels::checked(y, x.dim(0)?, self.config.out_channels)?;
        let x = Var::from_tensor(&x.detach().copy()?)?;
        let pass = Pass {
            constant_weights: true,
            ..Pass::default()
        };
        let tape = fndm_kernels::Tape::start()?;
        let log_prob = log_softmax(&self.run(x.as_tensor(), t, pass)?.logits)?;
        let selected = log_prob.gather(&y.unsqueeze(1)?, 1)?;
        // The batch's images don't see each other, so the sum's gradient holds each image's own.
        let gradients = tape.backward(&selected.sum_all()?)?;
        Ok((x, gradients))
    }

    pub(crate) fn check(&self, x: &Tensor, t: &Tensor) -> Result<()> {
        let options = (
            self.config.in_channels,
            self.config.encoder().down_sampling(),
        );
        check_input(x, t, options)
    }

    fn run(&self, x: &Tensor, t: &Tensor, pass: Pass) -> Result<ClassifierMaps> {
        self.check(x, t)?;
        let embedding = fndm_kernels::silu(&self.encoder.time.forward(t, pass)?)?;
        let (blocks, middle) = self
            .encoder
            .forward(&x.to_dtype(self.dtype)?, &embedding, pass)?;
        let logits = self
            .pool
            .forward(&blocks, &middle, pass)?
            .to_dtype(x.dtype())?;
        Ok(ClassifierMaps {
            blocks,
            middle,
            logits,
        })
    }
}

/// Log softmax over the last axis of `(B, K)`, at least in f32, by operations that have a gradient.
///
/// # Errors
/// When the tensor has no axis.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let logits = match logits.dtype() {
        DType::F64 => logits.clone(),
        _ => logits.to_dtype(DType::F32)?,
    };
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&log_sum)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Parameters, Pool};

    /// What is left of the gradients is that of `x`, and those of candle's own small tensors in the log softmax.
    #[test]
    fn guidance_computes_no_gradient_of_a_weight() {
        let device = &Device::Cpu;
        let x = Tensor::ones((2, 1, 64, 64), DType::F32, device).unwrap();
        let t = Tensor::new(&[3f32, 700.], device).unwrap();
        let y = Tensor::new(&[0u32, 1], device).unwrap();
        for pool in [
            Pool::Adaptive,
            Pool::Attention,
            Pool::Spatial,
            Pool::SpatialV2,
        ] {
            let config = ClassifierConfig {
                pool,
                ..ClassifierConfig::small_64(1)
            };
            let parameters = Parameters::new(1, DType::F32, device);
            let trained = Classifier::new(&config, parameters.builder()).unwrap();
            let frozen = Classifier::new(&config, parameters.frozen().unwrap()).unwrap();
            for net in [trained, frozen] {
                let (x, gradients) = net.differentiate(&x, &t, &y).unwrap();
                for (name, var) in parameters.iter() {
                    assert!(gradients.get(&var).is_none(), "{pool:?}: {name}");
                }
                let others: usize = gradients
                    .get_ids()
                    .filter(|id| **id != x.id())
                    .map(|id| gradients.get_id(*id).unwrap().elem_count())
                    .sum();
                assert!(others <= 64, "{pool:?}: {others} values beside the image's");
                assert!(gradients.get(&x).is_some(), "{pool:?}");
            }
        }
    }
}
