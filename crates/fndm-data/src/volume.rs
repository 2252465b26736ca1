//! A volume with its place in space, and a patient as a set of volumes.

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
    /// The header of the file it was read from. It is kept so that a mask can be
    /// written with the same header. `None` for a volume made by a program.
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

/// What is known of one patient: some sequences on one grid and, perhaps, a mask.
#[derive(Debug, Clone, PartialEq)]
pub struct Patient {
    /// Name of the patient, as the folder is called.
    pub id: String,
    /// Sequence name ("flair", "t1", ...) and volume, in the order asked for.
    pub sequences: Vec<(String, Volume)>,
    /// Lesion mask on the same grid: voxels above 0 are lesion.
    pub mask: Option<Volume>,
}

impl Patient {
    /// The volume of one sequence, if the patient has it.
    #[must_use]
    pub fn sequence(&self, name: &str) -> Option<&Volume> {
        self.sequences
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, volume)| volume)
    }
}
