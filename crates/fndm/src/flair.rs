//! Plain FLAIR thresholding: the rival that any method must beat.

use std::time::Instant;

use fndm_data::PatientSlices;
use fndm_memory::{Edge, gaussian_blur};
use ndarray::{Array3, s};

use crate::anomaly::keep_inside;
use crate::{Error, Result};

/// FLAIR's intensity as an anomaly map, `(N, H, W)`: from 0 (background) to 2, 0 outside the inner head. Returns the
/// map, the inner head, and the time it took in milliseconds.
///
/// # Errors
/// When the slices have no FLAIR.
pub fn flair_map(
    slices: &PatientSlices,
    head_erosion: usize,
    smoothing: f64,
) -> Result<(Array3<f32>, Array3<bool>, f64)> {
    let start = Instant::now();
    let channel = slices.sequences.iter().position(|name| name == "flair");
    let Some(channel) = channel else {
        return Err(Error::Input {
            what: format!("sequences of {}", slices.id),
            expected: "flair among them".into(),
            got: slices.sequences.join(", "),
        });
    };
    let mut map = slices
        .images
        .slice(s![.., channel, .., ..])
        .mapv(|v| v + 1.);
    if smoothing > 0. {
        gaussian_blur(&mut map, smoothing, Edge::Symmetric)?;
    }
    let inner = slices.eroded_head(head_erosion);
    keep_inside(&mut map, &inner);
    Ok((map, inner, start.elapsed().as_secs_f64() * 1e3))
}
