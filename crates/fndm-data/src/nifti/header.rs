//! The header of a NIfTI file: parsed, checked, and written again.

use std::path::Path;

use super::bytes::{Fields, Sheet};
use super::datatype::{DataType, code_name};
use crate::{Error, Result};

/// Bytes of a NIfTI-1 header.
pub(super) const SIZE_1: usize = 348;
/// Bytes of a NIfTI-2 header.
pub(super) const SIZE_2: usize = 540;

const MAGIC_2_TAIL: [u8; 5] = [0, b'\r', b'\n', 0x1a, b'\n'];

/// Which of the two formats a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// NIfTI-1: 348 bytes, 16-bit sizes, 32-bit floats.
    One,
    /// NIfTI-2: 540 bytes, 64-bit sizes and floats.
    Two,
}

/// The header of a NIfTI file. Fields hold what the file says, in the widest type
/// of the two formats; the methods give what is used.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Header {
    /// Format.
    pub version: Version,
    /// Whether the voxels are in a second file (`.img`).
    pub pair: bool,
    /// Whether numbers are stored most significant byte first.
    pub big_endian: bool,
    /// Number of voxels along each axis, 1 to 7 axes.
    pub shape: Vec<usize>,
    /// How a voxel is stored.
    pub datatype: DataType,
    /// `pixdim`: the sign of the quaternion's third axis, then the step along each axis, in the units of
    /// [`xyzt_units`](Self::xyzt_units).
    pub pixdim: [f64; 8],
    /// First byte of the voxels in the file that holds them.
    pub vox_offset: u64,
    /// `scl_slope` as in the file. See [`Header::scaling`].
    pub scl_slope: f64,
    /// `scl_inter` as in the file.
    pub scl_inter: f64,
    /// Highest and lowest value for display; 0 and 0 mean not set.
    pub cal: [f64; 2],
    /// Meaning of the quaternion's space; 0 means there is none.
    pub qform_code: i32,
    /// Meaning of the matrix's space; 0 means there is none.
    pub sform_code: i32,
    /// Quaternion b, c, d.
    pub quaternion: [f64; 3],
    /// Offset of the quaternion's space.
    pub qoffset: [f64; 3],
    /// The matrix, three rows.
    pub sform: [[f64; 4]; 3],
    /// Units of space (lower three bits) and time.
    pub xyzt_units: i32,
    /// What the values mean; 0 for an image.
    pub intent_code: i32,
    /// `slice_start`, `slice_end`, `slice_code`: order of acquisition.
    pub slices: [i64; 3],
    /// `slice_duration` and `toffset`.
    pub timing: [f64; 2],
    /// Which axes are frequency, phase and slice.
    pub dim_info: u8,
    /// Free text.
    pub description: [u8; 80],
}

impl Header {
    /// Reads the format and the byte order from the first bytes of a file.
    /// `None` when they are neither format in either order.
    pub(super) fn sniff(start: [u8; 4]) -> Option<(Version, bool)> {
        match (i32::from_le_bytes(start), i32::from_be_bytes(start)) {
            (348, _) => Some((Version::One, false)),
            (_, 348) => Some((Version::One, true)),
            (540, _) => Some((Version::Two, false)),
            (_, 540) => Some((Version::Two, true)),
            _ => None,
        }
    }

