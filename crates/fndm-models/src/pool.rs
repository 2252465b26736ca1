//! From the classifier's maps to logits.

use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::blocks::qkv_attention;
use crate::config::{AVERAGE8_INPUTS, ClassifierConfig, Pool};
use crate::dropout::Pass;
use crate::layers::{Conv, Norm, Start, wide};
use crate::{Error, Result};

/// Width of the hidden layer of the spatial pools.
const HIDDEN: usize = 2048;

#[derive(Clone, Debug)]
pub(crate) enum PoolHead {
    Adaptive {
        norm: Norm,
        linear: Conv,
    },
    Attention {
        norm: Norm,
        position: Tensor,
        qkv: Conv,
        out: Conv,
        heads: usize,
    },
    Spatial {
        first: Conv,
        /// In the second version; ReLU stands in its place in the first.
        norm: Option<Norm>,
        second: Conv,
    },
    Average8(Conv),
}

impl PoolHead {
    /// `channels` are those of the input blocks' outputs.
    pub(crate) fn new(
        config: &ClassifierConfig,
        channels: &[usize],
        vb: &VarBuilder,
    ) -> Result<Self> {
        let vb = vb.pp("out").to_dtype(wide(vb.dtype()));
        let options = config.encoder();
        let c = options.deepest_channels()?;
        let classes = config.out_channels;
        let joined = channels.iter().sum::<usize>() + c;
        Ok(match config.pool {
            Pool::Adaptive => Self::Adaptive {
                norm: Norm::new(c, &vb.pp(0))?,
                linear: Conv::new((c, classes), 1, 1, Start::Zero, &vb.pp(3))?,
            },
            Pool::Attention => {
                let side = config.image_size / options.down_sampling();
                let stdev = 1. / (c as f64).sqrt();
                Self::Attention {
                    norm: Norm::new(c, &vb.pp(0))?,
                    position: vb.get_with_hints(
                        (c, side * side + 1),
                        "2.positional_embedding",
                        Init::Randn { mean: 0., stdev },
                    )?,
                    qkv: Conv::new_1d((c, 3 * c), Start::Default, &vb.pp("2.qkv_proj"))?,
                    out: Conv::new_1d((c, classes), Start::Default, &vb.pp("2.c_proj"))?,
                    heads: options.heads(c),
                }
            }
            Pool::Spatial | Pool::SpatialV2 => {
                let second_version = config.pool == Pool::SpatialV2;
                Self::Spatial {
                    first: Conv::new_linear((joined, HIDDEN), Start::Default, &vb.pp(0))?,
                    norm: if second_version {
                        Some(Norm::new(HIDDEN, &vb.pp(1))?)
                    } else {
                        None
                    },
                    second: Conv::new_linear(
                        (HIDDEN, classes),
                        Start::Default,
                        &vb.pp(if second_version { 3 } else { 2 }),
                    )?,
                }
            }
            Pool::SpatialAverage8 => Self::Average8(Conv::new_linear(
                (AVERAGE8_INPUTS, classes),
                Start::Default,
                &vb,
            )?),
        })
    }

    /// Whether the input blocks' outputs are looked at, and not the middle block's alone.
    pub(crate) fn takes_blocks(&self) -> bool {
        matches!(self, Self::Spatial { .. })
    }

    /// `blocks` are the outputs of the input blocks, `middle` that of the middle block.
    pub(crate) fn forward(&self, blocks: &[Tensor], middle: &Tensor, pass: Pass) -> Result<Tensor> {
        let middle = &middle.to_dtype(wide(middle.dtype()))?;
        match self {
            Self::Adaptive { norm, linear } => {
                let h = spatial_mean(&norm.forward_silu(middle, None, pass)?)?;
                Ok(linear.forward_rows(&h, pass)?)
            }
            Self::Attention {
                norm,
                position,
                qkv,
                out,
                heads,
            } => {
                let h = norm.forward_silu(middle, None, pass)?.flatten_from(2)?;
                let h = Tensor::cat(&[&h.mean_keepdim(D::Minus1)?, &h], D::Minus1)?;
                let (b, c, tokens) = h.dims3()?;
                if position.dim(1)? != tokens {
                    return Err(Error::input(
                        "x",
                        format!(
                            "{} positions in the last map, which the attention pool was built for",
                            position.dim(1)? - 1
                        ),
                        tokens - 1,
                    ));
                }
                let position = pass.weight(position).broadcast_as(h.shape())?;
                let h = fndm_kernels::add(&h, &position.contiguous()?)?.unsqueeze(3)?;
                let qkv = qkv.forward(&h, pass)?.reshape((b, 3 * c, tokens))?;
                let first = qkv_attention(&qkv, *heads, true)?.narrow(2, 0, 1)?;
                Ok(out.forward_rows(&first.squeeze(2)?.contiguous()?, pass)?)
            }
            Self::Spatial {
                first,
                norm,
                second,
            } => {
                let means: Vec<Tensor> = blocks
                    .iter()
                    .chain([middle])
                    .map(spatial_mean)
                    .collect::<Result<_>>()?;
                let h = first.forward_rows(&Tensor::cat(&means, 1)?, pass)?;
                let h = match norm {
                    Some(norm) => norm.forward_silu(&h, None, pass)?,
                    None => fndm_kernels::relu(&h)?,
                };
                Ok(second.forward_rows(&h, pass)?)
            }
            Self::Average8(linear) => {
                let (_, c, h, w) = middle.dims4()?;
                if c * (h / 8) * (w / 8) != AVERAGE8_INPUTS {
                    return Err(Error::input(
                        "x",
                        format!("a last map with {AVERAGE8_INPUTS} values after 8x8 averaging"),
                        (c, h, w),
                    ));
                }
                // Rows and columns beyond the last whole tile are left out, as pooling does.
                let h = middle
                    .narrow(2, 0, h / 8 * 8)?
                    .narrow(3, 0, w / 8 * 8)?
                    .contiguous()?
                    .avg_pool2d(8)?;
                Ok(linear.forward_rows(&h.flatten_from(1)?, pass)?)
            }
        }
    }
}

fn spatial_mean(x: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(wide(x.dtype()))?;
    Ok(x.flatten_from(2)?.mean(D::Minus1)?)
}
