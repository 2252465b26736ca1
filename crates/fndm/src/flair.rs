//! Plain FLAIR thresholding: the rival that any method must beat.

use std::time::Instant;

use fndm_data::PatientSlices;
use fndm_memory::{Edge, gaussian_blur};
use ndarray::{Array3, s};

use crate::{Error, Result, clear_rim, keep_inside};

/// The brightest pixels of FLAIR inside the inner head, slice by slice: 1 above this quantile of the slice, 0 elsewhere, `(N, H, W)`. With
/// `clear` what goes on into the head's rim is left out ([`clear_rim`]).
/// Returns that, the inner head, and the time it took in milliseconds.
///
/// # Errors
/// When the slices have no FLAIR, or the quantile isn't within [0, 1].
pub fn flair_quantile(
    slices: &PatientSlices,
    head_erosion: usize,
    quantile: f64,
    clear: bool,
) -> Result<(Array3<f32>, Array3<bool>, f64)> {
    if !(0. ..=1.).contains(&quantile) {
        return Err(Error::option("quantile", "0 to 1", quantile));
    }
    let (mut map, head, milliseconds) = flair_map(slices, 0, 0.)?;
    let start = Instant::now();
    let inner = slices.eroded_head(head_erosion);
    for (mut map, inner) in map.outer_iter_mut().zip(inner.outer_iter()) {
        let values = map.iter().zip(inner).filter(|&(_, &inside)| inside);
        let mut values: Vec<f32> = values.map(|(&v, _)| v).collect();
        values.sort_unstable_by(f32::total_cmp);
        let at = ((quantile * values.len() as f64) as usize).min(values.len().saturating_sub(1));
        let threshold = values.get(at).copied().unwrap_or(f32::INFINITY);
        map.mapv_inplace(|v| f32::from(u8::from(v > threshold)));
    }
    let mut counted = inner.clone();
    if clear {
        clear_rim(&mut counted, &head, &map.mapv(|v| v > 0.))?;
    }
    keep_inside(&mut map, &counted);
    Ok((
        map,
        inner,
        milliseconds + start.elapsed().as_secs_f64() * 1e3,
    ))
}

/// FLAIR's intensity as an anomaly map, `(N, H, W)`: from 0 (background) to 2, 0 outside the inner head. Returns the
/// map, the inner head, and the time it took in milliseconds.
///
/// # Errors
/// When the slices have no FLAIR, or their arrays don't belong together.
pub fn flair_map(
    slices: &PatientSlices,
    head_erosion: usize,
    smoothing: f64,
) -> Result<(Array3<f32>, Array3<bool>, f64)> {
    let start = Instant::now();
    slices.check()?;
    let channel = slices.sequences.iter().position(|name| name == "flair");
    let Some(channel) = channel else {
        return Err(Error::Input {
            what: format!("sequences of {}", slices.id),
            expected: "flair among them".into(),
            got: slices.sequences.join(", "),
        });
    };
    let mut map = slices
        .images
        .slice(s![.., channel, .., ..])
        .mapv(|v| v + 1.);
    if smoothing > 0. {
        gaussian_blur(&mut map, smoothing, Edge::Symmetric)?;
    }
    let inner = slices.eroded_head(head_erosion);
    keep_inside(&mut map, &inner);
    Ok((map, inner, start.elapsed().as_secs_f64() * 1e3))
}
