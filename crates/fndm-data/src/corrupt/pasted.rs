//! Lesions of diseased slices, cut out by a map and pasted into healthy ones.

use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayViewMut3, Axis, s};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};

use super::filter::smooth;
use crate::{Error, Result, SliceSet};

/// How lesions that were cut from diseased slices are pasted into healthy ones. Lengths are in pixels of a slice of 64, and grow
/// with the slice.
///
/// A pseudo-lesion of shapes and shifts has none of a lesion's own texture, and a network that sees nothing else learns what
/// pseudo-lesions are told by. Where real lesions lie need not be known well: what is cut beside one is tissue in the wrong place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PastedLesion {
    /// Share of the slices that get one, 0 to 1; the others get a drawn pseudo-lesion.
    pub share: f64,
    /// How far a lesion may be moved from its place, in each direction.
    pub walk: f64,
    /// Range of what is left of it: 1 is the lesion as it is, 0 the healthy tissue.
    pub severity: (f64, f64),
    /// Standard deviation of a change of its brightness, drawn for each sequence.
    pub gain: f64,
}

impl Default for PastedLesion {
    fn default() -> Self {
        Self {
            share: 0.5,
            walk: 8.0,
            severity: (0.3, 1.0),
            gain: 0.1,
        }
    }
}

impl PastedLesion {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        let (low, high) = self.severity;
        let checks = [
            ((0.0..=1.0).contains(&self.share), "share", "0 to 1"),
            ((0.0..=64.0).contains(&self.walk), "walk", "0 to 64"),
            (
                0.0 <= low && low <= high && high <= 1.0,
                "severity",
                "0 <= low <= high <= 1",
            ),
            ((0.0..=2.0).contains(&self.gain), "gain", "0 to 2"),
        ];
        match checks.iter().find(|(good, ..)| !good) {
            Some((_, what, expected)) => {
                let what = format!("PastedLesion.{what}");
                Err(Error::config(what, *expected, format!("{self:?}")))
            }
            None => Ok(()),
        }
    }
}

/// Slices with lesions, and where these lie.
#[derive(Debug, Clone)]
pub struct Donors {
    /// The slices, `(N, C, H, W)` in [-1, 1].
    images: Array4<f32>,
    /// How much of each pixel is lesion, 0 to 1, `(N, H, W)`.
    masks: Array3<f32>,
}

impl Donors {
    /// The least pixels of a slice of 64 that are worth pasting.
    const LEAST: f64 = 4.0;
    /// Deviation of the Gaussian that softens a lesion's border, in pixels of a slice of 64.
    const EDGE: f64 = 0.7;

    /// The lesions of the slices of `set` with label 1, by `masks` `(N, H, W)` that say where they may be: a coarse map's. Slices with
    /// hardly any are passed over.
    ///
    /// # Errors
    /// [`Error::Shape`] when the masks are of other slices, and [`Error::InvalidConfig`] when there is no lesion at all.
    pub fn cut(set: &SliceSet, masks: &Array3<bool>) -> Result<Self> {
        let (n, c, h, w) = set.images.dim();
        if masks.dim() != (n, h, w) {
            let (n_masks, h_masks, w_masks) = masks.dim();
            let got = [n_masks, h_masks, w_masks];
            return Err(Error::shape("masks", format!("[{n}, {h}, {w}]"), &got));
        }
        let scale = h.max(w) as f64 / 64.0;
        let mut found = Vec::new();
        for (i, mask) in masks.axis_iter(Axis(0)).enumerate() {
            let pixels = mask.iter().filter(|&&inside| inside).count() as f64;
            if set.labels[i] == 1 && pixels >= Self::LEAST * scale * scale {
                found.push(i);
            }
        }
        if found.is_empty() {
            let expected = "a diseased slice with a lesion of some pixels by the coarse map";
            return Err(Error::config("PastedLesion".to_string(), expected, "none"));
        }
        let mut images = Array4::zeros((found.len(), c, h, w));
        let mut soft = Array3::zeros((found.len(), h, w));
        for (to, &from) in found.iter().enumerate() {
            images
                .index_axis_mut(Axis(0), to)
                .assign(&set.images.index_axis(Axis(0), from));
            let mask = masks.index_axis(Axis(0), from);
            let mask = mask.mapv(|inside| f32::from(u8::from(inside)));
            let mask = smooth(&mask, Self::EDGE * scale).mapv(|v| v.clamp(0.0, 1.0));
            soft.index_axis_mut(Axis(0), to).assign(&mask);
        }
        Ok(Self {
            images,
            masks: soft,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.masks.len_of(Axis(0))
    }

    /// Whether there are none, which [`Donors::cut`] refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values, for a fingerprint.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        self.images.iter().chain(&self.masks).copied()
    }

    /// Channels, height and width of a slice.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        let (_, c, h, w) = self.images.dim();
        [c, h, w]
    }

