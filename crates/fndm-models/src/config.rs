//! The options of the two networks, and the check that they fit together.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The options of guided-diffusion's `UNetModel`, under its own names.
///
/// Defaults are guided-diffusion's where it has any. A config is checked by [`UNet::new`](crate::UNet::new) or
/// [`UNetConfig::check`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Side of the square images that the model is meant for, in pixels. Other sizes run too.
    pub image_size: usize,
    /// Channels of the input, conditions included: see [`Conditions::in_channels`](crate::Conditions::in_channels).
    pub in_channels: usize,
    /// Channels that the multipliers multiply.
    pub model_channels: usize,
    /// Channels of the output; twice those of the prediction where the variance is learned.
    pub out_channels: usize,
    /// Residual blocks per level, at least 1.
    pub num_res_blocks: usize,
    /// Down-sampling factors (1, 2, 4, ...), not sizes, at which there is attention. A factor that no level
    /// has is without effect. The middle block always has attention.
    pub attention_resolutions: Vec<usize>,
    /// Rate of dropout in training, in `[0, 1)`.
    pub dropout: f64,
    /// One multiplier per level; `multiplier * model_channels`, rounded down, must be a multiple of 32.
    pub channel_mult: Vec<f64>,
    /// Whether resampling between levels has a convolution. Without effect where `resblock_updown` is set.
    pub conv_resample: bool,
    /// Number of class labels; none for an unconditional model.
    pub num_classes: Option<usize>,
    /// Attention heads, where `num_head_channels` is none.
    pub num_heads: usize,
    /// Channels per attention head; overrides `num_heads`.
    pub num_head_channels: Option<usize>,
    /// Attention heads of the output blocks; as `num_heads` if none.
    pub num_heads_upsample: Option<usize>,
    /// Whether time scales and shifts the norm, instead of being added before it.
    pub use_scale_shift_norm: bool,
    /// Whether residual blocks do the resampling between levels.
    pub resblock_updown: bool,
    /// Whether attention splits its channels into q, k, v before it splits them into heads.
    pub use_new_attention_order: bool,
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            in_channels: 1,
            model_channels: 32,
            out_channels: 1,
            num_res_blocks: 1,
            attention_resolutions: Vec::new(),
            dropout: 0.,
            channel_mult: vec![1., 2., 4., 8.],
            conv_resample: true,
            num_classes: None,
            num_heads: 1,
            num_head_channels: None,
            num_heads_upsample: None,
            use_scale_shift_norm: false,
            resblock_updown: false,
            use_new_attention_order: false,
        }
    }
}

impl UNetConfig {
    /// A small network for CPUs at 64 px: 32 channels times 1, 2, 3, 3, about 3 M parameters, two class labels, attention at 16 and 8 px.
    #[must_use]
    pub fn small_64(in_channels: usize, out_channels: usize) -> Self {
        Self {
            image_size: 64,
            in_channels,
            out_channels,
            model_channels: 32,
            num_res_blocks: 1,
            attention_resolutions: vec![4, 8],
            channel_mult: vec![1., 2., 3., 3.],
            num_classes: Some(2),
            num_head_channels: Some(32),
            use_scale_shift_norm: true,
            ..Self::default()
        }
    }

    /// The paper's network at 256 px, as DiffANO's published flags set it: 128 channels, multipliers 1, 1, 2, 2, 4, 4,
    /// two residual blocks, attention at 16 px with one head, two class labels; 114 M parameters.
    ///
    /// The paper's network also predicts the variance: add [`UNetConfig::with_learned_sigma`] for that.
    #[must_use]
    pub fn paper_256(in_channels: usize, out_channels: usize) -> Self {
        Self::paper(256, &[1., 1., 2., 2., 4., 4.], in_channels, out_channels)
    }

    /// As [`UNetConfig::paper_256`], for 128 px: multipliers 1, 1, 2, 3, 4.
    #[must_use]
    pub fn paper_128(in_channels: usize, out_channels: usize) -> Self {
        Self::paper(128, &[1., 1., 2., 3., 4.], in_channels, out_channels)
    }

    /// As [`UNetConfig::paper_256`], for 64 px: multipliers 1, 2, 3, 4.
    #[must_use]
    pub fn paper_64(in_channels: usize, out_channels: usize) -> Self {
        Self::paper(64, &[1., 2., 3., 4.], in_channels, out_channels)
    }

