//! From the teachers' maps to masks.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Device;
use fndm::student::{residual, residual_map, volume_thresholds, weighted_product};
use fndm::{ThresholdScope, batch_tensor, clear_rim, smooth_z, threshold};
use fndm_data::SliceSet;
use fndm_data::preprocess::erode;
use fndm_memory::{Contrast, Edge, HealthyModel, gaussian_blur, intensities, silent};
use fndm_models::Segmenter;
use fndm_train::PixelTargets;
use ndarray::{Array3, ArrayView2, ArrayView4, ArrayViewMut2, Axis, Zip};

use super::models::Models;
use super::{QuantileScope, TeacherConfig};
use crate::{Error, Result};

/// Slices of each label that Gaussians of other patients are to be learned from, at least.
const LEAST_SLICES: usize = 2;

/// What the teachers want a student to say of the slices that they were made from, in the first round. A remover is needed where
/// [`TeacherConfig::remover_power`] isn't 0.
///
/// # Errors
/// When the config doesn't fit the slices, or a remover is missing.
pub fn teach(
    config: &TeacherConfig,
    remover: Option<&Segmenter>,
    set: &SliceSet,
    device: &Device,
) -> Result<PixelTargets> {
    config.check()?;
    set.check()?;
    let maps = teachers(config, remover, set, device)?;
    let agreed = targets(config, set, &product(&maps)?)?;
    with_disputes(config, set, &maps, agreed)
}

/// The teachers' maps, none of which has seen the patient's bits.
pub(crate) fn teachers(
    config: &TeacherConfig,
    remover: Option<&Segmenter>,
    set: &SliceSet,
    device: &Device,
) -> Result<Vec<PoweredMap>> {
    let place = (&set.patient[..], &set.z[..]);
    let images = set.images.view();
    let contrast = match config.contrast_power > 0. {
        true => {
            let scores = unseen_contrast(config, set, device)?;
            Some(contrast_map(config, &scores, place)?)
        }
        false => None,
    };
    // Without power its map would be made for nothing.
    let remover = remover.filter(|_| config.remover_power > 0.);
    let remover = remover.map(|remover| remover_map(config, remover, &images, place, device));
    let remover = remover.transpose()?;
    let models = Models::load(&config.models, device)?.say_of_set(set)?;
    counted(
        config,
        (contrast, remover, models),
        &images,
        place,
        &set.head,
    )
}

/// A teacher's map, `(N, H, W)`, and its power in the product.
pub(crate) type PoweredMap = (Array3<f32>, f64);

/// The weighted product of the teachers' maps, `(N, H, W)`.
pub(crate) fn product(maps: &[PoweredMap]) -> Result<Array3<f32>> {
    let maps: Vec<_> = maps.iter().map(|(map, power)| (map, *power)).collect();
    Ok(weighted_product(&maps)?)
}

/// The maps that count of slices `(N, C, H, W)` of these patients and positions: those of models, the contrast's, the remover's, and the
/// slices' own brightness.
pub(super) fn counted(
    config: &TeacherConfig,
    (contrast, remover, models): (Option<Array3<f32>>, Option<Array3<f32>>, Vec<PoweredMap>),
    images: &ArrayView4<'_, f32>,
    place: (&[usize], &[usize]),
    head: &Array3<bool>,
) -> Result<Vec<PoweredMap>> {
    let mut counted = models;
    for (name, map, power) in [
        ("contrast", contrast, config.contrast_power),
        ("remover", remover, config.remover_power),
    ] {
        match map {
            _ if power == 0. => {}
            Some(map) => counted.push((map, power)),
            None => {
                return Err(Error::Input {
                    what: format!("the {name}'s map"),
                    expected: format!("one, for its power is {power}"),
                    got: "none".into(),
                });
            }
        }
    }
    if config.intensity_power > 0. {
        let intensity = intensity_map(config, images, place, &inner_head(config, head))?;
        counted.push((intensity, config.intensity_power));
    }
    Ok(counted)
}

/// The targets with less weight where the teachers differ, each by its own threshold: there one of them is wrong.
pub(super) fn with_disputes(
    config: &TeacherConfig,
    set: &SliceSet,
    maps: &[PoweredMap],
    agreed: PixelTargets,
) -> Result<PixelTargets> {
    if config.disputed == 1. {
        return Ok(agreed);
    }
    let mut marks = Vec::with_capacity(maps.len());
    for (map, _) in maps {
        // A map by itself, as a product of one.
        marks.push(targets(config, set, &weighted_product(&[(map, 1.)])?)?);
    }
    let mut weight = agreed.weight().clone();
    if let [first, others @ ..] = &marks[..] {
        for other in others {
            Zip::from(&mut weight)
                .and(agreed.weight())
                .and(first.target())
                .and(other.target())
                .for_each(|weight, agreed, a, b| {
                    if a != b {
                        *weight = agreed * config.disputed as f32;
                    }
                });
        }
    }
    Ok(PixelTargets::new(set, agreed.target().clone(), weight)?)
}

