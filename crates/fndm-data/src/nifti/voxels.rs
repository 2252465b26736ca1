//! Voxels of a file: bytes in pieces, straight into the final array.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::convert::{Convert, Element};
use super::header::Header;
use super::source::{Source, read_at};
use crate::{Error, Result};

/// Bytes that are unpacked at a time, while the piece before is converted. A multiple of every voxel size.
const PIECE: usize = 1 << 18;

/// Voxels that are converted at a time: few enough to be made where they are to stay.
const BLOCK: usize = 64;

/// Bytes that a thread reads of a plain file at a time. They fit a near cache.
const WINDOW: usize = 1 << 17;

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

/// The stored bytes of some blocks in a row.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    first: usize,
    blocks: usize,
}

/// A plain file: every thread reads from wherever it is in the file.
fn read_blocks<T: Element>(
    file: &File,
    path: &Path,
    header: &Header,
    count: usize,
) -> Result<Vec<T>> {
    let convert = Convert::new(header);
    let stride = BLOCK * header.datatype.size();
    let whole = count / BLOCK;
    let ahead = WINDOW / stride;
    let failed = OnceLock::new();
    let fetch = |bytes: &mut [u8], block: usize| {
        let offset = header.vox_offset + (block * stride) as u64;
        if let Err(error) = read_at(file, bytes, offset) {
            // The first error is told; the values of these blocks are of no use then.
            let _ = failed.set(error);
        }
    };
    let mut blocks: Vec<[T; BLOCK]> = Vec::new();
    blocks
        .try_reserve_exact(count.div_ceil(BLOCK))
        .map_err(|_| too_large(path, count as u64))?;
    (0..whole)
        .into_par_iter()
        .with_min_len(2 * ahead)
        .map_init(Window::default, |window, block| {
            if !(window.first..window.first + window.blocks).contains(&block) {
                window.first = block;
                window.blocks = ahead.min(whole - block);
                window.bytes.resize(window.blocks * stride, 0);
                fetch(&mut window.bytes, block);
            }
            let start = (block - window.first) * stride;
            let mut values = [T::default(); BLOCK];
            convert.run(&window.bytes[start..start + stride], values.as_mut_slice());
            values
        })
        .collect_into_vec(&mut blocks);
    let mut values = blocks.into_flattened();
    let mut rest = vec![0u8; (count % BLOCK) * header.datatype.size()];
    if !rest.is_empty() {
        fetch(&mut rest, whole);
    }
    convert.run(&rest, &mut values);
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
    let (mut next, mut ready) = (vec![0u8; PIECE], vec![0u8; PIECE]);
    let mut filled = 0;
    let mut left = bytes;
    while left > 0 || filled > 0 {
        let take = left.min(PIECE as u64) as usize;
        if values.capacity() - values.len() < filled / width {
            values
                .try_reserve_exact(count - values.len())
                .map_err(|_| too_large(source.path(), count as u64))?;
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
