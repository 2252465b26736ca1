//! A volume with its place in space.

use ndarray::Array3;

use crate::nifti::Header;

/// One 3-D image on a regular grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Scaled intensities, axes as stored in the file: (i, j, k).
    pub data: Array3<f32>,
    /// Maps voxel indices (i, j, k, 1) to millimetres (x, y, z, 1) in scanner
    /// space: x to the right, y to the front, z up (RAS+).
    pub affine: [[f64; 4]; 4],
    /// The header of the file it was read from, in the file's own dimensions and units. It is kept so that a
    /// mask can be written with the same header. `None` for a volume made by a program.
    pub header: Option<Header>,
}

impl Volume {
    /// A volume that comes from no file.
    ///
    /// ```
    /// use fndm_data::{Volume, affine};
    /// let volume = Volume::new(ndarray::Array3::zeros((4, 5, 6)), affine::diagonal([2.0, 2.0, 5.0]));
    /// assert_eq!(volume.shape(), [4, 5, 6]);
    /// ```
    #[must_use]
    pub fn new(data: Array3<f32>, affine: [[f64; 4]; 4]) -> Self {
        Self {
            data,
            affine,
            header: None,
        }
    }

    /// Number of voxels along the three axes of the array.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        let (i, j, k) = self.data.dim();
        [i, j, k]
    }

    /// Edge lengths of a voxel in millimetres: the lengths of the affine's columns.
    #[must_use]
    pub fn spacing(&self) -> [f64; 3] {
        crate::affine::spacing(&self.affine)
    }

    /// Orientation codes of the three array axes, for example `['L', 'P', 'S']`.
    #[must_use]
    pub fn axis_codes(&self) -> [char; 3] {
        crate::affine::Orientation::of(&self.affine).codes()
    }
}
