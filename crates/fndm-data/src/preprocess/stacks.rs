//! The sequences of a patient in the axes of the slices, in memory or on the disk.

use std::fs::File;

use ndarray::{Array2, Array3, ArrayView3, Axis, CowArray, Ix2, Ix3};

use super::on_disk::Blocks;
use crate::{Error, Result};

/// One stack (N, H, W) for each sequence, all of one shape.
#[derive(Debug)]
pub(crate) enum Stacks<'a> {
    /// As views of the patient's volumes.
    Memory(Vec<ArrayView3<'a, f32>>),
    /// On the disk.
    Disk(StacksOnDisk),
}

impl Stacks<'_> {
    /// All of a sequence.
    pub(crate) fn whole(&self, sequence: usize) -> Result<CowArray<'_, f32, Ix3>> {
        match self {
            Self::Memory(views) => match views.get(sequence) {
                Some(view) => Ok(view.view().into()),
                None => Err(missing(sequence)),
            },
            Self::Disk(disk) => disk.whole(sequence).map(CowArray::from),
        }
    }

    /// One slice of a sequence.
    pub(crate) fn slice(&self, sequence: usize, z: usize) -> Result<CowArray<'_, f32, Ix2>> {
        match self {
            Self::Memory(views) => match views.get(sequence).filter(|view| z < view.dim().0) {
                Some(view) => Ok((*view).index_axis_move(Axis(0), z).into()),
                None => Err(missing(sequence)),
            },
            Self::Disk(disk) => disk.slice(sequence, z).map(CowArray::from),
        }
    }
}

fn missing(sequence: usize) -> Error {
    Error::config("number of a sequence", "one that is there", sequence)
}

/// Stacks in a file, of which one is in memory at a time.
#[derive(Debug)]
pub(crate) struct StacksOnDisk {
    /// One for each slice, sequence by sequence.
    blocks: Blocks,
    /// Of a sequence: (N, H, W).
    shape: (usize, usize, usize),
    /// Sequences that are there.
    count: usize,
}

impl StacksOnDisk {
    /// None yet, in an empty file.
    pub(super) fn new(file: File, shape: (usize, usize, usize)) -> Self {
        Self {
            blocks: Blocks::new(file, shape.1 * shape.2),
            shape,
            count: 0,
        }
    }

    /// Adds a sequence of the same shape.
    pub(super) fn push(&mut self, stack: &ArrayView3<'_, f32>) -> Result<()> {
        let first = self.count * self.shape.0;
        let mut rows = Vec::with_capacity(self.shape.1 * self.shape.2);
        for (z, slice) in stack.outer_iter().enumerate() {
            rows.clear();
            rows.extend(slice.iter().copied());
            self.blocks.write(first + z, &rows)?;
        }
        self.count += 1;
        Ok(())
    }

    fn whole(&self, sequence: usize) -> Result<Array3<f32>> {
        let slices = self.shape.0;
        let values = self.read(sequence, 0, slices)?;
        let count = values.len();
        Array3::from_shape_vec(self.shape, values)
            .map_err(|_| Error::shape("a sequence", format!("{:?}", self.shape), &[count]))
    }

    fn slice(&self, sequence: usize, z: usize) -> Result<Array2<f32>> {
        let (_, height, width) = self.shape;
        let values = self.read(sequence, z, 1)?;
        let count = values.len();
        Array2::from_shape_vec((height, width), values)
            .map_err(|_| Error::shape("a slice", format!("{height} x {width}"), &[count]))
    }

    fn read(&self, sequence: usize, z: usize, slices: usize) -> Result<Vec<f32>> {
        if sequence >= self.count || z + slices > self.shape.0 {
            return Err(missing(sequence));
        }
        self.blocks.read(sequence * self.shape.0 + z, slices)
    }
}