    /// Parses and checks a header of the given format. `bytes` holds all of it.
    pub(super) fn parse(
        bytes: &[u8],
        version: Version,
        big_endian: bool,
        path: &Path,
    ) -> Result<Self> {
        let fields = Fields::new(bytes, big_endian);
        let pair = magic(&fields, version, path)?;
        let raw = match version {
            Version::One => Raw::one(&fields),
            Version::Two => Raw::two(&fields),
        };
        let invalid = |field: &'static str, expected: String, got: String| Error::InvalidHeader {
            path: path.to_path_buf(),
            field,
            expected,
            got,
        };
        let axes = match usize::try_from(raw.dim[0]) {
            Ok(axes @ 1..=7) => axes,
            _ => return Err(invalid("dim[0]", "1 to 7".into(), raw.dim[0].to_string())),
        };
        let mut shape = Vec::with_capacity(axes);
        for &size in &raw.dim[1..=axes] {
            match usize::try_from(size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => {
                    let expected = "sizes of at least 1".into();
                    let got = format!("{:?}", &raw.dim[1..=axes]);
                    return Err(invalid("dim", expected, got));
                }
            }
        }
        let Some(datatype) = DataType::from_code(raw.datatype) else {
            return Err(Error::Unsupported {
                path: path.to_path_buf(),
                what: "data type",
                got: format!("code {} ({})", raw.datatype, code_name(raw.datatype)),
            });
        };
        let bits = datatype.size() * 8;
        if i64::from(raw.bitpix) != bits as i64 {
            let expected = format!("{bits} for data type {datatype:?}");
            return Err(invalid("bitpix", expected, raw.bitpix.to_string()));
        }
        let least = match (pair, version) {
            (true, _) => 0.0,
            (false, Version::One) => (SIZE_1 + 4) as f64,
            (false, Version::Two) => (SIZE_2 + 4) as f64,
        };
        // 2^53: whole numbers up to there are exact in f64.
        if !(raw.vox_offset >= least && raw.vox_offset < 9_007_199_254_740_992.0) {
            let expected = format!("at least {least}");
            return Err(invalid("vox_offset", expected, raw.vox_offset.to_string()));
        }
        let header = Self {
            version,
            pair,
            big_endian,
            shape,
            datatype,
            pixdim: raw.pixdim,
            vox_offset: raw.vox_offset as u64,
            scl_slope: raw.scl_slope,
            scl_inter: raw.scl_inter,
            cal: raw.cal,
            qform_code: raw.qform_code,
            sform_code: raw.sform_code,
            quaternion: raw.quaternion,
            qoffset: raw.qoffset,
            sform: raw.sform,
            xyzt_units: raw.xyzt_units,
            intent_code: raw.intent_code,
            slices: raw.slices,
            timing: raw.timing,
            dim_info: raw.dim_info,
            description: raw.description,
        };
        header.scaling_checked(path)?;
        Ok(header)
    }

    /// A header for a volume that comes from no file: NIfTI-1, one file.
    pub(super) fn fresh(shape: &[usize], datatype: DataType) -> Self {
        Self {
            version: Version::One,
            pair: false,
            big_endian: false,
            shape: shape.to_vec(),
            datatype,
            pixdim: [1.0; 8],
            vox_offset: (SIZE_1 + 4) as u64,
            scl_slope: 1.0,
            scl_inter: 0.0,
            cal: [0.0; 2],
            qform_code: 0,
            sform_code: 0,
            quaternion: [0.0; 3],
            qoffset: [0.0; 3],
            sform: [[0.0; 4]; 3],
            xyzt_units: 2,
            intent_code: 0,
            slices: [0; 3],
            timing: [0.0; 2],
            dim_info: 0,
            description: [0; 80],
        }
    }

    /// Number of voxels; `None` when it does not fit 64 bits.
    #[must_use]
    pub fn voxels(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1u64, |product, &size| product.checked_mul(size as u64))
    }

    /// Slope and intercept to apply, or `None` for no scaling: a slope of 0, NaN or
    /// infinity means that there is none, and the intercept is ignored then (as nibabel does).
    #[must_use]
    pub fn scaling(&self) -> Option<(f64, f64)> {
        if self.scl_slope == 0.0 || !self.scl_slope.is_finite() {
            return None;
        }
        Some((self.scl_slope, self.scl_inter))
    }

    fn scaling_checked(&self, path: &Path) -> Result<()> {
        match self.scaling() {
            Some((_, inter)) if !inter.is_finite() => Err(Error::InvalidHeader {
                path: path.to_path_buf(),
                field: "scl_inter",
                expected: "a finite number".into(),
                got: inter.to_string(),
            }),
            _ => Ok(()),
        }
    }

    /// Millimetres in the header's unit of space: 1000 for metres, 0.001 for microns, 1 for millimetres and
    /// where no unit is said. The bits of `xyzt_units` that tell the unit of time play no part.
    #[must_use]
    pub fn millimetres(&self) -> f64 {
        match self.xyzt_units & 7 {
            1 => 1000.0,
            3 => 0.001,
            _ => 1.0,
        }
    }

    /// Step along each axis in the header's own units, from `pixdim`: negative steps are made positive, and 0 becomes 1.
    #[must_use]
    pub fn zooms(&self) -> Vec<f64> {
        self.pixdim[1..]
            .iter()
            .take(self.shape.len())
            .map(|&step| if step == 0.0 { 1.0 } else { step.abs() })
            .collect()
    }

    /// The header's bytes, least significant first, with the four bytes that say "no extension".
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self.version {
            Version::One => self.to_bytes_1(),
            Version::Two => self.to_bytes_2(),
        }
    }

    fn to_bytes_1(&self) -> Vec<u8> {
        let mut sheet = Sheet(vec![0; SIZE_1 + 4]);
        sheet.i32(0, SIZE_1 as i32);
        sheet.put(38, b"r");
        sheet.put(39, &[self.dim_info]);
        sheet.i16(40, self.shape.len() as i16);
        for axis in 0..7 {
            let size = self.shape.get(axis).copied().unwrap_or(1);
            sheet.i16(42 + 2 * axis, size as i16);
        }
        sheet.i16(68, self.intent_code as i16);
        sheet.i16(70, self.datatype.code());
        sheet.i16(72, (self.datatype.size() * 8) as i16);
        sheet.i16(74, self.slices[0] as i16);
        for (n, &step) in self.pixdim.iter().enumerate() {
            sheet.f32(76 + 4 * n, step);
        }
        sheet.f32(108, (SIZE_1 + 4) as f64);
        sheet.f32(112, self.scl_slope);
        sheet.f32(116, self.scl_inter);
        sheet.i16(120, self.slices[1] as i16);
        sheet.put(122, &[self.slices[2] as u8, self.xyzt_units as u8]);
        sheet.f32(124, self.cal[0]);
        sheet.f32(128, self.cal[1]);
        sheet.f32(132, self.timing[0]);
        sheet.f32(136, self.timing[1]);
        sheet.put(148, &self.description);
        sheet.i16(252, self.qform_code as i16);
        sheet.i16(254, self.sform_code as i16);
        for n in 0..3 {
            sheet.f32(256 + 4 * n, self.quaternion[n]);
            sheet.f32(268 + 4 * n, self.qoffset[n]);
        }
        for (n, &value) in self.sform.iter().flatten().enumerate() {
            sheet.f32(280 + 4 * n, value);
        }
        sheet.put(344, b"n+1\0");
        sheet.0
    }

    fn to_bytes_2(&self) -> Vec<u8> {
        let mut sheet = Sheet(vec![0; SIZE_2 + 4]);
        sheet.i32(0, SIZE_2 as i32);
        sheet.put(4, b"n+2");
        sheet.put(7, &MAGIC_2_TAIL);
        sheet.i16(12, self.datatype.code());
        sheet.i16(14, (self.datatype.size() * 8) as i16);
        sheet.i64(16, self.shape.len() as i64);
        for axis in 0..7 {
            let size = self.shape.get(axis).copied().unwrap_or(1);
            sheet.i64(24 + 8 * axis, size as i64);
        }
        for (n, &step) in self.pixdim.iter().enumerate() {
            sheet.f64(104 + 8 * n, step);
        }
        sheet.i64(168, (SIZE_2 + 4) as i64);
        sheet.f64(176, self.scl_slope);
        sheet.f64(184, self.scl_inter);
        sheet.f64(192, self.cal[0]);
        sheet.f64(200, self.cal[1]);
        sheet.f64(208, self.timing[0]);
        sheet.f64(216, self.timing[1]);
        sheet.i64(224, self.slices[0]);
        sheet.i64(232, self.slices[1]);
        sheet.put(240, &self.description);
        sheet.i32(344, self.qform_code);
        sheet.i32(348, self.sform_code);
        for n in 0..3 {
            sheet.f64(352 + 8 * n, self.quaternion[n]);
            sheet.f64(376 + 8 * n, self.qoffset[n]);
        }
        for (n, &value) in self.sform.iter().flatten().enumerate() {
            sheet.f64(400 + 8 * n, value);
        }
        sheet.i32(496, self.slices[2] as i32);
        sheet.i32(500, self.xyzt_units);
        sheet.i32(504, self.intent_code);
        sheet.put(524, &[self.dim_info]);
        sheet.0
    }
}

