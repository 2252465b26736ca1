//! What a reader of files may spend.

use std::path::Path;

use crate::{Error, Result};

/// Bounds on what a checkpoint may ask for. A file that asks for more is an error, before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all tensors together. 16 GiB by default.
    pub tensor_bytes: u64,
    /// Bytes of the file's own description of its tensors, and of what a pickle describes in memory; a tensor takes
    /// about a kilobyte. 32 MiB by default.
    pub header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tensor_bytes: 16 << 30,
            header_bytes: 32 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn check_header(self, path: &Path, bytes: u64) -> Result<()> {
        check(path, "the header in bytes", bytes, self.header_bytes)
    }

    /// For a description whose size is known only when it has been read as far as the limit.
    pub(crate) fn header_exceeded(self, path: &Path) -> Error {
        Error::Limit {
            path: path.to_owned(),
            what: "the description of the tensors in bytes",
            got: self.header_bytes.saturating_add(1),
            limit: self.header_bytes,
        }
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
