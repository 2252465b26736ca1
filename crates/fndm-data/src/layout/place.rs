//! A patient's folder, and what the patient is called.

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// A patient's folder with the patient's id.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// What the user calls the patient: `HGG/Brats_001`.
    pub(super) id: String,
    /// The last part of it, with which the names of the files begin: `Brats_001`.
    pub(super) name: String,
    pub(super) path: PathBuf,
}

impl Place {
    /// A folder by itself: its name as given is the id, links not resolved.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        let name = name_of(folder)?;
        Ok(Self {
            id: name.clone(),
            name,
            path: folder.to_path_buf(),
        })
    }

    /// The folder `id` of a data set.
    pub(super) fn below(root: &Path, id: &str) -> Result<Self> {
        if !is_inside(id) {
            let expected = "a path below the data folder, without . and ..";
            return Err(Error::config("patient id", expected, format!("\"{id}\"")));
        }
        Ok(Self {
            id: id.to_string(),
            name: name_of(Path::new(id))?,
            path: root.join(id),
        })
    }
}

/// Whether a patient's id leads to a folder inside the data set: `id` or `group/id`, without `..`.
pub(crate) fn is_inside(id: &str) -> bool {
    let mut parts = Path::new(id).components();
    !id.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// The last part of a path as it is given. A path that ends in `.` or `..` has none: there it is that of
/// the folder meant.
fn name_of(folder: &Path) -> Result<String> {
    let full;
    let name = match folder.file_name() {
        Some(name) => name,
        None => {
            full = folder.canonicalize().map_err(Error::io(folder))?;
            // The root of the file system has no name.
            full.file_name().unwrap_or("patient".as_ref())
        }
    };
    match name.to_str() {
        Some(name) => Ok(name.to_string()),
        None => Err(Error::NotUtf8 {
            path: folder.to_path_buf(),
        }),
    }
}
