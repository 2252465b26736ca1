//! What a fitted rival says of a patient.

use std::time::Instant;

use candle_core::{DType, Device};
use fndm::batch_tensor;
use fndm_baselines::{Baseline, PostProcessing};
use fndm_data::PatientSlices;
use ndarray::{Array3, Axis, s};

use crate::{Error, MethodMap, Result};

/// Slices that are examined at once.
const BATCH: usize = 16;

/// The method's map of a patient's slices, `(N, H, W)`, as it comes, and the wall time in milliseconds.
///
/// # Errors
/// When the slices don't fit the method, or a value isn't finite.
pub fn raw_map(
    baseline: &dyn Baseline,
    slices: &PatientSlices,
    device: &Device,
) -> Result<(Array3<f32>, f64)> {
    let start = Instant::now();
    let (n, h, w) = slices.head.dim();
    let mut map = Array3::zeros((n, h, w));
    for from in (0..n).step_by(BATCH) {
        let to = (from + BATCH).min(n);
        let images = slices.images.slice(s![from..to, .., .., ..]);
        let found = baseline.maps(&batch_tensor(&images, device)?)?;
        if found.dims() != [to - from, h, w] {
            return Err(Error::Input {
                what: format!("map of patient {} by {}", slices.id, baseline.name()),
                expected: format!("{:?}", (to - from, h, w)),
                got: format!("{:?}", found.dims()),
            });
        }
        let found = found.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        let values: Vec<f32> = found.flatten_all()?.to_vec1()?;
        let mut part = map.slice_axis_mut(Axis(0), (from..to).into());
        for (to, from) in part.iter_mut().zip(values) {
            *to = from;
        }
    }
    Ok((map, start.elapsed().as_secs_f64() * 1e3))
}

/// A map as our own methods give theirs: smoothed, kept to the head, with a mask.
///
/// # Errors
/// When a setting is out of its range, or a value isn't finite.
pub fn rival_map(
    mut map: Array3<f32>,
    milliseconds: f64,
    post: &PostProcessing,
    slices: &PatientSlices,
) -> Result<MethodMap> {
    let start = Instant::now();
    let found = post.apply(&mut map, slices)?;
    Ok(MethodMap {
        anomaly: map,
        inner_head: found.inner_head,
        mask: found.mask,
        diseased: None,
        milliseconds: milliseconds + start.elapsed().as_secs_f64() * 1e3,
        maps: None,
    })
}
