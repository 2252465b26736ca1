use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::{Error, Result};

/// A log of one JSON object a line.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the log at `path` for a run that has made `iteration` iterations.
    ///
    /// Lines of later iterations, left by a session that ended after its last checkpoint, are removed; so is a half-written one.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub fn open(path: &Path, iteration: u64) -> Result<Self> {
        if path.exists() {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let mut kept = Vec::new();
            for line in BufReader::new(file).lines() {
                let line = line.map_err(|e| Error::io(path, e))?;
                let made = serde_json::from_str::<serde_json::Value>(&line)
                    .ok()
                    .and_then(|value| value.get("iteration")?.as_u64());
                if made.is_some_and(|made| made <= iteration) {
                    kept.extend_from_slice(line.as_bytes());
                    kept.push(b'\n');
                }
            }
            fndm_files::write_atomic(path, kept)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Error::io(path, e))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends one line. An object with a field `iteration` survives [`open`](Self::open).
    ///
    /// # Errors
    /// When the disk is full, for one.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)
            .map_err(|e| Error::io(&self.path, std::io::Error::other(e)))?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|e| Error::io(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_checkpoint_and_half_lines_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let line = |i: u64| serde_json::json!({ "iteration": i, "loss": 0.5 });
        let mut log = JsonLines::open(&path, 0).unwrap();
        (1..=4).for_each(|i| log.write(&line(i)).unwrap());
        // What a killed process leaves behind.
        log.file.write_all(b"{\"iteration\": 3, \"lo").unwrap();
        let mut log = JsonLines::open(&path, 2).unwrap();
        log.write(&line(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: String = (1..=3).map(|i| format!("{}\n", line(i))).collect();
        assert_eq!(text, expected);
    }
}
