//! What each kind of corruption puts in place of the image. The caller mixes it in by region.
//!
//! `image` is the part of the slice around the region, `side` the longer side of the whole slice.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, Zip};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::filter::{field, smooth};

pub(super) fn noise<R: Rng + ?Sized>(
    rng: &mut R,
    image: &ArrayView3<f32>,
    region: &Array2<bool>,
) -> Array3<f32> {
    let keep = if rng.random_bool(0.5) { 0.0 } else { 1.0 };
    let deviation = rng.random_range(0.2..0.6f32);
    let mut new = image.to_owned();
    for mut plane in new.outer_iter_mut() {
        let level = rng.random_range(-0.5..0.5f32);
        Zip::from(&mut plane).and(region).for_each(|v, r| {
            if *r {
                let n: f32 = rng.sample(StandardNormal);
                *v = keep * *v + (1.0 - keep) * level + deviation * n;
            }
        });
    }
    new
}

pub(super) fn constant<R: Rng + ?Sized>(rng: &mut R, image: &ArrayView3<f32>) -> Array3<f32> {
    let mut new = Array3::zeros(image.raw_dim());
    for mut plane in new.outer_iter_mut() {
        plane.fill(rng.random_range(-1.0..=1.0f32));
    }
    new
}

/// A change of brightness: at least `low` in size, of any sign.
fn signed<R: Rng + ?Sized>(rng: &mut R, low: f32, high: f32) -> f32 {
    let size = rng.random_range(low..high);
    if rng.random_bool(0.5) { size } else { -size }
}

pub(super) fn intensity_shift<R: Rng + ?Sized>(
    rng: &mut R,
    image: &ArrayView3<f32>,
    region: &Array2<bool>,
    side: usize,
) -> Array3<f32> {
    let (channels, h, w) = image.dim();
    let scale = rng.random_range(3.0..10.0);
    let texture = field(rng, h, w, scale);
    // A core: the inner part of the region, with a wavy border.
    let core = rng.random_bool(0.5).then(|| {
        let sigma = f64::from(rng.random_range(1.5..4.0f32)) * (side as f64 / 64.0);
        let depth = smooth(&region.mapv(|r| f32::from(u8::from(r))), sigma);
        let level = rng.random_range(0.55..0.9f32);
        Zip::from(&depth)
            .and(&texture)
            .map_collect(|d, t| ((d + 0.15 * t - level) * 6.0 + 0.5).clamp(0.0, 1.0))
    });
    // One sequence at least must show the lesion.
    let sure = rng.random_range(0..channels.max(1));
    let flatten = rng.random_range(0.1..0.9f32);
    let grain = rng.random_range(0.0..0.35f32);
    let n = region.iter().filter(|r| **r).count().max(1) as f32;
    let mut new = image.to_owned();
    for (c, mut plane) in new.outer_iter_mut().enumerate() {
        let shift = if c == sure {
            signed(rng, 0.25, 0.9)
        } else if rng.random_bool(0.2) {
            0.0
        } else {
            signed(rng, 0.1, 0.9)
        };
        let core_shift = shift + signed(rng, 0.1, 0.8);
        let mean = Zip::from(&plane)
            .and(region)
            .fold(0.0, |sum, v, r| if *r { sum + v } else { sum })
            / n;
        let put = |v: &mut f32, t: f32, k: f32| {
            let shift = shift + k * (core_shift - shift);
            // Where there is a shift, there is less of the tissue's own texture.
            let kept = if shift == 0.0 { 1.0 } else { flatten };
            *v = mean + kept * (*v - mean) + shift * (1.0 + grain * t);
        };
        match &core {
            Some(core) => Zip::from(&mut plane)
                .and(&texture)
                .and(core)
                .for_each(|v, t, k| put(v, *t, *k)),
            None => Zip::from(&mut plane)
                .and(&texture)
                .for_each(|v, t| put(v, *t, 0.0)),
        }
    }
    new
}

pub(super) fn blend<R: Rng + ?Sized>(
    rng: &mut R,
    image: &ArrayView3<f32>,
    other: &ArrayView3<f32>,
) -> Array3<f32> {
    let share = rng.random_range(0.5..=1.0f32);
    Zip::from(image)
        .and(other)
        .map_collect(|a, b| a + share * (b - a))
}

pub(super) fn blur<R: Rng + ?Sized>(
    rng: &mut R,
    image: &ArrayView3<f32>,
    side: usize,
) -> Array3<f32> {
    let sigma = rng.random_range(1.5..5.0) * (side as f64 / 64.0).max(0.5);
    let mut new = image.to_owned();
    for (mut to, from) in new.axis_iter_mut(Axis(0)).zip(image.outer_iter()) {
        to.assign(&smooth(&from.to_owned(), sigma));
    }
    new
}

pub(super) fn elastic<R: Rng + ?Sized>(
    rng: &mut R,
    image: &ArrayView3<f32>,
    region: &Array2<bool>,
    head: &ArrayView2<bool>,
    side: usize,
) -> Array3<f32> {
    let (_, h, w) = image.dim();
    let scale = rng.random_range(0.06..0.2) * side as f64;
    let reach = rng.random_range(0.06..0.16f32) * side as f32;
    let down = field(rng, h, w, scale);
    let right = field(rng, h, w, scale);
    let mut new = image.to_owned();
    for ((i, j), inside) in region.indexed_iter() {
        if !inside {
            continue;
        }
        let y = (i as f32 + reach * down[[i, j]]).clamp(0.0, (h - 1) as f32);
        let x = (j as f32 + reach * right[[i, j]]).clamp(0.0, (w - 1) as f32);
        let from = [y.round() as usize, x.round() as usize];
        // Background is no texture.
        if head[from] {
            for (mut to, image) in new.outer_iter_mut().zip(image.outer_iter()) {
                to[[i, j]] = bilinear(&image, y, x);
            }
        }
    }
    new
}

fn bilinear(image: &ArrayView2<f32>, y: f32, x: f32) -> f32 {
    let (h, w) = image.dim();
    let (i, j) = (y as usize, x as usize);
    let (i1, j1) = ((i + 1).min(h - 1), (j + 1).min(w - 1));
    let (s, t) = (y - i as f32, x - j as f32);
    let top = image[[i, j]] * (1.0 - t) + image[[i, j1]] * t;
    let bottom = image[[i1, j]] * (1.0 - t) + image[[i1, j1]] * t;
    top * (1.0 - s) + bottom * s
}

pub(super) fn shuffle<R: Rng + ?Sized>(
    rng: &mut R,
    image: &ArrayView3<f32>,
    region: &Array2<bool>,
) -> Array3<f32> {
    let pixels: Vec<(usize, usize)> = region
        .indexed_iter()
        .filter_map(|(at, r)| r.then_some(at))
        .collect();
    let mut order: Vec<usize> = (0..pixels.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.random_range(0..=i));
    }
    let mut new = image.to_owned();
    for (to, from) in pixels.iter().zip(order) {
        let from = pixels[from];
        for c in 0..image.dim().0 {
            new[[c, to.0, to.1]] = image[[c, from.0, from.1]];
        }
    }
    new
}
