//! The blocks of guided-diffusion: residual, attention, and resampling.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use fndm_kernels::QkvOrder;

use crate::dropout::{Dropout, Pass};
use crate::layers::{Conv, Linear, Norm, Start, wide};

/// What happens to the size of the map inside a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resample {
    Keep,
    Up,
    Down,
}

impl Resample {
    fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Keep => Ok(x.clone()),
            Self::Up => fndm_kernels::upsample_nearest_2x(x),
            Self::Down => fndm_kernels::avg_pool_2x(x),
        }
    }
}

/// The options that all blocks of one network share.
#[derive(Clone, Debug)]
pub(crate) struct BlockOptions {
    pub(crate) embedding: usize,
    pub(crate) scale_shift: bool,
    pub(crate) dropout: f64,
    pub(crate) new_attention_order: bool,
}

/// Norm, SiLU, convolution, plus time; norm, SiLU, dropout, convolution; plus the input.
#[derive(Clone, Debug)]
pub(crate) struct ResBlock {
    in_norm: Norm,
    in_conv: Conv,
    time: Linear,
    out_norm: Norm,
    out_conv: Conv,
    skip: Option<Conv>,
    resample: Resample,
    scale_shift: bool,
    dropout: Dropout,
}

impl ResBlock {
    pub(crate) fn new(
        (i, o): (usize, usize),
        resample: Resample,
        options: &BlockOptions,
        place: u64,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let time_width = if options.scale_shift { 2 * o } else { o };
        let wide_vb = vb.to_dtype(wide(vb.dtype()));
        Ok(Self {
            in_norm: Norm::new(i, &vb.pp("in_layers.0"))?,
            in_conv: Conv::new((i, o), 3, 1, Start::Default, &vb.pp("in_layers.2"))?,
            time: Linear::new(
                (options.embedding, time_width),
                Start::Default,
                &wide_vb.pp("emb_layers.1"),
            )?,
            out_norm: Norm::new(o, &vb.pp("out_layers.0"))?,
            out_conv: Conv::new((o, o), 3, 1, Start::Zero, &vb.pp("out_layers.3"))?,
            skip: if i == o {
                None
            } else {
                Some(Conv::new(
                    (i, o),
                    1,
                    1,
                    Start::Default,
                    &vb.pp("skip_connection"),
                )?)
            },
            resample,
            scale_shift: options.scale_shift,
            dropout: Dropout {
                rate: options.dropout,
                place,
            },
        })
    }

    /// `silu_embedding` is SiLU of the embedding, the same for all blocks of a pass.
    fn forward(&self, x: &Tensor, silu_embedding: &Tensor, pass: Pass) -> Result<Tensor> {
        let h = self
            .resample
            .apply(&self.in_norm.forward_silu(x, None, pass)?)?;
        let x = self.resample.apply(x)?;
        let time = self.time.forward(silu_embedding, pass)?;
        let h = if self.scale_shift {
            let h = self.in_conv.forward(&h, pass)?;
            let o = time.dim(1)? / 2;
            let scale = time.narrow(1, 0, o)?.contiguous()?;
            let shift = time.narrow(1, o, o)?.contiguous()?;
            self.out_norm
                .forward_silu(&h, Some((&scale, &shift)), pass)?
        } else {
            let h = self.in_conv.forward_shifted(&h, &time, pass)?;
            self.out_norm.forward_silu(&h, None, pass)?
        };
        let h = self.dropout.forward(&h, pass)?;
        match &self.skip {
            Some(skip) => self
                .out_conv
                .forward_onto(&h, &skip.forward(&x, pass)?, pass),
            None => self.out_conv.forward_onto(&h, &x, pass),
        }
    }
}

/// Norm, self-attention over all positions, 1x1 convolution; plus the input.
#[derive(Clone, Debug)]
pub(crate) struct AttentionBlock {
    norm: Norm,
    qkv: Conv,
    out: Conv,
    heads: usize,
    new_order: bool,
}

impl AttentionBlock {
    pub(crate) fn new(
        channels: usize,
        heads: usize,
        options: &BlockOptions,
        vb: &VarBuilder,
    ) -> Result<Self> {
        Ok(Self {
            norm: Norm::new(channels, &vb.pp("norm"))?,
            qkv: Conv::new_1d((channels, 3 * channels), Start::Default, &vb.pp("qkv"))?,
            out: Conv::new_1d((channels, channels), Start::Zero, &vb.pp("proj_out"))?,
            heads,
            new_order: options.new_attention_order,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor> {
        let qkv = self.qkv.forward(&self.norm.forward(x, pass)?, pass)?;
        let a = qkv_attention(&qkv, self.heads, self.new_order)?;
        self.out.forward_onto(&a, x, pass)
    }
}

/// Attention on `(B, 3 C, ...)`. In the old order the channels are split into heads first, then each head into q,
/// k and v; in the new order into q, k and v first.
pub(crate) fn qkv_attention(qkv: &Tensor, heads: usize, new_order: bool) -> Result<Tensor> {
    let order = if new_order {
        QkvOrder::PartsFirst
    } else {
        QkvOrder::HeadsFirst
    };
    fndm_kernels::attention_qkv(qkv, heads, order)
}

/// One layer of a block.
#[derive(Clone, Debug)]
pub(crate) enum Layer {
    Conv(Conv),
    Res(Box<ResBlock>),
    Attention(Box<AttentionBlock>),
    /// Average pooling without a convolution.
    PoolDown,
    /// Strided convolution.
    ConvDown(Conv),
    /// Nearest upsampling, then a convolution where there is one.
    Up(Option<Conv>),
}

impl Layer {
    fn forward(&self, x: &Tensor, silu_embedding: &Tensor, pass: Pass) -> Result<Tensor> {
        match self {
            Self::Conv(conv) | Self::ConvDown(conv) => conv.forward(x, pass),
            Self::Res(block) => block.forward(x, silu_embedding, pass),
            Self::Attention(block) => block.forward(x, pass),
            Self::PoolDown => fndm_kernels::avg_pool_2x(x),
            Self::Up(Some(conv)) => conv.forward_upsampled(x, pass),
            Self::Up(None) => fndm_kernels::upsample_nearest_2x(x),
        }
    }
}

/// Layers that are run one after the other: an entry of `input_blocks`, `middle_block` or `output_blocks`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block(pub(crate) Vec<Layer>);

impl Block {
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        silu_embedding: &Tensor,
        pass: Pass,
    ) -> Result<Tensor> {
        let mut h = x.clone();
        for layer in &self.0 {
            h = layer.forward(&h, silu_embedding, pass)?;
        }
        Ok(h)
    }
}
