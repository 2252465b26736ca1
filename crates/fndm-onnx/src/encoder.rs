//! What UNet and classifier share: the embedding of time, residual blocks, and the downward half.

use fndm_models::{ClassifierConfig, UNetConfig};

use crate::Result;
use crate::graph::{Dim, Graph, Value};
use crate::layers::Conv;

/// Groups of every norm of guided-diffusion.
pub(crate) const GROUPS: usize = 32;
const MAX_PERIOD: f64 = 10_000.;

/// What happens to the size of the map inside a residual block.
#[derive(Clone, Copy)]
pub(crate) enum Resample {
    Keep,
    Up,
    Down,
}

/// The options that both networks have.
pub(crate) struct Options {
    pub(crate) image_size: usize,
    pub(crate) in_channels: usize,
    pub(crate) model_channels: usize,
    /// Channels of each level.
    pub(crate) levels: Vec<usize>,
    pub(crate) num_res_blocks: usize,
    pub(crate) attention_resolutions: Vec<usize>,
    pub(crate) conv_resample: bool,
    pub(crate) num_heads: usize,
    pub(crate) num_head_channels: Option<usize>,
    pub(crate) scale_shift: bool,
    pub(crate) resblock_updown: bool,
    pub(crate) parts_first: bool,
}

/// Channels of each level; a multiplier's product is rounded down.
pub(crate) fn levels(multipliers: &[f64], channels: usize) -> Vec<usize> {
    let products = multipliers.iter().map(|m| (m * channels as f64) as usize);
    products.collect()
}

impl From<&UNetConfig> for Options {
    fn from(config: &UNetConfig) -> Self {
        Self {
            image_size: config.image_size,
            in_channels: config.in_channels,
            model_channels: config.model_channels,
            levels: levels(&config.channel_mult, config.model_channels),
            num_res_blocks: config.num_res_blocks,
            attention_resolutions: config.attention_resolutions.clone(),
            conv_resample: config.conv_resample,
            num_heads: config.num_heads,
            num_head_channels: config.num_head_channels,
            scale_shift: config.use_scale_shift_norm,
            resblock_updown: config.resblock_updown,
            parts_first: config.use_new_attention_order,
        }
    }
}

impl From<&ClassifierConfig> for Options {
    fn from(config: &ClassifierConfig) -> Self {
        Self {
            image_size: config.image_size,
            in_channels: config.in_channels,
            model_channels: config.model_channels,
            levels: levels(&config.channel_mult, config.model_channels),
            num_res_blocks: config.num_res_blocks,
            attention_resolutions: config.attention_resolutions.clone(),
            conv_resample: config.conv_resample,
            num_heads: config.num_heads,
            num_head_channels: config.num_head_channels,
            scale_shift: config.use_scale_shift_norm,
            resblock_updown: config.resblock_updown,
            parts_first: config.use_new_attention_order,
        }
    }
}

impl Options {
    pub(crate) fn heads(&self, channels: usize) -> usize {
        match self.num_head_channels {
            Some(n) => channels / n,
            None => self.num_heads,
        }
    }

