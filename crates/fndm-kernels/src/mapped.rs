//! Files in memory without reading them first.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Deref;
use std::path::Path;

/// Bytes from which a file is mapped. What is smaller is copied: that takes less than the page faults would save.
const MAPPED_FROM: u64 = 16 << 20;

/// The bytes of a file: a copy of a small one; a large one, from 16 MiB, mapped: the system reads its pages when they are used,
/// shares them with other processes, and may drop them again.
///
/// # Large files
/// No operating system can promise that nobody writes to a mapped file. While it is mapped it must not be written to in place
/// or cut short, by any process. If it is,
/// - bytes that are written to change under the reader. They are bytes all the same, so whoever reads numbers from them gets other
///   numbers, and must not rely on a check that was made before;
/// - bytes that are cut off end the process with a signal (`SIGBUS`) when they are looked at.
///
/// Replacing the file by renaming another one, or removing it, is fine: the old bytes stay. That is how this project writes files.
/// Where others may write into a file, or where it lies on a share that may go away, [`copy`](Self::copy) takes the bytes once.
#[derive(Debug)]
pub struct MappedFile {
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// In anonymous memory, which begins with a page as a map does; and how many.
    Copied(memmap2::Mmap, usize),
    Mapped(memmap2::Mmap),
}

impl MappedFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When the file can't be opened, read or mapped.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::new(&File::open(path)?)
    }

    /// The bytes of an open file, from its beginning.
    ///
    /// # Errors
    /// When the file can't be read or mapped.
    pub fn new(file: &File) -> io::Result<Self> {
        Self::from(file, MAPPED_FROM)
    }

    /// A copy of the bytes of an open file, however large it is: nothing that happens to the file afterwards matters.
    ///
    /// # Errors
    /// When the file can't be read, or there is no memory for it.
    pub fn copy(file: &File) -> io::Result<Self> {
        Self::from(file, u64::MAX)
    }

    /// Mapped from so many bytes on.
    fn from(file: &File, mapped_from: u64) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let bytes = if len < mapped_from {
            copied(file, len)?
        } else {
            // SAFETY: the map is read-only and private to this type, and its bytes are valid whatever they are; that nobody cuts
            // the file short or writes to it is what the documentation asks for, since no operating system can promise it.
            Bytes::Mapped(unsafe { memmap2::Mmap::map(file) }?)
        };
        Ok(Self { bytes })
    }
}

/// The `len` bytes of a file, wherever it is being read at.
fn copied(mut file: &File, len: u64) -> io::Result<Bytes> {
    let n = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    // A map of nothing is an error.
    let mut memory = memmap2::MmapMut::map_anon(n.max(1))?;
    let before = file.stream_position()?;
    file.rewind()?;
    let read = file.read_exact(&mut memory[..n]);
    file.seek(SeekFrom::Start(before))?;
    match read {
        Ok(()) => Ok(Bytes::Copied(memory.make_read_only()?, n)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(io::Error::new(
            e.kind(),
            format!("the file is cut short: expected {len} bytes"),
        )),
        Err(e) => Err(e),
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Copied(bytes, n) => &bytes[..*n],
            Bytes::Mapped(map) => map,
        }
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

    /// Of a mapped file this would end the process.
    #[cfg(unix)]
    #[test]
    fn a_small_file_may_be_cut_short_and_written_to() {
        let folder = std::env::temp_dir().join(format!("fndm-copied-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let read = MappedFile::open(&path).unwrap();
        let by_choice = MappedFile::copy(&File::open(&path).unwrap()).unwrap();
        let in_place = || std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&in_place(), b"other", 0).unwrap();
        in_place().set_len(10).unwrap();
        assert!(*read == bytes && *by_choice == bytes);
        assert_eq!(&MappedFile::open(&path).unwrap()[..5], b"other");
        in_place().set_len(0).unwrap();
        assert!(MappedFile::open(&path).unwrap().is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn copies_and_maps_hold_the_same_bytes() {
        let path = std::env::temp_dir().join(format!("fndm-same-{}", std::process::id()));
        let bytes: Vec<u8> = (0..9_001u32).map(|i| (i % 241) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(7)).unwrap();
        for mapped_from in [0, 9_001, 9_002] {
            let read = MappedFile::from(&file, mapped_from).unwrap();
            assert_eq!(matches!(read.bytes, Bytes::Mapped(_)), mapped_from <= 9_001);
            assert!(*read == bytes);
            // Numbers may be read in place.
            assert!(read.as_ptr().addr().is_multiple_of(64));
        }
        assert_eq!(file.stream_position().unwrap(), 7);
        std::fs::remove_file(&path).unwrap();
    }
}
