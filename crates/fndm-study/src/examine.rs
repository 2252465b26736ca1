//! A method over a cohort: the cases that an evaluation scores.

use std::time::Instant;

use fndm_data::PatientSlices;

use fndm::{DetectConfig, Detector, Method, SliceMaps, keep_inside};

use crate::{Case, Error, Result, flair_map};

/// Examines one patient by one method. The second value is `None` for methods without diffusion, which have no other
/// maps.
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
    let (anomaly, inner_head, milliseconds, maps) = match method {
        Method::Fndm | Method::CgNm | Method::Cg | Method::Diffano => {
            let maps = detector.examine(slices, config, progress)?;
            (
                maps.anomaly.clone(),
                maps.inner_head.clone(),
                maps.milliseconds,
                Some(maps),
            )
        }
        Method::Flair => {
            let (map, inner, milliseconds) =
                flair_map(slices, config.head_erosion, config.smoothing)?;
            (map, inner, milliseconds, None)
        }
        Method::Memory => {
            let start = Instant::now();
            let mut map = detector.coarse_map(slices, config)?.soft;
            let inner = slices.eroded_head(config.head_erosion);
            keep_inside(&mut map, &inner);
            (map, inner, start.elapsed().as_secs_f64() * 1e3, None)
        }
    };
    progress(1.);
    let [row, column] = slices.geometry.pixel_spacing();
    let case = Case {
        patient: slices.id.clone(),
        z: slices.z.clone(),
        anomaly,
        inner_head,
        head: slices.head.clone(),
        truth,
        spacing: [slices.geometry.slice_spacing(), row, column],
        milliseconds,
    };
    Ok((case, maps))
}
