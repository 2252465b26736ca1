//! Lists of patients.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail, ensure};

/// No list is longer.
const LONGEST: u64 = 64 << 20;

/// The patients of a list: one a line, but for empty lines and those that begin with `#`.
///
/// # Errors
/// When the file can't be read, isn't UTF-8, names nobody, or somebody twice: the error has the line.
pub(crate) fn read(path: &Path) -> Result<Vec<String>> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("--list {shown}"))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("--list {shown}"))?;
    ensure!(
        bytes.len() as u64 <= LONGEST,
        "--list {shown}: expected at most {LONGEST} bytes"
    );
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("--list {shown}: expected UTF-8, a patient a line");
    };
    // As editors of other systems begin a file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // A folder's path may end in a slash, as shells complete it.
        let name = match line.trim_end_matches('/') {
            "" => line,
            name => name,
        };
        ensure!(
            seen.insert(name.to_owned()),
            "--list {shown}, line {}: {name} a second time",
            number + 1
        );
        all.push(name.to_owned());
    }
    ensure!(
        !all.is_empty(),
        "--list {shown}: expected a patient a line, found none"
    );
    Ok(all)
}

/// An id leads to a folder inside the output. Names that begin with a dot are those of results on their way.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let mut parts = Path::new(id).components();
    let inside = parts.all(|part| {
        matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"."))
    });
    // Control characters would break the lines of tables and of what is told.
    let plain = !id.is_empty()
        && !id.ends_with('/')
        && !id.contains("//")
        && !id.contains(char::is_control);
    ensure!(
        inside && plain,
        "expected a name, or names with / between them, none of which has control characters or begins with a dot, got {id:?}"
    );
    Ok(())
}

/// No two patients share a place, and none lies inside another's.
pub(crate) fn check_apart<'a>(all: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut ids = BTreeSet::new();
    for id in all {
        ensure!(ids.insert(id), "two patients of the id {id}");
    }
    for id in &ids {
        let above = Path::new(id).ancestors().skip(1).filter_map(Path::to_str);
        if let Some(outer) = above.into_iter().find(|outer| ids.contains(outer)) {
            bail!("the results of patient {id} would lie inside those of patient {outer}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn a_patient_a_line() {
        let text = b"\xef\xbb\xbfp2\r\n\n# not p3\n  data/p 1/ \nHGG/b";
        assert_eq!(of(text).unwrap(), ["p2", "data/p 1", "HGG/b"]);
    }

    #[test]
    fn what_is_no_list_is_told() {
        let error = |bytes: &[u8]| of(bytes).unwrap_err().to_string();
        assert!(error(b"").contains("found none"));
        assert!(error(b"p1\np2\np1/\n").contains("line 3: p1"));
        assert!(error(b"p\xff1\n").contains("UTF-8"));
        assert!(read(Path::new("/nowhere/list")).is_err());
    }

    /// Results on their way have such names, and would be taken for them.
    #[test]
    fn ids_are_no_names_of_ours() {
        for good in ["p1", "HGG/Brats_001", "1.3.6.101", "a b"] {
            check_id(good).unwrap();
        }
        for bad in [
            "",
            "/p",
            "p/",
            "a//b",
            "../p",
            "a/../b",
            ".p.12.tmp",
            ".fndm.json",
            "a/.b",
            "a\nb",
            "a\u{1b}[2Jb",
        ] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
