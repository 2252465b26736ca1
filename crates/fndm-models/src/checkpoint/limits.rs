//! What a reader of files may spend.

use std::path::Path;

use crate::{Error, Result};

/// Bounds on what a checkpoint may ask for. A file that asks for more is an error, before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all tensors together. 16 GiB by default.
    pub tensor_bytes: u64,
    /// Bytes of the file's own description of its tensors. 64 MiB by default.
    pub header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tensor_bytes: 16 << 30,
            header_bytes: 64 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn check_header(self, path: &Path, bytes: u64) -> Result<()> {
        check(path, "the header in bytes", bytes, self.header_bytes)
    }

    pub(crate) fn check_tensors(self, path: &Path, bytes: u64) -> Result<()> {
        check(path, "all tensors in bytes", bytes, self.tensor_bytes)
    }
}

fn check(path: &Path, what: &'static str, got: u64, limit: u64) -> Result<()> {
    if got > limit {
        return Err(Error::Limit {
            path: path.to_owned(),
            what,
            got,
            limit,
        });
    }
    Ok(())
}
