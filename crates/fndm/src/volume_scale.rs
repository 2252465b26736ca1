//! Anomaly maps on the scale of their volumes.

use ndarray::Array3;
use serde::{Deserialize, Serialize};

use crate::anomaly::otsu_inside;
use crate::{Error, Result};

/// Greatest steepness: beyond it a map is a mask.
const MOST_STEEPNESS: f64 = 32.;

/// The anomaly map on the scale of its volume: `m^s / (m^s + t^s)`, where t is Otsu's threshold of the volume and s the steepness.
///
/// It goes from 0 to 1, and is 0.5 at the threshold. What is far above no longer pulls a slice's own threshold up, so a slice with
/// strong and faint parts keeps both, and faint slices of a volume with a strong lesion are not divided into tissues. No pixel's rank
/// within its volume changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeScale {
    /// How fast the map goes from 0 to 1 around the threshold: above 0, up to 32.
    pub steepness: f64,
    /// The least t, in the map's own units, 0 or more: a volume with nothing in it would have its noise for a scale.
    #[serde(default)]
    pub least: f64,
}

impl VolumeScale {
    /// Checks both values.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self) -> Result<()> {
        // Written so that NaN fails too.
        if !(self.steepness > 0. && self.steepness <= MOST_STEEPNESS) {
            let expected = format!("above 0, up to {MOST_STEEPNESS}");
            return Err(Error::option("steepness", expected, self.steepness));
        }
        if !(self.least.is_finite() && self.least >= 0.) {
            return Err(Error::option("least threshold", "0 or more", self.least));
        }
        Ok(())
    }

    /// Brings a map of finite values to this scale, by its values `inside`; both are `(N, H, W)`. With nothing inside it stays as it is.
    pub(crate) fn apply(&self, map: &mut Array3<f32>, inside: &Array3<bool>) -> Result<()> {
        let Some(otsu) = otsu_inside(map.view(), inside.view())? else {
            return Ok(());
        };
        let threshold = otsu.max(self.least as f32);
        map.mapv_inplace(|value| self.of(value, threshold));
        Ok(())
    }

    /// A value on the scale of a volume with this threshold.
    fn of(&self, value: f32, threshold: f32) -> f32 {
        // Nothing is nothing, also where the threshold is 0.
        if value <= 0. {
            return 0.;
        }
        let ratio = f64::from(threshold.max(0.)) / f64::from(value);
        (1. / (1. + ratio.powf(self.steepness))) as f32
    }
}

#[cfg(test)]
mod tests {
    use ndarray::s;

    use super::*;

    fn scale(steepness: f64, least: f64) -> VolumeScale {
        VolumeScale { steepness, least }
    }

    /// Two classes of values and a few very large ones, and half of the slice outside.
    fn map() -> (Array3<f32>, Array3<bool>) {
        let map = Array3::from_shape_fn((2, 16, 16), |(n, y, x)| match (y, x) {
            (5, 6) => 4.0,
            (4..8, 4..9) => 0.6 + 0.01 * (x + n) as f32,
            _ => 0.05 + 0.002 * ((x * 7 + y * 3) % 11) as f32,
        });
        let inside = Array3::from_shape_fn(map.dim(), |(_, _, x)| x < 12);
        (map, inside)
    }

    #[test]
    fn it_is_the_formula_and_one_half_at_the_threshold() {
        let (map, inside) = map();
        let values: Vec<f32> = (map.iter().zip(&inside))
            .filter_map(|(&v, &i)| i.then_some(v))
            .collect();
        let threshold = f64::from(fndm_metrics::otsu(&values).unwrap());
        for steepness in [1., 3., 7.5] {
            let mut scaled = map.clone();
            scale(steepness, 0.).apply(&mut scaled, &inside).unwrap();
            for (&m, &got) in map.iter().zip(&scaled) {
                let (m, t) = (f64::from(m).powf(steepness), threshold.powf(steepness));
                assert!((f64::from(got) - m / (m + t)).abs() < 1e-6);
            }
        }
        assert!((scale(3., 0.).of(0.25, 0.25) - 0.5).abs() < 1e-7);
    }

    #[test]
    fn ranks_stay_and_a_slices_threshold_falls_below_its_fainter_half() {
        let (mut map, inside) = map();
        // Otsu's threshold of a slice keeps the brightest pixels alone where they are bright enough.
        map.slice_mut(s![.., 5..7, 6..8]).fill(4.);
        let of_slice = |map: &Array3<f32>| {
            let values: Vec<f32> = map.slice(s![1, .., ..]).iter().copied().collect();
            fndm_metrics::otsu(&values).unwrap()
        };
        assert!(of_slice(&map) > map[[1, 4, 4]]);
        let mut scaled = map.clone();
        scale(3., 0.).apply(&mut scaled, &inside).unwrap();
        assert!(of_slice(&scaled) < scaled[[1, 4, 4]]);
        let mut pairs: Vec<(f32, f32)> = map.iter().copied().zip(scaled.iter().copied()).collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(pairs.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    #[test]
    fn what_is_faint_everywhere_is_held_to_the_least() {
        let mut map = Array3::from_shape_fn((1, 8, 8), |(_, y, x)| 1e-3 * (y * 8 + x) as f32 / 64.);
        let inside = Array3::from_elem(map.dim(), true);
        scale(3., 0.1).apply(&mut map, &inside).unwrap();
        assert!(map.iter().all(|&v| v < 1e-5), "{map}");
    }

    #[test]
    fn maps_of_nothing_stay_finite() {
        let inside = Array3::from_elem((1, 4, 4), true);
        for value in [0., -1e-9, f32::MIN_POSITIVE, 1., f32::MAX] {
            for steepness in [1e-3, 32.] {
                let mut map = Array3::from_elem((1, 4, 4), value);
                scale(steepness, 0.).apply(&mut map, &inside).unwrap();
                assert!(map.iter().all(|v| (0. ..=1.).contains(v)), "{value}: {map}");
            }
        }
        let mut map = Array3::from_elem((1, 4, 4), 7.);
        let none = Array3::from_elem((1, 4, 4), false);
        scale(3., 0.).apply(&mut map, &none).unwrap();
        assert!(map.iter().all(|&v| v == 7.));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (steepness, least) in [
            (0., 0.),
            (-1., 0.),
            (33., 0.),
            (f64::NAN, 0.),
            (3., -0.1),
            (3., f64::NAN),
            (3., f64::INFINITY),
        ] {
            assert!(scale(steepness, least).check().is_err());
        }
        scale(3., 0.1).check().unwrap();
    }
}
