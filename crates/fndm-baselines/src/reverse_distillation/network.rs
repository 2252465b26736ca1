use candle_core::Tensor;
use candle_nn::VarBuilder;
use fndm_models::{
    BatchNorms, Border, ConvNorm, Mode, ResNetConfig, Residual, ResidualBlock, Sampling,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const EPS: f64 = 1e-5;
/// Layers of the encoder that take part.
const LAYERS: usize = 3;

/// The shape of bottleneck and decoder, which mirror a residual encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Channels of the encoder's three maps, the finest first; each is half as wide and high as the one before.
    pub channels: [usize; 3],
    /// The kind of residual block.
    pub block: Residual,
    /// Blocks of the bottleneck.
    pub bottleneck_blocks: usize,
    /// Blocks of the decoder's stages, the coarsest first.
    pub decoder_blocks: [usize; 3],
}

impl NetworkConfig {
    /// What mirrors a residual network, as the authors do.
    ///
    /// # Errors
    /// When it has fewer than three layers.
    pub fn mirror(encoder: &ResNetConfig) -> Result<Self> {
        let channels = encoder.channels();
        let blocks = &encoder.blocks;
        let (Some(&[a, b, c]), Some(&[x, y, z])) =
            (channels.first_chunk::<3>(), blocks.first_chunk::<3>())
        else {
            return Err(Error::config(
                "encoder",
                "three layers or more",
                channels.len(),
            ));
        };
        // torchvision's depths by layer; the authors give them to the decoder in the same order.
        let decoder_blocks = [x, y, z];
        Ok(Self {
            channels: [a, b, c],
            block: encoder.block,
            bottleneck_blocks: blocks.get(LAYERS).copied().unwrap_or(z),
            decoder_blocks,
        })
    }

    /// What goes with features of any extractor: basic blocks as deep as those of ResNet-18.
    #[must_use]
    pub fn of_features(channels: [usize; 3]) -> Self {
        Self {
            channels,
            block: Residual::Basic,
            bottleneck_blocks: 2,
            decoder_blocks: [2, 2, 2],
        }
    }

    /// Whether the options fit together.
    ///
    /// # Errors
    /// Names the first that doesn't.
    pub fn check(&self) -> Result<()> {
        let expansion = self.block.expansion();
        if self.channels.iter().any(|&c| c == 0 || c % expansion != 0) {
            return Err(Error::config(
                "channels",
                format!("multiples of {expansion}"),
                format!("{:?}", self.channels),
            ));
        }
        let depths = self.decoder_blocks.iter().chain([&self.bottleneck_blocks]);
        if let Some(depth) = depths.into_iter().find(|d| !(1..=64).contains(*d)) {
            return Err(Error::config("blocks", "1 to 64", depth));
        }
        Ok(())
    }

    /// Channels of the code in the middle.
    fn code(&self) -> usize {
        2 * self.channels[2]
    }
}

/// Three maps to a code: the finer ones are brought to the coarsest one's size, all joined and narrowed by residual blocks.
///
/// The authors' file also has a `conv4` and a `bn4`, which take no part.
#[derive(Debug, Clone)]
pub struct Bottleneck {
    first: [ConvNorm; 2],
    second: ConvNorm,
    blocks: Vec<ResidualBlock>,
}

/// What a [`Bottleneck`] computes on its way.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Code {
    /// The finest map at the coarsest one's size.
    pub branch1: Tensor,
    /// The middle one.
    pub branch2: Tensor,
    /// The code: half as wide and high again.
    pub code: Tensor,
}

