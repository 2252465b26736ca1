//! What a viewer shows one over the other: images, maps and masks of the same slices.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

use ndarray::{Array3, ArrayView3, CowArray, Ix3};
use serde::Serialize;

use crate::atlas::Atlas;
use crate::{Error, Result};

/// Where a layer's pixels lie in the frame of its page, in the frame's pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Place {
    /// The upper edge; below 0 where the layer stands out over the frame.
    pub top: f64,
    /// The left edge.
    pub left: f64,
    /// From the upper edge to the lower.
    pub height: f64,
    /// From the left edge to the right.
    pub width: f64,
}

/// What a layer is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// A sequence or a reconstruction, drawn in grey.
    Image,
    /// A map of how anomalous a pixel is, drawn in a black-red-yellow-white scale.
    Map,
    /// What was found: drawn with a solid outline.
    Mask,
    /// What is true: drawn with a dashed outline.
    Truth,
}

/// One layer of a viewer: `(N, H, W)`, N slices, kept as 8 bits (masks: one bit).
#[derive(Debug, Clone)]
pub struct Layer {
    pub(crate) title: String,
    pub(crate) kind: Kind,
    pub(crate) method: Option<String>,
    pub(crate) place: Option<Place>,
    /// What 0 and 255 stand for.
    pub(crate) range: [f32; 2],
    pub(crate) shape: (usize, usize, usize),
    pub(crate) atlas: Atlas,
}

impl Layer {
    /// An image, from `range[0]` (black) to `range[1]` (white); what lies beyond is cut off, and what isn't a number is black.
    ///
    /// # Errors
    /// [`Error::Input`] for a range that isn't finite or of no width; as [`fndm_pictures::grey_png`].
    pub fn image(title: &str, image: ArrayView3<'_, f32>, range: [f32; 2]) -> Result<Self> {
        Self::grey(title, Kind::Image, image, range)
    }

    /// An anomaly map or a coarse map, from `range[0]` to `range[1]`.
    ///
    /// # Errors
    /// As [`Layer::image`].
    pub fn map(title: &str, map: ArrayView3<'_, f32>, range: [f32; 2]) -> Result<Self> {
        Self::grey(title, Kind::Map, map, range)
    }

    /// The mask of a method.
    ///
    /// # Errors
    /// As [`fndm_pictures::bit_png`].
    pub fn mask(title: &str, mask: ArrayView3<'_, bool>) -> Result<Self> {
        Self::bits(title, Kind::Mask, mask)
    }

    /// The true mask.
    ///
    /// # Errors
    /// As [`fndm_pictures::bit_png`].
    pub fn truth(title: &str, mask: ArrayView3<'_, bool>) -> Result<Self> {
        Self::bits(title, Kind::Truth, mask)
    }

    /// As one of the layers of a method: shown when that method is chosen.
    #[must_use]
    pub fn of_method(mut self, method: &str) -> Self {
        self.method = Some(method.into());
        self
    }

    /// With its pixels in this place of the frame. Default: they fill the frame.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    fn grey(title: &str, kind: Kind, values: ArrayView3<'_, f32>, range: [f32; 2]) -> Result<Self> {
        let [low, high] = range;
        if !(low.is_finite() && high.is_finite() && low < high) {
            let what = format!("range of {title}");
            return Err(Error::input(what, "low < high", format!("{range:?}")));
        }
        let byte = |&value: &f32| {
            let unit = (value - low) / (high - low);
            // `as` makes 0 of NaN.
            (unit.clamp(0., 1.) * 255.).round() as u8
        };
        Ok(Self {
            title: title.into(),
            kind,
            method: None,
            place: None,
            range,
            shape: values.dim(),
            atlas: Atlas::grey(values.map(byte).view())?,
        })
    }

    fn bits(title: &str, kind: Kind, mask: ArrayView3<'_, bool>) -> Result<Self> {
        Ok(Self {
            title: title.into(),
            kind,
            method: None,
            place: None,
            range: [0., 1.],
            shape: mask.dim(),
            atlas: Atlas::bits(mask)?,
        })
    }
}

