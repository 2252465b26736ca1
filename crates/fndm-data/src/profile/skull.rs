//! Whether a bright scalp lies over a dark skull: how deep the brightness dips on the way into the head.

use std::f64::consts::{PI, TAU};

use ndarray::{Array3, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

use super::intensity::Spread;
use super::statistics::{quantile, round};
use crate::Result;
use crate::preprocess::Stacks;

/// The training patients' dips.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalpStatistics {
    /// The median.
    pub middle: f64,
    /// One patient in twenty is below.
    pub low: f64,
    /// One patient in twenty is above.
    pub high: f64,
}

impl ScalpStatistics {
    /// `None` where the dip of no patient could be measured.
    pub(super) fn learn(dips: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = dips.collect();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then(|| Self {
            middle: round(quantile(&sorted, 0.5)),
            low: round(quantile(&sorted, 0.05)),
            high: round(quantile(&sorted, 0.95)),
        })
    }
}

/// Rays from the middle of the head's slice outwards.
const RAYS: usize = 120;
/// Rays are averaged in so many sectors. In narrower ones a furrow of the brain dips as a skull does, in wider ones the skull is blurred.
const SECTORS: usize = 12;
/// Steps along a ray for the radius of the largest slice, as if it were 80 mm: so a wrong voxel size in the header changes nothing.
const STEPS: f64 = 80.;
/// Steps from the border inwards that are looked at.
const DEPTH: usize = 36;
/// Steps that the bottom of a dip may lie in.
const BOTTOM: usize = 25;
/// Most slices that are looked at.
const SLICES: usize = 24;
/// Most steps of a ray. One that hasn't left the picture by then is of voxels a hundred times as long as they are wide.
const LONGEST: usize = 100 * STEPS as usize;

/// The median over sectors of how far the brightness falls below both what lies outside and what lies inside of it, on the scale of the head,
/// the mean of the sequences. A skull between scalp and brain has 0.1 to 0.35, a brain without one less. `None` where the head's border
/// is the picture's.
///
/// # Errors
/// Those of reading stacks from the disk.
pub(super) fn dip(
    stacks: &Stacks<'_>,
    scales: &[Spread],
    head: &Array3<bool>,
    [_, row, column]: [f64; 3],
) -> Result<Option<f64>> {
    let areas: Vec<usize> = (head.axis_iter(Axis(0)))
        .map(|slice| slice.iter().filter(|bit| **bit).count())
        .collect();
    let Some(most) = areas.iter().copied().max().filter(|&most| most > 0) else {
        return Ok(None);
    };
    let unit = (most as f64 * row * column / PI).sqrt() / STEPS;
    let large: Vec<usize> = (0..areas.len()).filter(|&k| 2 * areas[k] > most).collect();
    let shown = large.len().min(SLICES);
    let slices = (0..shown).map(|n| large[n * large.len() / shown]);
    let mut dips: Vec<Vec<f64>> = vec![Vec::new(); scales.len()];
    for k in slices {
        let head = head.index_axis(Axis(0), k);
        let rays = rays(head, [unit / row, unit / column]);
        if rays.len() < RAYS / 2 {
            continue;
        }
        for ((sequence, scale), dips) in scales.iter().enumerate().zip(&mut dips) {
            let slice = stacks.slice(sequence, k)?;
            for n in 0..SECTORS {
                let sector = &rays[n * rays.len() / SECTORS..(n + 1) * rays.len() / SECTORS];
                dips.push(deepest(&mean(sector, slice.view(), head, *scale)));
            }
        }
    }
    let medians = dips.iter_mut().map(|dips| {
        dips.sort_by(f64::total_cmp);
        quantile(dips, 0.5)
    });
    let sum: f64 = medians.sum();
    Ok((!dips.iter().any(Vec::is_empty)).then(|| sum / dips.len().max(1) as f64))
}

/// Where a ray leaves the head, and its step inwards; rows and columns.
struct Ray {
    edge: [f64; 2],
    inwards: [f64; 2],
}

/// The rays that leave the head within the picture and are long enough.
fn rays(head: ArrayView2<'_, bool>, unit: [f64; 2]) -> Vec<Ray> {
    let (height, width) = head.dim();
    let (mut middle, mut count) = ([0., 0.], 0.);
    for ((y, x), _) in head.indexed_iter().filter(|(_, bit)| **bit) {
        middle = [middle[0] + y as f64, middle[1] + x as f64];
        count += 1.;
    }
    middle = middle.map(|sum| sum / f64::max(count, 1.));
    let mut all = Vec::new();
    for n in 0..RAYS {
        let (sine, cosine) = (TAU * n as f64 / RAYS as f64).sin_cos();
        let step = [sine * unit[0], cosine * unit[1]];
        let at = |r: usize| [0, 1].map(|axis| middle[axis] + step[axis] * r as f64);
        let within = |[y, x]: [f64; 2]| {
            let (y, x) = (y.round(), x.round());
            let inside = y >= 0. && x >= 0. && y < height as f64 && x < width as f64;
            inside.then_some((y as usize, x as usize))
        };
        let (mut edge, mut r) = (None, 0);
        while let Some(pixel) = within(at(r)).filter(|_| r < LONGEST) {
            if head[pixel] {
                edge = Some(r);
            }
            r += 1;
        }
        let left = |edge: usize| edge + 1 < r && r < LONGEST;
        if let Some(edge) = edge.filter(|&edge| left(edge) && edge + 1 >= DEPTH) {
            all.push(Ray {
                edge: at(edge),
                inwards: step.map(|v| -v),
            });
        }
    }
    all
}

