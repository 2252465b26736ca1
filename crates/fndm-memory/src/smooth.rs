use ndarray::Array3;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The Gaussian that smooths a score map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Smoothing {
    /// None.
    Off,
    /// Sigma in pixels, whatever the image's size.
    Pixels(f64),
    /// Sigma in pixels of an image whose longer side is 256, scaled with that side: 4 there is 1 at 64.
    At256(f64),
}

impl Smoothing {
    /// Whether sigma makes sense.
    ///
    /// # Errors
    /// When it isn't within [0, 256].
    pub fn check(self) -> Result<()> {
        match self {
            Self::Pixels(sigma) | Self::At256(sigma) if !(0.0..=256.0).contains(&sigma) => {
                Err(Error::config(
                    "coarse.smoothing",
                    format!("expected 0 to 256, got {sigma}"),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Sigma in pixels for images of this size; 0 is no smoothing.
    #[must_use]
    pub fn sigma(self, size: (usize, usize)) -> f64 {
        match self {
            Self::Off => 0.0,
            Self::Pixels(sigma) => sigma,
            Self::At256(sigma) => sigma * size.0.max(size.1) as f64 / 256.0,
        }
    }
}

/// What lies beyond the edge of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Edge {
    /// The map mirrored, the edge repeated: `c b a | a b c`.
    Symmetric,
    /// The map mirrored, the edge not repeated: `c b | a b c`.
    Reflect,
}

impl Edge {
    /// The cell that stands for position `i`, which may lie far outside of `0..n`.
    fn cell(self, i: isize, n: usize) -> usize {
        let n = n as isize;
        let period = match self {
            Self::Symmetric => 2 * n,
            Self::Reflect => (2 * n - 2).max(1),
        };
        let at = i.rem_euclid(period);
        let mirrored = match self {
            Self::Symmetric => period - 1 - at,
            Self::Reflect => period - at,
        };
        (if at < n { at } else { mirrored }) as usize
    }
}

/// Smooths planes `(B, H, W)` with a Gaussian cut at 4 sigma. A sigma of 0 leaves them as they are.
///
/// # Errors
/// When sigma is negative, NaN or above 4096 pixels.
pub fn gaussian_blur(planes: &mut Array3<f32>, sigma: f64, edge: Edge) -> Result<()> {
    if !(0.0..=4096.0).contains(&sigma) {
        return Err(Error::config(
            "sigma",
            format!("expected 0 to 4096 pixels, got {sigma}"),
        ));
    }
    let (_, h, w) = planes.dim();
    if sigma == 0.0 || h * w == 0 {
        return Ok(());
    }
    let radius = (4.0 * sigma + 0.5) as isize;
    let mut kernel: Vec<f64> = (-radius..=radius)
        .map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp())
        .collect();
    let sum: f64 = kernel.iter().sum();
    for v in &mut kernel {
        *v /= sum;
    }
    let kernel: Vec<f32> = kernel.iter().map(|&v| v as f32).collect();
    if !planes.is_standard_layout() {
        *planes = planes.as_standard_layout().into_owned();
    }
    if let Some(values) = planes.as_slice_mut() {
        values.par_chunks_mut(h * w).for_each(|plane| {
            let rows: Vec<f32> = plane.to_vec();
            for (y, out) in plane.chunks_exact_mut(w).enumerate() {
                out.fill(0.0);
                for (k, i) in kernel.iter().zip(-radius..) {
                    let row = edge.cell(y as isize + i, h);
                    for (o, v) in out.iter_mut().zip(&rows[row * w..][..w]) {
                        *o += k * v;
                    }
                }
            }
            let mut padded = vec![0f32; w + 2 * radius as usize];
            for row in plane.chunks_exact_mut(w) {
                for (p, i) in padded.iter_mut().zip(-radius..) {
                    *p = row[edge.cell(i, w)];
                }
                row.fill(0.0);
                for (i, k) in kernel.iter().enumerate() {
                    for (o, v) in row.iter_mut().zip(&padded[i..]) {
                        *o += k * v;
                    }
                }
            }
        });
    }
    Ok(())
}
