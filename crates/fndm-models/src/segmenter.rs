//! A network for segmentation: encoder and decoder without time, from a slice and its neighbours to one map per output.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::blocks::{AttentionBlock, BlockOptions};
use crate::checkpoint::{Limits, NetworkConfig, StateDict, build_strictly};
use crate::dropout::Pass;
use crate::layers::{Conv, Start, wide};
use crate::{Error, Result};

const EPS: f64 = 1e-5;

/// Bounds that keep a config from a foreign file from asking for absurd amounts of memory.
const MAX_CHANNELS: usize = 1 << 12;
const MAX_LEVELS: usize = 10;
const MAX_BLOCKS: usize = 16;
const MAX_SIDE: usize = 1 << 14;
const MAX_CONTEXT: usize = 16;
/// The norm of an attention block has so many groups.
const ATTENTION_GROUPS: usize = 32;

/// The options of a [`Segmenter`].
///
/// Checked by [`Segmenter::new`] or [`SegmenterConfig::check`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SegmenterConfig {
    /// Side of the square slices that the network is meant for, in pixels. Other sizes run too.
    pub image_size: usize,
    /// Sequences of a slice.
    pub sequences: usize,
    /// Neighbouring slices on each side that are seen beside the slice itself. All sequences of the lowest come first.
    pub context: usize,
    /// Maps that come out: 1 for a segmentation, as many as sequences for a network that gives an image.
    pub out_channels: usize,
    /// Channels that the multipliers multiply.
    pub model_channels: usize,
    /// One multiplier per level; `multiplier * model_channels`, rounded down, must be a multiple of `groups`.
    pub channel_mult: Vec<f64>,
    /// Residual blocks per level, in the encoder and in the decoder, at least 1.
    pub num_res_blocks: usize,
    /// Groups of every norm.
    pub groups: usize,
    /// Down-sampling factors (1, 2, 4, ...) at which there is attention; none by default. Their channels must be a
    /// multiple of 32.
    pub attention_resolutions: Vec<usize>,
    /// Channels per attention head.
    pub num_head_channels: usize,
    /// Rate at which whole channels of the deepest map are dropped in training, in `[0, 1)`.
    pub dropout: f64,
    /// Whether the output is added to the slice itself: the network then predicts a change, and starts at none. Needs as
    /// many outputs as sequences.
    pub residual: bool,
}

impl Default for SegmenterConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            sequences: 1,
            context: 1,
            out_channels: 1,
            model_channels: 16,
            channel_mult: vec![1., 2., 4., 6.],
            num_res_blocks: 1,
            groups: 8,
            attention_resolutions: Vec::new(),
            num_head_channels: 32,
            dropout: 0.,
            residual: false,
        }
    }
}

impl SegmenterConfig {
    /// For 64 px: 16 channels times 1, 2, 4, 6, the slice and one neighbour on each side, a fifth of the deepest channels
    /// dropped; 0.41 M parameters.
    #[must_use]
    pub fn small_64(sequences: usize) -> Self {
        Self {
            sequences,
            dropout: 0.2,
            ..Self::default()
        }
    }

    /// As [`SegmenterConfig::small_64`], one level deeper for 128 px: the deepest map has the same reach. 0.98 M parameters.
    #[must_use]
    pub fn small_128(sequences: usize) -> Self {
        Self {
            image_size: 128,
            channel_mult: vec![1., 2., 4., 6., 8.],
            ..Self::small_64(sequences)
        }
    }

    /// As [`SegmenterConfig::small_64`], two levels deeper for 256 px. 1.8 M parameters.
    #[must_use]
    pub fn small_256(sequences: usize) -> Self {
        Self {
            image_size: 256,
            channel_mult: vec![1., 2., 4., 6., 8., 8.],
            ..Self::small_64(sequences)
        }
    }

    /// A network that gives an image of all sequences back, as a change of the slice that it sees, at 64 px: 24 channels times
    /// 1, 2, 4, 6, no neighbours, no dropout. 0.92 M parameters.
    #[must_use]
    pub fn remover_64(sequences: usize) -> Self {
        Self {
            sequences,
            context: 0,
            out_channels: sequences,
            model_channels: 24,
            residual: true,
            ..Self::default()
        }
    }

