//! The time-dependent classifier, forward.

use candle_core::{DType, Device};
use fndm_models::{Classifier, ClassifierConfig, Pool, StateDict};

use crate::encoder::{GROUPS, Options};
use crate::graph::{Dim, Graph, Value, int};
use crate::layers::Conv;
use crate::{Network, Result, Stored};

/// Width of the hidden layer of the spatial pools.
const HIDDEN: usize = 2048;
/// Values that the pool of 8 x 8 tiles takes.
const TILES: usize = 256;

/// The classifier of this config and these weights: inputs `x` `(batch, in_channels, H, W)` and `t` `(batch)`, output `logits`
/// `(batch, out_channels)`. H and W are the config's `image_size`. Its gradient isn't in the file.
///
/// # Errors
/// As of [`unet`](crate::unet).
pub fn classifier(
    config: &ClassifierConfig,
    weights: &StateDict,
    stored: Stored,
) -> Result<Network> {
    Classifier::from_state_dict(config, weights, DType::F32, &Device::Cpu)?;
    let options = Options::from(config);
    let mut made = Graph::new("classifier", weights, stored);
    let graph = &mut made;
    let (x, embedding) = options.inputs(graph, "the noisy images")?;
    let embedding = graph.silu(&embedding);
    let (blocks, middle) = options.encoder(graph, &x, &embedding)?;
    let logits = pool(config, &options, graph, &blocks, &middle)?;
    let shape = [Dim::Batch, Dim::Fixed(config.out_channels)];
    graph.output("logits", &logits, &shape, "0 is healthy, 1 diseased");
    Network::new(made, "classifier", config)
}

fn pool(
    config: &ClassifierConfig,
    options: &Options,
    graph: &mut Graph<'_>,
    blocks: &[(Value, usize)],
    middle: &Value,
) -> Result<Value> {
    let c = options.levels.last().copied().unwrap_or_default();
    let classes = config.out_channels;
    match config.pool {
        Pool::Adaptive => {
            let h = Options::norm_silu(graph, middle, "out.0", c)?;
            let h = graph.spatial_mean(&h);
            graph.linear(&h, "out.3", (c, classes))
        }
        Pool::Attention => {
            let h = Options::norm_silu(graph, middle, "out.0", c)?;
            let h = graph.reshape(&h, &[0, 0, -1]);
            let mean = graph.spatial_mean(&h);
            let mean = graph.reshape(&mean, &[0, c as i64, 1]);
            let h = graph.op("Concat", &[&mean, &h], vec![int("axis", 2)]);
            let side = config.image_size >> (options.levels.len() - 1);
            let tokens = side * side + 1;
            let position = graph.weight("out.2.positional_embedding", &[c, tokens])?;
            let h = graph.add(&h, &position);
            let h = graph.reshape(&h, &[0, c as i64, -1, 1]);
            let qkv = graph.conv(&h, "out.2.qkv_proj", Conv::one(c, 3 * c))?;
            let mixed = graph.attention(&qkv, c, options.heads(c), true);
            let zero = graph.number(0);
            let first = graph.op("Gather", &[&mixed, &zero], vec![int("axis", 2)]);
            graph.linear(&first, "out.2.c_proj", (c, classes))
        }
        Pool::Spatial | Pool::SpatialV2 => {
            let mut joined = c;
            let mut means = Vec::new();
            for (block, channels) in blocks {
                means.push(graph.spatial_mean(block));
                joined += channels;
            }
            means.push(graph.spatial_mean(middle));
            let h = graph.cat(&means.iter().collect::<Vec<_>>());
            let h = graph.linear(&h, "out.0", (joined, HIDDEN))?;
            let (h, last) = if config.pool == Pool::SpatialV2 {
                let h = graph.group_norm(&h, "out.1", (HIDDEN, GROUPS), 0)?;
                (graph.silu(&h), "out.3")
            } else {
                (graph.op("Relu", &[&h], Vec::new()), "out.2")
            };
            graph.linear(&h, last, (HIDDEN, classes))
        }
        Pool::SpatialAverage8 => {
            let h = graph.average_pool(middle, 8);
            let h = graph.reshape(&h, &[0, TILES as i64]);
            graph.linear(&h, "out", (TILES, classes))
        }
    }
}
