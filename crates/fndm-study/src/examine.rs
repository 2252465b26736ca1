//! A method over a cohort: the cases that an evaluation scores.

use std::time::Instant;

use fndm_data::PatientSlices;

use ndarray::Array3;

use fndm::{DetectConfig, Detector, Method, SliceMaps, keep_inside};

use crate::{Case, Error, Result, flair_map};

/// What one method says of one patient.
#[derive(Debug, Clone)]
pub struct MethodMap {
    /// The anomaly map, `(N, H, W)`; higher is more anomalous.
    pub anomaly: Array3<f32>,
    /// Where the map counts: the head without its rim, `(N, H, W)`.
    pub inner_head: Array3<bool>,
    /// Wall time in milliseconds.
    pub milliseconds: f64,
    /// All maps of a method with diffusion; `None` for the others, which have no more than the anomaly map.
    pub maps: Option<SliceMaps>,
}

/// The map of one method. No mask is looked at.
///
/// # Errors
/// When the patient can't be examined.
pub fn method_map(
    detector: &Detector,
    method: Method,
    config: &DetectConfig,
    slices: &PatientSlices,
    progress: &mut dyn FnMut(f64),
) -> Result<MethodMap> {
    let found = match method {
        Method::Fndm | Method::CgNm | Method::Cg | Method::Diffano => {
            let maps = detector.examine(slices, config, progress)?;
            MethodMap {
                anomaly: maps.anomaly.clone(),
                inner_head: maps.inner_head.clone(),
                milliseconds: maps.milliseconds,
                maps: Some(maps),
            }
        }
        Method::Flair => {
            let (anomaly, inner_head, milliseconds) =
                flair_map(slices, config.head_erosion, config.smoothing)?;
            MethodMap {
                anomaly,
                inner_head,
                milliseconds,
                maps: None,
            }
        }
        Method::Memory => {
            let start = Instant::now();
            let mut anomaly = detector.coarse_map(slices, config)?.soft;
            let inner_head = slices.eroded_head(config.head_erosion);
            keep_inside(&mut anomaly, &inner_head);
            MethodMap {
                anomaly,
                inner_head,
                milliseconds: start.elapsed().as_secs_f64() * 1e3,
                maps: None,
            }
        }
    };
    progress(1.);
    Ok(found)
}

/// Examines one patient by one method, for a comparison with the truth. The second value is `None` for methods without diffusion,
/// which have no other maps.
///
/// # Errors
/// When the patient has no mask, or can't be examined.
pub fn examine_case(
    detector: &Detector,
    method: Method,
    config: &DetectConfig,
    slices: &PatientSlices,
    progress: &mut dyn FnMut(f64),
) -> Result<(Case, Option<SliceMaps>)> {
    let Some(truth) = slices.mask.clone() else {
        return Err(Error::Input {
            what: format!("patient {}", slices.id),
            expected: "a lesion mask to compare with".into(),
            got: "none".into(),
        });
    };
    let found = method_map(detector, method, config, slices, progress)?;
    let [row, column] = slices.geometry.pixel_spacing();
    let case = Case {
        patient: slices.id.clone(),
        z: slices.z.clone(),
        anomaly: found.anomaly,
        inner_head: found.inner_head,
        head: slices.head.clone(),
        truth,
        spacing: [slices.geometry.slice_spacing(), row, column],
        milliseconds: found.milliseconds,
    };
    Ok((case, found.maps))
}
