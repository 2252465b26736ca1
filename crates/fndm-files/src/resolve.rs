//! Where a path leads, also when it isn't there yet.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// As many links as Linux follows.
const LINKS: usize = 40;

/// The absolute path without links and `..`. The part that doesn't exist yet is taken as it is written.
///
/// # Errors
/// When a folder on the way can't be looked into, or links go round in a circle.
pub fn resolve(path: impl AsRef<Path>) -> Result<PathBuf> {
    let path = path.as_ref();
    let here = path.as_os_str().is_empty();
    follow(if here { Path::new(".") } else { path }, LINKS)
}

fn follow(path: &Path, links: usize) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(found) => return Ok(found),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io("find", path)(error));
        }
        // The folder that the program was started in was removed.
        Err(error) if path == Path::new(".") => return Err(Error::io("find", path)(error)),
        Err(_) => {}
    }
    // A link whose end doesn't exist yet: what is written goes to that end.
    if let Ok(end) = fs::read_link(path) {
        if links == 0 {
            let error = std::io::Error::other("too many links");
            return Err(Error::io("find", path)(error));
        }
        let from = path.parent().unwrap_or(Path::new(""));
        return follow(&from.join(end), links - 1);
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(Error::io("find", path)(ErrorKind::NotFound.into())),
    };
    let mut found = follow(parent, links)?;
    match path.components().next_back() {
        Some(Component::ParentDir) => {
            found.pop();
        }
        Some(Component::Normal(name)) => found.push(name),
        _ => {}
    }
    Ok(found)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_that_are_not_there_yet() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        symlink(root.join("real"), root.join("link")).unwrap();
        symlink("real/later", root.join("dangling")).unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let real = root.join("real");
        assert_eq!(resolve(root.join("link")).unwrap(), real);
        assert_eq!(resolve(root.join("link/x/y")).unwrap(), real.join("x/y"));
        assert_eq!(resolve(root.join("link/x/../y")).unwrap(), real.join("y"));
        assert_eq!(resolve(root.join("link/./x/.")).unwrap(), real.join("x"));
        assert_eq!(
            resolve(root.join("dangling/x")).unwrap(),
            real.join("later/x")
        );
        assert!(resolve(root.join("a")).is_err());
        let here = std::env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(resolve("not-there").unwrap(), here.join("not-there"));
        assert_eq!(resolve("").unwrap(), here);
    }
}