/// The mean brightness at each depth.
fn mean(
    rays: &[Ray],
    slice: ArrayView2<'_, f32>,
    head: ArrayView2<'_, bool>,
    scale: Spread,
) -> [f64; DEPTH] {
    let (height, width) = slice.dim();
    let value = |y: f64, x: f64| -> f64 {
        let inside = y >= 0. && x >= 0. && y < height as f64 && x < width as f64;
        match inside && head[(y as usize, x as usize)] {
            true => scale.map(slice[(y as usize, x as usize)]),
            false => 0.,
        }
    };
    std::array::from_fn(|depth| {
        let of = |ray: &Ray| {
            let [y, x] = [0, 1].map(|axis| ray.edge[axis] + ray.inwards[axis] * depth as f64);
            let (top, left) = (y.floor(), x.floor());
            let (down, right) = (y - top, x - left);
            let upper = (1. - right) * value(top, left) + right * value(top, left + 1.);
            let lower = (1. - right) * value(top + 1., left) + right * value(top + 1., left + 1.);
            (1. - down) * upper + down * lower
        };
        rays.iter().map(of).sum::<f64>() / rays.len().max(1) as f64
    })
}

/// The depth of the deepest dip: how far a value lies below the highest ones on either side of it.
fn deepest(profile: &[f64; DEPTH]) -> f64 {
    let mut inside = *profile;
    for n in (0..DEPTH - 1).rev() {
        inside[n] = inside[n].max(inside[n + 1]);
    }
    let (mut outside, mut deepest) = (f64::MIN, 0f64);
    for n in 0..BOTTOM {
        outside = outside.max(profile[n]);
        deepest = deepest.max(outside.min(inside[n]) - profile[n]);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round head of 80 mm: a scalp of 0.9, a skull, a brain of 0.6; a part of the scale is the depth of the skull below the brain.
    fn head(size: usize, skull: f32, radius: f64) -> (Array3<f32>, Array3<bool>) {
        let middle = size as f64 / 2.;
        let depth = |y: usize, x: usize| {
            let far = (y as f64 - middle).hypot(x as f64 - middle);
            (radius - far) / radius * 80.
        };
        let image = Array3::from_shape_fn((3, size, size), |(_, y, x)| match depth(y, x) {
            d if d < 0. => 0.,
            d if d < 7. => 0.9,
            d if d < 14. => skull,
            _ => 0.6,
        });
        let head = Array3::from_shape_fn((3, size, size), |(_, y, x)| depth(y, x) >= 0.);
        (image, head)
    }

    fn of(image: &Array3<f32>, head: &Array3<bool>, mm: f64) -> Option<f64> {
        let stacks = Stacks::Memory(vec![image.view()]);
        dip(&stacks, &[unit()], head, [5., mm, mm]).unwrap()
    }

    fn unit() -> Spread {
        Spread::of(&mut (0..=1000).map(|n| n as f32 / 1000.).collect::<Vec<_>>())
    }

    #[test]
    fn a_skull_is_a_dip_whatever_the_voxels_say() {
        let (image, head) = head(128, 0.1, 56.);
        let of = |mm: f64| of(&image, &head, mm).unwrap();
        // From 0.6 of the brain to 0.1; interpolation fills a part of it.
        assert!((0.35..0.55).contains(&of(2.)), "{}", of(2.));
        assert!((of(2.) - of(20.)).abs() < 1e-9);
    }

    #[test]
    fn a_brain_alone_has_none() {
        let (image, head) = head(128, 0.9, 56.);
        let found = of(&image, &head, 2.).unwrap();
        assert!(found < 0.02, "{found}");
    }

    #[test]
    fn a_head_up_to_the_pictures_border_says_nothing() {
        let (image, _) = head(64, 0.1, 28.);
        let whole = Array3::from_elem(image.dim(), true);
        assert_eq!(of(&image, &whole, 2.), None);
        let none = Array3::from_elem(image.dim(), false);
        assert_eq!(of(&image, &none, 2.), None);
    }

    /// A step that is nothing beside the voxels of the other axis never left the picture.
    #[test]
    fn voxels_a_million_times_as_long_as_wide_say_nothing() {
        let (image, head) = head(64, 0.1, 28.);
        let stacks = Stacks::Memory(vec![image.view()]);
        for (row, column) in [(1., 1e-17), (1e-12, 1.), (1e15, 1.), (1e-300, 1e300)] {
            let found = dip(&stacks, &[unit()], &head, [5., row, column]).unwrap();
            assert_eq!(found, None, "{row} {column}");
        }
        let few = dip(&stacks, &[unit()], &head, [5., 2., 3.]).unwrap();
        assert!(few.is_some());
    }

    #[test]
    fn a_dip_has_something_on_both_sides() {
        let mut profile = [1.; DEPTH];
        assert_eq!(deepest(&profile), 0.);
        profile[5] = 0.25;
        assert_eq!(deepest(&profile), 0.75);
        profile[..5].fill(0.5);
        assert_eq!(deepest(&profile), 0.25);
        // Falling inwards all the way.
        assert_eq!(deepest(&std::array::from_fn(|n| -(n as f64))), 0.);
    }
}