/// The brightness of the teacher's sequence in slices `(N, C, H, W)`, from 0 (background) to 2, smoothed as the other maps are; or how far it
/// is above the slice's own.
fn intensity_map(
    config: &TeacherConfig,
    images: &ArrayView4<'_, f32>,
    (patient, z): (&[usize], &[usize]),
    inside: &Array3<bool>,
) -> Result<Array3<f32>> {
    let channel = images.index_axis(Axis(1), config.intensity_sequence);
    let mut map = channel.mapv(|v| v + 1.);
    if config.smoothing > 0. {
        gaussian_blur(&mut map, config.smoothing, Edge::Symmetric)?;
    }
    let mut map = smooth_z(&map, patient, z, config.z_smoothing)?;
    if config.intensity_by_slice {
        for (mut map, inside) in map.outer_iter_mut().zip(inside.outer_iter()) {
            above_median(&mut map, &inside);
        }
    }
    Ok(map)
}

/// A slice less the median of its pixels inside, over the median distance from that; 0 where there are no pixels inside, or all are equal.
fn above_median(map: &mut ArrayViewMut2<'_, f32>, inside: &ArrayView2<'_, bool>) {
    let counted = map.iter().zip(inside).filter_map(|(&v, &i)| i.then_some(v));
    let values: Vec<f32> = counted.collect();
    let middle = median(values.clone()).unwrap_or_default();
    let distances = values.iter().map(|v| (v - middle).abs()).collect();
    match median(distances).filter(|&distance| distance > 0.) {
        Some(distance) => map.mapv_inplace(|v| (v - middle) / distance),
        None => map.fill(0.),
    }
}

/// The value in the middle, of an even number the upper one; nothing of no values.
fn median(mut values: Vec<f32>) -> Option<f32> {
    if values.is_empty() {
        return None;
    }
    let middle = values.len() / 2;
    Some(*values.select_nth_unstable_by(middle, f32::total_cmp).1)
}

/// The masks of a map.
pub(crate) fn targets(
    config: &TeacherConfig,
    set: &SliceSet,
    map: &Array3<f32>,
) -> Result<PixelTargets> {
    let mut inside = inner_head(config, &set.head);
    let thresholds = match config.quantile {
        Some(quantile) => quantiles(quantile, config.quantile_of, set, map, &inside),
        None => otsu_between(config, set, map, &inside)?,
    };
    if config.clear_rim {
        clear_rim(&mut inside, &set.head, &above(map, &thresholds))?;
    }
    let band = config.band;
    Ok(PixelTargets::from_teacher(
        set,
        map,
        &inside,
        &thresholds,
        band,
    )?)
}

/// Where a map `(N, H, W)` is above the threshold of its slice.
pub(crate) fn above(map: &Array3<f32>, thresholds: &[f32]) -> Array3<bool> {
    let mut marked = Array3::from_elem(map.dim(), false);
    let slices = marked.outer_iter_mut().zip(map.outer_iter());
    for ((mut marked, map), &threshold) in slices.zip(thresholds) {
        Zip::from(&mut marked)
            .and(&map)
            .for_each(|marked, &value| *marked = value > threshold);
    }
    marked
}

/// For each slice a threshold between Otsu's of its volume and its own.
fn otsu_between(
    config: &TeacherConfig,
    set: &SliceSet,
    map: &Array3<f32>,
    inside: &Array3<bool>,
) -> Result<Vec<f32>> {
    let volume = volume_thresholds(map, inside, &set.patient)?;
    let slice = threshold(map.view(), inside.view(), ThresholdScope::Slice)?.thresholds;
    let between = |(v, s): (f32, f32)| match v > 0. && s > 0. && s.is_finite() {
        true => v * (s / v).powf(config.by_slice as f32),
        false => v,
    };
    Ok(volume.into_iter().zip(slice).map(between).collect())
}