    fn paper(size: usize, mult: &[f64], in_channels: usize, out_channels: usize) -> Self {
        Self {
            image_size: size,
            in_channels,
            out_channels,
            model_channels: 128,
            num_res_blocks: 2,
            attention_resolutions: vec![size / 16],
            channel_mult: mult.to_vec(),
            num_classes: Some(2),
            ..Self::default()
        }
    }

    /// The same network with twice the output channels: the second half is the predicted variance.
    #[must_use]
    pub fn with_learned_sigma(mut self) -> Self {
        self.out_channels = self.out_channels.saturating_mul(2);
        self
    }

    /// Whether the options fit together.
    ///
    /// # Errors
    /// The first combination that can't be built, with what would fit.
    pub fn check(&self) -> Result<()> {
        let encoder = self.encoder();
        encoder.check()?;
        if let Some(n) = self.num_classes
            && !(1..=MAX_CLASSES).contains(&n)
        {
            return Err(Error::Config(format!(
                "num_classes: expected none or 1 to {MAX_CLASSES}, got {n}"
            )));
        }
        if self.num_head_channels.is_none() {
            encoder.check_heads(self.up_heads(), "num_heads_upsample")?;
        }
        Ok(())
    }

    pub(crate) fn up_heads(&self) -> usize {
        self.num_heads_upsample.unwrap_or(self.num_heads)
    }

    pub(crate) fn encoder(&self) -> EncoderOptions {
        EncoderOptions {
            image_size: self.image_size,
            in_channels: self.in_channels,
            model_channels: self.model_channels,
            out_channels: self.out_channels,
            num_res_blocks: self.num_res_blocks,
            attention_resolutions: self.attention_resolutions.clone(),
            dropout: self.dropout,
            channel_mult: self.channel_mult.clone(),
            conv_resample: self.conv_resample,
            num_heads: self.num_heads,
            num_head_channels: self.num_head_channels,
            use_scale_shift_norm: self.use_scale_shift_norm,
            resblock_updown: self.resblock_updown,
            use_new_attention_order: self.use_new_attention_order,
        }
    }
}

/// How the classifier turns its last map into logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// Norm, SiLU, mean over all positions, linear.
    #[default]
    Adaptive,
    /// Norm, SiLU, attention from the mean to all positions. Needs `num_head_channels`, and images of `image_size`.
    Attention,
    /// The means of every block's output, joined; linear to 2048, ReLU, linear.
    Spatial,
    /// As `Spatial`, with norm and SiLU in place of ReLU.
    SpatialV2,
    /// The last map averaged over 8x8 tiles, flattened, linear from exactly 256 values. This is what
    /// diffusion-anomaly (DiffANO's code) calls `spatial`.
    SpatialAverage8,
}

/// The options of guided-diffusion's `EncoderUNetModel`, under its own names.
///
/// The fields mean what they mean in [`UNetConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Side of the square images, in pixels. With [`Pool::Attention`] no other size runs.
    pub image_size: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels that the multipliers multiply.
    pub model_channels: usize,
    /// Number of logits.
    pub out_channels: usize,
    /// Residual blocks per level, at least 1.
    pub num_res_blocks: usize,
    /// Down-sampling factors at which there is attention.
    pub attention_resolutions: Vec<usize>,
    /// Rate of dropout in training, in `[0, 1)`.
    pub dropout: f64,
    /// One multiplier per level.
    pub channel_mult: Vec<f64>,
    /// Whether resampling between levels has a convolution.
    pub conv_resample: bool,
    /// Attention heads, where `num_head_channels` is none.
    pub num_heads: usize,
    /// Channels per attention head; overrides `num_heads`.
    pub num_head_channels: Option<usize>,
    /// Whether time scales and shifts the norm.
    pub use_scale_shift_norm: bool,
    /// Whether residual blocks do the resampling between levels.
    pub resblock_updown: bool,
    /// Whether attention splits its channels into q, k, v first. The attention pool always does.
    pub use_new_attention_order: bool,
    /// From the last map to logits.
    pub pool: Pool,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            image_size: 64,
            in_channels: 1,
            model_channels: 32,
            out_channels: 2,
            num_res_blocks: 1,
            attention_resolutions: Vec::new(),
            dropout: 0.,
            channel_mult: vec![1., 2., 4., 8.],
            conv_resample: true,
            num_heads: 1,
            num_head_channels: None,
            use_scale_shift_norm: false,
            resblock_updown: false,
            use_new_attention_order: false,
            pool: Pool::Adaptive,
        }
    }
}

