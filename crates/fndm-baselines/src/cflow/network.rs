use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use fndm_models::NetworkConfig;
use serde::{Deserialize, Serialize};

use super::{Decoder, DecoderConfig, per_dimension, position_encoding};
use crate::flows::{Flowed, Source, random_permutation, random_rotation};
use crate::{Error, Result};

/// Most channels of a layer.
const MOST_CHANNELS: usize = 1 << 14;
/// Most values of a layer's encoded positions.
const MOST_POSITIONS: usize = 1 << 28;

/// How the channels are mixed after a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixingKind {
    /// By a random rotation, as in the official code.
    Rotation,
    /// By a random permutation, as in anomalib.
    Permutation,
}

/// What the largest likelihoods of a map are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The slices that are asked for together, as in the peers: official code asks for the whole test set, anomalib for a batch.
    Together,
    /// The healthy slices that the flows were fitted to: a slice's map then doesn't depend on others.
    Healthy,
}

/// One layer's flow and features.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CflowLayer {
    /// The flow.
    pub decoder: DecoderConfig,
    /// Height and width of the layer's maps.
    pub size: (usize, usize),
}

/// Flows of several layers as they are saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CflowModel {
    /// The layers.
    pub layers: Vec<CflowLayer>,
    /// How channels are mixed.
    pub mixing: MixingKind,
    /// The seed of the mixing.
    pub seed: u64,
    /// What maps are made relative to.
    pub reference: Reference,
    /// The largest log-likelihood per dimension of healthy slices, layer by layer, once the flows are fitted.
    pub largest: Option<Vec<f64>>,
    /// What the features are known by, where they are.
    pub features: Option<String>,
}

impl NetworkConfig for CflowModel {
    const KIND: &'static str = "cflow";

    fn check(&self) -> fndm_models::Result<()> {
        let side = |n: usize| (1..=8192).contains(&n);
        let fits = |layer: &CflowLayer| {
            let (h, w) = layer.size;
            (1..=256).contains(&layer.decoder.blocks)
                && layer.decoder.channels <= MOST_CHANNELS
                && side(h)
                && side(w)
                && layer.decoder.condition <= MOST_CHANNELS
                && layer.decoder.condition * h * w <= MOST_POSITIONS
        };
        if !(1..=64).contains(&self.layers.len()) || !self.layers.iter().all(fits) {
            return Err(fndm_models::Error::Config(format!(
                "expected 1 to 64 layers of 1 to 256 blocks and at most {MOST_CHANNELS} channels, with positions of at most \
                 {MOST_POSITIONS} values, got {:?}",
                self.layers
            )));
        }
        let largest = self.largest.as_ref();
        if largest.is_some_and(|all| all.len() != self.layers.len()) {
            return Err(fndm_models::Error::Config(format!(
                "expected one largest likelihood for each of {} layers, got {:?}",
                self.layers.len(),
                self.largest
            )));
        }
        Ok(())
    }
}

/// A [`Decoder`] for each layer, with the encoding of its positions.
#[derive(Debug, Clone)]
pub struct CflowNetwork {
    decoders: Vec<Decoder>,
    /// `(h w, D)` of each layer, where it is told the position.
    positions: Vec<Option<Tensor>>,
    sizes: Vec<(usize, usize)>,
}

/// Maps `(B, C, h, w)` as rows `(B h w, C)`: image, row, column.
pub(super) fn rows(maps: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = maps.dims4()?;
    let last = maps.permute((0, 2, 3, 1))?.contiguous()?;
    Ok(last.reshape((b * h * w, c))?)
}

impl CflowNetwork {
    /// What is drawn once and isn't trained.
    pub(super) fn fixed(model: &CflowModel) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        let mut stream = 0;
        for (l, layer) in model.layers.iter().enumerate() {
            let n = layer.decoder.channels;
            for k in 0..layer.decoder.blocks {
                let matrix = match model.mixing {
                    MixingKind::Rotation => random_rotation(n, model.seed, stream),
                    MixingKind::Permutation => {
                        let mut matrix = vec![0.0; n * n];
                        let order = random_permutation(n, model.seed, stream);
                        for (o, c) in order.into_iter().enumerate() {
                            matrix[o * n + c] = 1.0;
                        }
                        matrix
                    }
                };
                stream += 1;
                let matrix: Vec<f32> = matrix.into_iter().map(|v| v as f32).collect();
                let matrix = Tensor::from_vec(matrix, (n, n), &Device::Cpu)?;
                let name = format!("decoder{l}.module_list.{k}.w_perm");
                all.insert(format!("{name}_inv"), matrix.t()?.contiguous()?);
                all.insert(name, matrix);
            }
        }
        Ok(all)
    }

    /// Builds the flows, under `decoder0.`, `decoder1.` and so on.
    ///
    /// # Errors
    /// When sizes don't make sense, or a tensor is missing or has another shape.
    pub fn new(model: &CflowModel, source: &Source<'_>) -> Result<Self> {
        let (mut decoders, mut positions) = (Vec::new(), Vec::new());
        for (l, layer) in model.layers.iter().enumerate() {
            let decoder = &layer.decoder;
            decoders.push(Decoder::new(decoder, &source.pp(format!("decoder{l}")))?);
            positions.push(match decoder.condition {
                0 => None,
                channels => {
                    let device = source.trained.device();
                    let maps = position_encoding(channels, layer.size, device)?;
                    Some(rows(&maps.unsqueeze(0)?)?)
                }
            });
        }
        Ok(Self {
            decoders,
            positions,
            sizes: model.layers.iter().map(|layer| layer.size).collect(),
        })
    }

    /// The flow of one layer on some of its rows `(N, C)`, which are at these places among all of a batch's, `(N)`, u32.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn forward_rows(&self, layer: usize, x: &Tensor, at: &Tensor) -> Result<Flowed> {
        let (Some(decoder), Some(position)) = (self.decoders.get(layer), self.positions.get(layer))
        else {
            let expected = format!("below {}", self.decoders.len());
            return Err(Error::config("layer", expected, layer));
        };
        let condition = match position {
            None => None,
            Some(position) => {
                let pixels = position.dim(0)? as u32;
                let at: Vec<u32> = at
                    .to_vec1::<u32>()?
                    .iter()
                    .map(|row| row % pixels)
                    .collect();
                Some(position.index_select(&Tensor::new(at, x.device())?, 0)?)
            }
        };
        decoder.forward(x, condition.as_ref())
    }

    /// Log-likelihoods per dimension `(B, h, w)` of each layer's features `(B, C, h, w)`.
    ///
    /// # Errors
    /// When shapes don't fit.
    pub fn likelihoods(&self, features: &[Tensor]) -> Result<Vec<Tensor>> {
        let sizes = features.iter().map(|map| map.dims4().map(|d| (d.2, d.3)));
        let sizes = sizes.collect::<candle_core::Result<Vec<_>>>()?;
        if sizes != self.sizes {
            let expected = format!("maps of {:?}", self.sizes);
            return Err(Error::shape("features", expected, sizes));
        }
        let layers = features.iter().zip(&self.decoders).zip(&self.positions);
        layers
            .map(|((map, decoder), position)| {
                let (b, _, h, w) = map.dims4()?;
                let condition = match position {
                    None => None,
                    Some(position) => {
                        Some(position.broadcast_left(b)?.contiguous()?.flatten(0, 1)?)
                    }
                };
                let flowed = decoder.forward(&rows(map)?, condition.as_ref())?;
                Ok(per_dimension(&flowed)?.reshape((b, h, w))?)
            })
            .collect()
    }
}
