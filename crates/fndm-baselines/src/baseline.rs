use std::path::Path;

use candle_core::Tensor;

use crate::Result;

/// A method that has been fitted to healthy slices, and says where others differ from them.
pub trait Baseline: std::fmt::Debug {
    /// The name that tables have it under.
    fn name(&self) -> &'static str;

    /// Slices `(B, C, H, W)`, f32, in [-1, 1], to maps `(B, H, W)`, f32: higher is more anomalous. The scale is the method's own.
    ///
    /// # Errors
    /// When the slices don't fit what it was fitted to.
    fn maps(&self, slices: &Tensor) -> Result<Tensor>;

    /// Whether a slice's map hangs on the slices that are given with it. Then those of a patient, or of a whole set, belong together.
    fn is_relative(&self) -> bool {
        false
    }

    /// One number a slice, as the method defines it: higher is more anomalous.
    ///
    /// # Errors
    /// As [`maps`](Self::maps).
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>>;

    /// Saves it into an existing folder, in files of the method's own names. Weights of a backbone that came from elsewhere are not
    /// among them.
    ///
    /// # Errors
    /// When a file can't be written. What stood there before is then still there.
    fn save(&self, folder: &Path) -> Result<()>;
}
