//! Maps of networks, and what is made of them. Maps are `(N, H, W)`, slices `(N, C, H, W)`.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as is usual with ndarray"
)]

use std::collections::BTreeMap;

use crate::anomaly::otsu_of;
use crate::batch_tensor;
use candle_core::Device;
use fndm_data::{SliceImages, neighbours, neighbours_of};
use fndm_memory::{Edge, gaussian_blur};
use fndm_models::Segmenter;
use ndarray::{Array3, Array4, ArrayView4, Axis, Zip};

use crate::residual::at_least_0;
use crate::{Error, ResidualSide, Result};

/// Pixels per pass through a network on a CPU: 32 slices of 64 px. More would take memory and no less time.
const PIXELS: usize = 32 * 64 * 64;

/// Slices per pass through a network. An accelerator has the memory for more, and needs them.
fn batch(device: &Device, (h, w): (usize, usize)) -> usize {
    match device.is_cpu() {
        true => (PIXELS / (h * w).max(1)).clamp(1, 32),
        false => 32,
    }
}

fn input(what: &str, expected: impl Into<String>, got: impl std::fmt::Debug) -> Error {
    Error::Input {
        what: what.to_owned(),
        expected: expected.into(),
        got: format!("{got:?}"),
    }
}

/// What a network gives for slices with their neighbours: `(N, out_channels, H, W)`.
fn outputs(network: &Segmenter, seen: ArrayView4<'_, f32>, device: &Device) -> Result<Array4<f32>> {
    let (n, _, h, w) = seen.dim();
    let c = network.config().out_channels;
    let mut values = Vec::with_capacity(n * c * h * w);
    for chunk in seen.axis_chunks_iter(Axis(0), batch(device, (h, w))) {
        let y = network.forward(&batch_tensor(&chunk, device)?)?;
        values.extend(y.flatten_all()?.to_vec1::<f32>()?);
    }
    Array4::from_shape_vec((n, c, h, w), values)
        .map_err(|e| input("a network's output", format!("{n} x {c} x {h} x {w}"), e))
}

/// Slices less what a remover of lesions makes of them, `(N, C, H, W)`: above 0 where the slice is brighter.
///
/// # Errors
/// When the network takes other slices, or gives something else than slices.
pub fn residual(
    remover: &Segmenter,
    images: ArrayView4<'_, f32>,
    device: &Device,
) -> Result<Array4<f32>> {
    let healthy = outputs(remover, images, device)?;
    if healthy.dim() != images.dim() {
        let expected = format!("{:?}", images.dim());
        return Err(input("a remover's output", expected, healthy.dim()));
    }
    Ok(&images - &healthy)
}

/// The sum over sequences of what counts of the residuals, smoothed in the plane by a Gaussian of so many pixels. Without `sides` both
/// sides of each sequence count.
///
/// # Errors
/// When the sides are of other sequences, or the smoothing is out of its range.
pub fn residual_map(
    residual: Array4<f32>,
    sides: &[ResidualSide],
    smoothing: f64,
) -> Result<Array3<f32>> {
    ResidualSide::check(sides, residual.dim().1)?;
    let mut map = ResidualSide::sum(sides, residual, f32::INFINITY);
    gaussian_blur(&mut map, smoothing, Edge::Symmetric)?;
    Ok(map)
}

