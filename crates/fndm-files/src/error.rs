use std::path::{Path, PathBuf};

/// Why something isn't written. `Display` says what this level knows; `source()` has the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried: "write", "read", …
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A value has no JSON form, or a file isn't the JSON it should be.
    #[error("{}: not a valid {what}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the file should hold.
        what: &'static str,
        /// What the parser said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A folder that exists, isn't empty and bears no marker of ours.
    #[error(
        "{}: this folder holds files that fndm did not write, and is left as it is; name a new folder",
        folder.display()
    )]
    NotOurs {
        /// The folder.
        folder: PathBuf,
    },
    /// Our folder, with a file that isn't ours.
    #[error(
        "{}: the folder of an earlier result holds {file}, which fndm did not write; move that file away, or name another folder",
        folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// The file, below the folder.
        file: String,
    },
    /// Our folder, with a file that was changed after we wrote it.
    #[error(
        "{}: {file} of the earlier result was changed since it was written; move it away, or name another folder",
        folder.display()
    )]
    Changed {
        /// The folder.
        folder: PathBuf,
        /// The file, below the folder.
        file: String,
    },
    /// Our folder, of another program or another patient.
    #[error(
        "{}: this folder holds the result of {holds}, and is not replaced by that of {wanted}; name another folder",
        folder.display()
    )]
    OtherResult {
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        holds: String,
        /// What was to be written.
        wanted: String,
    },
    /// The output is an input.
    #[error("the output {} is the input {}; name another place", output.display(), input.display())]
    IsInput {
        /// The output, as it was given.
        output: PathBuf,
        /// The input, as it was given.
        input: PathBuf,
    },
    /// The output would take the place of a folder that an input lies in.
    #[error("the output {} holds the input {}; name another place", output.display(), input.display())]
    HoldsInput {
        /// The output, as it was given.
        output: PathBuf,
        /// The input, as it was given.
        input: PathBuf,
    },
    /// The output would change what an input holds.
    #[error("the output {} lies inside the input {}; name another place", output.display(), input.display())]
    InsideInput {
        /// The output, as it was given.
        output: PathBuf,
        /// The input, as it was given.
        input: PathBuf,
    },
    /// The output lies inside an earlier result.
    #[error("the output {} lies inside the result {}; name another place", output.display(), result.display())]
    InsideResult {
        /// The output, as it was given.
        output: PathBuf,
        /// The folder that bears a marker.
        result: PathBuf,
    },
    /// A file that exists, where overwriting wasn't asked for.
    #[error("{}: the file exists; give --overwrite to replace it, or name another", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A file where a folder is needed.
    #[error("{}: expected a folder, found a file", path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A folder where a file is to be written.
    #[error("{}: expected the name of a file, found a folder", path.display())]
    NotAFile {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that can't be renamed.
    #[error("{}: a mount point can't be replaced; name a folder inside it", path.display())]
    MountPoint {
        /// The folder.
        path: PathBuf,
    },
    /// Another process writes there.
    #[error("{}: another process is writing this output", path.display())]
    Busy {
        /// The output.
        path: PathBuf,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Puts what was tried and the path before what the system said.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// For `map_err`: `path` isn't the JSON of a `what`.
    pub fn json<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        path: &Path,
        what: &'static str,
    ) -> impl FnOnce(E) -> Self + use<E> {
        let path = path.to_path_buf();
        move |source| Self::Json {
            path,
            what,
            source: source.into(),
        }
    }
}
