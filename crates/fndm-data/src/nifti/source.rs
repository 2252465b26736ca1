//! The bytes of a file, plain or packed, within the limits.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::gunzip::{Gunzip, MAGIC};
use crate::{Error, Limits, Result, open};

/// Bytes that are skipped at a time.
const PIECE: usize = 1 << 18;

/// No deflate stream unpacks to more than this many bytes per byte.
const DEFLATE_RATIO: u64 = 1032;

/// A file being read from front to end, packed or not.
pub(super) struct Source<'a> {
    reader: Box<dyn Read + Send + 'a>,
    /// A plain file, where the system reads from any place of it.
    file: Option<File>,
    path: PathBuf,
    packed: bool,
    file_bytes: u64,
    /// Bytes given so far, after unpacking.
    given: u64,
    limit: u64,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({}, {} bytes)", self.path.display(), self.given)
    }
}

impl Source<'static> {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let (file, size) = open::open(path)?;
        // Where this fails, the file is read from front to end.
        let same = if cfg!(unix) {
            file.try_clone().ok()
        } else {
            None
        };
        let source = Self::new(file, size, path, limits)?;
        Ok(Self {
            file: same.filter(|_| !source.packed),
            ..source
        })
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(
        mut inner: impl Read + Send + 'a,
        size: u64,
        path: &Path,
        limits: &Limits,
    ) -> Result<Self> {
        if size > limits.file_bytes {
            return Err(Error::Limit {
                path: path.to_path_buf(),
                what: "file size in bytes",
                limit: limits.file_bytes,
                got: size,
            });
        }
        let mut start = Vec::with_capacity(2);
        (&mut inner)
            .take(2)
            .read_to_end(&mut start)
            .map_err(Error::io(path))?;
        let packed = start == MAGIC;
        let whole = std::io::Cursor::new(start).chain(inner);
        let reader: Box<dyn Read + Send + 'a> = if packed {
            Box::new(Gunzip::new(BufReader::with_capacity(1 << 16, whole)))
        } else {
            Box::new(whole)
        };
        Ok(Self {
            reader,
            file: None,
            path: path.to_path_buf(),
            packed,
            file_bytes: size,
            given: 0,
            limit: if packed {
                limits.unpacked_bytes
            } else {
                limits.file_bytes
            },
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packed
    }

    /// The file itself, if [`read_at`] can be used on it.
    pub(super) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Most bytes that this source can give, as far as its size on disk tells.
    fn bound(&self) -> u64 {
        if self.packed {
            self.file_bytes.saturating_mul(DEFLATE_RATIO)
        } else {
            self.file_bytes
        }
    }

    /// An error, before memory is taken, if the file cannot hold this many bytes more.
    pub(super) fn expect(&self, bytes: u64, what: &'static str) -> Result<()> {
        let end = self.given.saturating_add(bytes);
        if self.packed && end > self.limit {
            return Err(self.over(end));
        }
        if end > self.bound() {
            return Err(self.truncated(what, bytes, self.bound().saturating_sub(self.given)));
        }
        Ok(())
    }

    fn over(&self, got: u64) -> Error {
        Error::Limit {
            path: self.path.clone(),
            what: "unpacked size in bytes",
            limit: self.limit,
            got,
        }
    }

    fn truncated(&self, what: &'static str, expected: u64, got: u64) -> Error {
        Error::Truncated {
            path: self.path.clone(),
            what,
            expected,
            got,
        }
    }

    fn broken(&self, source: std::io::Error) -> Error {
        if self.packed {
            Error::Gzip {
                path: self.path.clone(),
                source,
            }
        } else {
            Error::io(&self.path)(source)
        }
    }

    /// Fills the buffer, which is a part of `what`: `whole` bytes, of which `before` were given already.
    pub(super) fn fill(
        &mut self,
        mut buffer: &mut [u8],
        whole: u64,
        before: u64,
        what: &'static str,
    ) -> Result<()> {
        let mut got = before;
        while !buffer.is_empty() {
            match self.reader.read(buffer) {
                Ok(0) => return Err(self.truncated(what, whole, got)),
                Ok(count) => {
                    got += count as u64;
                    self.given += count as u64;
                    if self.packed && self.given > self.limit {
                        return Err(self.over(self.given));
                    }
                    let rest = buffer;
                    buffer = &mut rest[count..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    pub(super) fn skip_to(&mut self, offset: u64) -> Result<()> {
        let before = self.given;
        let skip = offset.saturating_sub(before);
        self.expect(skip, "the part before the voxels")?;
        let mut piece = vec![0u8; skip.min(PIECE as u64) as usize];
        let mut left = skip;
        while left > 0 {
            let take = left.min(PIECE as u64) as usize;
            self.fill(
                &mut piece[..take],
                skip,
                skip - left,
                "the part before the voxels",
            )?;
            left -= take as u64;
        }
        Ok(())
    }

    /// Reads a packed file to its end, so that its checksum and all members are checked.
    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.packed {
            return Ok(());
        }
        let mut piece = vec![0u8; 1 << 14];
        loop {
            match self.reader.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.given += count as u64;
                    if self.given > self.limit {
                        return Err(self.over(self.given));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }
}

/// Fills the buffer from a place of a file, wherever the file stands.
#[cfg(unix)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Not called: [`Source::file`] is `None` on these systems.
#[cfg(not(unix))]
pub(super) fn read_at(_: &File, _: &mut [u8], _: u64) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
