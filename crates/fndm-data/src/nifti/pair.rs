//! The two files of a pair.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// File name without, and with only, its last suffix; a final `.gz` is left out.
pub(super) fn stem_and_suffix(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let (stem, suffix) = plain.rsplit_once('.')?;
    Some((stem.to_string(), suffix.to_ascii_lowercase()))
}

/// The other file of a pair: the same name with another suffix, packed or not.
pub(super) fn partner(path: &Path, suffix: &str) -> Result<PathBuf> {
    let missing = |reason: String| Error::NotNifti {
        path: path.to_path_buf(),
        reason,
    };
    let Some((stem, own)) = stem_and_suffix(path) else {
        return Err(missing("the name has no suffix .hdr or .img".into()));
    };
    if own == suffix {
        return Ok(path.to_path_buf());
    }
    if own != "hdr" && own != "img" {
        return Err(missing(format!(
            "the header says that the voxels are in a second file, but the name ends in .{own}, not .hdr"
        )));
    }
    let names = [format!("{stem}.{suffix}"), format!("{stem}.{suffix}.gz")];
    for name in &names {
        let candidate = path.with_file_name(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    Err(missing(format!(
        "the other file of the pair is missing: expected {} or {}",
        names[0], names[1]
    )))
}