impl ClassifierConfig {
    /// A small classifier for CPUs at 64 px with two logits: 0.63 M parameters, attention at 16 and 8 px.
    #[must_use]
    pub fn small_64(in_channels: usize) -> Self {
        Self {
            image_size: 64,
            in_channels,
            model_channels: 32,
            num_res_blocks: 1,
            attention_resolutions: vec![4, 8],
            channel_mult: vec![1., 1., 2., 2.],
            num_head_channels: Some(32),
            use_scale_shift_norm: true,
            resblock_updown: true,
            pool: Pool::Attention,
            ..Self::default()
        }
    }

    /// The paper's classifier at 256 px, as DiffANO sets it: 32 channels, four residual blocks per level,
    /// attention at 32, 16 and 8 px with 64 channels per head, residual resampling, scale-shift norm, attention pool.
    #[must_use]
    pub fn paper_256(in_channels: usize) -> Self {
        Self {
            num_head_channels: Some(64),
            ..Self::paper(256, &[1., 1., 2., 2., 4., 4.], in_channels)
        }
    }

    /// As [`ClassifierConfig::paper_256`], for 128 px. A head has 32 channels, since 64 doesn't divide the 96 of the
    /// fourth level.
    #[must_use]
    pub fn paper_128(in_channels: usize) -> Self {
        Self::paper(128, &[1., 1., 2., 3., 4.], in_channels)
    }

    /// As [`ClassifierConfig::paper_256`], for 64 px, with 32 channels per head.
    #[must_use]
    pub fn paper_64(in_channels: usize) -> Self {
        Self::paper(64, &[1., 2., 3., 4.], in_channels)
    }

    fn paper(size: usize, mult: &[f64], in_channels: usize) -> Self {
        Self {
            image_size: size,
            in_channels,
            model_channels: 32,
            num_res_blocks: 4,
            attention_resolutions: vec![size / 32, size / 16, size / 8],
            channel_mult: mult.to_vec(),
            num_head_channels: Some(32),
            use_scale_shift_norm: true,
            resblock_updown: true,
            pool: Pool::Attention,
            ..Self::default()
        }
    }

    /// Whether the options fit together.
    ///
    /// # Errors
    /// The first combination that can't be built, with what would fit.
    pub fn check(&self) -> Result<()> {
        let encoder = self.encoder();
        encoder.check()?;
        if self.pool == Pool::Attention {
            let Some(n) = self.num_head_channels else {
                return Err(Error::config(
                    "pool attention: expected num_head_channels to be set, got none",
                ));
            };
            encoder.check_head_channels(n, encoder.deepest_channels()?)?;
        }
        let deepest = encoder.deepest_channels()?;
        if self.pool == Pool::SpatialAverage8 && !AVERAGE8_INPUTS.is_multiple_of(deepest) {
            return Err(Error::Config(format!(
                "pool spatial_average8: expected a divisor of {AVERAGE8_INPUTS} as channels of the last level, got {deepest}"
            )));
        }
        Ok(())
    }

    pub(crate) fn encoder(&self) -> EncoderOptions {
        EncoderOptions {
            image_size: self.image_size,
            in_channels: self.in_channels,
            model_channels: self.model_channels,
            out_channels: self.out_channels,
            num_res_blocks: self.num_res_blocks,
            attention_resolutions: self.attention_resolutions.clone(),
            dropout: self.dropout,
            channel_mult: self.channel_mult.clone(),
            conv_resample: self.conv_resample,
            num_heads: self.num_heads,
            num_head_channels: self.num_head_channels,
            use_scale_shift_norm: self.use_scale_shift_norm,
            resblock_updown: self.resblock_updown,
            use_new_attention_order: self.use_new_attention_order,
        }
    }
}

/// Inputs of the last layer of [`Pool::SpatialAverage8`].
pub(crate) const AVERAGE8_INPUTS: usize = 256;

/// What the two networks share: all that the downward half needs.
#[derive(Clone, Debug)]
pub(crate) struct EncoderOptions {
    pub(crate) image_size: usize,
    pub(crate) in_channels: usize,
    pub(crate) model_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) num_res_blocks: usize,
    pub(crate) attention_resolutions: Vec<usize>,
    pub(crate) dropout: f64,
    pub(crate) channel_mult: Vec<f64>,
    pub(crate) conv_resample: bool,
    pub(crate) num_heads: usize,
    pub(crate) num_head_channels: Option<usize>,
    pub(crate) use_scale_shift_norm: bool,
    pub(crate) resblock_updown: bool,
    pub(crate) use_new_attention_order: bool,
}

