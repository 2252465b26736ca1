//! The noise-prediction network.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::blocks::{AttentionBlock, Block, Layer, ResBlock, Resample};
use crate::checkpoint::{Limits, StateDict, build_strictly};
use crate::config::UNetConfig;
use crate::dropout::Pass;
use crate::encoder::{Encoder, block_options};
use crate::layers::{Conv, Norm, Start, wide};
use crate::{Error, Result, labels};

/// guided-diffusion's `UNetModel` in two dimensions.
#[derive(Clone, Debug)]
pub struct UNet {
    config: UNetConfig,
    pub(crate) encoder: Encoder,
    label_emb: Option<Tensor>,
    pub(crate) output_blocks: Vec<Block>,
    pub(crate) out_norm: Norm,
    pub(crate) out_conv: Conv,
    pub(crate) dtype: DType,
}

/// What a pass through the network gives on the way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UNetMaps {
    /// Embedding of time plus class, `(B, 4 * model_channels)`.
    pub embedding: Tensor,
    /// Output of the middle block.
    pub middle: Tensor,
    /// Output of the network, `(B, out_channels, H, W)`.
    pub output: Tensor,
}

impl UNet {
    /// Builds the network on `vb`: [`Parameters::builder`](crate::Parameters::builder) to train,
    /// a builder of plain tensors for inference, so that nothing is tracked and weights are packed once.
    ///
    /// # Errors
    /// When the config doesn't fit together, or `vb` lacks a parameter or has it in another shape.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "builders are passed by value throughout candle"
    )]
    pub fn new(config: &UNetConfig, vb: VarBuilder) -> Result<Self> {
        config.check()?;
        let options = config.encoder();
        let shared = block_options(&options);
        let encoder = Encoder::new(&options, &vb)?;
        let label_emb = match config.num_classes {
            Some(n) => Some(vb.to_dtype(wide(vb.dtype())).get_with_hints(
                (n, shared.embedding),
                "label_emb.weight",
                Init::Randn {
                    mean: 0.,
                    stdev: 1.,
                },
            )?),
            None => None,
        };

        let levels = options.levels();
        let mut skips = encoder.channels.clone();
        let mut places = encoder.places;
        let mut c = options.deepest_channels()?;
        let mut output_blocks = Vec::new();
        for (level, &channels) in levels.iter().enumerate().rev() {
            for i in 0..=config.num_res_blocks {
                let vb = vb.pp("output_blocks").pp(output_blocks.len());
                let skip = skips.pop().unwrap_or_default();
                let mut residual = |io, resample, name: usize| {
                    places += 1;
                    ResBlock::new(io, resample, &shared, places, &vb.pp(name))
                        .map(|block| Layer::Res(Box::new(block)))
                };
                let mut layers = vec![residual((c + skip, channels), Resample::Keep, 0)?];
                c = channels;
                if config.attention_resolutions.contains(&(1 << level)) {
                    let heads = match config.num_head_channels {
                        Some(n) => c / n,
                        None => config.up_heads(),
                    };
                    layers.push(Layer::Attention(Box::new(AttentionBlock::new(
                        c,
                        heads,
                        &shared,
                        &vb.pp(1),
                    )?)));
                }
                if level > 0 && i == config.num_res_blocks {
                    let place = layers.len();
                    layers.push(if config.resblock_updown {
                        residual((c, c), Resample::Up, place)?
                    } else if config.conv_resample {
                        Layer::Up(Some(Conv::new(
                            (c, c),
                            3,
                            1,
                            Start::Default,
                            &vb.pp(place).pp("conv"),
                        )?))
                    } else {
                        Layer::Up(None)
                    });
                }
                output_blocks.push(Block(layers));
            }
        }
        let out_vb = vb.pp("out").to_dtype(wide(vb.dtype()));
        Ok(Self {
            out_norm: Norm::new(c, &out_vb.pp(0))?,
            out_conv: Conv::new((c, config.out_channels), 3, 1, Start::Zero, &out_vb.pp(2))?,
            config: config.clone(),
            encoder,
            label_emb,
            output_blocks,
            dtype: vb.dtype(),
        })
    }

    /// Builds the network on the tensors of a checkpoint, which must be exactly those that it needs. They are widened
    /// or narrowed to `dtype`, and not tracked.
    ///
    /// # Errors
    /// When the config doesn't fit together; or [`Error::Mismatch`] with all that is missing, unexpected or of a
    /// wrong shape.
    pub fn from_state_dict(
        config: &UNetConfig,
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
        match state.config::<UNetConfig>()? {
            Some(config) => Self::from_state_dict(&config, &state, dtype, device),
            None => Err(Error::Config(format!(
                "{}: no config of a unet in the metadata; UNetConfig::guess tells what its shapes tell",
                state.source()
            ))),
        }
    }

    /// The config that the network was built from.
    #[must_use]
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The prediction for states `x` `(B, in_channels, H, W)` at model times `t` `(B)`, which may be fractional,
    /// under labels `y` `(B)`: `(B, out_channels, H, W)` in the type of `x`. No dropout.
    ///
    /// # Errors
    /// When a shape doesn't fit, or `y` is missing where the model has classes, or given where it has none.
    pub fn forward(&self, x: &Tensor, t: &Tensor, y: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.run(x, t, y, Pass::default())?.output)
    }

    /// As [`UNet::forward`], with dropout whose masks are drawn from `seed`.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_train(
        &self,
        x: &Tensor,
        t: &Tensor,
        y: Option<&Tensor>,
        seed: u64,
    ) -> Result<Tensor> {
        let pass = Pass {
            dropout: Some(seed),
            ..Pass::default()
        };
        Ok(self.run(x, t, y, pass)?.output)
    }

    /// As [`UNet::forward`], with what comes up on the way.
    ///
    /// # Errors
    /// As [`UNet::forward`].
    pub fn forward_maps(&self, x: &Tensor, t: &Tensor, y: Option<&Tensor>) -> Result<UNetMaps> {
        self.run(x, t, y, Pass::default())
    }

    fn run(&self, x: &Tensor, t: &Tensor, y: Option<&Tensor>, pass: Pass) -> Result<UNetMaps> {
        self.check(x, t)?;
        let embedding = self.embedding(x.dim(0)?, t, y, pass)?;
        let silu_embedding = fndm_kernels::silu(&embedding)?;
        let (mut skips, middle) =
            self.encoder
                .forward(&x.to_dtype(self.dtype)?, &silu_embedding, pass)?;
        let mut h = middle.clone();
        for block in &self.output_blocks {
            if let Some(skip) = skips.pop() {
                h = fndm_kernels::cat_channels(&h, &skip)?;
            }
            h = block.forward(&h, &silu_embedding, pass)?;
        }
        let h = self
            .out_norm
            .forward_silu(&h.to_dtype(wide(self.dtype))?, None, pass)?;
        let output = self.out_conv.forward(&h, pass)?.to_dtype(x.dtype())?;
        Ok(UNetMaps {
            embedding,
            middle,
            output,
        })
    }

    pub(crate) fn check(&self, x: &Tensor, t: &Tensor) -> Result<()> {
        let options = (
            self.config.in_channels,
            self.config.encoder().down_sampling(),
        );
        check_input(x, t, options)
    }

    pub(crate) fn embedding(
        &self,
        batch: usize,
        t: &Tensor,
        y: Option<&Tensor>,
        pass: Pass,
    ) -> Result<Tensor> {
        let time = self.encoder.time.forward(t, pass)?;
        match (&self.label_emb, y) {
            (Some(table), Some(y)) => {
                let y = labels::checked(y, batch, table.dim(0)?)?;
                Ok((time + pass.weight(table).index_select(&y, 0)?)?)
            }
            (None, None) => Ok(time),
            (Some(table), None) => Err(Error::input(
                "y",
                format!(
                    "a label below {} per image, since the model has classes",
                    table.dim(0)?
                ),
                "none",
            )),
            (None, Some(y)) => Err(Error::input(
                "y",
                "none, since the model has no classes",
                y.dims(),
            )),
        }
    }
}

/// Whether images and times fit a network of so many input channels and such a down-sampling.
pub(crate) fn check_input(x: &Tensor, t: &Tensor, (channels, down): (usize, usize)) -> Result<()> {
    match *x.dims() {
        [b, c, h, w]
            if c == channels && b > 0 && h > 0 && w > 0 && h % down == 0 && w % down == 0 =>
        {
            if t.dims() == [b] {
                Ok(())
            } else {
                Err(Error::input("t", format!("({b}) times"), t.dims()))
            }
        }
        _ => Err(Error::input(
            "x",
            format!("(B, {channels}, H, W) with sides divisible by {down}"),
            x.dims(),
        )),
    }
}