/// A student's probability of a lesion for slices and their positions in the volumes of their patients. With `mirror` it is the
/// mean of the slice's and of its mirror image's, at two evaluations. A batch of the images is looked at at a time.
///
/// # Errors
/// When the network takes other slices, `z` isn't of as many, or images can't be read.
pub fn probability<I: SliceImages>(
    student: &Segmenter,
    images: &I,
    patient: &[usize],
    z: &[usize],
    mirror: bool,
    device: &Device,
) -> Result<Array3<f32>> {
    let (n, _, h, w) = images.dim();
    if n != z.len() {
        let expected = format!("{n}, one for each slice");
        return Err(input("positions of slices", expected, z.len()));
    }
    let table = neighbours(patient, z, student.config().context)?;
    let run = |seen: ArrayView4<'_, f32>| -> Result<Array3<f32>> {
        let logits = outputs(student, seen, device)?;
        let first = logits.index_axis(Axis(1), 0);
        Ok(first.mapv(|v| 1.0 / (1.0 + (-v).exp())))
    };
    let mut map = Array3::zeros((n, h, w));
    let batch = batch(device, (h, w));
    for (mut map, table) in map
        .axis_chunks_iter_mut(Axis(0), batch)
        .zip(table.axis_chunks_iter(Axis(0), batch))
    {
        let mut seen = neighbours_of(images, table)?;
        let mut own = run(seen.view())?;
        if mirror {
            seen.invert_axis(Axis(3));
            let mut other = run(seen.view())?;
            other.invert_axis(Axis(2));
            own = (own + other) * 0.5;
        }
        map.assign(&own);
    }
    Ok(map)
}

/// Each slice's map with shares of its neighbours' in the volume, by a Gaussian of `sigma` slices. The shares of slices that
/// aren't there go to those that are.
///
/// # Errors
/// When `patient`, `z` and the maps differ in length, or sigma isn't within 0 to 100.
pub fn smooth_z(
    maps: &Array3<f32>,
    patient: &[usize],
    z: &[usize],
    sigma: f64,
) -> Result<Array3<f32>> {
    let n = maps.dim().0;
    if patient.len() != n || z.len() != n {
        let expected = format!("{n} patients and positions, one for each slice");
        return Err(input("maps", expected, (patient.len(), z.len())));
    }
    if !(0.0..=100.0).contains(&sigma) {
        return Err(Error::option("z_smoothing", "0 to 100", sigma));
    }
    if sigma == 0.0 {
        return Ok(maps.clone());
    }
    let place: BTreeMap<(usize, usize), usize> = (0..n).map(|n| ((patient[n], z[n]), n)).collect();
    let reach = (4.0 * sigma).ceil() as usize;
    let mut out = Array3::zeros(maps.dim());
    for n in 0..n {
        let mut total = 0.0;
        let mut sum = out.index_axis_mut(Axis(0), n);
        for at in z[n].saturating_sub(reach)..=z[n].saturating_add(reach) {
            if let Some(&from) = place.get(&(patient[n], at)) {
                let distance = at.abs_diff(z[n]) as f64 / sigma;
                let weight = (-0.5 * distance * distance).exp() as f32;
                sum.scaled_add(weight, &maps.index_axis(Axis(0), from));
                total += weight;
            }
        }
        sum /= total;
    }
    Ok(out)
}

/// The product of maps of 0 or more, each to its power: with powers that sum to 1 their weighted geometric mean. What is below
/// 0 counts as 0; NaN stays NaN.
///
/// # Errors
/// When there is no map, or their shapes differ.
pub fn weighted_product(maps: &[(&Array3<f32>, f64)]) -> Result<Array3<f32>> {
    let Some((first, _)) = maps.first() else {
        return Err(input("maps", "one or more", "none"));
    };
    let mut out = Array3::ones(first.dim());
    for (map, power) in maps {
        if map.dim() != out.dim() {
            return Err(input("maps", format!("{:?}", out.dim()), map.dim()));
        }
        let power = *power as f32;
        Zip::from(&mut out)
            .and(*map)
            .for_each(|out, &v| *out *= at_least_0(v).powf(power));
    }
    Ok(out)
}

