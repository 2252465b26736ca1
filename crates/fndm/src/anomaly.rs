//! From two images to a mask: subtract, sum over sequences, smooth, threshold by Otsu inside the head.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

use fndm_memory::{Edge, gaussian_blur};
use ndarray::{Array3, ArrayView3, ArrayView4, Axis, Zip};

use crate::residual::{at_least_0, at_most};
use crate::{DetectConfig, Error, ResidualSide, Result, ThresholdScope};

/// `|input - healthy|` summed over sequences, and smoothed: `(N, C, H, W)` twice to `(N, H, W)`.
///
/// The settings are `residual_sides`, `residual_limit` and `smoothing` of `config`.
///
/// # Errors
/// When the shapes differ, or a value isn't finite.
pub fn anomaly_map(
    input: ArrayView4<'_, f32>,
    healthy: ArrayView4<'_, f32>,
    config: &DetectConfig,
) -> Result<Array3<f32>> {
    if input.dim() != healthy.dim() {
        return Err(Error::Input {
            what: "healthy reconstruction".into(),
            expected: format!("{:?}", input.dim()),
            got: format!("{:?}", healthy.dim()),
        });
    }
    for (images, what) in [(&input, "the input"), (&healthy, "the reconstruction")] {
        if let Some(((slice, ..), value)) = images.indexed_iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::Input {
                what: format!("slice {slice} of {what}"),
                expected: "finite numbers".into(),
                got: value.to_string(),
            });
        }
    }
    let sides = &config.residual_sides;
    ResidualSide::check(sides, input.dim().1)?;
    let limit = config.residual_limit as f32;
    let mut map = ResidualSide::sum(sides, &input - &healthy, limit);
    smooth(&mut map, config.smoothing)?;
    Ok(map)
}

/// Smooths the map in the plane by a Gaussian of so many pixels; not at all by 0.
pub(crate) fn smooth(map: &mut Array3<f32>, sigma: f64) -> Result<()> {
    if sigma > 0. {
        gaussian_blur(map, sigma, Edge::Symmetric)?;
    }
    Ok(())
}

/// Raises the map to a power. Rounding may leave what was smoothed just below 0.
pub(crate) fn raise(map: &mut Array3<f32>, power: f64) {
    map.mapv_inplace(|v| at_least_0(v).powf(power as f32));
}

/// Multiplies the map by the soft coarse map, relative to its threshold, to a power; both maps are `(N, H, W)`.
pub(crate) fn weigh_by_coarse(
    map: &mut Array3<f32>,
    coarse: &Array3<f32>,
    threshold: f32,
    power: f64,
) {
    // A threshold of 0 says nothing of the scale; Otsu's method doesn't mind.
    let unit = if threshold > 0. { threshold } else { 1. };
    map.zip_mut_with(coarse, |value, &score| {
        *value *= at_most((at_least_0(score) / unit).powf(power as f32), f32::MAX);
    });
}

/// Sets the map to 0 outside; both are `(N, H, W)`.
pub fn keep_inside(map: &mut Array3<f32>, inside: &Array3<bool>) {
    map.zip_mut_with(inside, |value, &inside| {
        if !inside {
            *value = 0.;
        }
    });
}

/// A binary mask, and the thresholds that made it.
#[derive(Debug, Clone)]
pub struct Thresholded {
    /// True where the map is above the threshold and inside the head: `(N, H, W)`.
    pub mask: Array3<bool>,
    /// The threshold of each slice.
    pub thresholds: Vec<f32>,
}

/// Otsu's threshold. A map that hardly varies, as a network's that is hardly trained, leaves no room for bins: its values themselves are
/// parted then.
pub(crate) fn otsu_of(values: &[f32]) -> Result<f32> {
    match fndm_metrics::otsu(values) {
        Err(fndm_metrics::Error::RangeTooNarrow { .. }) => Ok(fndm_metrics::otsu_exact(values)?),
        found => Ok(found?),
    }
}

/// The same of a map's values inside; nothing where there are none.
pub(crate) fn otsu_inside(
    map: ArrayView3<'_, f32>,
    inside: ArrayView3<'_, bool>,
) -> Result<Option<f32>> {
    // Of its full length at once: a vector that grows holds its values twice while it does.
    let count = inside.iter().filter(|inside| **inside).count();
    let mut values = Vec::with_capacity(count);
    let all = map.iter().zip(inside);
    values.extend(all.filter_map(|(&value, &inside)| inside.then_some(value)));
    if values.is_empty() {
        return Ok(None);
    }
    otsu_of(&values).map(Some)
}

