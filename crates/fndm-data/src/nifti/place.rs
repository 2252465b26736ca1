//! Where the voxels lie: the affine of a header, and a header for an affine.

use super::header::{Header, Version};
use crate::affine::{self, Affine};

/// Why a header's quaternion is no rotation.
pub(super) const BAD_QUATERNION: &str = "b² + c² + d² of at most 1";

impl Header {
    /// The affine in use, in millimetres, whatever the header's units.
    #[must_use]
    pub fn affine_mm(&self) -> Option<Affine> {
        let unit = self.millimetres();
        let mut affine = self.affine()?;
        if unit != 1.0 {
            affine[..3].iter_mut().flatten().for_each(|v| *v *= unit);
        }
        Some(affine)
    }

    /// The affine in use, in the header's own units: the sform if its code is above 0, else the qform if its
    /// code is above 0, else [`Header::base_affine`]. `None` when the qform is needed
    /// and its quaternion is longer than 1.
    #[must_use]
    pub fn affine(&self) -> Option<Affine> {
        if self.sform_code > 0 {
            Some(self.sform_affine())
        } else if self.qform_code > 0 {
            self.qform_affine()
        } else {
            Some(self.base_affine())
        }
    }

    /// The matrix of the sform, whatever its code.
    #[must_use]
    pub fn sform_affine(&self) -> Affine {
        let [x, y, z] = self.sform;
        [x, y, z, [0.0, 0.0, 0.0, 1.0]]
    }

    /// The matrix of the quaternion, whatever its code. `None` when the quaternion is
    /// longer than 1 by more than rounding.
    #[must_use]
    pub fn qform_affine(&self) -> Option<Affine> {
        let [b, c, d] = self.quaternion;
        let rest = 1.0 - (b * b + c * c + d * d);
        // Three times the rounding unit of the stored numbers, as nibabel has it.
        let unit = match self.version {
            Version::One => f64::from(f32::EPSILON),
            Version::Two => f64::EPSILON,
        };
        let a = if rest.abs() < 3.0 * unit {
            0.0
        } else if rest > 0.0 {
            rest.sqrt()
        } else {
            return None;
        };
        let rotation = rotation([a, b, c, d]);
        let steps = self.steps();
        let sign = if self.pixdim[0] == -1.0 { -1.0 } else { 1.0 };
        let scale = [steps[0], steps[1], steps[2] * sign];
        let mut out = affine::diagonal([1.0; 3]);
        for row in 0..3 {
            for column in 0..3 {
                out[row][column] = rotation[row][column] * scale[column];
            }
            out[row][3] = self.qoffset[row];
        }
        Some(out)
    }

    /// The affine of a file that says nothing of its place: steps on the diagonal,
    /// the first axis running to the left, the origin in the middle of the volume.
    #[must_use]
    pub fn base_affine(&self) -> Affine {
        let steps = self.steps();
        let scale = [-steps[0], steps[1], steps[2]];
        let mut out = affine::diagonal(scale);
        for axis in 0..3 {
            let size = self.shape.get(axis).copied().unwrap_or(1);
            out[axis][3] = -(size as f64 - 1.0) / 2.0 * scale[axis];
        }
        out
    }

    /// Steps along the three axes of space, positive.
    fn steps(&self) -> [f64; 3] {
        let zooms = self.zooms();
        std::array::from_fn(|axis| zooms.get(axis).copied().unwrap_or(1.0))
    }

    /// [`affine_mm`](Self::affine_mm) as it is read again from a file of this header: NIfTI-1 has 32-bit floats.
    pub(super) fn stored_affine(&self) -> Option<Affine> {
        if self.version == Version::Two {
            return self.affine_mm();
        }
        let single = |v: f64| f64::from(v as f32);
        let mut stored = self.clone();
        stored.sform = stored.sform.map(|row| row.map(single));
        stored.quaternion = stored.quaternion.map(single);
        stored.qoffset = stored.qoffset.map(single);
        stored.pixdim = stored.pixdim.map(single);
        stored.affine_mm()
    }

    /// Puts the volume elsewhere: the sform takes the matrix, which is in millimetres, the qform is dropped.
    /// The header's units stay.
    pub(super) fn set_affine(&mut self, matrix: &Affine) {
        let unit = self.millimetres();
        self.sform = std::array::from_fn(|row| matrix[row].map(|v| v / unit));
        if self.sform_code <= 0 {
            self.sform_code = 1;
        }
        self.qform_code = 0;
        self.quaternion = [0.0; 3];
        self.qoffset = [0.0; 3];
        self.pixdim[0] = 1.0;
        let steps = affine::spacing(matrix);
        self.pixdim[1..4].copy_from_slice(&steps.map(|step| step / unit));
    }
}

/// The rotation matrix of a quaternion of any length.
fn rotation([w, x, y, z]: [f64; 4]) -> [[f64; 3]; 3] {
    let length = w * w + x * x + y * y + z * z;
    if length < f64::EPSILON {
        return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    }
    let s = 2.0 / length;
    let (sx, sy, sz) = (x * s, y * s, z * s);
    [
        [1.0 - (y * sy + z * sz), x * sy - w * sz, x * sz + w * sy],
        [x * sy + w * sz, 1.0 - (x * sx + z * sz), y * sz - w * sx],
        [x * sz - w * sy, y * sz + w * sx, 1.0 - (x * sx + y * sy)],
    ]
}
