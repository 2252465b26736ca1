//! The config of a checkpoint, as far as the shapes of its tensors tell.

use std::collections::BTreeMap;

use crate::{ClassifierConfig, Error, Pool, Result, StateDict, UNetConfig};

/// A config that fits a checkpoint's names and shapes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Guess<C> {
    /// The config. Options that shapes can't tell have their usual values.
    pub config: C,
    /// The options that shapes can't tell. A wrong value loads without an error and gives wrong numbers, so check
    /// them against the flags that the model was trained with.
    pub undetermined: Vec<&'static str>,
}

impl UNetConfig {
    /// The config of a UNet's checkpoint from the names and shapes of its tensors.
    ///
    /// # Errors
    /// When they aren't those of a UNet of guided-diffusion, or fit several configs.
    pub fn guess(state: &StateDict) -> Result<Guess<Self>> {
        let shapes = Shapes::new(state);
        if !shapes.any("output_blocks.0.") {
            return Err(shapes.error("there are no output_blocks, so this is no UNet"));
        }
        let encoder = shapes.encoder()?;
        let config = Self {
            image_size: 64.max(1 << (encoder.levels.len() - 1)),
            in_channels: encoder.in_channels,
            model_channels: encoder.model_channels,
            out_channels: shapes.dim("out.2.weight", 0)?,
            num_res_blocks: encoder.layout.res_blocks,
            attention_resolutions: encoder.attention.clone(),
            channel_mult: encoder.channel_mult(),
            conv_resample: encoder.layout.resample != Resampling::Pool,
            num_classes: match shapes.get("label_emb.weight") {
                Some(shape) => shape.first().copied(),
                None => None,
            },
            use_scale_shift_norm: encoder.scale_shift,
            resblock_updown: encoder.layout.resample == Resampling::Residual,
            ..Self::default()
        };
        config.check()?;
        let mut undetermined = vec![
            "image_size",
            "dropout",
            "num_heads",
            "num_head_channels",
            "num_heads_upsample",
            "use_new_attention_order",
        ];
        undetermined.extend(encoder.without_trace());
        Ok(Guess {
            config,
            undetermined,
        })
    }
}

impl ClassifierConfig {
    /// The config of a classifier's checkpoint from the names and shapes of its tensors.
    ///
    /// # Errors
    /// When they aren't those of an encoder classifier of guided-diffusion, or fit several configs.
    pub fn guess(state: &StateDict) -> Result<Guess<Self>> {
        let shapes = Shapes::new(state);
        if shapes.any("output_blocks.") {
            return Err(shapes.error("there are output_blocks, so this is no classifier"));
        }
        let encoder = shapes.encoder()?;
        let down = 1 << (encoder.levels.len() - 1);
        let mut image_size = 64.max(down);
        let mut undetermined = vec![
            "dropout",
            "num_heads",
            "num_head_channels",
            "use_new_attention_order",
        ];
        undetermined.extend(encoder.without_trace());
        let (pool, last) = if let Some(shape) = shapes.get("out.2.positional_embedding") {
            let positions = shape.get(1).copied().unwrap_or_default().saturating_sub(1);
            let side = positions.isqrt();
            image_size = side.saturating_mul(down);
            (Pool::Attention, "out.2.c_proj.weight")
        } else {
            undetermined.push("image_size");
            match shapes.get("out.3.weight").map(Vec::len) {
                Some(4) => (Pool::Adaptive, "out.3.weight"),
                Some(_) => (Pool::SpatialV2, "out.3.weight"),
                None if shapes.get("out.2.weight").is_some() => (Pool::Spatial, "out.2.weight"),
                None => (Pool::SpatialAverage8, "out.weight"),
            }
        };
        // guided-diffusion's own scripts have 64 always.
        let num_head_channels = [64, 32]
            .into_iter()
            .find(|n| encoder.levels.iter().all(|(channels, _)| channels % n == 0));
        let config = Self {
            image_size,
            in_channels: encoder.in_channels,
            model_channels: encoder.model_channels,
            out_channels: shapes.dim(last, 0)?,
            num_res_blocks: encoder.layout.res_blocks,
            attention_resolutions: encoder.attention.clone(),
            channel_mult: encoder.channel_mult(),
            conv_resample: encoder.layout.resample != Resampling::Pool,
            num_head_channels,
            use_scale_shift_norm: encoder.scale_shift,
            resblock_updown: encoder.layout.resample == Resampling::Residual,
            pool,
            ..Self::default()
        };
        config.check()?;
        Ok(Guess {
            config,
            undetermined,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Resampling {
    Convolution,
    Pool,
    Residual,
}

/// A way to cut the row of input blocks into levels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layout {
    res_blocks: usize,
    resample: Resampling,
}

#[derive(Debug)]
struct EncoderGuess {
    in_channels: usize,
    model_channels: usize,
    scale_shift: bool,
    layout: Layout,
    /// Channels of every level, and whether it has attention.
    levels: Vec<(usize, bool)>,
    attention: Vec<usize>,
}

impl EncoderGuess {
    /// The options of resampling that leave no tensor behind.
    fn without_trace(&self) -> &'static [&'static str] {
        match self.layout.resample {
            // With one level there is nothing to resample.
            _ if self.levels.len() == 1 => &["conv_resample", "resblock_updown"],
            // Residual blocks resample whatever the other option says.
            Resampling::Residual => &["conv_resample"],
            Resampling::Convolution | Resampling::Pool => &[],
        }
    }

    /// Multipliers that give exactly these channels when the product is rounded down.
    fn channel_mult(&self) -> Vec<f64> {
        let model = self.model_channels as f64;
        self.levels
            .iter()
            .map(|(channels, _)| {
                let mult = *channels as f64 / model;
                if (mult * model) as usize == *channels {
                    mult
                } else {
                    mult.next_up()
                }
            })
            .collect()
    }
}

struct Shapes<'a> {
    shapes: BTreeMap<&'a str, Vec<usize>>,
    source: &'a str,
}

/// More input blocks than any config that passes the check can have.
const MAX_BLOCKS: usize = 1024;

impl<'a> Shapes<'a> {
    fn new(state: &'a StateDict) -> Self {
        Self {
            shapes: state
                .tensors()
                .iter()
                .map(|(name, tensor)| (name.as_str(), tensor.dims().to_vec()))
                .collect(),
            source: state.source(),
        }
    }