impl Bottleneck {
    /// Builds it under the authors' names.
    ///
    /// # Errors
    /// When the options don't fit together, or `vb` lacks a tensor or has it in another shape.
    pub fn new(config: &NetworkConfig, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        config.check()?;
        let [a, b, c] = config.channels;
        let settings = (Border::Zeros, EPS);
        let halve = |conv: &str, norm: &str, channels| {
            ConvNorm::named((conv, norm), channels, (3, 2), settings, vb, norms)
        };
        let planes = config.code() / config.block.expansion();
        Ok(Self {
            first: [
                halve("conv1", "bn1", (a, b))?,
                halve("conv2", "bn2", (b, c))?,
            ],
            second: halve("conv3", "bn3", (b, c))?,
            blocks: ResidualBlock::stage(
                config.bottleneck_blocks,
                config.block,
                (LAYERS * c, planes),
                Sampling::Down,
                settings,
                &vb.pp("bn_layer"),
                norms,
            )?,
        })
    }

    /// The encoder's three maps to the code.
    ///
    /// # Errors
    /// When the maps don't fit.
    pub fn forward(&self, maps: &[Tensor], mode: Mode) -> Result<Code> {
        let [fine, middle, coarse] = maps else {
            return Err(Error::shape("the encoder's maps", "three", maps.len()));
        };
        let mut branch1 = fine.clone();
        for conv in &self.first {
            branch1 = fndm_kernels::relu(&conv.forward(&branch1, mode)?)?;
        }
        let branch2 = fndm_kernels::relu(&self.second.forward(middle, mode)?)?;
        if branch1.dims() != coarse.dims() || branch2.dims() != coarse.dims() {
            return Err(Error::shape(
                "the encoder's maps",
                "each half as wide and high as the one before",
                maps.iter().map(|m| m.dims().to_vec()).collect::<Vec<_>>(),
            ));
        }
        let mut code = Tensor::cat(&[&branch1, &branch2, coarse], 1)?;
        for block in &self.blocks {
            code = block.forward(&code, mode)?;
        }
        Ok(Code {
            branch1,
            branch2,
            code,
        })
    }

    /// The same for inference, with today's weights.
    ///
    /// # Errors
    /// Those of candle.
    pub fn folded(&self) -> Result<Self> {
        let [a, b] = &self.first;
        Ok(Self {
            first: [a.folded()?, b.folded()?],
            second: self.second.folded()?,
            blocks: folded(&self.blocks)?,
        })
    }
}

fn folded(blocks: &[ResidualBlock]) -> Result<Vec<ResidualBlock>> {
    blocks.iter().map(|block| Ok(block.folded()?)).collect()
}

/// The code to three maps like the encoder's.
#[derive(Debug, Clone)]
pub struct Decoder {
    stages: Vec<Vec<ResidualBlock>>,
}

impl Decoder {
    /// Builds it under the authors' names.
    ///
    /// # Errors
    /// When the options don't fit together, or `vb` lacks a tensor or has it in another shape.
    pub fn new(config: &NetworkConfig, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        config.check()?;
        let mut i = config.code();
        let channels = config.channels.iter().rev();
        let stages = (1..)
            .zip(channels.zip(config.decoder_blocks))
            .map(|(n, (&o, count))| {
                let planes = o / config.block.expansion();
                let stage = ResidualBlock::stage(
                    count,
                    config.block,
                    (i, planes),
                    Sampling::Up,
                    (Border::Zeros, EPS),
                    &vb.pp(format!("layer{n}")),
                    norms,
                )?;
                i = o;
                Ok(stage)
            })
            .collect::<Result<_>>()?;
        Ok(Self { stages })
    }

    /// The three maps, the finest first.
    ///
    /// # Errors
    /// When the code doesn't fit.
    pub fn forward(&self, code: &Tensor, mode: Mode) -> Result<Vec<Tensor>> {
        let mut h = code.clone();
        let mut maps = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            for block in stage {
                h = block.forward(&h, mode)?;
            }
            maps.push(h.clone());
        }
        maps.reverse();
        Ok(maps)
    }

    /// The same for inference, with today's weights.
    ///
    /// # Errors
    /// Those of candle.
    pub fn folded(&self) -> Result<Self> {
        let stages = self.stages.iter().map(|stage| folded(stage));
        Ok(Self {
            stages: stages.collect::<Result<_>>()?,
        })
    }
}