/// Otsu's threshold of all slices of a patient together, over the pixels inside: for each slice its patient's. A patient with
/// no pixel inside has the largest number.
///
/// # Errors
/// When the shapes differ, or a value isn't finite.
pub fn volume_thresholds(
    maps: &Array3<f32>,
    inside: &Array3<bool>,
    patient: &[usize],
) -> Result<Vec<f32>> {
    if maps.dim() != inside.dim() || patient.len() != maps.dim().0 {
        let expected = format!("an inside and patients for {:?}", maps.dim());
        return Err(input("maps", expected, (inside.dim(), patient.len())));
    }
    let mut values: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    for (n, &p) in patient.iter().enumerate() {
        let pixels = maps.index_axis(Axis(0), n);
        let inside = inside.index_axis(Axis(0), n);
        let counted = pixels.iter().zip(&inside).filter(|&(_, &i)| i);
        values
            .entry(p)
            .or_default()
            .extend(counted.map(|(&v, _)| v));
    }
    let mut thresholds = BTreeMap::new();
    for (p, values) in values {
        let threshold = match values.is_empty() {
            true => f32::MAX,
            false => otsu_of(&values)?,
        };
        thresholds.insert(p, threshold);
    }
    Ok(patient.iter().map(|p| thresholds[p]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_over_z_stays_in_the_patient_and_keeps_constants() {
        let mut maps = Array3::from_elem((5, 1, 2), 2.0);
        let (patient, z) = ([0, 0, 0, 1, 1], [3, 4, 6, 3, 4]);
        let same = smooth_z(&maps, &patient, &z, 0.7).unwrap();
        assert!(same.iter().all(|v: &f32| (v - 2.0).abs() < 1e-6));
        // A point in slice 1 reaches its neighbour at 3 and, over the gap, the slice at 6, and not the other patient.
        maps.fill(0.0);
        maps[[1, 0, 0]] = 1.0;
        let out = smooth_z(&maps, &patient, &z, 0.7).unwrap();
        let weight = |d: f64| (-0.5 * (d / 0.7).powi(2)).exp();
        let share =
            |d: f64, others: &[f64]| weight(d) / others.iter().map(|&d| weight(d)).sum::<f64>();
        for (n, expected) in [
            (0, share(1.0, &[0.0, 1.0])),
            (1, share(0.0, &[1.0, 0.0, 2.0])),
            (2, share(2.0, &[2.0, 0.0])),
            (3, 0.0),
        ] {
            // A slice three away has less than 0.0001.
            assert!((f64::from(out[[n, 0, 0]]) - expected).abs() < 2e-4, "{n}");
            assert_eq!(out[[n, 0, 1]], 0.0);
        }
        assert_eq!(smooth_z(&maps, &patient, &z, 0.0).unwrap(), maps);
        assert!(smooth_z(&maps, &patient[1..], &z, 0.7).is_err());
        assert!(smooth_z(&maps, &patient, &z, f64::NAN).is_err());
    }

    #[test]
    fn a_product_is_the_geometric_mean_and_thresholds_are_a_volumes() {
        let row = |v: [f32; 3]| Array3::from_shape_vec((1, 1, 3), v.to_vec()).unwrap();
        let (a, b) = (row([4.0, 9.0, -1.0]), row([1.0, 4.0, 5.0]));
        let mean = weighted_product(&[(&a, 0.5), (&b, 0.5)]).unwrap();
        assert_eq!(mean, row([2.0, 6.0, 0.0]));
        assert!(weighted_product(&[]).is_err());
        // What isn't a number is told where the map is used, and not taken for healthy.
        let broken = weighted_product(&[(&row([f32::NAN, 1.0, 1.0]), 0.5), (&b, 0.5)]).unwrap();
        assert!(broken[[0, 0, 0]].is_nan() && broken[[0, 0, 1]] == 2.0);

        // Patient 0 has values of 0 and 10, patient 1 of 100 and 200; one pixel lies outside.
        let maps = Array3::from_shape_fn((3, 2, 2), |(n, y, _)| match n {
            0 => 10.0 * y as f32,
            1 => 100.0 + 100.0 * y as f32,
            _ => 0.0,
        });
        let mut inside = Array3::from_elem((3, 2, 2), true);
        inside[[0, 1, 1]] = false;
        let found = volume_thresholds(&maps, &inside, &[0, 1, 0]).unwrap();
        assert_eq!(found[0], found[2]);
        assert!(found[0] >= 0.0 && found[0] < 10.0, "{found:?}");
        assert!(found[1] >= 100.0 && found[1] < 200.0, "{found:?}");
    }
}
