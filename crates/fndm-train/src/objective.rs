//! Objective (5): a batch's losses, and their gradients.

use candle_core::{Device, Tensor};
use fndm_models::{Conditions, HybridInput, UNet, UNetConfig};

use crate::base::{Answer, Pass, differentiate, recomputed};
use crate::batch::{DiffusionBatch, tensor};
use crate::{DiffusionConfig, Result};

/// The mean over a batch of `|| network(cat(x_t, x_0^n, x_seg), t, y) - target ||^2`, weighted by noise level and region.
#[derive(Debug)]
pub(crate) struct Objective {
    pub(crate) config: DiffusionConfig,
    pub(crate) model: UNetConfig,
    pub(crate) conditions: Conditions,
    pub(crate) device: Device,
}

/// A batch as tensors.
struct Prepared {
    /// `(B, C_in, H, W)`.
    input: Tensor,
    t: Tensor,
    y: Option<Tensor>,
    /// `(B, C, H, W)`.
    target: Tensor,
    /// Weight of each pixel, `(B, 1, H, W)`; none where all are 1.
    pixels: Option<Tensor>,
    /// Weight of each sample by its noise level, `(B)`.
    weights: Vec<f32>,
    /// What undoes the sampling of timesteps, `(B)`.
    correction: Vec<f32>,
}

impl Objective {
    fn prepare(&self, batch: DiffusionBatch) -> Result<Prepared> {
        let [b, c, h, w] = batch.shape;
        let device = &self.device;
        let one = |values| tensor(values, &[b, 1, h, w], device);
        let all = |values| tensor(values, &[b, c, h, w], device);
        let mut input = HybridInput::new(all(batch.state)?);
        if self.conditions.image {
            input.image = Some(all(batch.image)?);
        }
        if self.conditions.coarse {
            input.coarse = Some(one(batch.coarse)?);
        }
        let region_weight = self.config.region_weight;
        Ok(Prepared {
            input: input.concat()?,
            t: tensor(batch.model_times, &[b], device)?,
            y: match self.model.num_classes {
                Some(_) => Some(Tensor::from_vec(batch.labels, b, device)?),
                None => None,
            },
            target: all(batch.target)?,
            pixels: if region_weight == 1.0 {
                None
            } else {
                Some(one(batch.region)?.affine(region_weight - 1.0, 1.0)?)
            },
            weights: batch.weights,
            correction: batch.correction,
        })
    }

    /// Losses and, unless the loss isn't finite, gradients for one pass of an iteration.
    pub(crate) fn differentiate(
        &self,
        network: &UNet,
        batch: DiffusionBatch,
        dropout: Option<u64>,
    ) -> Result<Pass> {
        let passes = self.config.accumulation;
        if !self.config.recompute {
            return differentiate(passes, || self.evaluate(network, batch, dropout));
        }
        let batch = self.prepare(batch)?;
        let (x, t, y) = (&batch.input, &batch.t, batch.y.as_ref());
        recomputed(passes, |share| {
            let loss = |output: &Tensor| share(answer(output, &batch)?);
            Ok(network.loss_gradients(x, t, y, dropout, loss)?)
        })
    }

    pub(crate) fn evaluate(
        &self,
        network: &UNet,
        batch: DiffusionBatch,
        dropout: Option<u64>,
    ) -> Result<Answer> {
        let batch = self.prepare(batch)?;
        let (x, t, y) = (&batch.input, &batch.t, batch.y.as_ref());
        let output = match dropout {
            Some(seed) => network.forward_train(x, t, y, seed)?,
            None => network.forward(x, t, y)?,
        };
        Ok(answer(&output, &batch)?)
    }
}

/// The scalar loss, and each sample's: plain, and with the weights of pixels and noise level.
fn answer(output: &Tensor, batch: &Prepared) -> candle_core::Result<Answer> {
    let (b, c, _, _) = batch.target.dims4()?;
    // The other half of a network with learned variance isn't trained.
    let prediction = output.narrow(1, 0, c)?;
    let square = (prediction - &batch.target)?.sqr()?;
    let plain = square.detach().mean((1, 2, 3))?;
    let weighted = match &batch.pixels {
        Some(pixels) => square.broadcast_mul(pixels)?,
        None => square,
    };
    let weighted = weighted.mean((1, 2, 3))?;
    let weights = batch.weights.iter().zip(&batch.correction);
    let weights: Vec<f32> = weights.map(|(w, c)| w * c).collect();
    let weights = Tensor::from_vec(weights, b, output.device())?;
    let by_level = weighted.detach().to_vec1::<f32>()?;
    let by_level = by_level.iter().zip(&batch.weights);
    Ok(Answer {
        loss: (weighted * weights)?.mean_all()?,
        plain: plain.to_vec1::<f32>()?,
        second: by_level.map(|(loss, weight)| loss * weight).collect(),
    })
}
