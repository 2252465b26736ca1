//! Voxels of a file: bytes in pieces, straight into the final array.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use fndm_runtime::{ask_for_huge_pages, streamed};

use super::convert::{Convert, Element};
use super::header::Header;
use super::source::{Source, read_at};
use crate::{Error, Result};

/// Bytes that are unpacked at a time, while the piece before is converted. A multiple of every voxel size.
const PIECE: usize = 1 << 18;

/// Voxels of a plain file that a thread reads and converts at a time: bytes and values fit a near cache.
const BLOCK: usize = 1 << 15;

/// Fewer bytes than this are not worth waking other threads for.
const SMALL: u64 = 1 << 20;

/// An array of a packed file that takes more bytes than this gets [`FIRST`] of them, and the rest
/// once these are full: a small file that claims much must not cost much.
const AT_ONCE: usize = 56 << 20;
const FIRST: usize = 32 << 20;

/// Reads all voxels. The source stands at the first of them.
pub(super) fn read<T: Element>(
    source: &mut Source<'_>,
    header: &Header,
    voxels: u64,
) -> Result<Vec<T>> {
    // The limit on voxels was checked, but it may be set to anything.
    let bytes = voxels.saturating_mul(header.datatype.size() as u64);
    source.expect(bytes, "the voxels")?;
    let count = usize::try_from(voxels).map_err(|_| too_large(source.path(), voxels))?;
    // On a thread of the pool other files are being read at the same time: one thread is for this one.
    let alone = bytes >= SMALL && rayon::current_thread_index().is_none();
    match source.file() {
        Some(file) if alone => read_blocks(file, source.path(), header, count),
        _ => read_pieces(source, header, count, alone),
    }
}

fn too_large(path: &Path, voxels: u64) -> Error {
    Error::Limit {
        path: path.to_path_buf(),
        what: "memory for the voxels",
        limit: usize::MAX as u64,
        got: voxels,
    }
}

/// A plain file: every thread reads from wherever it is in the file.
fn read_blocks<T: Element>(
    file: &File,
    path: &Path,
    header: &Header,
    count: usize,
) -> Result<Vec<T>> {
    let convert = Convert::new(header);
    let width = header.datatype.size();
    let failed = OnceLock::new();
    let fetch = |bytes: &mut [u8], first: usize| {
        let offset = header.vox_offset + (first * width) as u64;
        if let Err(error) = read_at(file, bytes, offset) {
            // The first error is told; the values are of no use then.
            let _ = failed.set(error);
        }
    };
    let block = |bytes: &mut Vec<u8>, first: usize, values: &mut [T]| {
        if convert.changes_nothing::<T>() {
            return fetch(bytemuck::cast_slice_mut(values), first);
        }
        bytes.resize(values.len() * width, 0);
        fetch(bytes, first);
        convert.run(bytes, values);
    };
    let values =
        streamed(count, BLOCK, Vec::new, block).map_err(|_| too_large(path, count as u64))?;
    match failed.into_inner() {
        Some(error) => Err(Error::io(path)(error)),
        None => Ok(values),
    }
}

/// Any source, from front to end. One piece is converted while the next is unpacked, where `overlap` allows it.
fn read_pieces<T: Element>(
    source: &mut Source<'_>,
    header: &Header,
    count: usize,
    overlap: bool,
) -> Result<Vec<T>> {
    let convert = Convert::new(header);
    let width = header.datatype.size();
    let bytes = count as u64 * width as u64;
    let mut values: Vec<T> = Vec::new();
    let first = if source.is_packed() && count > AT_ONCE / size_of::<T>() {
        FIRST / size_of::<T>()
    } else {
        count
    };
    values
        .try_reserve_exact(first)
        .map_err(|_| too_large(source.path(), count as u64))?;
    ask_for_huge_pages(values.spare_capacity_mut());
    let (mut next, mut ready) = (vec![0u8; PIECE], vec![0u8; PIECE]);
    let mut filled = 0;
    let mut left = bytes;
    while left > 0 || filled > 0 {
        let take = left.min(PIECE as u64) as usize;
        if values.capacity() - values.len() < filled / width {
            values
                .try_reserve_exact(count - values.len())
                .map_err(|_| too_large(source.path(), count as u64))?;
            ask_for_huge_pages(values.spare_capacity_mut());
        }
        let mut fill = || source.fill(&mut next[..take], bytes, bytes - left, "the voxels");
        let mut put = || convert.run(&ready[..filled], &mut values);
        let (got, ()) = if overlap && filled > 0 && take > 0 {
            rayon::join(fill, put)
        } else {
            (fill(), put())
        };
        got?;
        std::mem::swap(&mut next, &mut ready);
        filled = take;
        left -= take as u64;
    }
    Ok(values)
}
