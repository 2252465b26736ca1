//! What a fitted rival says of a patient.

use std::time::Instant;

use candle_core::{DType, Device};
use fndm::batch_tensor;
use fndm_baselines::{Baseline, PostProcessing};
use fndm_data::PatientSlices;
use ndarray::{Array3, Axis, s};

use crate::{Error, MethodMap, Result};

/// Slices that are examined at once, where it doesn't matter which.
const BATCH: usize = 16;

/// The method's map of a patient's slices, `(N, H, W)`, as it comes, and the wall time in milliseconds. A method whose maps are relative
/// ([`Baseline::is_relative`]) is shown all slices of the patient together.
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
    let batch = match baseline.is_relative() {
        true => n.max(1),
        false => BATCH,
    };
    for from in (0..n).step_by(batch) {
        let to = (from + batch).min(n);
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
        thresholds: found.thresholds,
        diseased: None,
        milliseconds: milliseconds + start.elapsed().as_secs_f64() * 1e3,
        maps: None,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Tensor;
    use fndm_data::Preprocess;
    use fndm_data::phantom::PhantomConfig;

    use super::*;

    /// How far each pixel is below the highest of all slices that it is given with.
    #[derive(Debug)]
    struct Relative;

    impl Baseline for Relative {
        fn name(&self) -> &'static str {
            "relative"
        }

        fn maps(&self, slices: &Tensor) -> fndm_baselines::Result<Tensor> {
            let highest = slices.max_all()?;
            Ok(highest.broadcast_sub(&slices.squeeze(1)?)?)
        }

        fn is_relative(&self) -> bool {
            true
        }

        fn scores(&self, slices: &Tensor) -> fndm_baselines::Result<Vec<f32>> {
            Ok(vec![0.; slices.dim(0)?])
        }

        fn save(&self, _: &Path) -> fndm_baselines::Result<()> {
            Ok(())
        }
    }

    /// More slices than one batch has: what a slice is held against mustn't hang on its number.
    #[test]
    fn slices_of_a_patient_belong_together() {
        let config = PhantomConfig {
            slices: BATCH + 5,
            ..PhantomConfig::default()
        };
        let mut patient = config.patient(7).unwrap();
        patient.sequences.truncate(1);
        let mut slices = Preprocess::default().apply(&patient).unwrap();
        assert!(slices.len() > BATCH);
        slices.images *= 0.5;
        slices.images[[BATCH + 1, 0, 3, 3]] = 1.;
        let (map, _) = raw_map(&Relative, &slices, &Device::Cpu).unwrap();
        let image = slices.images.index_axis(Axis(1), 0);
        assert_eq!(map, image.mapv(|value| 1. - value));
    }
}