/// For each slice the value that so many pixels inside of its patient's diseased slices are below, or of all patients'.
fn quantiles(
    quantile: f64,
    scope: QuantileScope,
    set: &SliceSet,
    map: &Array3<f32>,
    inside: &Array3<bool>,
) -> Vec<f32> {
    let group = |patient: usize| match scope {
        QuantileScope::Volume => patient,
        QuantileScope::All => 0,
    };
    let mut values: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
    for (n, &patient) in set.patient.iter().enumerate() {
        let values = values.entry(group(patient)).or_default();
        if set.labels[n] == 1 {
            let (map, inside) = (map.index_axis(Axis(0), n), inside.index_axis(Axis(0), n));
            values.extend(map.iter().zip(inside).filter_map(|(&v, &i)| i.then_some(v)));
        }
    }
    let of = |mut values: Vec<f32>| {
        values.sort_unstable_by(f32::total_cmp);
        let at = (quantile * values.len() as f64) as usize;
        // Without a diseased slice nothing is marked.
        values
            .get(at.min(values.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f32::MAX)
    };
    let thresholds: BTreeMap<usize, f32> = values.into_iter().map(|(p, v)| (p, of(v))).collect();
    let mut found = Vec::with_capacity(set.len());
    for &patient in &set.patient {
        let threshold = thresholds.get(&group(patient)).copied();
        found.push(threshold.unwrap_or(f32::MAX));
    }
    found
}

/// The head without its rim, where masks may be, `(N, H, W)`.
pub(crate) fn inner_head(config: &TeacherConfig, head: &Array3<bool>) -> Array3<bool> {
    let mut inside = head.clone();
    for mut slice in inside.axis_iter_mut(Axis(0)) {
        let inner = erode(slice.view(), config.head_erosion);
        slice.assign(&inner);
    }
    inside
}

/// For each slice the rank of its patient among those of the set, whose numbers have gaps where patients were held apart.
pub(super) fn ranks(set: &SliceSet) -> Vec<usize> {
    let present: BTreeSet<usize> = set.patient.iter().copied().collect();
    let rank = |p: &usize| present.range(..p).count();
    set.patient.iter().map(rank).collect()
}

/// The contrast's map `(N, H, W)` of slices of these patients and positions, from its scores.
pub(crate) fn contrast_map(
    config: &TeacherConfig,
    scores: &Array3<f32>,
    (patient, z): (&[usize], &[usize]),
) -> Result<Array3<f32>> {
    Ok(smooth_z(scores, patient, z, config.z_smoothing)?)
}

/// The remover's map `(N, H, W)` of slices `(N, C, H, W)` of these patients and positions: what it changes.
pub(super) fn remover_map(
    config: &TeacherConfig,
    remover: &Segmenter,
    images: &ArrayView4<'_, f32>,
    (patient, z): (&[usize], &[usize]),
    device: &Device,
) -> Result<Array3<f32>> {
    let residual = residual(remover, images.view(), device)?;
    let residual = residual_map(residual, &config.residual_sides, config.smoothing)?;
    Ok(smooth_z(&residual, patient, z, config.z_smoothing)?)
}

/// The contrast's scores of every slice, by Gaussians of other patients.
pub(crate) fn unseen_contrast(
    config: &TeacherConfig,
    set: &SliceSet,
    device: &Device,
) -> Result<Array3<f32>> {
    let parts = config.parts;
    let ranks = ranks(set);
    let patients = ranks.iter().max().map_or(0, |most| most + 1);
    if patients < 2 {
        return Err(Error::Input {
            what: "patients with labels".into(),
            expected: "two or more: each is scored by Gaussians of the others".into(),
            got: patients.to_string(),
        });
    }
    let (n, _, h, w) = set.images.dim();
    let mut scores = Array3::zeros((n, h, w));
    for part in 0..parts {
        let (own, others): (Vec<usize>, Vec<usize>) =
            (0..n).partition(|&n| ranks[n] % parts == part);
        if own.is_empty() {
            continue;
        }
        let maps = contrast_of(config, set, (&others, &own), device)?;
        for (&n, map) in own.iter().zip(maps.axis_iter(Axis(0))) {
            scores.index_axis_mut(Axis(0), n).assign(&map);
        }
    }
    Ok(scores)
}

/// The scores of every slice: by Gaussians of other patients, or of all where the others are too few to learn from.
pub(crate) fn any_contrast(
    config: &TeacherConfig,
    set: &SliceSet,
    device: &Device,
) -> Result<Array3<f32>> {
    let ranks = ranks(set);
    let others_have = |part: usize, label: u8| {
        let of = |&n: &usize| ranks[n] % config.parts != part && set.labels[n] == label;
        (0..set.len()).filter(of).count() >= LEAST_SLICES
    };
    if (0..config.parts).all(|part| others_have(part, 0) && others_have(part, 1)) {
        return unseen_contrast(config, set, device);
    }
    let all: Vec<usize> = (0..set.len()).collect();
    contrast_of(config, set, (&all, &all), device)
}

/// The scores of the slices `own` by Gaussians of the slices `others`.
fn contrast_of(
    config: &TeacherConfig,
    set: &SliceSet,
    (others, own): (&[usize], &[usize]),
    device: &Device,
) -> Result<Array3<f32>> {
    let tensor =
        |slices: &[usize]| batch_tensor(&set.images.select(Axis(0), slices).view(), device);
    let labels: Vec<u8> = others.iter().map(|&n| set.labels[n]).collect();
    let (config, images) = (&config.contrast, tensor(others)?);
    let contrast = Contrast::build(config, &intensities, &images, &labels, &mut silent)?;
    Ok(contrast.score_maps(&intensities, &tensor(own)?, None)?)
}
