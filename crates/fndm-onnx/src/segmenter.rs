//! The network for segmentation, which a student is.

use candle_core::{DType, Device};
use fndm_models::{Segmenter, SegmenterConfig, StateDict};

use crate::encoder::levels;
use crate::graph::{Dim, Graph, Value};
use crate::layers::Conv;
use crate::{Network, Result, Stored};

/// The segmenter of this config and these weights: input `x` `(batch, in_channels, H, W)`, output `output` `(batch, out_channels, H,
/// W)`. H and W are the config's `image_size`. With `probability`, there is an output of that name too: the sigmoid of `output`.
///
/// # Errors
/// As of [`unet`](crate::unet).
pub fn segmenter(
    config: &SegmenterConfig,
    weights: &StateDict,
    stored: Stored,
    probability: bool,
) -> Result<Network> {
    Segmenter::from_state_dict(config, weights, DType::F32, &Device::Cpu)?;
    let levels = levels(&config.channel_mult, config.model_channels);
    let mut made = Graph::new("segmenter", weights, stored);
    let graph = &mut made;
    let side = Dim::Fixed(config.image_size);
    let shape = [Dim::Batch, Dim::Fixed(config.in_channels()), side, side];
    let doc = format!(
        "a slice between {0} neighbours on each side, the lowest first, {1} sequences of each",
        config.context, config.sequences
    );
    let x = graph.input("x", &shape, &doc);
    let mut c = levels[0];
    let mut h = graph.conv(&x, "stem", Conv::three(config.in_channels(), c))?;
    let mut skips = Vec::new();
    for (level, &channels) in levels.iter().enumerate() {
        if level > 0 {
            skips.push((h.clone(), c));
            h = graph.average_pool(&h, 2);
        }
        for i in 0..config.num_res_blocks {
            let name = format!("encoder.{level}.{i}");
            h = residual(graph, &h, &name, (c, channels), config, level)?;
            c = channels;
        }
    }
    for level in (0..levels.len() - 1).rev() {
        h = graph.upsample(&h);
        if let Some((skip, more)) = skips.pop() {
            h = graph.cat(&[&h, &skip]);
            c += more;
        }
        for i in 0..config.num_res_blocks {
            let name = format!("decoder.{level}.{i}");
            h = residual(graph, &h, &name, (c, levels[level]), config, level)?;
            c = levels[level];
        }
    }
    let h = norm_silu(graph, &h, "out.norm", c, config)?;
    let out = config.out_channels;
    let mut y = graph.conv(&h, "out.conv", Conv::one(c, out))?;
    if config.residual {
        let n = config.sequences;
        let own = graph.own_channels(&x, config.context * n, n);
        y = graph.add(&own, &y);
    }
    let shape = [Dim::Batch, Dim::Fixed(out), side, side];
    let doc = match config.residual {
        true => "the image",
        false => "logits",
    };
    graph.output("output", &y, &shape, doc);
    if probability {
        let p = graph.op("Sigmoid", &[&y], Vec::new());
        graph.output("probability", &p, &shape, "probability of a lesion");
    }
    Network::new(made, "segmenter", config)
}

fn norm_silu(
    graph: &mut Graph<'_>,
    x: &Value,
    name: &str,
    channels: usize,
    config: &SegmenterConfig,
) -> Result<Value> {
    let h = graph.group_norm(x, name, (channels, config.groups), 2)?;
    Ok(graph.silu(&h))
}

fn residual(
    graph: &mut Graph<'_>,
    x: &Value,
    name: &str,
    (i, o): (usize, usize),
    config: &SegmenterConfig,
    level: usize,
) -> Result<Value> {
    let h = norm_silu(graph, x, &format!("{name}.in_norm"), i, config)?;
    let h = graph.conv(&h, &format!("{name}.in_conv"), Conv::three(i, o))?;
    let h = norm_silu(graph, &h, &format!("{name}.out_norm"), o, config)?;
    let h = graph.conv(&h, &format!("{name}.out_conv"), Conv::three(o, o))?;
    let x = if i == o {
        x.clone()
    } else {
        graph.conv(x, &format!("{name}.skip"), Conv::one(i, o))?
    };
    let h = graph.add(&h, &x);
    if !config.attention_resolutions.contains(&(1 << level)) {
        return Ok(h);
    }
    let heads = o / config.num_head_channels;
    graph.attention_block(&h, &format!("{name}.attention"), o, heads, true)
}
