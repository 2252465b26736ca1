//! Small text files: read within limits, JSON in and out.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Limits, Result, nifti, open};

/// Reads a text file of at most `limits.text_bytes`.
pub(crate) fn read(path: &Path, limits: &Limits) -> Result<String> {
    let (file, _) = open::open(path)?;
    let mut bytes = Vec::new();
    file.take(limits.text_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    if bytes.len() as u64 > limits.text_bytes {
        return Err(Error::Limit {
            path: path.to_path_buf(),
            what: "size of the text file in bytes",
            limit: limits.text_bytes,
            got: bytes.len() as u64,
        });
    }
    String::from_utf8(bytes).map_err(|error| problem(path, format!("not UTF-8: {error}")))
}

/// Reads a JSON file that holds an object. (A list would be taken by serde as the fields in order.)
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, limits: &Limits) -> Result<T> {
    let text = read(path, limits)?;
    if !text.trim_start().starts_with('{') {
        return Err(problem(
            path,
            "not the JSON that is expected: an object, {...}",
        ));
    }
    serde_json::from_str(&text)
        .map_err(|error| problem(path, format!("not the JSON that is expected: {error}")))
}

/// Writes a JSON file with one item a line, through a temporary name.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| problem(path, error.to_string()))?;
    nifti::write_text(path, &(text + "\n"))
}

/// An error about the contents of a text file.
pub(crate) fn problem(path: &Path, reason: impl Into<String>) -> Error {
    Error::Text {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}
