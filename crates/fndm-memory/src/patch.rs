use candle_core::Tensor;
use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::resize::Bilinear;
use crate::standardise::Standardisation;
use crate::tensor::{all_finite, to_cpu, with_slice};
use crate::{Error, Result};

/// Patch features in the manner of `PatchCore` (Roth et al. 2022).
///
/// Each map is cut into neighbourhoods of `patch_size` x `patch_size` with zeros outside. The patches of every map
/// but the first are resized bilinearly to the first map's grid of patches. Each patch is averaged to
/// `pretrain_dimension` values, then the patches of all maps together to `target_dimension` values.
///
/// All of that is linear, so it is computed as one sparse weighted sum per map, before the resizing: no unfolded
/// tensor is ever held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PatchFeatures {
    /// Side of the neighbourhood in cells of the map. An even one reaches one cell further down and to the right.
    pub patch_size: usize,
    /// Step between neighbourhoods in cells of the map.
    pub stride: usize,
    /// Values per map after the first averaging.
    pub pretrain_dimension: usize,
    /// Values per patch in the end.
    pub target_dimension: usize,
}

impl Default for PatchFeatures {
    fn default() -> Self {
        Self {
            patch_size: 3,
            stride: 1,
            pretrain_dimension: 128,
            target_dimension: 128,
        }
    }
}

/// Larger dimensions than this are surely a mistake.
const MAX_DIMENSION: usize = 1 << 16;

/// Features of all patches of some images.
#[derive(Debug, Clone)]
pub struct PatchEmbedding {
    /// `(B * h * w, D)`: image by image, row by row.
    pub features: Array2<f32>,
    /// Number of images, B.
    pub images: usize,
    /// Height and width of the grid of patches, (h, w).
    pub grid: (usize, usize),
}

impl PatchFeatures {
    /// Whether the values make sense together.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub fn check(&self) -> Result<()> {
        if !(1..=255).contains(&self.patch_size) {
            return Err(Error::config(
                "patch_size",
                format!("expected 1 to 255, got {}", self.patch_size),
            ));
        }
        for (field, value) in [
            ("stride", self.stride),
            ("pretrain_dimension", self.pretrain_dimension),
            ("target_dimension", self.target_dimension),
        ] {
            if !(1..=MAX_DIMENSION).contains(&value) {
                return Err(Error::config(
                    field,
                    format!("expected 1 to {MAX_DIMENSION}, got {value}"),
                ));
            }
        }
        Ok(())
    }

    /// Features of the patches of `maps`, each `(B, C_l, H_l, W_l)`.
    ///
    /// # Errors
    /// When there are no maps, their shapes don't fit each other, or a value is NaN or infinite.
    pub fn embed(&self, maps: &[Tensor]) -> Result<PatchEmbedding> {
        self.check()?;
        self.embed_standardised(maps, None, 0.0)
    }

    /// The same of settings that were checked. With a weight of the position above 0, two more values say where a patch lies.
    pub(crate) fn embed_standardised(
        &self,
        maps: &[Tensor],
        standardisation: Option<&Standardisation>,
        position_weight: f64,
    ) -> Result<PatchEmbedding> {
        let (images, shapes) = map_shapes(maps)?;
        if let Some(s) = standardisation {
            s.check_channels(&shapes.iter().map(|s| s.0).collect::<Vec<_>>())?;
        }
        let plan = Plan::new(self, &shapes)?;
        let (h, w) = plan.grid;
        let position = (position_weight > 0.0)
            .then(|| position_weight * (self.target_dimension as f64).sqrt());
        let dimension = self.target_dimension + position.map_or(0, |_| 2);
        let mut features = vec![0f32; images * h * w * dimension];
        for (l, (map, layer)) in maps.iter().zip(&plan.layers).enumerate() {
            let map = to_cpu(map)?;
            let size = layer.channels * layer.height * layer.width;
            let failed = with_slice::<f32, _>(&map, |values| {
                features
                    .par_chunks_mut(h * w * dimension)
                    .zip(values.par_chunks(size))
                    .enumerate()
                    .filter_map(|(image, (out, input))| {
                        if !all_finite(input) {
                            return Some(image);
                        }
                        match standardisation {
                            Some(s) => {
                                let input = s.apply(l, input, layer.height * layer.width);
                                layer.add_to(&input, out, dimension);
                            }
                            None => layer.add_to(input, out, dimension),
                        }
                        None
                    })
                    .min()
            })?;
            if failed.is_some() {
                return Err(Error::non_finite(format!("feature map {l}"), failed));
            }
        }
        let overflown = features
            .par_chunks_mut(h * w * dimension)
            .enumerate()
            .filter_map(|(image, features)| {
                if let Some(weight) = position {
                    add_position(features, dimension, (h, w), weight);
                }
                // What is finite may still have left the range of f32 on the way.
                (!all_finite(features)).then_some(image)
            })
            .min();
        if overflown.is_some() {
            return Err(Error::non_finite("patch features", overflown));
        }
        let features = Array2::from_shape_vec((images * h * w, dimension), features)
            .map_err(|e| Error::shape("patch features", "rows of one length", e))?;
        Ok(PatchEmbedding {
            features,
            images,
            grid: (h, w),
        })
    }

    /// Patches along an axis of `n` cells, each axis by itself.
    fn patches(&self, n: usize) -> Option<usize> {
        let padding = (self.patch_size - 1) / 2;
        Some((n + 2 * padding).checked_sub(self.patch_size)? / self.stride + 1)
    }
}

