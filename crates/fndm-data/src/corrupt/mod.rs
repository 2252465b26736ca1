//! Corruption of the conditioning image inside a mask (`x_0^n` of the paper's eq. (5)).
//!
//! In training a random mask stands for a lesion, and the region below it is corrupted, so that the
//! network learns not to trust the conditioning image there. The paper does not say how; these are
//! the kinds to choose from. All sequences are corrupted in the same region, images are
//! (C, H, W) within [-1, 1] and stay so, and only pixels inside both mask and head change.
//!
//! ```
//! use fndm_data::corrupt::CorruptionMix;
//! use fndm_data::freeform::FreeForm;
//! use ndarray::{Array2, Array3};
//! use rand::SeedableRng;
//!
//! let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
//! let head = Array2::from_elem((64, 64), true);
//! let mask = FreeForm::default().draw_in(&mut rng, head.view());
//! let mut image = Array3::<f32>::zeros((4, 64, 64));
//! let other = Array3::<f32>::from_elem((4, 64, 64), 0.5);
//! CorruptionMix::default().apply(&mut rng, image.view_mut(), mask.view(), other.view(), head.view())?;
//! assert!(image.iter().any(|v| *v != 0.0));
//! # Ok::<(), fndm_data::Error>(())
//! ```

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

mod filter;
mod kinds;
mod lesion;
mod pasted;

use std::ops::Range;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut3, Zip, s};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

pub use lesion::{PseudoLesion, Shift};
pub use pasted::{Donors, PastedLesion};

use crate::freeform::{check_weights, pick};
use crate::{Error, Result};

/// Widest soft edge in pixels.
const MAX_EDGE: f64 = 64.0;

/// One kind of corruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Corruption {
    /// Gaussian noise in place of the image, or on top of it.
    Noise,
    /// One value for each sequence.
    Constant,
    /// Lesion-like: each sequence becomes brighter or darker by an amount of its own, the texture
    /// is weakened, and a core inside may differ again.
    IntensityShift,
    /// The same place of another slice, mixed in.
    BlendOtherSlice,
    /// Detail is smoothed away.
    Blur,
    /// Pixels come from somewhere else nearby, along a smooth random displacement.
    ElasticTexture,
    /// Pixels of the region change places at random.
    Shuffle,
}

impl Corruption {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Noise,
        Self::Constant,
        Self::IntensityShift,
        Self::BlendOtherSlice,
        Self::Blur,
        Self::ElasticTexture,
        Self::Shuffle,
    ];

    /// Corrupts `image` (C, H, W) inside `mask` and `head`, both (H, W). `other` (C, H, W) is the
    /// slice for [`BlendOtherSlice`](Self::BlendOtherSlice); the other kinds do not look at it.
    ///
    /// `soft_edge` is the width in pixels over which the corruption grows from the region's border
    /// inwards; 0 is a hard border. Outside nothing changes.
    ///
    /// # Errors
    /// [`Error::Shape`] where the arrays do not fit each other.
    pub fn apply<R: Rng + ?Sized>(
        self,
        rng: &mut R,
        mut image: ArrayViewMut3<f32>,
        mask: ArrayView2<bool>,
        other: ArrayView3<f32>,
        head: ArrayView2<bool>,
        soft_edge: f64,
    ) -> Result<()> {
        let (c, h, w) = image.dim();
        for (what, got) in [("mask", mask.dim()), ("head", head.dim())] {
            if got != (h, w) {
                return Err(Error::shape(what, format!("[{h}, {w}]"), &[got.0, got.1]));
            }
        }
        if other.dim() != (c, h, w) {
            return Err(Error::shape(
                "other",
                format!("[{c}, {h}, {w}]"),
                other.shape(),
            ));
        }
        let side = h.max(w);
        // Only the surroundings of the region have a say: as far as smoothing and shifting reach.
        let margin = match self {
            Self::Blur | Self::ElasticTexture | Self::IntensityShift => side / 4 + 1,
            _ => 1,
        };
        let margin = margin.max((1.5 * soft_edge.clamp(0.0, MAX_EDGE)).ceil() as usize + 1);
        let region = Zip::from(mask).and(head).map_collect(|m, h| *m && *h);
        let Some((rows, columns)) = surroundings(&region, margin) else {
            return Ok(());
        };
        let part = s![.., rows.clone(), columns.clone()];
        let plane = s![rows, columns];
        let (mut image, other) = (image.slice_mut(part), other.slice(part));
        let (region, head) = (region.slice(plane).to_owned(), head.slice(plane));
        let alpha = edge(&region, soft_edge);
        let old = image.view();
        let new = match self {
            Self::Noise => kinds::noise(rng, &old, &region),
            Self::Constant => kinds::constant(rng, &old),
            Self::IntensityShift => kinds::intensity_shift(rng, &old, &region, side),
            Self::BlendOtherSlice => kinds::blend(rng, &old, &other),
            Self::Blur => kinds::blur(rng, &old, side),
            Self::ElasticTexture => kinds::elastic(rng, &old, &region, &head, side),
            Self::Shuffle => kinds::shuffle(rng, &old, &region),
        };
        for (plane, new) in image.outer_iter_mut().zip(new.outer_iter()) {
            Zip::from(plane).and(new).and(&alpha).for_each(|v, new, a| {
                if *a > 0.0 {
                    *v = (*v + a * (new - *v)).clamp(-1.0, 1.0);
                }
            });
        }
        Ok(())
    }
}

