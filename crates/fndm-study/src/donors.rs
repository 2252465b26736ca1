//! Lesions that are cut from training slices, to be pasted into healthy ones.

use std::sync::Arc;

use candle_core::Device;
use fndm::student::volume_thresholds;
use fndm_data::SliceSet;
use fndm_data::corrupt::{Donors, PseudoLesion};
use ndarray::{Array3, Axis};

use crate::Result;
use crate::student::TeacherConfig;
use crate::student::teacher::{any_contrast, contrast_map, inner_head};

/// The lesions of the diseased slices of `set`: what the contrast of other patients marks, by one Otsu threshold a volume. No mask is
/// looked at but the contrast's. Where the other patients are too few to learn from, it is the contrast of all. The settings are
/// the contrast's and the head's of `config`.
///
/// # Errors
/// When there are fewer than two healthy or two diseased slices, or nothing is marked in any.
pub fn donors(config: &TeacherConfig, set: &SliceSet, device: &Device) -> Result<Donors> {
    config.check()?;
    set.check()?;
    let scores = any_contrast(config, set, device)?;
    let map = contrast_map(config, &scores, (&set.patient, &set.z))?;
    let inside = inner_head(config, &set.head);
    let thresholds = volume_thresholds(&map, &inside, &set.patient)?;
    let mut masks = Array3::from_elem(map.dim(), false);
    for (i, mut mask) in masks.axis_iter_mut(Axis(0)).enumerate() {
        let (map, inside) = (map.index_axis(Axis(0), i), inside.index_axis(Axis(0), i));
        ndarray::Zip::from(&mut mask)
            .and(&map)
            .and(&inside)
            .for_each(|mask, &value, &inside| *mask = inside && value > thresholds[i]);
    }
    tracing::info!(slices = set.len(), "lesions cut for pasting");
    Ok(Donors::cut(set, &masks)?)
}

/// The same where a training pastes any.
pub(crate) fn donors_for(
    lesion: Option<&PseudoLesion>,
    config: &TeacherConfig,
    set: &SliceSet,
    device: &Device,
) -> Result<Option<Arc<Donors>>> {
    match lesion.and_then(|lesion| lesion.pasted.as_ref()) {
        Some(_) => Ok(Some(Arc::new(donors(config, set, device)?))),
        None => Ok(None),
    }
}