/// Otsu's threshold of the map's values inside `inside`, for each slice or for all together, or 0.5; both are `(N, H, W)`.
///
/// A constant map, or one with nothing inside, gives an empty mask.
///
/// # Errors
/// When the shapes differ, or a value inside isn't finite.
pub fn threshold(
    map: ArrayView3<'_, f32>,
    inside: ArrayView3<'_, bool>,
    scope: ThresholdScope,
) -> Result<Thresholded> {
    if map.dim() != inside.dim() {
        return Err(Error::Input {
            what: "head mask".into(),
            expected: format!("{:?}", map.dim()),
            got: format!("{:?}", inside.dim()),
        });
    }
    let otsu = |map: ArrayView3<'_, f32>, inside: ArrayView3<'_, bool>| -> Result<f32> {
        Ok(otsu_inside(map, inside)?.unwrap_or(f32::INFINITY))
    };
    let slices = map.len_of(Axis(0));
    let thresholds = match scope {
        ThresholdScope::Half => vec![0.5; slices],
        ThresholdScope::Volume => vec![otsu(map, inside)?; slices],
        ThresholdScope::Slice => (0..slices)
            .map(|i| {
                let at = i..i + 1;
                otsu(
                    map.slice_axis(Axis(0), at.clone().into()),
                    inside.slice_axis(Axis(0), at.into()),
                )
            })
            .collect::<Result<_>>()?,
    };
    let mut mask = Array3::from_elem(map.dim(), false);
    for (i, mut mask) in mask.axis_iter_mut(Axis(0)).enumerate() {
        let threshold = thresholds[i];
        Zip::from(&mut mask)
            .and(map.index_axis(Axis(0), i))
            .and(inside.index_axis(Axis(0), i))
            .for_each(|m, &value, &inside| *m = inside && value > threshold);
    }
    Ok(Thresholded { mask, thresholds })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array4, s};

    use super::*;

    #[test]
    fn a_changed_square_is_found_and_nothing_else() {
        let input = Array4::from_shape_fn((2, 3, 16, 16), |(_, c, y, x)| {
            ((c + 1) as f32 * (y as f32 - x as f32) / 64.).sin()
        });
        let mut healthy = input.clone();
        healthy
            .slice_mut(s![0, .., 4..8, 5..9])
            .mapv_inplace(|v| v - 0.5);
        let plain = DetectConfig {
            smoothing: 0.,
            ..DetectConfig::default()
        };
        let map = anomaly_map(input.view(), healthy.view(), &plain).unwrap();
        assert!((map[[0, 5, 6]] - 1.5).abs() < 1e-6);
        let inside = Array3::from_elem((2, 16, 16), true);
        let found = threshold(map.view(), inside.view(), ThresholdScope::Slice).unwrap();
        for ((n, y, x), &m) in found.mask.indexed_iter() {
            assert_eq!(m, n == 0 && (4..8).contains(&y) && (5..9).contains(&x));
        }
    }

    #[test]
    fn strong_differences_are_limited() {
        let input = Array4::from_shape_vec((1, 2, 1, 2), vec![0.5f32, 0., 0., 0.1]).unwrap();
        let healthy = Array4::zeros((1, 2, 1, 2));
        let config = DetectConfig {
            smoothing: 0.,
            residual_limit: 0.25,
            ..DetectConfig::default()
        };
        let map = anomaly_map(input.view(), healthy.view(), &config).unwrap();
        assert!((map[[0, 0, 0]] - 0.25).abs() < 1e-6);
        assert!((map[[0, 0, 1]] - 0.1).abs() < 1e-6);
    }

    #[test]
    fn each_sequence_counts_on_its_own_side() {
        let input = Array4::from_shape_vec(
            (1, 4, 1, 2),
            vec![0.5f32, -0.5, 0.1, -0.1, 0.2, -0.2, 9., 9.],
        );
        let (input, healthy) = (input.unwrap(), Array4::zeros((1, 4, 1, 2)));
        let config = DetectConfig {
            smoothing: 0.,
            residual_sides: vec![
                ResidualSide::Brighter,
                ResidualSide::Darker,
                ResidualSide::Both,
                ResidualSide::Neither,
            ],
            ..DetectConfig::default()
        };
        let map = anomaly_map(input.view(), healthy.view(), &config).unwrap();
        assert!((map[[0, 0, 0]] - 0.7).abs() < 1e-6);
        assert!((map[[0, 0, 1]] - 0.3).abs() < 1e-6);
        let few = DetectConfig {
            residual_sides: vec![ResidualSide::Both],
            ..config
        };
        let error = anomaly_map(input.view(), healthy.view(), &few).unwrap_err();
        assert!(error.to_string().contains("each of 4"), "{error}");
    }

    #[test]
    fn the_coarse_map_has_its_say() {
        let mut map = Array3::from_elem((1, 1, 3), 0.5f32);
        let coarse = Array3::from_shape_vec((1, 1, 3), vec![8f32, 2., -1.]).unwrap();
        weigh_by_coarse(&mut map, &coarse, 2., 0.5);
        assert!((map[[0, 0, 0]] - 1.).abs() < 1e-6);
        assert!((map[[0, 0, 1]] - 0.5).abs() < 1e-6);
        assert!(map[[0, 0, 2]].abs() < 1e-6);
        weigh_by_coarse(&mut map, &coarse, 0., 4.);
        assert!(map.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn outside_the_head_nothing_is_found() {
        let mut map = Array3::zeros((1, 4, 4));
        map[[0, 0, 0]] = 9.;
        map[[0, 2, 2]] = 1.;
        let mut inside = Array3::from_elem((1, 4, 4), true);
        inside[[0, 0, 0]] = false;
        let found = threshold(map.view(), inside.view(), ThresholdScope::Volume).unwrap();
        assert_eq!(found.mask.iter().filter(|&&m| m).count(), 1);
        assert!(found.mask[[0, 2, 2]]);
        inside.fill(false);
        let found = threshold(map.view(), inside.view(), ThresholdScope::Slice).unwrap();
        assert!(!found.mask.iter().any(|&m| m));
    }

    /// As of a network that is hardly trained: the values are 32-bit floats, and bins between them wouldn't be.
    #[test]
    fn a_map_that_hardly_varies_has_a_threshold() {
        let (low, high) = (0.119_197_f32, 0.119_198_f32);
        assert!(fndm_metrics::otsu(&[low, high]).is_err());
        let mut map = Array3::from_elem((1, 4, 4), low);
        map[[0, 1, 2]] = high;
        let inside = Array3::from_elem((1, 4, 4), true);
        let found = threshold(map.view(), inside.view(), ThresholdScope::Slice).unwrap();
        assert!(found.mask[[0, 1, 2]]);
        assert_eq!(found.mask.iter().filter(|&&m| m).count(), 1);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let input = Array4::<f32>::zeros((2, 1, 4, 4));
            let mut healthy = input.clone();
            healthy[[1, 0, 2, 2]] = bad;
            let config = DetectConfig::default();
            let error = anomaly_map(input.view(), healthy.view(), &config).unwrap_err();
            assert!(error.to_string().contains("slice 1"), "{error}");
            let error = anomaly_map(healthy.view(), input.view(), &config).unwrap_err();
            assert!(
                error.to_string().contains("slice 1 of the input"),
                "{error}"
            );
        }
        let nan = Array3::from_elem((1, 1, 1), f32::NAN);
        let one = Array3::from_elem((1, 1, 1), 1f32);
        for (mut map, coarse) in [(nan.clone(), &one), (one.clone(), &nan)] {
            weigh_by_coarse(&mut map, coarse, 1., 0.5);
            assert!(map[[0, 0, 0]].is_nan());
        }
        let mut map = nan;
        raise(&mut map, 0.5);
        assert!(map[[0, 0, 0]].is_nan());
        assert!(at_most(f32::NAN, 1.).is_nan() && at_least_0(f32::NAN).is_nan());
        assert!(at_most(2., 1.) == 1. && at_most(0.5, 1.) == 0.5);
        assert!(at_least_0(-1.) == 0. && at_least_0(0.5) == 0.5);
    }

    #[test]
    fn a_map_that_is_not_finite_is_an_error() {
        let map = Array3::from_elem((1, 4, 4), f32::NAN);
        let inside = Array3::from_elem((1, 4, 4), true);
        assert!(threshold(map.view(), inside.view(), ThresholdScope::Slice).is_err());
    }
}
