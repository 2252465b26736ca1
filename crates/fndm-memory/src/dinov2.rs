use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::dinov2::DinoVisionTransformer;
use fndm_models::{BackboneKind, Limits, StateDict};
use serde::{Deserialize, Serialize};

use crate::backbone::joined;
use crate::tensor::check_images;
use crate::{Channels, Error, FeatureExtractor, Result};

/// Pixels along a side of a patch.
const PATCH: usize = 14;
/// Labels of the classifying head, which is read but not used.
const LABELS: usize = 1000;
/// Cells along a side of the maps at which the network was trained.
const TRAINED: usize = 37;
/// The most cells along a side: the memory for the attention grows with the fourth power.
const MOST: usize = 64;

/// The size of a `DINOv2` vision transformer with patches of 14 px, without registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DinoV2Config {
    /// Blocks.
    pub depth: usize,
    /// Channels of a token.
    pub width: usize,
    /// Heads of the attention, which divide the width.
    pub heads: usize,
}

impl DinoV2Config {
    /// ViT-S/14.
    pub const SMALL: Self = Self {
        depth: 12,
        width: 384,
        heads: 6,
    };
    /// ViT-B/14.
    pub const BASE: Self = Self {
        depth: 12,
        width: 768,
        heads: 12,
    };
    /// ViT-L/14.
    pub const LARGE: Self = Self {
        depth: 24,
        width: 1024,
        heads: 16,
    };

    /// # Errors
    /// When a number is 0, or the heads don't divide the width.
    pub fn check(&self) -> Result<()> {
        let Self {
            depth,
            width,
            heads,
        } = *self;
        if (1..=1024).contains(&depth) && (1..=65_536).contains(&width) && heads > 0 {
            if width % heads == 0 {
                return Ok(());
            }
            let got = format!("expected heads that divide the width of {width}, got {heads}");
            return Err(Error::config("heads", got));
        }
        Err(Error::config(
            "DINOv2",
            format!("expected up to 1024 blocks and 65536 channels, and heads, got {self:?}"),
        ))
    }
}

/// `DINOv2` (Oquab et al. 2023) as feature extractor, by candle-transformers. It needs the cargo feature `dinov2`, and weights, which
/// don't come with it.
///
/// Images `(B, C, H, W)` in [-1, 1] are resized bilinearly to `14 grid` px a side, whatever their shape, and brought to the mean and
/// deviation of `ImageNet`. Each map is `(B, C width, grid, grid)`, one cell for each patch, or `(B, width, grid, grid)` with
/// [`Channels::Colour`]. Pictures go through the network one by one.
///
/// The network was trained at 37 x 37, where the maps are those of the original, but for GELU by tanh and an epsilon of 1e-5 in the norms.
/// For other grids candle-transformers takes the nearest of the position embeddings, which the original interpolates.
///
/// ```no_run
/// use candle_core::Device;
/// use fndm_memory::{DinoV2Config, DinoV2Features};
/// use fndm_models::Limits;
///
/// let file = "dinov2_vits14.safetensors";
/// let extractor = DinoV2Features::load(file, DinoV2Config::SMALL, &Limits::default(), &Device::Cpu)?
///     .of_blocks(&[5, 11])
///     .on_grid(32);
/// # Ok::<(), fndm_memory::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct DinoV2Features {
    network: Arc<DinoVisionTransformer>,
    weights: String,
    config: DinoV2Config,
    /// Blocks whose tokens are taken, normalised, one map each; counted from 0, rising.
    pub blocks: Vec<usize>,
    /// What becomes of the sequences.
    pub channels: Channels,
    /// Cells along a side of the maps, 1 to 64.
    pub grid: usize,
}

