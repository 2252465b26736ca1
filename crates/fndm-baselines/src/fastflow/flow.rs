use candle_core::Tensor;
use candle_nn::Init;
use serde::{Deserialize, Serialize};

use crate::flows::{AffineBlock, AffineConfig, Flowed, Source, Subnet, chain};
use crate::{Error, Result};

/// Added to a variance before its root.
const EPS: f64 = 1e-5;

/// The features of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerConfig {
    /// Channels.
    pub channels: usize,
    /// Height.
    pub height: usize,
    /// Width.
    pub width: usize,
}

/// The sizes of a [`FastFlow`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastFlowConfig {
    /// The layers' features.
    pub layers: Vec<LayerConfig>,
    /// Coupling blocks of each layer.
    pub steps: usize,
    /// Whether all blocks have kernels of 3; otherwise every second one has 1.
    pub conv3x3_only: bool,
    /// The subnets' width, as a share of what they see.
    pub hidden_ratio: f64,
    /// The largest logarithm of a scale.
    pub clamp: f64,
    /// Whether features are brought to mean 0 and deviation 1 first, over channels and pixels together: for networks of
    /// convolutions, not for transformers.
    pub layer_norm: bool,
}

impl FastFlowConfig {
    /// The sizes of block `k` of a layer.
    #[must_use]
    pub fn block(&self, layer: &LayerConfig, k: usize) -> AffineConfig {
        let seen = layer.channels - layer.channels / 2;
        let small = !self.conv3x3_only && !k.is_multiple_of(2);
        AffineConfig {
            channels: layer.channels,
            condition: 0,
            clamp: self.clamp,
            subnet: Subnet::Convolution {
                hidden: (seen as f64 * self.hidden_ratio) as usize,
                kernel: if small { 1 } else { 3 },
            },
        }
    }
}

/// A chain of [`AffineBlock`]s on maps.
#[derive(Debug, Clone)]
pub struct LayerFlow {
    blocks: Vec<AffineBlock>,
}

impl LayerFlow {
    /// Builds the chain, under `module_list.0.`, `module_list.1.` and so on.
    ///
    /// # Errors
    /// When sizes don't make sense, or a tensor is missing or has another shape.
    pub fn new(config: &FastFlowConfig, layer: &LayerConfig, source: &Source<'_>) -> Result<Self> {
        if config.steps == 0 {
            return Err(Error::config("steps", "1 or more", config.steps));
        }
        let source = source.pp("module_list");
        let blocks = (0..config.steps)
            .map(|k| AffineBlock::new(&config.block(layer, k), &source.pp(k)))
            .collect::<Result<_>>()?;
        Ok(Self { blocks })
    }

    /// The blocks, in the order of the forward pass.
    #[must_use]
    pub fn blocks(&self) -> &[AffineBlock] {
        &self.blocks
    }

    /// Features `(B, C, h, w)` to z of the same shape.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, x: &Tensor) -> Result<Flowed> {
        chain(x, self.blocks.iter(), |block, x| block.forward(x, None))
    }

    /// The way back.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn inverse(&self, z: &Tensor) -> Result<Flowed> {
        let blocks = self.blocks.iter().rev();
        chain(z, blocks, |block, x| block.inverse(x, None))
    }
}

/// Normalisation over channels and pixels, with a scale and a shift for each value.
#[derive(Debug, Clone)]
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let flat = x.contiguous()?.reshape((b, c * h * w))?;
        let centred = flat.broadcast_sub(&flat.mean_keepdim(1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(1)? + EPS)?.sqrt()?;
        let normal = centred.broadcast_div(&deviation)?.reshape((b, c, h, w))?;
        Ok(normal
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)?)
    }
}

/// A norm and a flow for each layer of features.
#[derive(Debug, Clone)]
pub struct FastFlow {
    config: FastFlowConfig,
    norms: Vec<LayerNorm>,
    flows: Vec<LayerFlow>,
}

impl FastFlow {
    /// Builds the norms and flows, under `norms.` and `nf_flows.`.
    ///
    /// # Errors
    /// When sizes don't make sense, or a tensor is missing or has another shape.
    pub fn new(config: &FastFlowConfig, source: &Source<'_>) -> Result<Self> {
        if config.layers.is_empty() {
            return Err(Error::config("layers", "1 or more", "none"));
        }
        let norms = source.trained.pp("norms");
        let norm = |at: usize, layer: &LayerConfig| -> Result<LayerNorm> {
            let shape = (layer.channels, layer.height, layer.width);
            let vb = norms.pp(at);
            Ok(LayerNorm {
                weight: vb.get_with_hints(shape, "weight", Init::Const(1.0))?,
                bias: vb.get_with_hints(shape, "bias", Init::Const(0.0))?,
            })
        };
        let layers = || config.layers.iter().enumerate();
        let flows = source.pp("nf_flows");
        Ok(Self {
            norms: match config.layer_norm {
                true => layers()
                    .map(|(at, layer)| norm(at, layer))
                    .collect::<Result<_>>()?,
                false => Vec::new(),
            },
            flows: layers()
                .map(|(at, layer)| LayerFlow::new(config, layer, &flows.pp(at)))
                .collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    /// The sizes.
    #[must_use]
    pub fn config(&self) -> &FastFlowConfig {
        &self.config
    }

    /// The flows of the layers.
    #[must_use]
    pub fn flows(&self) -> &[LayerFlow] {
        &self.flows
    }

    /// What the flows see: the features `(B, C, h, w)` of each layer, normalised where the config says so.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn normalised(&self, features: &[Tensor]) -> Result<Vec<Tensor>> {
        let wanted = self.config.layers.iter();
        let fits = features.len() == wanted.len()
            && features.iter().zip(wanted).all(|(f, layer)| {
                f.dims().get(1..) == Some(&[layer.channels, layer.height, layer.width])
            });
        if !fits {
            let expected = format!("(B, C, h, w) of {:?}", self.config.layers);
            let got: Vec<&[usize]> = features.iter().map(Tensor::dims).collect();
            return Err(Error::shape("features", expected, got));
        }
        if self.norms.is_empty() {
            return Ok(features.to_vec());
        }
        let pairs = features.iter().zip(&self.norms);
        pairs.map(|(f, norm)| norm.forward(f)).collect()
    }

    /// Features of each layer to z.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward(&self, features: &[Tensor]) -> Result<Vec<Flowed>> {
        let normalised = self.normalised(features)?;
        let pairs = normalised.iter().zip(&self.flows);
        pairs.map(|(x, flow)| flow.forward(x)).collect()
    }
}

/// The loss `(B)` of each sample: over all layers, half its squares minus its log-determinant. A batch's is the mean.
///
/// # Errors
/// When there is no layer.
pub fn loss(layers: &[Flowed]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for Flowed { z, log_det } in layers {
        let own = ((z.sqr()?.flatten_from(1)?.sum(1)? * 0.5)? - log_det)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    sum.ok_or_else(|| Error::config("layers", "1 or more", 0))
}