    pub(crate) fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&(1 << level))
    }

    /// The inputs that both networks have, and time embedded.
    pub(crate) fn inputs(&self, graph: &mut Graph<'_>, doc: &str) -> Result<(Value, Value)> {
        let side = Dim::Fixed(self.image_size);
        let shape = [Dim::Batch, Dim::Fixed(self.in_channels), side, side];
        let x = graph.input("x", &shape, doc);
        let doc = "model times, from 0 (no noise) to the number of the schedule's steps";
        let t = graph.input("t", &[Dim::Batch], doc);
        Ok((x, self.time(graph, &t)?))
    }

    /// Sinusoids, linear, SiLU, linear: `(B)` to `(B, 4 * model_channels)`.
    fn time(&self, graph: &mut Graph<'_>, t: &Value) -> Result<Value> {
        let dim = self.model_channels;
        let half = dim / 2;
        // Rounded to f32 at every step, as the network's own are: at t = 1000 that is visible in the angle.
        let log_period = -MAX_PERIOD.ln() as f32;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| f64::from(log_period * i as f32 / half as f32).exp() as f32)
            .collect();
        let t = graph.reshape(t, &[-1, 1]);
        let frequencies = graph.floats("time_frequencies", &[1, half], &frequencies);
        let angles = graph.op("Mul", &[&t, &frequencies], Vec::new());
        let cosines = graph.op("Cos", &[&angles], Vec::new());
        let sines = graph.op("Sin", &[&angles], Vec::new());
        let both = if dim % 2 == 1 {
            let zero = graph.floats("zero", &[1], &[0.]);
            let column = graph.op("Mul", &[&t, &zero], Vec::new());
            graph.cat(&[&cosines, &sines, &column])
        } else {
            graph.cat(&[&cosines, &sines])
        };
        let h = graph.linear(&both, "time_embed.0", (dim, 4 * dim))?;
        let h = graph.silu(&h);
        graph.linear(&h, "time_embed.2", (4 * dim, 4 * dim))
    }

    /// Norm and SiLU.
    pub(crate) fn norm_silu(
        graph: &mut Graph<'_>,
        x: &Value,
        name: &str,
        channels: usize,
    ) -> Result<Value> {
        let h = graph.group_norm(x, name, (channels, GROUPS), 2)?;
        Ok(graph.silu(&h))
    }

    /// A residual block; `embedding` is SiLU of the embedding.
    pub(crate) fn residual(
        &self,
        graph: &mut Graph<'_>,
        x: &Value,
        embedding: &Value,
        name: &str,
        ((i, o), resample): ((usize, usize), Resample),
    ) -> Result<Value> {
        let h = Self::norm_silu(graph, x, &format!("{name}.in_layers.0"), i)?;
        let h = resampled(graph, &h, resample);
        let x = resampled(graph, x, resample);
        let h = graph.conv(&h, &format!("{name}.in_layers.2"), Conv::three(i, o))?;
        let width = if self.scale_shift { 2 * o } else { o };
        let time = format!("{name}.emb_layers.1");
        let time = graph.linear(embedding, &time, (4 * self.model_channels, width))?;
        let norm = format!("{name}.out_layers.0");
        let h = if self.scale_shift {
            let (scale, shift) = graph.scale_shift(&time, o);
            let h = graph.group_norm(&h, &norm, (o, GROUPS), 2)?;
            let one = graph.floats("one", &[1], &[1.]);
            let scale = graph.add(&scale, &one);
            let h = graph.op("Mul", &[&h, &scale], Vec::new());
            let h = graph.add(&h, &shift);
            graph.silu(&h)
        } else {
            let time = graph.reshape(&time, &[0, o as i64, 1, 1]);
            let h = graph.add(&h, &time);
            Self::norm_silu(graph, &h, &norm, o)?
        };
        let h = graph.conv(&h, &format!("{name}.out_layers.3"), Conv::three(o, o))?;
        let x = if i == o {
            x
        } else {
            graph.conv(&x, &format!("{name}.skip_connection"), Conv::one(i, o))?
        };
        Ok(graph.add(&h, &x))
    }

    pub(crate) fn attention(
        &self,
        graph: &mut Graph<'_>,
        x: &Value,
        name: &str,
        channels: usize,
        heads: usize,
    ) -> Result<Value> {
        graph.attention_block(x, name, channels, heads, self.parts_first)
    }

    /// The outputs of all input blocks with their channels, and of the middle block.
    pub(crate) fn encoder(
        &self,
        graph: &mut Graph<'_>,
        x: &Value,
        embedding: &Value,
    ) -> Result<(Vec<(Value, usize)>, Value)> {
        let mut c = self.levels[0];
        let first = Conv::three(self.in_channels, c);
        let mut h = graph.conv(x, "input_blocks.0.0", first)?;
        let mut outputs = vec![(h.clone(), c)];
        for (level, &channels) in self.levels.iter().enumerate() {
            for _ in 0..self.num_res_blocks {
                let name = format!("input_blocks.{}", outputs.len());
                let kind = ((c, channels), Resample::Keep);
                h = self.residual(graph, &h, embedding, &format!("{name}.0"), kind)?;
                c = channels;
                if self.attends(level) {
                    let heads = self.heads(c);
                    h = self.attention(graph, &h, &format!("{name}.1"), c, heads)?;
                }
                outputs.push((h.clone(), c));
            }
            if level + 1 < self.levels.len() {
                let name = format!("input_blocks.{}.0", outputs.len());
                h = if self.resblock_updown {
                    let kind = ((c, c), Resample::Down);
                    self.residual(graph, &h, embedding, &name, kind)?
                } else if self.conv_resample {
                    graph.conv(&h, &format!("{name}.op"), Conv::down(c, c))?
                } else {
                    graph.average_pool(&h, 2)
                };
                outputs.push((h.clone(), c));
            }
        }
        let keep = ((c, c), Resample::Keep);
        h = self.residual(graph, &h, embedding, "middle_block.0", keep)?;
        h = self.attention(graph, &h, "middle_block.1", c, self.heads(c))?;
        h = self.residual(graph, &h, embedding, "middle_block.2", keep)?;
        Ok((outputs, h))
    }
}

fn resampled(graph: &mut Graph<'_>, x: &Value, resample: Resample) -> Value {
    match resample {
        Resample::Keep => x.clone(),
        Resample::Up => graph.upsample(x),
        Resample::Down => graph.average_pool(x, 2),
    }
}
