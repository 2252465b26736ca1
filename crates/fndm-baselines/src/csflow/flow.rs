use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::flows::{CrossBlock, CrossConfig, Flowed};
use crate::{Error, Result};

/// The sizes of a [`CrossFlow`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossFlowConfig {
    /// Channels of the features, of every scale.
    pub channels: usize,
    /// Channels between the convolutions.
    pub hidden: usize,
    /// The kernel of each coupling block.
    pub kernels: Vec<usize>,
    /// The largest logarithm of a scale is about this.
    pub clamp: f64,
    /// Whether the convolutions' outputs are multiplied by trained numbers that begin at 0.
    pub gamma: bool,
}

/// Coupling blocks on three scales of features.
#[derive(Debug, Clone)]
pub struct CrossFlow {
    blocks: Vec<CrossBlock>,
}

impl CrossFlow {
    /// Builds the flow under the peer's names: block k is `module_list.` 2 k + 4. `orders[k]` are its three permutations.
    ///
    /// # Errors
    /// When sizes don't make sense, or a tensor is missing or has another shape.
    pub fn new(
        config: &CrossFlowConfig,
        orders: &[Vec<Vec<usize>>],
        vb: &VarBuilder<'_>,
    ) -> Result<Self> {
        let count = config.kernels.len();
        if count == 0 {
            return Err(Error::config(
                "kernels",
                "one for each of 1 block or more",
                "none",
            ));
        }
        if orders.len() != count {
            let expected = format!("three for each of {count} blocks");
            return Err(Error::config("orders", expected, orders.len()));
        }
        let list = vb.pp("module_list");
        let blocks = config
            .kernels
            .iter()
            .zip(orders)
            .enumerate()
            .map(|(k, (&kernel, orders))| {
                let block = CrossConfig {
                    channels: config.channels,
                    hidden: config.hidden,
                    kernel,
                    gamma: config.gamma,
                    clamp: config.clamp,
                };
                CrossBlock::new(&block, orders, &list.pp(2 * k + 4))
            })
            .collect::<Result<_>>()?;
        Ok(Self { blocks })
    }

    /// The blocks, in the order of the forward pass.
    #[must_use]
    pub fn blocks(&self) -> &[CrossBlock] {
        &self.blocks
    }

    /// Features of three scales, the finest first and each half as large as the one before, to z, with each scale's share `(B)` of the
    /// log-determinant.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, x: &[Tensor]) -> Result<Vec<Flowed>> {
        let blocks = self.blocks.iter();
        chain(x, blocks, CrossBlock::forward)
    }

    /// The way back.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn inverse(&self, z: &[Tensor]) -> Result<Vec<Flowed>> {
        let blocks = self.blocks.iter().rev();
        chain(z, blocks, CrossBlock::inverse)
    }
}

fn chain<'a>(
    x: &[Tensor],
    blocks: impl Iterator<Item = &'a CrossBlock>,
    step: impl Fn(&CrossBlock, &[Tensor]) -> Result<Vec<Flowed>>,
) -> Result<Vec<Flowed>> {
    let mut maps = x.to_vec();
    let mut sums: Option<Vec<Tensor>> = None;
    for block in blocks {
        let (next, log_dets): (Vec<Tensor>, Vec<Tensor>) = step(block, &maps)?
            .into_iter()
            .map(|flowed| (flowed.z, flowed.log_det))
            .unzip();
        maps = next;
        sums = Some(match sums {
            None => log_dets,
            Some(before) => before
                .iter()
                .zip(&log_dets)
                .map(|(a, b)| a + b)
                .collect::<candle_core::Result<_>>()?,
        });
    }
    let sums = sums.unwrap_or_default();
    let flowed = maps.into_iter().zip(sums);
    Ok(flowed.map(|(z, log_det)| Flowed { z, log_det }).collect())
}

/// The loss `(B)` of each sample: half its squares minus its log-determinant, divided by its dimensions. A batch's is the mean.
///
/// # Errors
/// Those of candle.
pub fn loss(scales: &[Flowed]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    let mut dimensions = 0;
    for Flowed { z, log_det } in scales {
        dimensions += z.dims()[1..].iter().product::<usize>();
        let own = ((z.sqr()?.flatten_from(1)?.sum(1)? * 0.5)? - log_det)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    let sum = sum.ok_or_else(|| Error::config("scales", "1 or more", 0))?;
    Ok((sum / dimensions as f64)?)
}

/// The score of each sample: the mean of z^2 / 2 over all dimensions of all scales.
///
/// # Errors
/// Those of candle.
pub fn score(scales: &[Flowed]) -> Result<Vec<f32>> {
    let mut sum: Option<Tensor> = None;
    let mut dimensions = 0;
    for Flowed { z, .. } in scales {
        dimensions += z.dims()[1..].iter().product::<usize>();
        let own = z.sqr()?.flatten_from(1)?.sum(1)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    let sum = sum.ok_or_else(|| Error::config("scales", "1 or more", 0))?;
    Ok((sum * (0.5 / dimensions as f64))?.to_vec1::<f32>()?)
}
