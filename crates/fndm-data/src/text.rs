//! Small text files: read within limits, JSON in and out.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Limits, Result, open};

/// Reads a text file of at most `limits.text_bytes`, in UTF-8. A byte order mark in front, as Windows programs
/// write it, is left out.
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
    decode(bytes).map_err(|reason| problem(path, reason))
}

fn decode(mut bytes: Vec<u8>) -> std::result::Result<String, String> {
    match bytes.as_slice() {
        [0xef, 0xbb, 0xbf, ..] => drop(bytes.drain(..3)),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err("the text is in UTF-16: save it as UTF-8".into());
        }
        _ => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .split(|byte| *byte == b'\n')
            .count();
        format!("line {line}: not UTF-8: save the text as UTF-8")
    })
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
    serde_json::from_str(&text).map_err(json(path))
}

fn json(path: &Path) -> impl FnOnce(serde_json::Error) -> Error + '_ {
    move |source| Error::Json {
        path: path.to_path_buf(),
        source: source.into(),
    }
}

/// An error about the contents of a text file.
pub(crate) fn problem(path: &Path, reason: impl Into<String>) -> Error {
    Error::Text {
        path: path.to_path_buf(),
        reason: reason.into(),
    }
}