/// Bounds that keep a config from a foreign file from asking for absurd amounts of memory.
const MAX_CHANNELS: usize = 1 << 14;
const MAX_LEVELS: usize = 12;
const MAX_BLOCKS: usize = 64;
const MAX_SIDE: usize = 1 << 14;
const MAX_CLASSES: usize = 1 << 20;

impl EncoderOptions {
    /// Channels of each level.
    pub(crate) fn levels(&self) -> Vec<usize> {
        self.channel_mult
            .iter()
            .map(|m| (m * self.model_channels as f64) as usize)
            .collect()
    }

    pub(crate) fn deepest_channels(&self) -> Result<usize> {
        self.levels()
            .last()
            .copied()
            .ok_or_else(|| Error::config("channel_mult: expected at least one level, got none"))
    }

    /// Down-sampling of the deepest level.
    pub(crate) fn down_sampling(&self) -> usize {
        1 << self.channel_mult.len().saturating_sub(1).min(MAX_LEVELS)
    }

    pub(crate) fn heads(&self, channels: usize) -> usize {
        match self.num_head_channels {
            Some(n) => channels / n,
            None => self.num_heads,
        }
    }

    fn check(&self) -> Result<()> {
        let within = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) {
                Ok(())
            } else {
                Err(Error::Config(format!(
                    "{name}: expected 1 to {most}, got {value}"
                )))
            }
        };
        within("image_size", self.image_size, MAX_SIDE)?;
        within("in_channels", self.in_channels, MAX_CHANNELS)?;
        within("out_channels", self.out_channels, MAX_CHANNELS)?;
        within("model_channels", self.model_channels, MAX_CHANNELS)?;
        within("num_res_blocks", self.num_res_blocks, MAX_BLOCKS)?;
        within(
            "number of channel_mult",
            self.channel_mult.len(),
            MAX_LEVELS,
        )?;
        if !(0. ..1.).contains(&self.dropout) {
            return Err(Error::Config(format!(
                "dropout: expected a rate in [0, 1), got {}",
                self.dropout
            )));
        }
        for (mult, channels) in self.channel_mult.iter().zip(self.levels()) {
            if channels == 0 || !channels.is_multiple_of(32) || channels > MAX_CHANNELS {
                return Err(Error::Config(format!(
                    "channel_mult {mult} times model_channels {} is {channels}: expected a multiple of 32 from 32 to {MAX_CHANNELS}, since every norm has 32 groups",
                    self.model_channels
                )));
            }
        }
        let down = self.down_sampling();
        if !self.image_size.is_multiple_of(down) {
            return Err(Error::Config(format!(
                "image_size {}: expected a multiple of {down}, since {} levels down-sample {} times",
                self.image_size,
                self.channel_mult.len(),
                self.channel_mult.len() - 1
            )));
        }
        if let Some(factor) = self
            .attention_resolutions
            .iter()
            .find(|f| !f.is_power_of_two())
        {
            return Err(Error::Config(format!(
                "attention_resolutions: expected down-sampling factors (1, 2, 4, ...), got {factor}"
            )));
        }
        match self.num_head_channels {
            Some(n) => {
                for channels in self.attention_channels()? {
                    self.check_head_channels(n, channels)?;
                }
                Ok(())
            }
            None => self.check_heads(self.num_heads, "num_heads"),
        }
    }

    /// Channels of every level that has attention, the middle block's last.
    fn attention_channels(&self) -> Result<Vec<usize>> {
        let mut channels: Vec<usize> = self
            .levels()
            .into_iter()
            .enumerate()
            .filter(|(level, _)| self.attention_resolutions.contains(&(1 << level)))
            .map(|(_, c)| c)
            .collect();
        channels.push(self.deepest_channels()?);
        Ok(channels)
    }

    fn check_head_channels(&self, n: usize, channels: usize) -> Result<()> {
        if n == 0 || !channels.is_multiple_of(n) {
            return Err(Error::Config(format!(
                "num_head_channels: expected a divisor of {channels}, the channels of an attention block, got {n}"
            )));
        }
        Ok(())
    }

    fn check_heads(&self, heads: usize, name: &str) -> Result<()> {
        for channels in self.attention_channels()? {
            if heads == 0 || !channels.is_multiple_of(heads) {
                return Err(Error::Config(format!(
                    "{name}: expected a divisor of {channels}, the channels of an attention block, got {heads}"
                )));
            }
        }
        Ok(())
    }
}