/// Checks the magic string; returns whether the voxels are in a second file.
fn magic(fields: &Fields<'_>, version: Version, path: &Path) -> Result<bool> {
    let found: [u8; 8] = match version {
        Version::One => {
            let four: [u8; 4] = fields.raw(344);
            let mut out = [0; 8];
            out[..4].copy_from_slice(&four);
            out
        }
        Version::Two => fields.raw(4),
    };
    let tail_ok = version == Version::One || found[3..] == MAGIC_2_TAIL;
    match (&found[..4], version, tail_ok) {
        (b"n+1\0", Version::One, _) | (b"n+2\0", Version::Two, true) => Ok(false),
        (b"ni1\0", Version::One, _) | (b"ni2\0", Version::Two, true) => Ok(true),
        _ => Err(Error::NotNifti {
            path: path.to_path_buf(),
            reason: format!(
                "the magic string is \"{}\", expected n+1 or ni1 (NIfTI-1), n+2 or ni2 (NIfTI-2)",
                found.escape_ascii()
            ),
        }),
    }
}

/// The fields of either format, before any check.
struct Raw {
    dim: [i64; 8],
    datatype: i16,
    bitpix: i16,
    pixdim: [f64; 8],
    vox_offset: f64,
    scl_slope: f64,
    scl_inter: f64,
    cal: [f64; 2],
    qform_code: i32,
    sform_code: i32,
    quaternion: [f64; 3],
    qoffset: [f64; 3],
    sform: [[f64; 4]; 3],
    xyzt_units: i32,
    intent_code: i32,
    slices: [i64; 3],
    timing: [f64; 2],
    dim_info: u8,
    description: [u8; 80],
}