/// The rows and columns of a region with a margin around it; `None` if the region is empty.
fn surroundings(region: &Array2<bool>, margin: usize) -> Option<(Range<usize>, Range<usize>)> {
    let (h, w) = region.dim();
    let holds = |lane: ArrayView1<bool>| lane.iter().any(|r| *r);
    let mut rows = (0..h).filter(|i| holds(region.row(*i)));
    let mut columns = (0..w).filter(|j| holds(region.column(*j)));
    let span = |first: usize, last: usize, n: usize| {
        first.saturating_sub(margin)..(last + 1 + margin).min(n)
    };
    Some((
        span(rows.clone().next()?, rows.next_back()?, h),
        span(columns.clone().next()?, columns.next_back()?, w),
    ))
}

/// Weight of the corruption at each pixel: 0 outside the region, 1 well inside.
fn edge(region: &Array2<bool>, soft_edge: f64) -> Array2<f32> {
    let hard = region.mapv(|r| f32::from(u8::from(r)));
    // NaN and negative widths count as none.
    if soft_edge.is_nan() || soft_edge < 0.5 {
        return hard;
    }
    // A blurred border passes through a half; twice the excess rises from 0 to 1 within it.
    let soft = filter::smooth(&hard, soft_edge.min(MAX_EDGE) / 2.0);
    Zip::from(&hard)
        .and(&soft)
        .map_collect(|h, s| h * (2.0 * s - 0.8).clamp(0.2, 1.0))
}

/// Kinds of corruption with their weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorruptionMix {
    /// Weight of [`Corruption::Noise`].
    pub noise: f64,
    /// Weight of [`Corruption::Constant`].
    pub constant: f64,
    /// Weight of [`Corruption::IntensityShift`].
    pub intensity_shift: f64,
    /// Weight of [`Corruption::BlendOtherSlice`].
    pub blend_other_slice: f64,
    /// Weight of [`Corruption::Blur`].
    pub blur: f64,
    /// Weight of [`Corruption::ElasticTexture`].
    pub elastic_texture: f64,
    /// Weight of [`Corruption::Shuffle`].
    pub shuffle: f64,
    /// Greatest width of the soft edge in pixels; each use draws its own from 0 up to it.
    pub soft_edge: f64,
}

impl Default for CorruptionMix {
    fn default() -> Self {
        Self {
            noise: 0.10,
            constant: 0.10,
            intensity_shift: 0.50,
            blend_other_slice: 0.10,
            blur: 0.05,
            elastic_texture: 0.10,
            shuffle: 0.05,
            soft_edge: 2.0,
        }
    }
}

impl CorruptionMix {
    /// One kind alone, with a hard border.
    #[must_use]
    pub fn only(kind: Corruption) -> Self {
        let weight = |k: Corruption| f64::from(u8::from(k == kind));
        Self {
            noise: weight(Corruption::Noise),
            constant: weight(Corruption::Constant),
            intensity_shift: weight(Corruption::IntensityShift),
            blend_other_slice: weight(Corruption::BlendOtherSlice),
            blur: weight(Corruption::Blur),
            elastic_texture: weight(Corruption::ElasticTexture),
            shuffle: weight(Corruption::Shuffle),
            soft_edge: 0.0,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] where a weight is negative or not finite, all are 0, or the soft
    /// edge is not within 0 to 64 px.
    pub fn check(&self) -> Result<()> {
        check_weights("CorruptionMix weights", &self.weights())?;
        if !(0.0..=MAX_EDGE).contains(&self.soft_edge) {
            return Err(Error::config(
                "CorruptionMix.soft_edge",
                "0 to 64",
                self.soft_edge,
            ));
        }
        Ok(())
    }

    /// In the order of [`Corruption::ALL`].
    fn weights(&self) -> [f64; 7] {
        [
            self.noise,
            self.constant,
            self.intensity_shift,
            self.blend_other_slice,
            self.blur,
            self.elastic_texture,
            self.shuffle,
        ]
    }

    /// Draws a kind.
    pub fn choose<R: Rng + ?Sized>(&self, rng: &mut R) -> Corruption {
        Corruption::ALL[pick(rng, &self.weights())]
    }

    /// Draws a kind and applies it: see [`Corruption::apply`].
    ///
    /// # Errors
    /// [`Error::Shape`] where the arrays do not fit each other.
    pub fn apply<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        image: ArrayViewMut3<f32>,
        mask: ArrayView2<bool>,
        other: ArrayView3<f32>,
        head: ArrayView2<bool>,
    ) -> Result<()> {
        let kind = self.choose(rng);
        let soft_edge = rng.random::<f64>() * self.soft_edge;
        kind.apply(rng, image, mask, other, head, soft_edge)
    }
}