/// A range for an image: the values that 0.1 % lie below and 0.1 % above; the whole of it where these are the same, and 0 to 1 where
/// nothing is finite.
#[must_use]
pub fn usual_range(image: ArrayView3<'_, f32>) -> [f32; 2] {
    // Of its full length at once: a vector that grows holds its values twice while it does.
    let mut values = Vec::with_capacity(image.len());
    values.extend(image.iter().copied().filter(|v| v.is_finite()));
    if values.is_empty() {
        return [0., 1.];
    }
    let last = values.len() - 1;
    let mut at = |share: f64| {
        let n = (last as f64 * share).round() as usize;
        *values.select_nth_unstable_by(n, f32::total_cmp).1
    };
    let (low, high) = (at(0.001), at(0.999));
    match low < high {
        true => [low, high],
        false => {
            let (low, high) = (at(0.), at(1.));
            [low, if high > low { high } else { low + 1. }]
        }
    }
}

/// A range for a map: from 0 to the largest finite value, or 1 where there is none above 0.
#[must_use]
pub fn map_range(map: ArrayView3<'_, f32>) -> [f32; 2] {
    let finite = map.iter().copied().filter(|v| v.is_finite());
    let top = finite.fold(0f32, f32::max);
    [0., if top > 0. { top } else { 1. }]
}

/// An image with no side above `most` pixels: the means of squares of pixels. At the lower and right edge a square may be cut off.
#[must_use]
pub fn shrunk(image: ArrayView3<'_, f32>, most: usize) -> CowArray<'_, f32, Ix3> {
    let (n, height, width) = image.dim();
    let factor = height.max(width).div_ceil(most.max(1)).max(1);
    if factor == 1 {
        return image.into();
    }
    let shape = (n, height.div_ceil(factor), width.div_ceil(factor));
    let means = Array3::from_shape_fn(shape, |(z, y, x)| {
        let (mut sum, mut count) = (0f64, 0u32);
        for row in y * factor..((y + 1) * factor).min(height) {
            for column in x * factor..((x + 1) * factor).min(width) {
                sum += f64::from(image[(z, row, column)]);
                count += 1;
            }
        }
        (sum / f64::from(count)) as f32
    });
    means.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_odd_images() {
        let of = |values: Vec<f32>| {
            let n = values.len();
            Array3::from_shape_vec((1, 1, n), values).unwrap()
        };
        assert_eq!(usual_range(of(vec![]).view()), [0., 1.]);
        assert_eq!(usual_range(of(vec![f32::NAN; 3]).view()), [0., 1.]);
        assert_eq!(usual_range(of(vec![4.; 3]).view()), [4., 5.]);
        // One bright voxel among 5000 is beyond the range; among ten it is the end of it.
        let mut many: Vec<f32> = (0..5000).map(|v| v as f32).collect();
        many[17] = 1e9;
        assert_eq!(usual_range(of(many).view()), [5., 4995.]);
        assert_eq!(usual_range(of(vec![0., 1., 9.]).view()), [0., 9.]);
        assert_eq!(
            map_range(of(vec![0., f32::INFINITY, 0.3]).view()),
            [0., 0.3]
        );
        assert_eq!(map_range(of(vec![-1., 0.]).view()), [0., 1.]);
    }

    #[test]
    fn a_shrunk_image_has_the_means() {
        let image = Array3::from_shape_fn((1, 4, 5), |(_, y, x)| (y * 5 + x) as f32);
        let small = shrunk(image.view(), 3);
        assert_eq!(small.dim(), (1, 2, 3));
        assert_eq!(small[(0, 0, 0)], (0. + 1. + 5. + 6.) / 4.);
        assert_eq!(small[(0, 1, 2)], (14. + 19.) / 2.);
        assert_eq!(shrunk(image.view(), 5).into_owned(), image);
    }

    #[test]
    fn a_range_of_no_width_is_refused() {
        let image = Array3::zeros((1, 2, 2));
        for range in [[1., 1.], [0., f32::NAN], [2., 1.]] {
            assert!(Layer::image("t1", image.view(), range).is_err());
        }
    }
}
