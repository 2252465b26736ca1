//! The noise-prediction network.

use candle_core::{DType, Device};
use fndm_models::{StateDict, UNet, UNetConfig};

use crate::encoder::{Options, Resample};
use crate::graph::{Dim, Graph};
use crate::layers::Conv;
use crate::{Network, Result, Stored};

/// The UNet of this config and these weights: inputs `x` `(batch, in_channels, H, W)`, `t` `(batch)` and, where it has classes, `y`
/// `(batch)`; output `output` `(batch, out_channels, H, W)`. H and W are the config's `image_size`.
///
/// # Errors
/// When the config doesn't fit together, the weights aren't exactly those of the config's network, or can't be stored so.
pub fn unet(config: &UNetConfig, weights: &StateDict, stored: Stored) -> Result<Network> {
    UNet::from_state_dict(config, weights, DType::F32, &Device::Cpu)?;
    let options = Options::from(config);
    let mut made = Graph::new("unet", weights, stored);
    let graph = &mut made;
    let doc =
        "the noisy state; then the conditions, where there are any: the image, the coarse map";
    let (x, mut embedding) = options.inputs(graph, doc)?;
    if let Some(classes) = config.num_classes {
        let doc = format!("label of each image, below {classes}");
        let y = graph.integers("y", &[Dim::Batch], &doc);
        let width = 4 * options.model_channels;
        let table = graph.weight("label_emb.weight", &[classes, width])?;
        let label = graph.op("Gather", &[&table, &y], Vec::new());
        embedding = graph.add(&embedding, &label);
    }
    let embedding = graph.silu(&embedding);
    let (mut skips, mut h) = options.encoder(graph, &x, &embedding)?;
    let mut c = options.levels.last().copied().unwrap_or_default();
    let mut number = 0;
    for (level, &channels) in options.levels.iter().enumerate().rev() {
        for i in 0..=options.num_res_blocks {
            let name = format!("output_blocks.{number}");
            number += 1;
            let joined = match skips.pop() {
                Some((skip, more)) => {
                    h = graph.cat(&[&h, &skip]);
                    c + more
                }
                None => c,
            };
            let kind = ((joined, channels), Resample::Keep);
            h = options.residual(graph, &h, &embedding, &format!("{name}.0"), kind)?;
            c = channels;
            let mut place = 1;
            if options.attends(level) {
                let heads = match config.num_head_channels {
                    Some(n) => c / n,
                    None => config.num_heads_upsample.unwrap_or(config.num_heads),
                };
                h = options.attention(graph, &h, &format!("{name}.1"), c, heads)?;
                place = 2;
            }
            if level > 0 && i == options.num_res_blocks {
                let name = format!("{name}.{place}");
                h = if options.resblock_updown {
                    let kind = ((c, c), Resample::Up);
                    options.residual(graph, &h, &embedding, &name, kind)?
                } else {
                    let up = graph.upsample(&h);
                    match options.conv_resample {
                        true => graph.conv(&up, &format!("{name}.conv"), Conv::three(c, c))?,
                        false => up,
                    }
                };
            }
        }
    }
    let h = Options::norm_silu(graph, &h, "out.0", c)?;
    let out = config.out_channels;
    let y = graph.conv(&h, "out.2", Conv::three(c, out))?;
    let side = Dim::Fixed(config.image_size);
    let shape = [Dim::Batch, Dim::Fixed(out), side, side];
    graph.output("output", &y, &shape, "what the network predicts");
    Network::new(made, "unet", config)
}