    /// Pastes one of the lesions into `image` `(C, H, W)` inside `head` `(H, W)`, mirrored in half of the draws, and says where: from
    /// 0 to 1, `(H, W)`. The image stays within [-1, 1].
    ///
    /// # Errors
    /// [`Error::Shape`] when image or head are of another size; as [`PastedLesion::check`].
    pub fn paste<R: Rng + ?Sized>(
        &self,
        config: &PastedLesion,
        rng: &mut R,
        mut image: ArrayViewMut3<f32>,
        head: ArrayView2<bool>,
    ) -> Result<Array2<f32>> {
        config.check()?;
        let (c, h, w) = image.dim();
        if [c, h, w] != self.shape() || head.dim() != (h, w) {
            let got = [c, head.dim().0, head.dim().1];
            return Err(Error::shape("image", format!("{:?}", self.shape()), &got));
        }
        let donor = rng.random_range(0..self.len());
        let (lesion, mask) = (
            self.images.index_axis(Axis(0), donor),
            self.masks.index_axis(Axis(0), donor),
        );
        let mirrored: bool = rng.random();
        let walk = (config.walk * h.max(w) as f64 / 64.0).round() as i64;
        let (dy, dx) = (
            rng.random_range(-walk..=walk),
            rng.random_range(-walk..=walk),
        );
        let severity = rng.random_range(config.severity.0..=config.severity.1) as f32;
        let gain: Vec<f32> = (0..c)
            .map(|_| config.gain as f32 * rng.sample::<f32, _>(StandardNormal))
            .collect();
        let moved = |at: usize, by: i64, n: usize| {
            let from = at as i64 + by;
            (0..n as i64).contains(&from).then_some(from as usize)
        };
        let mut region = Array2::zeros((h, w));
        for ((y, x), covered) in region.indexed_iter_mut() {
            let (Some(from_y), Some(from_x)) = (moved(y, dy, h), moved(x, dx, w)) else {
                continue;
            };
            let from_x = if mirrored { w - 1 - from_x } else { from_x };
            let share = mask[[from_y, from_x]];
            if share <= 0.0 || !head[[y, x]] {
                continue;
            }
            *covered = share;
            let from = lesion.slice(s![.., from_y, from_x]);
            let mut to = image.slice_mut(s![.., y, x]);
            for ((to, &from), &gain) in to.iter_mut().zip(&from).zip(&gain) {
                *to = (*to + severity * share * (from + gain - *to)).clamp(-1.0, 1.0);
            }
        }
        Ok(region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    const SIZE: usize = 64;

    /// Three slices of two sequences: healthy, with a bright square by the masks, and diseased with hardly a pixel of it.
    fn set() -> (SliceSet, Array3<bool>) {
        let mut images = Array4::from_elem((3, 2, SIZE, SIZE), -0.5f32);
        let mut masks = Array3::from_elem((3, SIZE, SIZE), false);
        for y in 10..16 {
            for x in 4..12 {
                images[[1, 0, y, x]] = 0.75;
                images[[1, 1, y, x]] = -0.9;
                masks[[0, y, x]] = true;
                masks[[1, y, x]] = true;
            }
        }
        masks[[2, 3, 3]] = true;
        let ids = ["a", "b", "c"];
        let set = SliceSet::new(images, vec![0, 1, 1], &ids, &["flair", "t1"]).unwrap();
        (set, masks)
    }

    fn donors() -> Donors {
        let (set, masks) = set();
        Donors::cut(&set, &masks).unwrap()
    }

    fn as_it_is() -> PastedLesion {
        PastedLesion {
            share: 1.0,
            severity: (1.0, 1.0),
            gain: 0.0,
            ..PastedLesion::default()
        }
    }

    #[test]
    fn lesions_come_from_diseased_slices_with_enough_of_them() {
        assert_eq!(donors().len(), 1);
        let (set, masks) = set();
        let none = Array3::from_elem(masks.dim(), false);
        let error = Donors::cut(&set, &none).unwrap_err().to_string();
        assert!(error.contains("diseased slice"), "{error}");
        let other = Array3::from_elem((3, SIZE, SIZE + 1), true);
        assert!(matches!(
            Donors::cut(&set, &other),
            Err(Error::Shape { .. })
        ));
    }

    #[test]
    fn a_pasted_lesion_is_the_donors_in_the_head_and_nothing_else_changes() {
        let donors = donors();
        let head = Array2::from_shape_fn((SIZE, SIZE), |(y, _)| y < 14);
        let before = Array3::from_shape_fn((2, SIZE, SIZE), |(c, y, x)| {
            0.1 * (c as f32) + 0.01 * (y as f32) - 0.005 * (x as f32)
        });
        let (mut left, mut right) = (0, 0);
        for seed in 0..60 {
            let mut image = before.clone();
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let config = as_it_is();
            let region = donors
                .paste(&config, &mut rng, image.view_mut(), head.view())
                .unwrap();
            for ((y, x), &share) in region.indexed_iter() {
                assert!((0.0..=1.0).contains(&share));
                assert!(share == 0.0 || head[[y, x]]);
                for (c, lesion) in [(0, 0.75), (1, -0.9)] {
                    // Beside the square the donor is -0.5, and the border is soft.
                    let (now, then) = (image[[c, y, x]], before[[c, y, x]]);
                    let (low, high) = (then.min(lesion).min(-0.5), then.max(lesion).max(-0.5));
                    assert!((low - 1e-6..=high + 1e-6).contains(&now));
                    assert!(share > 0.0 || now == then);
                    if share == 1.0 {
                        assert!((now - lesion).abs() < 1e-6, "{now}");
                    }
                }
            }
            let column = |(at, _): ((usize, usize), _)| at.1;
            let covered = region.indexed_iter().filter(|(_, share)| **share > 0.5);
            match covered.map(column).min() {
                Some(x) if x < SIZE / 2 => left += 1,
                Some(_) => right += 1,
                None => {}
            }
        }
        assert!(left > 10 && right > 10, "mirrored in half: {left}, {right}");
    }

    #[test]
    fn severity_says_how_much_of_the_lesion_is_left() {
        let donors = donors();
        let head = Array2::from_elem((SIZE, SIZE), true);
        let paste = |severity: f64| {
            let config = PastedLesion {
                severity: (severity, severity),
                ..as_it_is()
            };
            let mut image = Array3::from_elem((2, SIZE, SIZE), 0.25f32);
            let mut rng = ChaCha8Rng::seed_from_u64(3);
            donors
                .paste(&config, &mut rng, image.view_mut(), head.view())
                .unwrap();
            image
        };
        let (half, whole) = (paste(0.5), paste(1.0));
        for (&half, &whole) in half.iter().zip(&whole) {
            assert!((half - 0.25 - 0.5 * (whole - 0.25)).abs() < 1e-6);
        }
        assert_eq!(paste(0.0), Array3::from_elem((2, SIZE, SIZE), 0.25f32));
    }

    #[test]
    fn a_pseudo_lesion_takes_its_share_from_the_donors() {
        use super::super::PseudoLesion;
        let donors = donors();
        let head = Array2::from_elem((SIZE, SIZE), true);
        let lesion = PseudoLesion {
            pasted: Some(as_it_is()),
            ..PseudoLesion::default()
        };
        let mut image = Array3::zeros((2, SIZE, SIZE));
        let (mut rng, mut same) = (ChaCha8Rng::seed_from_u64(1), ChaCha8Rng::seed_from_u64(1));
        let refused = lesion.put_into(&mut rng, image.view_mut(), head.view(), None);
        assert!(refused.unwrap_err().to_string().contains("pasted"));
        let region = lesion
            .put_into(&mut rng, image.view_mut(), head.view(), Some(&donors))
            .unwrap();
        let _: f64 = same.random();
        let mut alone = Array3::zeros((2, SIZE, SIZE));
        let config = as_it_is();
        let pasted = donors.paste(&config, &mut same, alone.view_mut(), head.view());
        assert_eq!((region, image), (pasted.unwrap(), alone));
    }

    #[test]
    fn settings_and_shapes_that_do_not_fit_are_refused() {
        let donors = donors();
        let head = Array2::from_elem((SIZE, SIZE), true);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let bad = [
            PastedLesion {
                share: f64::NAN,
                ..PastedLesion::default()
            },
            PastedLesion {
                severity: (0.8, 0.3),
                ..PastedLesion::default()
            },
            PastedLesion {
                walk: -1.0,
                ..PastedLesion::default()
            },
            PastedLesion {
                gain: 3.0,
                ..PastedLesion::default()
            },
        ];
        for config in bad {
            let mut image = Array3::zeros((2, SIZE, SIZE));
            let pasted = donors.paste(&config, &mut rng, image.view_mut(), head.view());
            assert!(matches!(pasted, Err(Error::InvalidConfig { .. })));
        }
        let config = PastedLesion::default();
        let mut image = Array3::zeros((1, SIZE, SIZE));
        let pasted = donors.paste(&config, &mut rng, image.view_mut(), head.view());
        assert!(matches!(pasted, Err(Error::Shape { .. })));
    }
}
