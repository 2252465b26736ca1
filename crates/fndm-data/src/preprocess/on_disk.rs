//! Numbers that lie on the disk, where memory isn't to grow with their number.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::{Error, Result};

/// What messages call the file: it has no name.
const NAME: &str = "the working file of a patient";

/// A file of blocks of equally many numbers. It is for this run alone, so the numbers have the machine's own order of bytes.
#[derive(Debug)]
pub(super) struct Blocks {
    file: Mutex<File>,
    /// Numbers in a block.
    length: usize,
}

impl Blocks {
    /// In an empty file that is open for reading and writing.
    pub(super) fn new(file: File, length: usize) -> Self {
        Self {
            file: Mutex::new(file),
            length,
        }
    }

    /// Writes one block; the blocks may come in any order.
    pub(super) fn write(&self, block: usize, values: &[f32]) -> Result<()> {
        self.at(block, |file| file.write_all(bytemuck::cast_slice(values)))
    }

    /// Reads so many blocks from the given one on.
    pub(super) fn read(&self, first: usize, count: usize) -> Result<Vec<f32>> {
        let mut values = vec![0f32; count * self.length];
        self.at(first, |file| {
            file.read_exact(bytemuck::cast_slice_mut(&mut values))
        })?;
        Ok(values)
    }

    fn at(&self, block: usize, work: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
        // Whoever panicked left no half of anything: every call finds its own place.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let place = block as u64 * self.length as u64 * size_of::<f32>() as u64;
        file.seek(SeekFrom::Start(place))
            .and_then(|_| work(&mut file))
            .map_err(Error::io(Path::new(NAME)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_in_any_order() {
        let blocks = Blocks::new(tempfile::tempfile().unwrap(), 3);
        let block = |n: usize| [n as f32, -0., f32::MIN_POSITIVE / (n + 1) as f32];
        for n in [4, 0, 2, 1, 3] {
            blocks.write(n, &block(n)).unwrap();
        }
        assert_eq!(
            blocks.read(1, 3).unwrap(),
            [block(1), block(2), block(3)].concat()
        );
        blocks.write(2, &block(7)).unwrap();
        assert_eq!(blocks.read(2, 1).unwrap(), block(7));
        let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(blocks.read(0, 1).unwrap()), bits(block(0).to_vec()));
        // Beyond the end.
        assert!(matches!(blocks.read(4, 2), Err(Error::Io { .. })));
    }
}
