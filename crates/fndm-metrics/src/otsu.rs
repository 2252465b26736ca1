//! Otsu's threshold (Otsu 1979): the one that parts the values into two classes with the largest
//! variance between them. A pixel is foreground where its value is strictly above the threshold.

use crate::error::{Error, Result, same_shape};
use crate::real::Real;
use ndarray::{ArrayView, Dimension};

/// The number of bins that scikit-image uses for images of floating point numbers.
pub const OTSU_BINS: usize = 256;

/// More bins than these are surely a mistake.
const MOST_BINS: usize = 1 << 24;

/// Otsu's threshold as scikit-image's `threshold_otsu` computes it for floating point images: 256
/// equal bins from the smallest to the largest value; the threshold is the centre of a bin, the
/// first of the best. A constant image gives back its value.
///
/// Since the threshold is a centre, values in the upper half of the last background bin still lie
/// above it. With few distinct values [`otsu_exact`] parts them more faithfully.
///
/// ```
/// let map = [0.0f32, 0.1, 0.2, 0.9, 1.0];
/// let threshold = fndm_metrics::otsu(&map)?;
/// let mask: Vec<bool> = map.iter().map(|&value| value > threshold).collect();
/// assert_eq!(mask, [false, false, false, true, true]);
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// If there is no value, a value is NaN or infinite (named with its position), the range is too
/// narrow for 256 bins, or squares overflow even in double precision.
pub fn otsu<T: Real>(values: &[T]) -> Result<T> {
    otsu_with_bins(values, OTSU_BINS)
}

/// [`otsu`] of the pixels of `image` where `mask` is true.
///
/// # Errors
/// As [`otsu`], and if the shapes differ or the mask has no pixel.
pub fn otsu_masked<T: Real, D: Dimension>(
    image: &ArrayView<'_, T, D>,
    mask: &ArrayView<'_, bool, D>,
) -> Result<T> {
    otsu(&masked_values(image, mask)?)
}

/// [`otsu_exact`] of the pixels of `image` where `mask` is true.
///
/// # Errors
/// As [`otsu_exact`], and if the shapes differ or the mask has no pixel.
pub fn otsu_exact_masked<T: Real, D: Dimension>(
    image: &ArrayView<'_, T, D>,
    mask: &ArrayView<'_, bool, D>,
) -> Result<T> {
    otsu_exact(&masked_values(image, mask)?)
}

fn masked_values<T: Real, D: Dimension>(
    image: &ArrayView<'_, T, D>,
    mask: &ArrayView<'_, bool, D>,
) -> Result<Vec<T>> {
    same_shape("otsu mask", image.shape(), mask.shape())?;
    Ok(image
        .iter()
        .zip(mask.iter())
        .filter_map(|(&value, &inside)| inside.then_some(value))
        .collect())
}

/// [`otsu`] with a number of bins of one's own choice.
///
/// The arithmetic, the single precision of the counts included, follows scikit-image step by step:
/// on nearly flat maxima that decides which bin wins. Where squares of `f32` values overflow (above
/// about 1e19), the sums are taken in double precision instead; there scikit-image gives the first
/// bin, whatever the values.
///
/// # Errors
/// As [`otsu`], and if `bins` is not in 1 to 2^24.
pub fn otsu_with_bins<T: Real>(values: &[T], bins: usize) -> Result<T> {
    if !(1..=MOST_BINS).contains(&bins) {
        return Err(Error::Parameter {
            what: "otsu bins",
            expected: "1 to 16777216",
            found: bins as f64,
        });
    }
    let (low, high) = range(values)?;
    if low == high {
        return Ok(low);
    }
    let edges = edges(low, high, bins)?;
    let mut counts = vec![0u64; bins];
    for &value in values {
        counts[bin_of(value, low, high, &edges)] += 1;
    }
    let half = T::nearest(0.5);
    let centres: Vec<T> = edges.windows(2).map(|e| (e[0] + e[1]) * half).collect();
    let best = best_bin(&counts, &centres).or_else(|| {
        let wide: Vec<f64> = centres.iter().map(|centre| centre.as_f64()).collect();
        best_bin(&counts, &wide)
    });
    Ok(centres[best.ok_or_else(|| too_large(low, high))?])
}

fn too_large<T: Real>(low: T, high: T) -> Error {
    Error::TooLarge {
        what: "otsu",
        low: low.as_f64(),
        high: high.as_f64(),
    }
}

/// The smallest and the largest value.
fn range<T: Real>(values: &[T]) -> Result<(T, T)> {
    let first = *values.first().ok_or(Error::NoValues { what: "otsu" })?;
    let mut range = (first, first);
    for (position, &value) in values.iter().enumerate() {
        if !value.finite() {
            return Err(Error::NotFinite {
                what: "otsu",
                found: value.as_f64(),
                position,
            });
        }
        if value < range.0 {
            range.0 = value;
        }
        if value > range.1 {
            range.1 = value;
        }
    }
    Ok(range)
}

