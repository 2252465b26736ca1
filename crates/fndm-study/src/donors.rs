//! Lesions that are cut from training slices, to be pasted into healthy ones.

use std::sync::Arc;

use candle_core::Device;
use fndm::student::volume_thresholds;
use fndm_data::SliceSet;
use fndm_data::corrupt::{Donors, PseudoLesion};
use ndarray::{Array3, Zip};

use crate::Result;
use crate::student::TeacherConfig;
use crate::student::teacher::{
    above, any_contrast, contrast_map, inner_head, product, targets, teachers,
};

/// The lesions of the diseased slices of `set`. No mask is looked at.
///
/// They are what the contrast of other patients marks, by one Otsu threshold a volume; where the other patients are too few to learn
/// from, the contrast of all. A `config` without the contrast, whose teacher is brightness, cuts what that teacher marks.
///
/// # Errors
/// When there are fewer than two healthy or two diseased slices, or nothing is marked in any.
pub fn donors(config: &TeacherConfig, set: &SliceSet, device: &Device) -> Result<Donors> {
    config.check()?;
    set.check()?;
    let masks = match config.contrast_power == 0. && config.intensity_power > 0. {
        true => by_brightness(config, set, device)?,
        false => by_contrast(config, set, device)?,
    };
    tracing::info!(slices = set.len(), "lesions cut for pasting");
    Ok(Donors::cut(set, &masks)?)
}

/// The masks of the teacher, `(N, H, W)`, without a remover, which is what is to be trained.
fn by_brightness(config: &TeacherConfig, set: &SliceSet, device: &Device) -> Result<Array3<bool>> {
    let config = TeacherConfig {
        remover_power: 0.,
        ..config.clone()
    };
    let maps = teachers(&config, None, set, device)?;
    let targets = targets(&config, set, &product(&maps)?)?;
    Ok(targets.target().mapv(|target| target > 0.))
}

/// What the contrast marks, `(N, H, W)`, by its own settings and the head's.
fn by_contrast(config: &TeacherConfig, set: &SliceSet, device: &Device) -> Result<Array3<bool>> {
    let scores = any_contrast(config, set, device)?;
    let map = contrast_map(config, &scores, (&set.patient, &set.z))?;
    let inside = inner_head(config, &set.head);
    let thresholds = volume_thresholds(&map, &inside, &set.patient)?;
    let mut masks = above(&map, &thresholds);
    Zip::from(&mut masks)
        .and(&inside)
        .for_each(|mask, &inside| *mask &= inside);
    Ok(masks)
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