    /// Channels of the input: those of the slice and of its neighbours.
    #[must_use]
    pub fn in_channels(&self) -> usize {
        self.sequences * (2 * self.context + 1)
    }

    /// Whether the options fit together.
    ///
    /// # Errors
    /// The first that can't be built, with what would fit.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(Error::config(format!(
                    "{name}: expected {least} to {most}, got {value}"
                )))
            }
        };
        within("image_size", self.image_size, 1, MAX_SIDE)?;
        within("sequences", self.sequences, 1, MAX_CHANNELS)?;
        within("context", self.context, 0, MAX_CONTEXT)?;
        within("out_channels", self.out_channels, 1, MAX_CHANNELS)?;
        within("model_channels", self.model_channels, 1, MAX_CHANNELS)?;
        within("num_res_blocks", self.num_res_blocks, 1, MAX_BLOCKS)?;
        within("groups", self.groups, 1, MAX_CHANNELS)?;
        let levels = self.channel_mult.len();
        within("number of channel_mult", levels, 1, MAX_LEVELS)?;
        if !(0. ..1.).contains(&self.dropout) {
            return Err(Error::config(format!(
                "dropout: expected a rate in [0, 1), got {}",
                self.dropout
            )));
        }
        for (mult, channels) in self.channel_mult.iter().zip(self.levels()) {
            if channels == 0 || !channels.is_multiple_of(self.groups) || channels > MAX_CHANNELS {
                return Err(Error::config(format!(
                    "channel_mult {mult} times model_channels {} is {channels}: expected a multiple of {} groups, at most {MAX_CHANNELS}",
                    self.model_channels, self.groups
                )));
            }
        }
        let down = self.down_sampling();
        if !self.image_size.is_multiple_of(down) {
            return Err(Error::config(format!(
                "image_size {}: expected a multiple of {down}, since there are {levels} levels",
                self.image_size
            )));
        }
        for factor in &self.attention_resolutions {
            if !factor.is_power_of_two() {
                return Err(Error::config(format!(
                    "attention_resolutions: expected down-sampling factors (1, 2, 4, ...), got {factor}"
                )));
            }
        }
        for (level, channels) in self.levels().into_iter().enumerate() {
            let heads = self.num_head_channels;
            if self.attends(level)
                && !(channels.is_multiple_of(ATTENTION_GROUPS)
                    && heads > 0
                    && channels.is_multiple_of(heads))
            {
                return Err(Error::config(format!(
                    "attention at down-sampling {}: expected channels that are a multiple of {ATTENTION_GROUPS} and of num_head_channels {heads}, got {channels}",
                    1 << level
                )));
            }
        }
        if self.residual && self.out_channels != self.sequences {
            return Err(Error::config(format!(
                "residual: expected as many out_channels as sequences ({}), got {}",
                self.sequences, self.out_channels
            )));
        }
        Ok(())
    }

    fn levels(&self) -> Vec<usize> {
        self.channel_mult
            .iter()
            .map(|m| (m * self.model_channels as f64) as usize)
            .collect()
    }

    /// What the sides of a slice have to be divisible by.
    #[must_use]
    pub fn down_sampling(&self) -> usize {
        1 << self.channel_mult.len().saturating_sub(1).min(MAX_LEVELS)
    }

    fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&(1 << level))
    }
}

impl NetworkConfig for SegmenterConfig {
    const KIND: &'static str = "segmenter";

    fn check(&self) -> Result<()> {
        Self::check(self)
    }
}

/// Group norm and SiLU with a number of groups of its own.
#[derive(Clone, Debug)]
struct NormSilu {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl NormSilu {
    fn new(channels: usize, groups: usize, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.to_dtype(wide(vb.dtype()));
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.))?,
            groups,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        fndm_kernels::group_norm_silu(x, self.groups, &self.weight, &self.bias, EPS, None)
    }
}

/// Norm, SiLU, convolution, twice; plus the input. guided-diffusion's residual block without time.
#[derive(Clone, Debug)]
struct Residual {
    in_norm: NormSilu,
    in_conv: Conv,
    out_norm: NormSilu,
    out_conv: Conv,
    skip: Option<Conv>,
    attention: Option<AttentionBlock>,
}

