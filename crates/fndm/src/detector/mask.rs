use fndm_data::{PatientSlices, SliceImages};
use ndarray::Array3;

use super::check_finite;
use crate::{DetectConfig, Error, Result, Student, anomaly};

/// A mask of a patient's slices, and what it was made by.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MapMask {
    /// The head without its rim: where the map counts, `(N, H, W)`.
    pub inner_head: Array3<bool>,
    /// The mask, `(N, H, W)`.
    pub mask: Array3<bool>,
    /// The threshold of each slice.
    pub thresholds: Vec<f32>,
}

/// From an anomaly map `(N, H, W)` to the mask: what every row ends with. The map is set to 0 outside of the inner head; where that is
/// asked for it is smoothed along the slices' tissue, and brought to the scale of its volume.
///
/// The settings are `head_erosion`, `guided_smoothing`, `volume_scale`, `threshold` and `empty_when_healthy` of `config`; the last one needs a student, and how likely
/// it calls each slice diseased.
///
/// # Errors
/// When a value of the map isn't finite, the shapes differ, images can't be read, or there is no student where one is needed.
pub fn mask_of<I: SliceImages>(
    anomaly: &mut Array3<f32>,
    slices: &PatientSlices<I>,
    config: &DetectConfig,
    student: Option<(&Student, &[f64])>,
) -> Result<MapMask> {
    if anomaly.dim() != slices.head.dim() {
        return Err(Error::Input {
            what: format!("the anomaly map of {}", slices.id),
            expected: format!("{:?}", slices.head.dim()),
            got: format!("{:?}", anomaly.dim()),
        });
    }
    let inner_head = slices.eroded_head(config.head_erosion);
    anomaly::keep_inside(anomaly, &inner_head);
    check_finite(anomaly, "the anomaly map", slices)?;
    if let Some(smoothing) = &config.guided_smoothing {
        smoothing.apply(anomaly, slices, &inner_head)?;
    }
    if let Some(scale) = &config.volume_scale {
        scale.apply(anomaly, &inner_head)?;
    }
    let found = anomaly::threshold(anomaly.view(), inner_head.view(), config.threshold)?;
    let (mut mask, thresholds) = (found.mask, found.thresholds);
    if config.empty_when_healthy {
        let (student, diseased) = student.ok_or_else(|| {
            let expected = "false, where there is no student";
            Error::option("empty when healthy", expected, true)
        })?;
        let below = student.config().calibration.healthy_below;
        for (mut mask, &likely) in mask.outer_iter_mut().zip(diseased) {
            if likely < below {
                mask.fill(false);
            }
        }
    }
    Ok(MapMask {
        inner_head,
        mask,
        thresholds,
    })
}