impl DinoV2Features {
    /// Reads the weights of a file, by Meta's names of the parameters. A classifying head may be there or not, and the token that masks
    /// patches in training. The last block's tokens are taken, on a grid of 37 x 37, each sequence by itself.
    ///
    /// # Errors
    /// When the file can't be read, is beyond `limits`, or doesn't hold exactly this network.
    pub fn load(
        file: impl AsRef<Path>,
        config: DinoV2Config,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        Self::from_state_dict(&StateDict::read(file, limits)?, config, device)
    }

    /// As [`load`](Self::load), from memory.
    ///
    /// # Errors
    /// When the weights aren't exactly this network's.
    pub fn from_state_dict(
        state: &StateDict,
        config: DinoV2Config,
        device: &Device,
    ) -> Result<Self> {
        config.check()?;
        let mut tensors: BTreeMap<String, Tensor> = state.tensors().clone();
        tensors.remove("mask_token");
        // The network wants a head even for its features; published weights of the backbone have none.
        if !tensors.keys().any(|name| name.starts_with("head.")) {
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
            tensors.insert(
                "head.weight".to_owned(),
                zeros(&[LABELS, 2 * config.width])?,
            );
            tensors.insert("head.bias".to_owned(), zeros(&[LABELS])?);
        }
        let network = StateDict::new(tensors).build(DType::F32, device, |vb| {
            let DinoV2Config {
                depth,
                width,
                heads,
            } = config;
            Ok(DinoVisionTransformer::new(vb, depth, width, heads)?)
        })?;
        Ok(Self {
            network: Arc::new(network),
            weights: state.fingerprint()?,
            config,
            blocks: vec![config.depth - 1],
            channels: Channels::default(),
            grid: TRAINED,
        })
    }

    /// Takes the tokens of these blocks, from 0.
    #[must_use]
    pub fn of_blocks(mut self, blocks: &[usize]) -> Self {
        self.blocks = blocks.to_vec();
        self
    }

    /// Resizes images so that the maps have so many cells a side.
    #[must_use]
    pub fn on_grid(mut self, grid: usize) -> Self {
        self.grid = grid;
        self
    }

    fn check(&self) -> Result<()> {
        let rising = self.blocks.windows(2).all(|pair| pair[0] < pair[1]);
        let last = self.blocks.last();
        if !rising || last.is_none_or(|&last| last >= self.config.depth) {
            let depth = self.config.depth;
            let got = format!(
                "expected rising numbers below {depth}, got {:?}",
                self.blocks
            );
            return Err(Error::config("blocks", got));
        }
        if !(1..=MOST).contains(&self.grid) {
            let got = format!("expected 1 to {MOST} cells, got {}", self.grid);
            return Err(Error::config("grid", got));
        }
        Ok(())
    }
}

impl FeatureExtractor for DinoV2Features {
    fn maps(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        self.check()?;
        let (b, h, w) = check_images(images, None)?;
        // Grids with one side longer than the other would get their position embeddings the wrong way round (candle-transformers
        // 0.11), so all are square.
        let side = PATCH * self.grid;
        let images = images.to_dtype(DType::F32)?;
        let images = match (h, w) == (side, side) {
            true => images,
            false => images.upsample_bilinear2d(side, side, false)?,
        };
        // The ResNets were trained by the same mean and deviation.
        let pictures = BackboneKind::ResNet50.prepare(&self.channels.pictures(&images)?)?;
        let mut found = Vec::new();
        for i in 0..pictures.dim(0)? {
            // The network adds its class token to one picture alone (candle-transformers 0.11).
            let picture = pictures.narrow(0, i, 1)?;
            let layers =
                self.network
                    .get_intermediate_layers(&picture, &self.blocks, true, false, true)?;
            found.push(layers);
        }
        let found = Tensor::cat(&found, 1)?;
        let each = 0..self.blocks.len();
        each.map(|i| joined(&found.get(i)?, b)).collect()
    }

    fn fingerprint(&self) -> Option<String> {
        Some(format!(
            "dinov2 {} heads {} blocks {:?} channels {:?} grid {}",
            self.weights, self.config.heads, self.blocks, self.channels, self.grid
        ))
    }
}
