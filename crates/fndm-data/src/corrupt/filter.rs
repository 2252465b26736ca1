//! Smoothing and smooth random fields on a slice.

use ndarray::Array2;
use rand::{Rng, RngExt};

/// About a Gaussian of standard deviation `sigma` pixels: three box means, border values repeated.
pub(super) fn smooth(image: &Array2<f32>, sigma: f64) -> Array2<f32> {
    // Each box has a third of the variance: whole pixels first, then a part of the next two.
    let variance = sigma.max(0.0).powi(2) / 3.0;
    let radius = ((0.25 + 3.0 * variance).sqrt() - 0.5).floor();
    let width = 2.0 * radius + 1.0;
    let have = radius * (radius + 1.0) / 3.0;
    let part = (variance - have) * width / (2.0 * ((radius + 1.0).powi(2) - variance));
    if variance == 0.0 || image.is_empty() {
        return image.clone();
    }
    // Means down the columns, then the same on the transposed image.
    let (h, w) = image.dim();
    let mut pixels: Vec<f32> = image.iter().copied().collect();
    for (h, w) in [(h, w), (w, h)] {
        for _ in 0..3 {
            pixels = box_mean(&pixels, h, w, radius as isize, part as f32);
        }
        pixels = (0..w)
            .flat_map(|j| (0..h).map(move |i| i * w + j))
            .map(|at| pixels[at])
            .collect();
    }
    Array2::from_shape_fn((h, w), |(i, j)| pixels[i * w + j])
}

/// Mean down the columns over `2 whole + 1` pixels and the two beside them, which count with the
/// weight `part`. One running sum for each column, so that the inner loop runs along a row.
fn box_mean(pixels: &[f32], h: usize, w: usize, whole: isize, part: f32) -> Vec<f32> {
    let row = |i: isize| {
        let start = i.clamp(0, h as isize - 1) as usize * w;
        &pixels[start..start + w]
    };
    let weight = 1.0 / ((2 * whole + 1) as f32 + 2.0 * part);
    let mut sum = vec![0.0f32; w];
    for i in -whole..=whole {
        for (sum, v) in sum.iter_mut().zip(row(i)) {
            *sum += v;
        }
    }
    let mut out = Vec::with_capacity(pixels.len());
    for i in 0..h as isize {
        let ends = row(i - whole - 1).iter().zip(row(i + whole + 1));
        let means = sum
            .iter()
            .zip(ends)
            .map(|(sum, (before, after))| weight * (sum + part * (before + after)));
        out.extend(means);
        let moves = row(i - whole).iter().zip(row(i + whole + 1));
        for (sum, (first, after)) in sum.iter_mut().zip(moves) {
            *sum += after - first;
        }
    }
    out
}

/// A smooth random field within -1 and 1, with features about `scale` pixels large: a coarse
/// grid of random values, interpolated by smooth curves.
pub(super) fn field<R: Rng + ?Sized>(rng: &mut R, h: usize, w: usize, scale: f64) -> Array2<f32> {
    let scale = scale.max(1.0);
    let rows = (h as f64 / scale) as usize + 3;
    let columns = (w as f64 / scale) as usize + 3;
    let grid = Array2::from_shape_fn((rows, columns), |_| rng.random_range(-1.0..1.0f32));
    let (shift_i, shift_j) = (rng.random::<f64>(), rng.random::<f64>());
    // Cell and smooth weight of every row and column.
    let place = |n: usize, shift: f64| -> Vec<(usize, f32)> {
        (0..n)
            .map(|i| {
                let x = i as f64 / scale + shift;
                let t = x.fract() as f32;
                (x as usize, t * t * (3.0 - 2.0 * t))
            })
            .collect()
    };
    let (is, js) = (place(h, shift_i), place(w, shift_j));
    Array2::from_shape_fn((h, w), |(i, j)| {
        let ((a, s), (b, t)) = (is[i], js[j]);
        let top = grid[[a, b]] * (1.0 - t) + grid[[a, b + 1]] * t;
        let bottom = grid[[a + 1, b]] * (1.0 - t) + grid[[a + 1, b + 1]] * t;
        top * (1.0 - s) + bottom * s
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn smoothing_keeps_constants_and_has_the_variance_asked_for() {
        let flat = Array2::from_elem((20, 30), 0.7f32);
        assert!(smooth(&flat, 2.3).iter().all(|v| (v - 0.7).abs() < 1e-5));

        let mut point = Array2::zeros((61, 61));
        point[[30, 30]] = 1.0f32;
        for sigma in [0.7, 1.5, 3.0] {
            let s = smooth(&point, sigma);
            let total: f32 = s.sum();
            let variance: f64 = s
                .indexed_iter()
                .map(|((i, _), v)| (i as f64 - 30.0).powi(2) * f64::from(*v))
                .sum();
            assert!((total - 1.0).abs() < 1e-4);
            // A broken radius is not exact.
            assert!(
                (variance.sqrt() / sigma - 1.0).abs() < 0.08,
                "{sigma}: {}",
                variance.sqrt()
            );
        }
    }

    #[test]
    fn smoothing_with_zero_width_changes_nothing() {
        let image = Array2::from_shape_fn((5, 7), |(i, j)| (i * 7 + j) as f32);
        assert_eq!(smooth(&image, 0.0), image);
    }

    #[test]
    fn field_is_bounded_and_smooth() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let f = field(&mut rng, 64, 48, 8.0);
        assert!(f.iter().all(|v| v.abs() <= 1.0));
        for i in 1..64 {
            for j in 0..48 {
                assert!((f[[i, j]] - f[[i - 1, j]]).abs() < 0.5);
            }
        }
    }
}