impl Residual {
    fn new(
        (i, o): (usize, usize),
        attends: bool,
        config: &SegmenterConfig,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let options = BlockOptions {
            embedding: 0,
            scale_shift: false,
            dropout: 0.,
            new_attention_order: true,
        };
        let skip = (i != o)
            .then(|| Conv::new((i, o), 1, 1, Start::Default, &vb.pp("skip")))
            .transpose()?;
        let attention = attends
            .then(|| {
                let heads = o / config.num_head_channels;
                AttentionBlock::new(o, heads, &options, &vb.pp("attention"))
            })
            .transpose()?;
        Ok(Self {
            in_norm: NormSilu::new(i, config.groups, &vb.pp("in_norm"))?,
            in_conv: Conv::new((i, o), 3, 1, Start::Default, &vb.pp("in_conv"))?,
            out_norm: NormSilu::new(o, config.groups, &vb.pp("out_norm"))?,
            out_conv: Conv::new((o, o), 3, 1, Start::Zero, &vb.pp("out_conv"))?,
            skip,
            attention,
        })
    }

    fn forward(&self, x: &Tensor, pass: Pass) -> candle_core::Result<Tensor> {
        let h = self.in_conv.forward(&self.in_norm.forward(x)?, pass)?;
        let h = self.out_norm.forward(&h)?;
        let h = match &self.skip {
            Some(skip) => self
                .out_conv
                .forward_onto(&h, &skip.forward(x, pass)?, pass)?,
            None => self.out_conv.forward_onto(&h, x, pass)?,
        };
        match &self.attention {
            Some(attention) => attention.forward(&h, pass),
            None => Ok(h),
        }
    }
}

/// A network for segmentation, and for giving an image back: a U of residual blocks without time.
///
/// It sees all sequences of a slice and of its neighbours, `(B, sequences * (2 context + 1), H, W)`, and gives logits
/// `(B, out_channels, H, W)`. Between levels, maps are averaged over 2 x 2 pixels on the way down and repeated on the way up.
///
/// # Example
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fndm_models::{Parameters, Segmenter, SegmenterConfig};
///
/// let config = SegmenterConfig::small_64(3);
/// let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
/// let network = Segmenter::new(&config, parameters.builder())?;
/// // Three slices of three sequences.
/// let x = Tensor::zeros((1, 9, 64, 64), DType::F32, &Device::Cpu)?;
/// assert_eq!(network.forward(&x)?.dims(), [1, 1, 64, 64]);
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Segmenter {
    config: SegmenterConfig,
    stem: Conv,
    encoder: Vec<Vec<Residual>>,
    /// From the deepest level but one up to the first.
    decoder: Vec<Vec<Residual>>,
    out_norm: NormSilu,
    out_conv: Conv,
    dtype: DType,
}

