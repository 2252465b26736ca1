//! What was found: one line each on the screen, one JSON object each in the file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

#[derive(Debug)]
pub(crate) struct Report {
    file: Option<File>,
    checks: usize,
    failed: Vec<String>,
}

impl Report {
    pub(crate) fn new(path: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        Ok(Self {
            file: path.map(create).transpose()?,
            checks: 0,
            failed: Vec::new(),
        })
    }

    /// One comparison: an error and its bound.
    pub(crate) fn check(&mut self, name: &str, error: f64, bound: f64) -> Result<()> {
        // A NaN is a failure too.
        let ok = error <= bound;
        self.checks += 1;
        println!(
            "{} {name}: {error:.1e} (bound {bound:.0e})",
            if ok { "ok    " } else { "FAILED" }
        );
        if !ok {
            self.failed.push(name.to_string());
        }
        self.write(&json!({"check": name, "error": error, "bound": bound, "ok": ok}))
    }

    /// One timing: milliseconds of each repetition.
    pub(crate) fn timing(&mut self, case: &str, setting: &str, times: &mut [f64]) -> Result<()> {
        times.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (times.first(), times.last()) else {
            return Ok(());
        };
        let median = times[times.len() / 2];
        println!("time   {case}, {setting}: {median:.2} ms ({min:.2} to {max:.2})");
        self.write(&json!({
            "side": "ours", "case": case, "setting": setting, "ms": median, "min": min, "max": max,
        }))
    }

    fn write(&mut self, value: &serde_json::Value) -> Result<()> {
        if let Some(file) = &mut self.file {
            writeln!(file, "{value}")?;
        }
        Ok(())
    }

    /// Whether all is well.
    pub(crate) fn finish(&self) -> bool {
        println!("{} checks, {} failed", self.checks, self.failed.len());
        for name in &self.failed {
            println!("FAILED {name}");
        }
        self.failed.is_empty()
    }
}