/// Writes where each patch of a grid lies, from `-weight` to `weight`, into the last two values of its row.
fn add_position(features: &mut [f32], dimension: usize, (h, w): (usize, usize), weight: f64) {
    let place = |i: usize, n: usize| (weight * ((2 * i + 1) as f64 / n as f64 - 1.0)) as f32;
    for (patch, row) in features.chunks_exact_mut(dimension).enumerate() {
        if let [.., x, y] = row {
            *x = place(patch % w, w);
            *y = place(patch / w, h);
        }
    }
}

/// Channels, height and width of a map.
pub(crate) type MapShape = (usize, usize, usize);

/// Number of images, and the shape of every map.
pub(crate) fn map_shapes(maps: &[Tensor]) -> Result<(usize, Vec<MapShape>)> {
    let mut images = None;
    let mut shapes = Vec::with_capacity(maps.len());
    for (l, map) in maps.iter().enumerate() {
        let what = || format!("feature map {l}");
        let &[b, c, h, w] = map.dims() else {
            return Err(Error::shape(what(), "(B, C, H, W)", map.dims()));
        };
        let expected = *images.get_or_insert(b);
        if b != expected {
            return Err(Error::shape(
                what(),
                format!("{expected} images"),
                map.dims(),
            ));
        }
        if b * c * h * w == 0 {
            return Err(Error::shape(what(), "at least one value", map.dims()));
        }
        shapes.push((c, h, w));
    }
    let images = images.ok_or(Error::Empty {
        what: "the list of feature maps",
    })?;
    Ok((images, shapes))
}

/// Bin `i` of `m` in the adaptive average over `n` values.
fn bin(i: usize, n: usize, m: usize) -> std::ops::Range<usize> {
    (i * n / m)..((i + 1) * n).div_ceil(m)
}

/// The whole computation as weights.
struct Plan {
    layers: Vec<Layer>,
    grid: (usize, usize),
}

/// Target values that are computed before they are written, a cache line of them.
const TARGETS: usize = 16;

struct Layer {
    channels: usize,
    height: usize,
    width: usize,
    /// Grid of this map's own patches.
    patches: (usize, usize),
    stride: usize,
    padding: usize,
    /// For each target value that this map takes part in: its taps.
    targets: Vec<(usize, Vec<Tap>)>,
    /// Resizing to the first map's grid; none for a map on that grid already.
    resize: Option<Bilinear>,
}

#[derive(Clone, Copy)]
struct Tap {
    channel: usize,
    row: usize,
    column: usize,
    weight: f32,
}

impl Plan {
    fn new(config: &PatchFeatures, shapes: &[(usize, usize, usize)]) -> Result<Self> {
        let k = config.patch_size;
        let mut grid = None;
        let mut layers = Vec::with_capacity(shapes.len());
        for (l, &(channels, height, width)) in shapes.iter().enumerate() {
            let (Some(rows), Some(columns)) = (config.patches(height), config.patches(width))
            else {
                return Err(Error::shape(
                    format!("feature map {l}"),
                    format!("room for a patch of {k} x {k}"),
                    (channels, height, width),
                ));
            };
            let patches = (rows, columns);
            let first = *grid.get_or_insert(patches);
            let resize = (patches != first).then(|| Bilinear::new(patches, first));
            let targets = weights(config, shapes.len(), l, channels * k * k)
                .into_iter()
                .map(|(target, start, weights)| {
                    let taps = weights.iter().enumerate().map(|(i, &weight)| {
                        let at = start + i;
                        Tap {
                            channel: at / (k * k),
                            row: at % (k * k) / k,
                            column: at % k,
                            weight: weight as f32,
                        }
                    });
                    (target, taps.collect())
                })
                .collect();
            layers.push(Layer {
                channels,
                height,
                width,
                patches,
                stride: config.stride,
                padding: (k - 1) / 2,
                targets,
                resize,
            });
        }
        let grid = grid.ok_or(Error::Empty {
            what: "the list of feature maps",
        })?;
        Ok(Self { layers, grid })
    }
}

