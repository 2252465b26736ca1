//! Volumes and lesions, as a page lists them.

use serde::{Deserialize, Serialize};

/// Lesions listed in a page; the rest is counted.
pub(crate) const MOST_LISTED: usize = 20;

/// One connected part of a mask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LesionPart {
    /// Its volume in cubic millimetres.
    pub mm3: f64,
    /// Its lowest slice, counted from 0 at the lower end of the stack.
    pub first_slice: usize,
    /// Its highest slice.
    pub last_slice: usize,
    /// The slice that it is largest in.
    pub largest_slice: usize,
    /// Its centre in scanner space: millimetres to the right, to the front, up.
    pub centre: [f64; 3],
}

/// What is known of one mask, on the grid of the input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Whose mask it is: "mask by student", "truth".
    pub title: String,
    /// Voxels in it.
    pub voxels: usize,
    /// Its volume in cubic millimetres.
    pub mm3: f64,
    /// Its connected parts, the largest first: voxels hang together by faces, edges and corners (26 neighbours).
    pub lesions: Vec<LesionPart>,
    /// Its area in each slice of the viewer, in square millimetres.
    pub areas: Vec<f64>,
}

impl Measure {
    pub(crate) fn largest(&self) -> Option<f64> {
        self.lesions.first().map(|lesion| lesion.mm3)
    }
}

/// A number with as many digits as make sense for it.
#[must_use]
pub fn millimetres(value: f64) -> String {
    match value.abs() {
        v if v >= 100. => format!("{value:.0}"),
        v if v >= 10. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