impl Raw {
    fn one(f: &Fields<'_>) -> Self {
        Self {
            dim: std::array::from_fn(|n| i64::from(f.i16(40 + 2 * n))),
            datatype: f.i16(70),
            bitpix: f.i16(72),
            pixdim: std::array::from_fn(|n| f.f32(76 + 4 * n)),
            vox_offset: f.f32(108),
            scl_slope: f.f32(112),
            scl_inter: f.f32(116),
            cal: [f.f32(124), f.f32(128)],
            qform_code: i32::from(f.i16(252)),
            sform_code: i32::from(f.i16(254)),
            quaternion: std::array::from_fn(|n| f.f32(256 + 4 * n)),
            qoffset: std::array::from_fn(|n| f.f32(268 + 4 * n)),
            sform: std::array::from_fn(|r| std::array::from_fn(|c| f.f32(280 + 16 * r + 4 * c))),
            xyzt_units: i32::from(f.u8(123)),
            intent_code: i32::from(f.i16(68)),
            slices: [
                i64::from(f.i16(74)),
                i64::from(f.i16(120)),
                i64::from(f.u8(122)),
            ],
            timing: [f.f32(132), f.f32(136)],
            dim_info: f.u8(39),
            description: f.raw(148),
        }
    }

    fn two(f: &Fields<'_>) -> Self {
        Self {
            dim: std::array::from_fn(|n| f.i64(16 + 8 * n)),
            datatype: f.i16(12),
            bitpix: f.i16(14),
            pixdim: std::array::from_fn(|n| f.f64(104 + 8 * n)),
            vox_offset: f.i64(168) as f64,
            scl_slope: f.f64(176),
            scl_inter: f.f64(184),
            cal: [f.f64(192), f.f64(200)],
            qform_code: f.i32(344),
            sform_code: f.i32(348),
            quaternion: std::array::from_fn(|n| f.f64(352 + 8 * n)),
            qoffset: std::array::from_fn(|n| f.f64(376 + 8 * n)),
            sform: std::array::from_fn(|r| std::array::from_fn(|c| f.f64(400 + 32 * r + 8 * c))),
            xyzt_units: f.i32(500),
            intent_code: f.i32(504),
            slices: [f.i64(224), f.i64(232), i64::from(f.i32(496))],
            timing: [f.f64(208), f.f64(216)],
            dim_info: f.u8(524),
            description: f.raw(240),
        }
    }
}
