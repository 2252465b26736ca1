//! Numbers of things in words.

/// "1 patient", "3 patients".
///
/// ```
/// assert_eq!(fndm_files::counted(1, "patient"), "1 patient");
/// assert_eq!(fndm_files::counted(0, "slice"), "0 slices");
/// ```
#[must_use]
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
