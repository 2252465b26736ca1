//! How much a file may ask for.

use serde::{Deserialize, Serialize};

/// Upper bounds for what is read from a file. A file that asks for more is
/// refused with [`Error::Limit`](crate::Error::Limit) before the memory is taken.
///
/// ```
/// use fndm_data::Limits;
/// let limits = Limits { voxels: 1 << 20, ..Limits::default() };
/// assert!(limits.file_bytes > 0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most voxels of one array, all axes multiplied. Default 2^28 (645³; a float32 volume of 1 GiB).
    pub voxels: u64,
    /// Largest file on disk, in bytes. Default 2 GiB.
    pub file_bytes: u64,
    /// Most bytes that a gzip stream may unpack to, header included. Default 2 GiB.
    pub unpacked_bytes: u64,
    /// Most bytes of a text file: splits, manifests, tables of labels. Default 64 MiB.
    pub text_bytes: u64,
    /// Most patients that are listed in one folder. Default 100,000.
    pub patients: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            voxels: 1 << 28,
            file_bytes: 2 << 30,
            unpacked_bytes: 2 << 30,
            text_bytes: 64 << 20,
            patients: 100_000,
        }
    }
}
