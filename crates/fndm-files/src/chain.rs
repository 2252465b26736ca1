//! An error in words: its chain of causes, each once.

use std::error::Error;

/// "a: b: c", from the error to its first cause, for a log, a report or a screen. What a level repeats of the one below is said once,
/// and backtraces that a library puts into its message are cut off.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut levels: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let own = without_backtrace(&error.to_string());
        // A file that two levels name.
        if levels.last().is_some_and(|last| own.starts_with(last)) {
            levels.pop();
        }
        if !own.is_empty() && !levels.iter().any(|level| level.contains(&own)) {
            levels.push(own);
        }
        next = error.source();
    }
    // A level that repeats itself: "x.nii: x.nii: cut short".
    let words = levels.join(": ");
    let mut parts: Vec<&str> = words.split(": ").collect();
    parts.dedup();
    parts.join(": ")
}

/// The lines before the first frame of a backtrace, "   0: main".
fn without_backtrace(text: &str) -> String {
    let is_frame = |line: &&str| {
        let frame = line.trim_start();
        let after = frame.trim_start_matches(|c: char| c.is_ascii_digit());
        frame.len() < line.len() && after.len() < frame.len() && after.starts_with(": ")
    };
    let lines: Vec<&str> = text.lines().take_while(|line| !is_frame(line)).collect();
    lines.join("\n").trim().to_string()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn of(error: &anyhow::Error) -> String {
        chain(error.as_ref())
    }

    #[test]
    fn each_cause_once() {
        let error = anyhow!("no such thing").context("b").context("a");
        assert_eq!(of(&error), "a: b: no such thing");
        let error = anyhow!("no such thing").context("x.nii: no such thing");
        assert_eq!(of(&error), "x.nii: no such thing");
        assert_eq!(of(&anyhow!("x.nii: x.nii: cut short")), "x.nii: cut short");
        let error = anyhow!("cause")
            .context("x.nii: cut short")
            .context("x.nii");
        assert_eq!(of(&error.context("a")), "a: x.nii: cut short: cause");
    }

    #[test]
    fn no_backtrace() {
        let inner = "shape mismatch\n   0: candle_core::error::Error::bt\n             at /x.rs:1\n   1: main";
        assert_eq!(of(&anyhow!(inner).context("a")), "a: shape mismatch");
        // Lists of one's own stay.
        let list = "candidates:\n  model: 3 tensors\n  ema: 3 tensors";
        assert_eq!(of(&anyhow!(list)), list);
    }
}