impl Segmenter {
    /// Builds the network on `vb`: [`Parameters::builder`](crate::Parameters::builder) to train, a builder of plain tensors
    /// for inference.
    ///
    /// # Errors
    /// When the config doesn't fit together, or `vb` lacks a parameter or has it in another shape.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "builders are passed by value throughout candle"
    )]
    pub fn new(config: &SegmenterConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let levels = config.levels();
        let first = levels.first().copied().unwrap_or_default();
        let blocks = |from: usize, level: usize, vb: &VarBuilder| {
            let mut c = from;
            (0..config.num_res_blocks)
                .map(|i| {
                    let io = (c, levels[level]);
                    c = levels[level];
                    Residual::new(io, config.attends(level), config, &vb.pp(i))
                })
                .collect::<Result<Vec<_>>>()
        };
        let mut c = first;
        let mut encoder = Vec::with_capacity(levels.len());
        for (level, &channels) in levels.iter().enumerate() {
            encoder.push(blocks(c, level, &vb.pp("encoder").pp(level))?);
            c = channels;
        }
        let mut decoder = Vec::with_capacity(levels.len() - 1);
        for level in (0..levels.len() - 1).rev() {
            let joined = c + levels[level];
            decoder.push(blocks(joined, level, &vb.pp("decoder").pp(level))?);
            c = levels[level];
        }
        let out = vb.pp("out").to_dtype(wide(vb.dtype()));
        Ok(Self {
            stem: Conv::new(
                (config.in_channels(), first),
                3,
                1,
                Start::Default,
                &vb.pp("stem"),
            )?,
            encoder,
            decoder,
            out_norm: NormSilu::new(c, config.groups, &out.pp("norm"))?,
            out_conv: Conv::new((c, config.out_channels), 1, 1, Start::Zero, &out.pp("conv"))?,
            config: config.clone(),
            dtype: vb.dtype(),
        })
    }

    /// Builds the network on the tensors of a checkpoint, which must be exactly those that it needs.
    ///
    /// # Errors
    /// When the config doesn't fit together; or [`Error::Mismatch`] with all that is missing, unexpected or of a wrong shape.
    pub fn from_state_dict(
        config: &SegmenterConfig,
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
        match state.config::<SegmenterConfig>()? {
            Some(config) => Self::from_state_dict(&config, &state, dtype, device),
            None => Err(Error::config(format!(
                "{}: no config of a segmenter in the metadata",
                state.source()
            ))),
        }
    }

    /// The config that the network was built from.
    #[must_use]
    pub fn config(&self) -> &SegmenterConfig {
        &self.config
    }

    /// Logits, or images, `(B, out_channels, H, W)` for slices with their neighbours `x` `(B, in_channels, H, W)`, in the type
    /// of `x`. No dropout.
    ///
    /// # Errors
    /// When the shape doesn't fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Pass::default())
    }

    /// As [`Segmenter::forward`], with dropout whose mask is drawn from `seed`.
    ///
    /// # Errors
    /// As [`Segmenter::forward`].
    pub fn forward_train(&self, x: &Tensor, seed: u64) -> Result<Tensor> {
        self.run(
            x,
            Pass {
                dropout: Some(seed),
                ..Pass::default()
            },
        )
    }

    fn run(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        self.check(x)?;
        let input = x.to_dtype(self.dtype)?;
        let mut h = self.stem.forward(&input, pass)?;
        let mut skips = Vec::with_capacity(self.decoder.len());
        for (level, blocks) in self.encoder.iter().enumerate() {
            if level > 0 {
                skips.push(h.clone());
                h = fndm_kernels::avg_pool_2x(&h)?;
            }
            for block in blocks {
                h = block.forward(&h, pass)?;
            }
        }
        h = drop_channels(&h, self.config.dropout, pass)?;
        for blocks in &self.decoder {
            h = fndm_kernels::upsample_nearest_2x(&h)?;
            if let Some(skip) = skips.pop() {
                h = fndm_kernels::cat_channels(&h, &skip)?;
            }
            for block in blocks {
                h = block.forward(&h, pass)?;
            }
        }
        let h = self.out_norm.forward(&h.to_dtype(wide(self.dtype))?)?;
        let y = self.out_conv.forward(&h, pass)?.to_dtype(x.dtype())?;
        if !self.config.residual {
            return Ok(y);
        }
        let c = self.config.sequences;
        let own = x.narrow(1, self.config.context * c, c)?.contiguous()?;
        Ok(fndm_kernels::add(&own, &y)?)
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let (channels, down) = (self.config.in_channels(), self.config.down_sampling());
        match *x.dims() {
            [b, c, h, w]
                if c == channels && b > 0 && h > 0 && w > 0 && h % down == 0 && w % down == 0 =>
            {
                Ok(())
            }
            _ => Err(Error::input(
                "x",
                format!("(B, {channels}, H, W) with sides divisible by {down}"),
                x.dims(),
            )),
        }
    }
}

/// Whole channels of `x` `(B, C, H, W)` at zero, the others divided by what is kept on average. The mask follows from the
/// seed alone.
fn drop_channels(x: &Tensor, rate: f64, pass: Pass) -> Result<Tensor> {
    let Some(seed) = pass.dropout.filter(|_| rate > 0.) else {
        return Ok(x.clone());
    };
    let (b, c, ..) = x.dims4()?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let keep = (1. / (1. - rate)) as f32;
    let mask: Vec<f32> = (0..b * c)
        .map(|_| match rng.random::<f64>() < rate {
            true => 0.,
            false => keep,
        })
        .collect();
    let mask = Tensor::from_vec(mask, (b, c, 1, 1), x.device())?.to_dtype(x.dtype())?;
    Ok(x.broadcast_mul(&mask)?)
}