    fn error(&self, reason: &str) -> Error {
        Error::Config(format!("{}: guess from shapes: {reason}", self.source))
    }

    fn get(&self, name: &str) -> Option<&Vec<usize>> {
        self.shapes.get(name)
    }

    fn any(&self, prefix: &str) -> bool {
        self.shapes
            .range(prefix..)
            .next()
            .is_some_and(|(name, _)| name.starts_with(prefix))
    }

    fn dim(&self, name: &str, axis: usize) -> Result<usize> {
        self.get(name)
            .and_then(|shape| shape.get(axis))
            .copied()
            .ok_or_else(|| self.error(&format!("{name} is missing")))
    }

    fn encoder(&self) -> Result<EncoderGuess> {
        let model_channels = self.dim("time_embed.0.weight", 1)?;
        let blocks = self
            .shapes
            .keys()
            .filter_map(|name| {
                let (number, _) = name.strip_prefix("input_blocks.")?.split_once('.')?;
                number.parse::<usize>().ok()
            })
            .max()
            .map_or(0, |last| last.saturating_add(1));
        if !(2..=MAX_BLOCKS).contains(&blocks) || model_channels == 0 {
            return Err(self.error(&format!("{blocks} input blocks")));
        }
        let resamplings = [
            Resampling::Convolution,
            Resampling::Pool,
            Resampling::Residual,
        ];
        let mut fits: Vec<(Layout, Vec<(usize, bool)>)> = Vec::new();
        for res_blocks in (1..blocks).filter(|r| blocks % (r + 1) == 0) {
            for resample in resamplings {
                let layout = Layout {
                    res_blocks,
                    resample,
                };
                // With one level there is nothing to resample, and any of the three fits.
                let one_level = blocks == res_blocks + 1;
                if one_level && resample != Resampling::Convolution {
                    continue;
                }
                if let Some(levels) = self.levels(blocks, layout) {
                    fits.push((layout, levels));
                }
            }
        }
        let (layout, levels) = match fits.len() {
            1 => fits.swap_remove(0),
            0 => return Err(self.error("the input blocks fit no number of levels")),
            _ => {
                let all: Vec<Layout> = fits.iter().map(|(layout, _)| *layout).collect();
                return Err(self.error(&format!(
                    "the input blocks fit several configs, so one must be given: {all:?}"
                )));
            }
        };
        let width = self.dim("input_blocks.1.0.emb_layers.1.weight", 0)?;
        Ok(EncoderGuess {
            in_channels: self.dim("input_blocks.0.0.weight", 1)?,
            model_channels,
            scale_shift: width == 2 * levels[0].0,
            attention: levels
                .iter()
                .enumerate()
                .filter(|(_, (_, attention))| *attention)
                .map(|(level, _)| 1 << level)
                .collect(),
            layout,
            levels,
        })
    }

    /// The levels if the input blocks, and the output blocks where there are any, fit the layout.
    fn levels(&self, blocks: usize, layout: Layout) -> Option<Vec<(usize, bool)>> {
        let period = layout.res_blocks + 1;
        let mut levels: Vec<(usize, bool)> = Vec::new();
        for i in 1..blocks {
            let (level, place) = ((i - 1) / period, (i - 1) % period);
            let block = format!("input_blocks.{i}.");
            let residual = self.get(&format!("{block}0.out_layers.0.weight"));
            let attention = self.any(&format!("{block}1."));
            if place < layout.res_blocks {
                let found = (*residual?.first()?, attention);
                match levels.get(level) {
                    Some(known) if *known != found => return None,
                    Some(_) => {}
                    None => levels.push(found),
                }
            } else {
                let fits = match layout.resample {
                    Resampling::Convolution => self.any(&format!("{block}0.op.")),
                    Resampling::Pool => !self.any(&block),
                    Resampling::Residual => {
                        residual?.first() == levels.get(level).map(|(channels, _)| channels)
                            && !attention
                    }
                };
                if !fits {
                    return None;
                }
            }
        }
        let n = levels.len();
        if n > 12 || (self.any("output_blocks.") && !self.upsampling_fits(layout, &levels)) {
            return None;
        }
        Some(levels)
    }

    fn upsampling_fits(&self, layout: Layout, levels: &[(usize, bool)]) -> bool {
        let period = layout.res_blocks + 1;
        (0..levels.len() * period).all(|j| {
            let level = levels.len() - 1 - j / period;
            let upsamples = level > 0 && j % period == layout.res_blocks;
            let layer = 1 + usize::from(levels[level].1);
            let prefix = format!("output_blocks.{j}.{layer}.");
            match layout.resample {
                _ if !upsamples => !self.any(&prefix),
                Resampling::Convolution => self.any(&format!("{prefix}conv.")),
                Resampling::Pool => !self.any(&prefix),
                Resampling::Residual => self.any(&format!("{prefix}in_layers.")),
            }
        })
    }
}