/// `bins + 1` equally spaced edges in the values' own precision.
fn edges<T: Real>(low: T, high: T, bins: usize) -> Result<Vec<T>> {
    let step = (high - low) / T::nearest(bins as f64);
    let mut edges: Vec<T> = (0..bins)
        .map(|i| T::nearest(i as f64) * step + low)
        .collect();
    edges.push(high);
    if !step.finite() || edges.windows(2).any(|e| e[0] >= e[1]) {
        return Err(Error::RangeTooNarrow {
            low: low.as_f64(),
            high: high.as_f64(),
            bins,
        });
    }
    Ok(edges)
}

/// The bin whose edges hold the value; the last bin holds its upper edge too.
fn bin_of<T: Real>(value: T, low: T, high: T, edges: &[T]) -> usize {
    let bins = edges.len() - 1;
    let guess = (value - low) / (high - low) * T::nearest(bins as f64);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let mut bin = (guess.as_f64() as usize).min(bins - 1);
    // The guess may be one off where rounding crosses an edge.
    if value < edges[bin] && bin > 0 {
        bin -= 1;
    } else if bin + 1 < bins && value >= edges[bin + 1] {
        bin += 1;
    }
    bin
}

/// The first bin that, with all below it as background, has the largest variance between classes.
/// None where a variance is too large for `T`.
fn best_bin<T: Real>(counts: &[u64], centres: &[T]) -> Option<usize> {
    let bins = counts.len();
    let counts: Vec<f32> = counts.iter().map(|&count| count as f32).collect();
    let single = |x: f32| T::nearest(f64::from(x));
    let moments: Vec<T> = counts
        .iter()
        .zip(centres)
        .map(|(&count, &centre)| single(count) * centre)
        .collect();

    // Sums from above: of the bins i and up.
    let mut weight_above = counts.clone();
    let mut moment_above = moments.clone();
    for i in (0..bins - 1).rev() {
        weight_above[i] = weight_above[i + 1] + counts[i];
        moment_above[i] = moment_above[i + 1] + moments[i];
    }

    let mut best = (0, T::nearest(f64::NEG_INFINITY));
    let mut weight = 0f32;
    let mut moment = T::nearest(0.0);
    for i in 0..bins.saturating_sub(1) {
        weight += counts[i];
        // The first addend is taken as it is: 0 + x would turn -0 into 0, which changes nothing.
        moment = moment + moments[i];
        let difference =
            moment / single(weight) - moment_above[i + 1] / single(weight_above[i + 1]);
        let variance = single(weight * weight_above[i + 1]) * (difference * difference);
        if !variance.finite() {
            return None;
        }
        if variance > best.1 {
            best = (i, variance);
        }
    }
    Some(best.0)
}

/// Otsu's threshold with no bins: over all partings of the sorted values. The threshold is the
/// largest value of the lower class, so that the foreground is strictly above it. Ties go to the
/// lowest threshold. A constant image gives back its value.
///
/// # Errors
/// If there is no value, one is NaN or infinite, or their squares overflow.
pub fn otsu_exact<T: Real>(values: &[T]) -> Result<T> {
    let (low, high) = range(values)?;
    if low == high {
        return Ok(low);
    }
    let mut sorted: Vec<T::Key> = values.iter().map(|value| value.key()).collect();
    sorted.sort_unstable();
    // Distances from the mean keep the sums small, and so exact.
    let count = values.len() as f64;
    let mean = values.iter().map(|value| value.as_f64()).sum::<f64>() / count;
    let total: f64 = sorted.iter().map(|&k| T::of_key(k).as_f64() - mean).sum();

    let mut best = (low, f64::NEG_INFINITY);
    let mut sum = 0.0;
    for (i, pair) in sorted.windows(2).enumerate() {
        let value = T::of_key(pair[0]);
        sum += value.as_f64() - mean;
        if pair[0] == pair[1] {
            continue;
        }
        let below = (i + 1) as f64;
        let above = count - below;
        let difference = sum / below - (total - sum) / above;
        let variance = below * above * difference * difference;
        if !variance.is_finite() {
            return Err(too_large(low, high));
        }
        if variance > best.1 {
            best = (value, variance);
        }
    }
    Ok(best.0)
}

mod sealed {
    pub trait Sealed {}
}

/// The integer types that images come in, signed and unsigned, of 8 to 64 bits. The trait is sealed.
pub trait Integer: Copy + Into<i128> + TryFrom<i128> + Ord + sealed::Sealed {}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl sealed::Sealed for $integer {}
        impl Integer for $integer {}
    )*};
}
integers!(u8 i8 u16 i16 u32 i32 u64 i64);

