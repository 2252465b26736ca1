//! A method over a cohort: the cases that an evaluation scores.

use fndm_data::PatientSlices;

use crate::{Case, DetectConfig, Detector, Error, Method, Result, SliceMaps, flair_map};

/// Examines one patient by one method. `None` in the second place is FLAIR, which has no other maps.
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
    let (anomaly, inner_head, milliseconds, maps) = if method.parts().is_some() {
        let maps = detector.examine(slices, config, progress)?;
        let copy = (
            maps.anomaly.clone(),
            maps.inner_head.clone(),
            maps.milliseconds,
        );
        (copy.0, copy.1, copy.2, Some(maps))
    } else {
        let (map, inner, milliseconds) = flair_map(slices, config.head_erosion, 0.)?;
        progress(1.);
        (map, inner, milliseconds, None)
    };
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
