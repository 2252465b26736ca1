use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::flows::{AffineBlock, AffineConfig, Flowed, Source, Subnet, chain};
use crate::{Error, Result};

/// The flow of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels of the layer's features.
    pub channels: usize,
    /// Channels of the position's encoding, a multiple of 4; 0 for a flow that isn't told the position.
    pub condition: usize,
    /// Coupling blocks.
    pub blocks: usize,
    /// The largest logarithm of a scale.
    pub clamp: f64,
}

impl DecoderConfig {
    /// The blocks' sizes: the subnet is twice as wide as what it sees.
    #[must_use]
    pub fn block(&self) -> AffineConfig {
        let seen = self.channels - self.channels / 2 + self.condition;
        AffineConfig {
            channels: self.channels,
            condition: self.condition,
            clamp: self.clamp,
            subnet: Subnet::Linear { hidden: 2 * seen },
        }
    }
}

/// A chain of [`AffineBlock`]s on rows of features.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: DecoderConfig,
    blocks: Vec<AffineBlock>,
}

impl Decoder {
    /// Builds the chain, under `module_list.0.`, `module_list.1.` and so on.
    ///
    /// # Errors
    /// When sizes don't make sense, or a tensor is missing or has another shape.
    pub fn new(config: &DecoderConfig, source: &Source<'_>) -> Result<Self> {
        if config.blocks == 0 {
            return Err(Error::config("blocks", "1 or more", config.blocks));
        }
        let source = source.pp("module_list");
        let blocks = (0..config.blocks)
            .map(|k| AffineBlock::new(&config.block(), &source.pp(k)))
            .collect::<Result<_>>()?;
        Ok(Self {
            config: *config,
            blocks,
        })
    }

    /// The sizes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The blocks, in the order of the forward pass.
    #[must_use]
    pub fn blocks(&self) -> &[AffineBlock] {
        &self.blocks
    }

    /// Rows `(N, C)` of features with conditions `(N, D)` to z `(N, C)`.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, rows: &Tensor, condition: Option<&Tensor>) -> Result<Flowed> {
        let blocks = self.blocks.iter();
        chain(rows, blocks, |block, x| block.forward(x, condition))
    }

    /// The way back.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn inverse(&self, z: &Tensor, condition: Option<&Tensor>) -> Result<Flowed> {
        let blocks = self.blocks.iter().rev();
        chain(z, blocks, |block, x| block.inverse(x, condition))
    }
}