/// The widest range of integer values that [`otsu_integer`] makes a histogram of.
pub const OTSU_INTEGER_RANGE: i64 = 1 << 24;

/// Otsu's threshold of an image of integers as scikit-image computes it: one bin per value between
/// the smallest and the largest.
///
/// # Errors
/// If there is no value, or the range is wider than [`OTSU_INTEGER_RANGE`].
pub fn otsu_integer<T: Integer>(values: &[T]) -> Result<T> {
    let what = "otsu";
    let (&low, &high) = values
        .iter()
        .min()
        .zip(values.iter().max())
        .ok_or(Error::NoValues { what })?;
    if low == high {
        return Ok(low);
    }
    let start: i128 = low.into();
    let high: i128 = high.into();
    let wide = || Error::Parameter {
        what: "otsu range of integers",
        expected: "at most 16777216",
        found: high as f64 - start as f64,
    };
    let span = high - start;
    if span > i128::from(OTSU_INTEGER_RANGE) {
        return Err(wide());
    }
    let mut counts = vec![0u64; usize::try_from(span).map_err(|_| wide())? + 1];
    for &value in values {
        if let Ok(bin) = usize::try_from(value.into() - start) {
            counts[bin] += 1;
        }
    }
    let centres: Vec<f64> = (start..=start + span).map(|value| value as f64).collect();
    let best = best_bin(&counts, &centres).ok_or_else(wide)?;
    let best = start + best as i128;
    T::try_from(best).map_err(|_| wide())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn constants_give_themselves_back() {
        assert_eq!(otsu(&[0.25f64; 9]).unwrap(), 0.25);
        assert_eq!(otsu_exact(&[0.25f32; 9]).unwrap(), 0.25);
        assert_eq!(otsu_integer(&[7u8; 9]).unwrap(), 7);
    }

    #[test]
    fn bad_values_are_named() {
        let error = otsu(&[0.0f32, f32::NAN]).unwrap_err().to_string();
        assert!(error.contains("position 1"), "{error}");
        assert!(matches!(otsu::<f64>(&[]), Err(Error::NoValues { .. })));
        assert!(matches!(
            otsu_integer::<u8>(&[]),
            Err(Error::NoValues { .. })
        ));
        assert!(otsu_with_bins(&[0.0f64, 1.0], 0).is_err());
        let narrow = [1.0f32, 1.0 + f32::EPSILON];
        assert!(matches!(otsu(&narrow), Err(Error::RangeTooNarrow { .. })));
        assert_eq!(otsu_exact(&narrow).unwrap(), 1.0);
        assert!(otsu(&[-f64::MAX, f64::MAX]).is_err());
        assert!(otsu_integer(&[0i32, i32::MAX]).is_err());
        assert!(otsu_integer(&[i64::MIN, i64::MAX]).is_err());
        assert_eq!(
            otsu_integer(&[u64::MAX - 1, u64::MAX]).unwrap(),
            u64::MAX - 1
        );
    }

    #[test]
    fn values_whose_squares_overflow_are_parted_all_the_same() {
        // In single precision every variance is infinite, and the first bin would win.
        let values = [0.0f32, 1e20, 2e20, 9e20, 1e21];
        let threshold = otsu(&values).unwrap();
        assert!(threshold > 2e20 && threshold < 9e20, "{threshold}");
        assert_eq!(otsu_exact(&values).unwrap(), 2e20);
        let huge = [0.0f64, 1e200, 2e200, 9e200, 1e201];
        assert!(matches!(otsu(&huge), Err(Error::TooLarge { .. })));
        assert!(matches!(otsu_exact(&huge), Err(Error::TooLarge { .. })));
        assert!(otsu_with_bins(&[0.0f64, 1.0], usize::MAX).is_err());
    }

    #[test]
    fn one_bin_is_its_centre() {
        assert_eq!(otsu_with_bins(&[0.0f64, 1.0], 1).unwrap(), 0.5);
    }

    #[test]
    fn a_mask_leaves_the_rest_out() {
        let image = array![[0.0f32, 0.1, 50.0], [0.9, 1.0, -50.0]];
        let mask = array![[true, true, false], [true, true, false]];
        let inside = otsu_masked(&image.view(), &mask.view()).unwrap();
        assert_eq!(inside, otsu(&[0.0f32, 0.1, 0.9, 1.0]).unwrap());
        assert_eq!(otsu_exact_masked(&image.view(), &mask.view()).unwrap(), 0.1);
        let none = array![[false, false, false], [false, false, false]];
        assert!(otsu_masked(&image.view(), &none.view()).is_err());
        assert!(otsu_masked(&image.view(), &array![[true]].view()).is_err());
    }
}
