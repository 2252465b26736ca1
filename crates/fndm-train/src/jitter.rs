use ndarray::Array2;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::{check, check_share};

/// How the coarse map that the network sees differs from the region that was really corrupted.
///
/// At test time the coarse map comes from a memory bank and is never exact. A network that was trained with exact maps
/// learns to trust their border; one that saw sloppy maps doesn't. Lengths are in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoarseJitter {
    /// Share of the samples whose map is changed.
    pub probability: f64,
    /// The map grows by up to this radius, ...
    pub dilation: usize,
    /// ... or shrinks by up to this one (a radius is drawn uniformly from `-erosion..=dilation`).
    pub erosion: usize,
    /// Up to this many discs on the border are then added or cut out.
    pub blobs: usize,
    /// Largest radius of such a disc.
    pub blob_radius: usize,
}

impl Default for CoarseJitter {
    fn default() -> Self {
        Self {
            probability: 0.75,
            dilation: 3,
            erosion: 1,
            blobs: 3,
            blob_radius: 3,
        }
    }
}

impl CoarseJitter {
    /// The exact region, always.
    pub const NONE: Self = Self {
        probability: 0.0,
        dilation: 0,
        erosion: 0,
        blobs: 0,
        blob_radius: 0,
    };

    /// Fails with [`Error::Config`](crate::Error::Config) on the first setting that is out of its range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        check_share(self.probability, "jitter.probability")?;
        for (value, field) in [
            (self.dilation, "jitter.dilation"),
            (self.erosion, "jitter.erosion"),
            (self.blob_radius, "jitter.blob_radius"),
            (self.blobs, "jitter.blobs"),
        ] {
            check(value <= 64, field, "at most 64", value)?;
        }
        Ok(())
    }

    /// A changed copy of `mask` (H, W). A mask that isn't empty stays so.
    #[must_use]
    pub fn apply(&self, rng: &mut impl Rng, mask: &Array2<bool>) -> Array2<bool> {
        if rng.random::<f64>() >= self.probability || !mask.iter().any(|&m| m) {
            return mask.clone();
        }
        let radius = rng.random_range(-(self.erosion as i64)..=self.dilation as i64);
        let mut out = if radius >= 0 {
            dilate(mask, radius as usize)
        } else {
            let outside = dilate(&mask.mapv(|m| !m), radius.unsigned_abs() as usize);
            outside.mapv(|m| !m)
        };
        let blobs = rng.random_range(0..=self.blobs);
        for _ in 0..blobs {
            let border = border(&out);
            if border.is_empty() {
                break;
            }
            let centre = border[rng.random_range(0..border.len())];
            let radius = rng.random_range(0..=self.blob_radius);
            let add = rng.random::<bool>();
            disc(&mut out, centre, radius, add);
        }
        if out.iter().any(|&m| m) {
            out
        } else {
            mask.clone()
        }
    }
}

/// Sets the pixels within `radius` of `centre` that lie in the image.
fn disc(mask: &mut Array2<bool>, centre: (usize, usize), radius: usize, value: bool) {
    let (h, w) = mask.dim();
    let reach = (radius * radius) as i64;
    for y in centre.0.saturating_sub(radius)..(centre.0 + radius + 1).min(h) {
        for x in centre.1.saturating_sub(radius)..(centre.1 + radius + 1).min(w) {
            let (dy, dx) = (y as i64 - centre.0 as i64, x as i64 - centre.1 as i64);
            if dy * dy + dx * dx <= reach {
                mask[[y, x]] = value;
            }
        }
    }
}

/// Every pixel within `radius` of the mask.
fn dilate(mask: &Array2<bool>, radius: usize) -> Array2<bool> {
    let mut out = mask.clone();
    if radius > 0 {
        // Inner pixels add nothing that the border doesn't.
        for centre in border(mask) {
            disc(&mut out, centre, radius, true);
        }
    }
    out
}

/// Pixels of the mask that have a neighbour (of four) outside it.
fn border(mask: &Array2<bool>) -> Vec<(usize, usize)> {
    let at = |y: usize, x: usize| mask.get((y, x)).copied().unwrap_or(false);
    mask.indexed_iter()
        .filter(|&((y, x), &inside)| {
            inside
                && !(at(y.wrapping_sub(1), x)
                    && at(y + 1, x)
                    && at(y, x.wrapping_sub(1))
                    && at(y, x + 1))
        })
        .map(|(at, _)| at)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};

    /// Dilation as its definition says: a pixel is set when the mask has one within the radius.
    fn slow(mask: &Array2<bool>, radius: i64) -> Array2<bool> {
        Array2::from_shape_fn(mask.dim(), |(y, x)| {
            mask.indexed_iter().any(|((v, u), &m)| {
                let (dy, dx) = (y as i64 - v as i64, x as i64 - u as i64);
                m && dy * dy + dx * dx <= radius * radius
            })
        })
    }

    #[test]
    fn dilation_is_the_definition() {
        let mut rng = generator(1, Purpose::Validation, 0);
        for radius in 0..4 {
            let mask = Array2::from_shape_fn((13, 17), |_| rng.random_range(0..12) == 0);
            assert_eq!(dilate(&mask, radius), slow(&mask, radius as i64));
            let solid = Array2::from_shape_fn((13, 17), |(y, x)| y < 6 && x > 4);
            assert_eq!(dilate(&solid, radius), slow(&solid, radius as i64));
        }
    }

    #[test]
    fn a_mask_never_vanishes_and_stays_near() {
        let jitter = CoarseJitter {
            probability: 1.0,
            erosion: 3,
            ..CoarseJitter::default()
        };
        let mask = Array2::from_shape_fn((24, 24), |(y, x)| (9..13).contains(&y) && x / 3 == 3);
        let near = slow(&mask, 3 + 3 * 3 + 1);
        for index in 0..300 {
            let out = jitter.apply(&mut generator(7, Purpose::Validation, index), &mask);
            assert!(out.iter().any(|&m| m));
            assert!(out.iter().zip(&near).all(|(&o, &n)| n || !o));
        }
        let empty = Array2::from_elem((5, 5), false);
        let mut rng = generator(7, Purpose::Validation, 0);
        assert_eq!(jitter.apply(&mut rng, &empty), empty);
    }
}
