//! The header of a NIfTI file.

/// The header of a NIfTI file, as far as it matters for the image and for writing another one like it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// Number of voxels along each axis, 1 to 7 axes.
    pub shape: Vec<usize>,
}
