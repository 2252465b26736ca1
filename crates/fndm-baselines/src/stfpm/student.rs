use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use fndm_kernels::Conv2d;
use fndm_models::{BackboneKind, BatchNorms, Mode, NetworkConfig, ResNet, ResNetConfig};
use serde::{Deserialize, Serialize};

use super::{LossScale, MapStyle, loss};
use crate::distilled::Learner;
use crate::enlarge::{Corners, enlarge};
use crate::{Error, Result};

/// How many times smaller than its input a residual network's first layer is.
const FIRST: usize = 4;

/// A student as it is saved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentConfig {
    /// The residual network.
    pub network: ResNetConfig,
    /// The size that slices are brought to, bilinearly.
    pub size: (usize, usize),
    /// Which layer, from 0, answers for each of the teacher's maps.
    pub layers: Vec<usize>,
    /// Channels of each of the teacher's maps: where the layer has others, a 1x1 convolution translates.
    pub channels: Vec<usize>,
    /// The loss that it was trained by.
    pub loss: LossScale,
    /// How its map is made.
    pub map: MapStyle,
    /// What the teacher's features are known by, where they are.
    pub features: Option<String>,
}

impl NetworkConfig for StudentConfig {
    const KIND: &'static str = "stfpm";

    fn check(&self) -> fndm_models::Result<()> {
        self.network.check()?;
        let layers = self.network.planes.len();
        let sides = [self.size.0, self.size.1];
        let fits = !self.layers.is_empty()
            && self.layers.len() == self.channels.len()
            && self.layers.iter().all(|&l| l < layers)
            && self.channels.iter().all(|c| (1..=1 << 14).contains(c))
            && sides.iter().all(|s| (1..=1 << 14).contains(s));
        match fits {
            true => Ok(()),
            false => Err(fndm_models::Error::Config(format!(
                "expected a layer below {layers} and 1 to 16384 channels for each map of a teacher, and sides of 1 to 16384, got {:?}, {:?} and {:?}",
                self.layers, self.channels, self.size
            ))),
        }
    }
}

impl StudentConfig {
    /// A student for a teacher whose maps of one slice are of these shapes (C, h, w). Its input is of the size at which its first layer
    /// has the grid of the finest.
    ///
    /// # Errors
    /// When a map's grid isn't one of the student's layers.
    pub(crate) fn new(
        mut network: ResNetConfig,
        (loss, map): (LossScale, MapStyle),
        sequences: usize,
        shapes: &[[usize; 3]],
        features: Option<String>,
    ) -> Result<Self> {
        let finest = shapes.iter().max_by_key(|s| s[1] * s[2]);
        let Some(&[_, h, w]) = finest else {
            return Err(Error::shape("the teacher's maps", "one or more", "none"));
        };
        let layer = |&[_, mh, mw]: &[usize; 3]| -> Result<usize> {
            let halved = |n: usize, times: usize| (0..times).fold(n, |n, _| n.div_ceil(2));
            let found =
                (0..network.planes.len()).find(|&l| (halved(h, l), halved(w, l)) == (mh, mw));
            found.ok_or_else(|| {
                let expected = format!("grids that {h} x {w} gives by halving");
                Error::shape("the teacher's maps", expected, (mh, mw))
            })
        };
        let layers = shapes.iter().map(layer).collect::<Result<Vec<_>>>()?;
        // What lies behind the last layer that is asked for takes no part.
        let last = layers.iter().max().map_or(0, |l| l + 1);
        network = network.layers(last);
        network.in_channels = match sequences {
            1 | 3 => 3,
            other => other,
        };
        let config = Self {
            network,
            size: (FIRST * h, FIRST * w),
            layers,
            channels: shapes.iter().map(|s| s[0]).collect(),
            loss,
            map,
            features,
        };
        config.check()?;
        Ok(config)
    }
}

/// The network that learns a teacher's features.
#[derive(Debug, Clone)]
pub(crate) struct Student {
    network: ResNet,
    layers: Vec<usize>,
    heads: Vec<Option<Conv2d>>,
    size: (usize, usize),
}

impl Student {
    /// The slices as the network sees them: one or three sequences as ImageNet's pictures, others as they are.
    fn input(&self, slices: &Tensor) -> Result<Tensor> {
        let slices = enlarge(slices, self.size, Corners::Free)?;
        Ok(match slices.dim(1)? {
            1 | 3 => BackboneKind::ResNet18.prepare(&slices)?,
            _ => slices,
        })
    }
}

impl Learner for Student {
    type Config = StudentConfig;

    fn build(config: &StudentConfig, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        config.check()?;
        let own = config.network.channels();
        let heads = config.layers.iter().zip(&config.channels).enumerate();
        let heads = heads.map(|(n, (&layer, &o))| {
            let i = own[layer];
            if i == o {
                return Ok(None);
            }
            let bound = 1.0 / (i as f64).sqrt();
            let start = Init::Uniform {
                lo: -bound,
                up: bound,
            };
            let vb = vb.pp("heads").pp(n);
            let weight = vb.get_with_hints((o, i, 1, 1), "weight", start)?;
            let bias = vb.get_with_hints(o, "bias", start)?;
            Ok(Some(Conv2d::new(weight, Some(bias), 1)?))
        });
        Ok(Self {
            heads: heads.collect::<Result<_>>()?,
            network: ResNet::new(&config.network, vb.clone(), norms)?,
            layers: config.layers.clone(),
            size: config.size,
        })
    }

    fn maps(&self, slices: &Tensor, _: &[Tensor], mode: Mode) -> Result<Vec<Tensor>> {
        let maps = self.network.forward(&self.input(slices)?, mode)?.layers;
        let of = self.layers.iter().zip(&self.heads);
        of.map(|(&layer, head)| {
            Ok(match head {
                Some(head) => head.forward(&maps[layer])?,
                None => maps[layer].clone(),
            })
        })
        .collect()
    }

    fn losses(config: &StudentConfig, features: &[Tensor], maps: &[Tensor]) -> Result<Tensor> {
        loss(features, maps, config.loss)
    }

    fn folded(&self) -> Result<Self> {
        Ok(Self {
            network: self.network.folded()?,
            ..self.clone()
        })
    }
}
