//! Anomaly maps smoothed along the tissue that they lie in.

use std::borrow::Cow;
use std::ops::Range;

use fndm_data::{PatientSlices, SliceImages};
use fndm_kernels::{JointBilateral, joint_bilateral};
use ndarray::{Array3, ArrayView, Axis, Dimension, s};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Greatest deviations, in pixels and in slices.
const MOST_SPACE: f64 = 256.;
const MOST_Z: f64 = 8.;
/// Deviations after which a Gaussian is cut off.
const CUT: f64 = 2.5;
/// Deviation in pixels up to which every pixel of a window is looked at; of one twice as wide every second.
const DENSE: f64 = 5.;
/// Slices that are smoothed at a time.
const SLICES: usize = 16;

/// The anomaly map averaged over pixels near by that look alike: a joint bilateral filter, guided by all sequences of the slices (Petschnigg
/// et al. 2004). What a map says of a tissue then holds for all of it, and ends where it ends.
///
/// Networks and Gaussians see lesions at the scale of a few pixels, and their maps fade out over a lesion's border, which the images show
/// sharply.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuidedSmoothing {
    /// Deviation in pixels of the Gaussian over places in the slice, 0.1 to 256. Beyond 5 not every pixel of the window is looked at, so that
    /// time grows as the number of pixels.
    pub space: f64,
    /// Deviation of the Gaussian over differences of intensity, the root of their mean square over sequences, 0.0001 to 2. Images are in
    /// [-1, 1].
    pub range: f64,
    /// Deviation in slices of the Gaussian over z, up to 8; 0 for the slice alone.
    #[serde(default)]
    pub z: f64,
}

impl GuidedSmoothing {
    /// What was found best for gliomas, whose slices had 64 px (`docs/experiments.md`), at this size.
    #[must_use]
    pub fn of_size(image_size: usize) -> Self {
        Self {
            space: 5. * image_size as f64 / 64.,
            range: 0.06,
            z: 1.,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self) -> Result<()> {
        for (option, value, least, most) in [
            ("guided smoothing's space", self.space, 0.1, MOST_SPACE),
            ("guided smoothing's range", self.range, 1e-4, 2.),
            ("guided smoothing's z", self.z, 0., MOST_Z),
        ] {
            if !(least..=most).contains(&value) {
                let expected = format!("{least} to {most}");
                return Err(Error::option(option, expected, value));
            }
        }
        Ok(())
    }

    /// Smooths the map `(N, H, W)` of a patient's slices, of finite values, over pixels `inside`, which it is 0 outside of.
    pub(crate) fn apply<I: SliceImages>(
        &self,
        map: &mut Array3<f32>,
        slices: &PatientSlices<I>,
        inside: &Array3<bool>,
    ) -> Result<()> {
        let (n, c, h, w) = slices.images.dim();
        if map.dim() != (n, h, w) || slices.z.len() != n {
            return Err(Error::Input {
                what: format!("images and positions of {}", slices.id),
                expected: format!("those of a map {:?}", map.dim()),
                got: format!("{:?} and {}", slices.images.dim(), slices.z.len()),
            });
        }
        let filter = JointBilateral {
            space: self.space as f32,
            radius: (CUT * self.space) as usize,
            step: (self.space / DENSE).round().max(1.) as usize,
            range: self.range as f32,
        };
        let mut smooth = Array3::zeros(map.dim());
        // A part at a time: the images may be on the disk.
        for first in (0..n).step_by(SLICES) {
            let part = first..(first + SLICES).min(n);
            let pairs = self.pairs(&slices.z, &part);
            let low = pairs.iter().map(|pair| pair.0).min().unwrap_or(first);
            let high = pairs.iter().map(|pair| pair.1 + 1).max();
            let high = high.unwrap_or(part.end);
            let size = [high - low, c, h, w];
            let shifted = pairs
                .iter()
                .map(|&(a, b, weight)| (a - low, b - low, weight));
            let shifted: Vec<(usize, usize, f32)> = shifted.collect();
            let images = slices.images.part(low..high)?;
            let found = joint_bilateral(
                &values(&map.slice(s![low..high, .., ..])),
                &values(&images.view()),
                &values(&inside.slice(s![low..high, .., ..])),
                size,
                &shifted,
                filter,
            )?;
            let found = Array3::from_shape_vec((high - low, h, w), found);
            let found = found.map_err(|e| Error::Input {
                what: format!("the smoothed map of {}", slices.id),
                expected: format!("{size:?}"),
                got: e.to_string(),
            })?;
            for k in part {
                smooth
                    .index_axis_mut(Axis(0), k)
                    .assign(&found.index_axis(Axis(0), k - low));
            }
        }
        *map = smooth;
        Ok(())
    }

    /// The slices that look at each other, by their positions, with their weights: pairs that have one of `part`, the lower first, near ones
    /// first.
    fn pairs(&self, z: &[usize], part: &Range<usize>) -> Vec<(usize, usize, f32)> {
        let reach = (CUT * self.z) as usize;
        let of = |a: usize| {
            (a..z.len()).filter_map(move |b| {
                let distance = z[a].abs_diff(z[b]);
                let weight = match distance {
                    0 => 1.,
                    _ => (-0.5 * (distance as f64 / self.z).powi(2)).exp() as f32,
                };
                let wanted = part.contains(&a) || part.contains(&b);
                (wanted && distance <= reach).then_some((a, b, weight))
            })
        };
        let mut pairs: Vec<_> = (0..z.len()).flat_map(of).collect();
        // Of one distance those first that begin in an even stretch of its length: they share no slice, so that many can be taken at a
        // time, and neither do the others. The order of a slice's pairs is its position's alone, not one of what else is there.
        pairs.sort_by_key(|&(a, b, _)| {
            let distance = z[a].abs_diff(z[b]);
            (distance, z[a].min(z[b]) / distance.max(1) % 2)
        });
        pairs
    }
}

/// The values of an array as they lie in memory, or in order where they lie otherwise.
fn values<'a, T: Copy, D: Dimension>(array: &ArrayView<'a, T, D>) -> Cow<'a, [T]> {
    match array.to_slice() {
        Some(values) => Cow::Borrowed(values),
        None => Cow::Owned(array.iter().copied().collect()),
    }
}
