//! Files in memory without reading them first.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// The bytes of a file, mapped: the system reads pages when they are used, shares them with other processes, and may
/// drop them again.
///
/// The file must not be written to or cut short while it is mapped: its bytes would change under the reader, and those
/// that are gone end the process. Replacing the file by renaming another one is fine.
#[derive(Debug)]
pub struct MappedFile {
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps a file for reading.
    ///
    /// # Errors
    /// When the file can't be opened or mapped.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(&File::open(path)?)
    }

    /// Maps an open file for reading.
    ///
    /// # Errors
    /// When the file can't be mapped.
    pub fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the map is read-only and private to this type; that nobody writes to the file is what the documentation
        // asks for, since no operating system can promise it.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self { map })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_file_even_when_it_is_replaced() {
        let folder = std::env::temp_dir().join(format!("fndm-mapped-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        std::fs::write(&path, b"first").unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        assert_eq!(&*mapped, b"first");
        let other = folder.join("other");
        std::fs::write(&other, b"second").unwrap();
        if cfg!(unix) {
            std::fs::rename(&other, &path).unwrap();
            assert_eq!(&*mapped, b"first");
            assert_eq!(&*MappedFile::open(&path).unwrap(), b"second");
        }
        drop(mapped);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(MappedFile::open(&path).is_err());
    }
}
