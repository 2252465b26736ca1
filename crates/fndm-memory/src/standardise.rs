use std::borrow::Cow;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::patch::map_shapes;
use crate::tensor::{to_cpu, with_slice};
use crate::{Error, Result};

/// Mean and standard deviation of every channel of every map, over healthy images.
///
/// Maps of one network can differ in scale by orders of magnitude, and distances then see the largest alone.
/// A channel that never changes is left at zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standardisation {
    /// For each map, each channel's mean.
    pub mean: Vec<Vec<f32>>,
    /// For each map, each channel's standard deviation, 0 for a channel that never changes.
    pub deviation: Vec<Vec<f32>>,
}

impl Standardisation {
    pub(crate) fn check_channels(&self, channels: &[usize]) -> Result<()> {
        let own: Vec<usize> = self.mean.iter().map(Vec::len).collect();
        if own == channels {
            Ok(())
        } else {
            Err(Error::shape(
                "feature maps",
                format!("channels {own:?}"),
                channels,
            ))
        }
    }

    /// Whether every mean has its deviation; a file can hold anything.
    pub(crate) fn is_sound(&self) -> bool {
        self.mean.len() == self.deviation.len()
            && self
                .mean
                .iter()
                .zip(&self.deviation)
                .all(|(m, d)| m.len() == d.len())
            && self.deviation.iter().flatten().all(|d| *d >= 0.0)
    }

    /// One image's map `(C, H, W)` with mean 0 and deviation 1 in every channel.
    pub(crate) fn apply<'a>(&self, map: usize, input: &'a [f32], plane: usize) -> Cow<'a, [f32]> {
        let mut out = input.to_vec();
        let scales = self.mean[map].iter().zip(&self.deviation[map]);
        for (values, (&mean, &deviation)) in out.chunks_exact_mut(plane).zip(scales) {
            let factor = if deviation > 0.0 {
                1.0 / deviation
            } else {
                0.0
            };
            for v in values {
                *v = (*v - mean) * factor;
            }
        }
        Cow::Owned(out)
    }
}

/// Sums for a [`Standardisation`], image by image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    layers: Vec<Vec<Moment>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Moment {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    pub(crate) fn observe(&mut self, maps: &[Tensor]) -> Result<()> {
        let (_, shapes) = map_shapes(maps)?;
        if self.layers.is_empty() {
            self.layers = shapes
                .iter()
                .map(|s| vec![Moment::default(); s.0])
                .collect();
        }
        let own: Vec<usize> = self.layers.iter().map(Vec::len).collect();
        let channels: Vec<usize> = shapes.iter().map(|s| s.0).collect();
        if own != channels {
            return Err(Error::shape(
                "feature maps",
                format!("channels {own:?}"),
                channels,
            ));
        }
        for (l, (map, &(c, h, w))) in maps.iter().zip(&shapes).enumerate() {
            let map = to_cpu(map)?;
            let moments = &mut self.layers[l];
            let failed = with_slice::<f32, _>(&map, |values| {
                for (i, plane) in values.chunks_exact(h * w).enumerate() {
                    let n = plane.len() as f64;
                    let mean = plane.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                    if !mean.is_finite() {
                        return Some(i / c);
                    }
                    let squares = plane.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
                    moments[i % c].add(n, mean, squares);
                }
                None
            })?;
            if failed.is_some() {
                return Err(Error::non_finite(format!("feature map {l}"), failed));
            }
        }
        Ok(())
    }

    pub(crate) fn finish(&self) -> Option<Standardisation> {
        if self.layers.is_empty() {
            return None;
        }
        let each = |f: fn(&Moment) -> f64| {
            self.layers
                .iter()
                .map(|l| l.iter().map(|m| f(m) as f32).collect())
                .collect()
        };
        Some(Standardisation {
            mean: each(|m| m.mean),
            deviation: each(|m| {
                let deviation = (m.squares / m.count).sqrt();
                // Rounding noise around a constant is no variation.
                if deviation > 1e-6 * m.mean.abs() {
                    deviation
                } else {
                    0.0
                }
            }),
        })
    }
}

impl Moment {
    /// Joins two sets of values (Chan et al. 1979), which is exact where plain sums of squares cancel.
    fn add(&mut self, count: f64, mean: f64, squares: f64) {
        let total = self.count + count;
        let delta = mean - self.mean;
        self.mean += delta * count / total;
        self.squares += squares + delta * delta * self.count * count / total;
        self.count = total;
    }
}
