//! The downward half that both networks have: time embedding, input blocks, middle block.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::blocks::{AttentionBlock, Block, BlockOptions, Layer, ResBlock, Resample};
use crate::config::EncoderOptions;
use crate::dropout::Pass;
use crate::embedding::TimeEmbedding;
use crate::layers::{Conv, Start};

#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    pub(crate) time: TimeEmbedding,
    pub(crate) input_blocks: Vec<Block>,
    pub(crate) middle_block: Block,
    /// Channels of each input block's output.
    pub(crate) channels: Vec<usize>,
    /// Number of residual blocks so far: the place of the next one.
    pub(crate) places: u64,
}

pub(crate) fn block_options(options: &EncoderOptions) -> BlockOptions {
    BlockOptions {
        embedding: 4 * options.model_channels,
        scale_shift: options.use_scale_shift_norm,
        dropout: options.dropout,
        new_attention_order: options.use_new_attention_order,
    }
}

impl Encoder {
    pub(crate) fn new(options: &EncoderOptions, vb: &VarBuilder) -> Result<Self> {
        let time = TimeEmbedding::new(options.model_channels, vb)?;
        let mut builder = Builder {
            options,
            shared: block_options(options),
            vb: vb.pp("input_blocks"),
            blocks: Vec::new(),
            channels: Vec::new(),
            places: 0,
        };
        builder.build()?;
        let Builder {
            shared,
            blocks,
            channels,
            mut places,
            ..
        } = builder;
        let c = channels.last().copied().unwrap_or_default();
        let vb = vb.pp("middle_block");
        let mut residual = |name: usize| {
            places += 1;
            ResBlock::new((c, c), Resample::Keep, &shared, places, &vb.pp(name))
        };
        let middle_block = Block(vec![
            Layer::Res(Box::new(residual(0)?)),
            Layer::Attention(Box::new(AttentionBlock::new(
                c,
                options.heads(c),
                &shared,
                &vb.pp(1),
            )?)),
            Layer::Res(Box::new(residual(2)?)),
        ]);
        Ok(Self {
            time,
            input_blocks: blocks,
            middle_block,
            channels,
            places,
        })
    }

    /// The outputs of all input blocks, and of the middle block.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        silu_embedding: &Tensor,
        pass: Pass,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let mut h = x.clone();
        let mut outputs = Vec::with_capacity(self.input_blocks.len());
        for block in &self.input_blocks {
            h = block.forward(&h, silu_embedding, pass)?;
            outputs.push(h.clone());
        }
        let middle = self.middle_block.forward(&h, silu_embedding, pass)?;
        Ok((outputs, middle))
    }
}

struct Builder<'a> {
    options: &'a EncoderOptions,
    shared: BlockOptions,
    vb: VarBuilder<'a>,
    blocks: Vec<Block>,
    channels: Vec<usize>,
    places: u64,
}

impl<'a> Builder<'a> {
    fn build(&mut self) -> Result<()> {
        let levels = self.options.levels();
        let mut c = levels.first().copied().unwrap_or_default();
        let conv = Conv::new(
            (self.options.in_channels, c),
            3,
            1,
            Start::Default,
            &self.next().pp(0),
        )?;
        self.push(vec![Layer::Conv(conv)], c);
        for (level, &channels) in levels.iter().enumerate() {
            for _ in 0..self.options.num_res_blocks {
                let vb = self.next();
                let mut layers = vec![self.residual((c, channels), Resample::Keep, &vb)?];
                c = channels;
                if self.options.attention_resolutions.contains(&(1 << level)) {
                    layers.push(Layer::Attention(Box::new(AttentionBlock::new(
                        c,
                        self.options.heads(c),
                        &self.shared,
                        &vb.pp(1),
                    )?)));
                }
                self.push(layers, c);
            }
            if level + 1 < levels.len() {
                let vb = self.next();
                let layer = if self.options.resblock_updown {
                    self.residual((c, c), Resample::Down, &vb)?
                } else if self.options.conv_resample {
                    Layer::ConvDown(Conv::new((c, c), 3, 2, Start::Default, &vb.pp("0.op"))?)
                } else {
                    Layer::PoolDown
                };
                self.push(vec![layer], c);
            }
        }
        Ok(())
    }

    fn next(&self) -> VarBuilder<'a> {
        self.vb.pp(self.blocks.len())
    }

    fn residual(
        &mut self,
        channels: (usize, usize),
        resample: Resample,
        vb: &VarBuilder,
    ) -> Result<Layer> {
        self.places += 1;
        let block = ResBlock::new(channels, resample, &self.shared, self.places, &vb.pp(0))?;
        Ok(Layer::Res(Box::new(block)))
    }

    fn push(&mut self, layers: Vec<Layer>, channels: usize) {
        self.blocks.push(Block(layers));
        self.channels.push(channels);
    }
}