/// Both averages composed: for each target, the first of the patch's `n` values that takes part, and the weights from there.
fn weights(
    config: &PatchFeatures,
    layers: usize,
    layer: usize,
    n: usize,
) -> Vec<(usize, usize, Vec<f64>)> {
    let (p, t) = (config.pretrain_dimension, config.target_dimension);
    let own = layer * p..(layer + 1) * p;
    let mut all = Vec::new();
    for target in 0..t {
        let outer = bin(target, layers * p, t);
        let (from, to) = (outer.start.max(own.start), outer.end.min(own.end));
        if from >= to {
            continue;
        }
        let first = bin(from - own.start, n, p).start;
        let last = bin(to - 1 - own.start, n, p).end;
        let mut values = vec![0f64; last - first];
        for i in from..to {
            let inner = bin(i - own.start, n, p);
            let weight = 1.0 / (outer.len() as f64 * inner.len() as f64);
            for v in &mut values[inner.start - first..inner.end - first] {
                *v += weight;
            }
        }
        all.push((target, first, values));
    }
    all
}

impl Layer {
    /// Adds this map's part `(C, H, W)` to one image's features `(h * w, D)`.
    fn add_to(&self, input: &[f32], out: &mut [f32], dimension: usize) {
        let (rows, columns) = self.patches;
        let cells = out.len() / dimension;
        let mut unresized = vec![0f32; rows * columns];
        // A row of features is written for many targets at once: each row lies in another cache line.
        // Planes a power of two apart would all lie in the same set of the cache, hence the gap.
        let gap = cells + TARGETS;
        let mut planes = vec![0f32; TARGETS * gap];
        for targets in self.targets.chunks(TARGETS) {
            for ((_, taps), plane) in targets.iter().zip(planes.chunks_exact_mut(gap)) {
                let plane = &mut plane[..cells];
                let sums = match &self.resize {
                    Some(_) => &mut unresized,
                    None => &mut *plane,
                };
                sums.fill(0.0);
                for tap in taps {
                    self.add_tap(input, *tap, sums);
                }
                if let Some(resize) = &self.resize {
                    resize.apply(&unresized, plane);
                }
            }
            // Targets of one map follow each other.
            let Some(&(first, _)) = targets.first() else {
                continue;
            };
            for (cell, row) in out.chunks_exact_mut(dimension).enumerate() {
                let values = planes[cell..].iter().step_by(gap);
                for (feature, v) in row[first..first + targets.len()].iter_mut().zip(values) {
                    *feature += v;
                }
            }
        }
    }

    /// Adds one shifted and weighted channel to a plane of patches. Zeros outside of the map add nothing.
    fn add_tap(&self, input: &[f32], tap: Tap, plane: &mut [f32]) {
        let (_, columns) = self.patches;
        let (s, p) = (self.stride, self.padding);
        let channel = &input[tap.channel * self.height * self.width..][..self.height * self.width];
        // Patches whose column (px * s + tap.column - p) lies inside the map.
        let first = p.saturating_sub(tap.column).div_ceil(s);
        let end = (self.width + p)
            .saturating_sub(tap.column)
            .div_ceil(s)
            .min(columns);
        if first >= end {
            return;
        }
        for (py, out) in plane.chunks_exact_mut(columns).enumerate() {
            let Some(y) = (py * s + tap.row)
                .checked_sub(p)
                .filter(|&y| y < self.height)
            else {
                continue;
            };
            let from = y * self.width + first * s + tap.column - p;
            let values = &channel[from..(y + 1) * self.width];
            let out = &mut out[first..end];
            if s == 1 {
                for (o, v) in out.iter_mut().zip(values) {
                    *o += tap.weight * v;
                }
            } else {
                for (o, v) in out.iter_mut().zip(values.iter().step_by(s)) {
                    *o += tap.weight * v;
                }
            }
        }
    }
}
