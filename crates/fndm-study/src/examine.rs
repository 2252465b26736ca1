//! A method over a cohort: the cases that an evaluation scores.

use fndm::{DetectConfig, Detector, Method, SliceMaps};
use fndm_data::{PatientSlices, Volume};
use ndarray::Array3;

use crate::{Case, Result};

/// What one method says of one patient.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MethodMap {
    /// The anomaly map, `(N, H, W)`; higher is more anomalous.
    pub anomaly: Array3<f32>,
    /// Where the map counts: the head without its rim, `(N, H, W)`.
    pub inner_head: Array3<bool>,
    /// The mask by the method's own rule, `(N, H, W)`.
    pub mask: Array3<bool>,
    /// The threshold of each slice that gave the mask; empty where it didn't come about so.
    pub thresholds: Vec<f32>,
    /// How likely each slice is diseased, where the model has a student.
    pub diseased: Option<Vec<f64>>,
    /// Wall time in milliseconds.
    pub milliseconds: f64,
    /// All maps of a method with networks; `None` for the others, which have no more than the anomaly map.
    pub maps: Option<SliceMaps>,
}

impl MethodMap {
    /// The mask on the grid of the patient's files, as `detect` writes it: see [`SliceMaps::to_mask`].
    ///
    /// # Errors
    /// When it is of other slices.
    pub fn to_mask(&self, slices: &PatientSlices) -> Result<Volume> {
        Ok(slices.to_mask_above(&self.anomaly, &self.thresholds, &self.mask)?)
    }

    /// What a method without networks says: a map, where it counts, and its mask, each `(N, H, W)`.
    #[must_use]
    pub fn plain(
        anomaly: Array3<f32>,
        inner_head: Array3<bool>,
        mask: Array3<bool>,
        milliseconds: f64,
    ) -> Self {
        Self {
            anomaly,
            inner_head,
            mask,
            thresholds: Vec::new(),
            diseased: None,
            milliseconds,
            maps: None,
        }
    }
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
    let maps = detector.examine_by(method, slices, config, progress)?;
    Ok(MethodMap {
        anomaly: maps.anomaly.clone(),
        inner_head: maps.inner_head.clone(),
        mask: maps.mask.clone(),
        thresholds: maps.thresholds.clone(),
        diseased: maps.diseased.clone(),
        milliseconds: maps.milliseconds,
        maps: (!matches!(method, Method::Flair | Method::Memory)).then_some(maps),
    })
}

/// Examines one patient by one method, for a comparison with the truth. The second value is `None` for methods without networks,
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
    // Before the computing.
    Case::truth_of(slices)?;
    let found = method_map(detector, method, config, slices, progress)?;
    Ok((Case::new(slices, &found)?, found.maps))
}
