/// A Gaussian at every position.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gaussians {
    /// `(positions, C)`.
    pub(crate) mean: Vec<f32>,
    /// `(positions, C, C)`, lower triangular: W^T W is the inverse covariance.
    pub(crate) whitening: Vec<f32>,
}

impl Gaussians {
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
