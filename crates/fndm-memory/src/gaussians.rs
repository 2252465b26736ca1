use crate::{Error, Result};

/// A Gaussian at every position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gaussians {
    /// `(positions, C)`.
    pub(crate) mean: Vec<f32>,
    /// `(positions, C, C)`, lower triangular: W^T W is the inverse covariance.
    pub(crate) whitening: Vec<f32>,
}

impl Gaussians {
    /// From f64, in the range of f32.
    pub(crate) fn new(mean: impl Iterator<Item = f64>, whitening: &[f64]) -> Result<Self> {
        let gaussians = Self {
            mean: mean.map(|v| v as f32).collect(),
            whitening: whitening.iter().map(|v| *v as f32).collect(),
        };
        let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
        if finite(&gaussians.mean) && finite(&gaussians.whitening) {
            Ok(gaussians)
        } else {
            Err(Error::non_finite("a Gaussian's mean or covariance", None))
        }
    }

    /// The squared Mahalanobis distance of a feature at a position.
    pub(crate) fn distance(&self, position: usize, x: &[f32]) -> f64 {
        let c = x.len();
        let mean = &self.mean[position * c..][..c];
        let delta: Vec<f32> = x.iter().zip(mean).map(|(x, m)| x - m).collect();
        let w = &self.whitening[position * c * c..][..c * c];
        let squares = w.chunks_exact(c).enumerate().map(|(i, row)| {
            let y: f32 = row[..=i].iter().zip(&delta).map(|(w, d)| w * d).sum();
            f64::from(y) * f64::from(y)
        });
        squares.sum()
    }
}
