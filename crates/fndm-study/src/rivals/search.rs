//! The way from a map to a mask that does best: tried on maps of patients that the method hasn't seen.

use fndm::{ThresholdScope, threshold};
use fndm_baselines::PostProcessing;
use fndm_data::PatientSlices;
use fndm_metrics::{Aggregate, Confusion};
use ndarray::{Array3, Axis};
use serde::{Deserialize, Serialize};

use crate::{Case, Result};

/// The settings that are tried, each with each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostGrid {
    /// See [`PostProcessing::smoothing`].
    pub smoothing: Vec<f64>,
    /// See [`PostProcessing::z_smoothing`].
    pub z_smoothing: Vec<f64>,
    /// See [`PostProcessing::head_erosion`].
    pub head_erosion: Vec<usize>,
    /// See [`PostProcessing::map_power`].
    pub map_power: Vec<f64>,
}

impl Default for PostGrid {
    fn default() -> Self {
        Self {
            smoothing: vec![0., 1., 2.],
            z_smoothing: vec![0.7, 1.5],
            head_erosion: vec![3, 5, 7],
            map_power: vec![0.5, 1., 2., 4.],
        }
    }
}

impl PostGrid {
    /// One way alone.
    #[must_use]
    pub fn of(post: &PostProcessing) -> Self {
        Self {
            smoothing: vec![post.smoothing],
            z_smoothing: vec![post.z_smoothing],
            head_erosion: vec![post.head_erosion],
            map_power: vec![post.map_power],
        }
    }

    /// All settings.
    #[must_use]
    pub fn all(&self) -> Vec<PostProcessing> {
        let mut all = Vec::new();
        for &smoothing in &self.smoothing {
            for &z_smoothing in &self.z_smoothing {
                for &head_erosion in &self.head_erosion {
                    for &map_power in &self.map_power {
                        all.push(PostProcessing {
                            smoothing,
                            z_smoothing,
                            head_erosion,
                            map_power,
                            threshold: ThresholdScope::Volume,
                        });
                    }
                }
            }
        }
        all
    }
}

/// A patient, and a method's map of it as it comes.
#[derive(Debug)]
pub struct RawCase<'a> {
    /// The patient's slices, with a mask.
    pub slices: &'a PatientSlices,
    /// The map.
    pub map: Array3<f32>,
    /// Wall time in milliseconds.
    pub milliseconds: f64,
}

/// What one way is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Found {
    /// The way.
    pub post: PostProcessing,
    /// Mean Dice of slices with a lesion, one threshold of Otsu's a slice.
    pub slice: f64,
    /// Mean Dice of volumes, one threshold of Otsu's a volume.
    pub volume: f64,
}

impl Found {
    /// What the best is chosen by: the mean of both.
    #[must_use]
    pub fn mean(&self) -> f64 {
        0.5 * (self.slice + self.volume)
    }
}

/// Scores every way, the best first.
///
/// # Errors
/// When a patient has no mask, or a map isn't finite.
pub fn search(cases: &[RawCase<'_>], grid: &PostGrid) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for post in grid.all() {
        let (mut slice, mut volume) = (Vec::new(), Vec::new());
        for case in cases {
            let truth = Case::truth_of(case.slices)?;
            let mut map = case.map.clone();
            let found = post.apply(&mut map, case.slices)?;
            let by_slice = threshold(map.view(), found.inner_head.view(), ThresholdScope::Slice)?;
            let masks = by_slice.mask.axis_iter(Axis(0));
            for (mask, truth) in masks.zip(truth.axis_iter(Axis(0))) {
                if truth.iter().any(|&t| t) {
                    slice.push(Confusion::of(&mask, &truth)?.dice());
                }
            }
            if truth.iter().any(|&t| t) {
                volume.push(Confusion::of(&found.mask.view(), &truth.view())?.dice());
            }
        }
        let mean = |scores| Aggregate::of(scores).mean.unwrap_or(0.);
        all.push(Found {
            post,
            slice: mean(slice),
            volume: mean(volume),
        });
    }
    all.sort_by(|a, b| b.mean().total_cmp(&a.mean()));
    Ok(all)
}
