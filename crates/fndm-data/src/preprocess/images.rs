//! Images of slices, in memory or on the disk.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;

use ndarray::{Array4, ArrayView4, CowArray, Ix4, s};

use super::PatientSlices;
use super::on_disk::Blocks;
use crate::{Error, Result};

/// The images of a patient's slices, `(N, C, H, W)`: whole in memory as an [`Array4`], or on the disk.
pub trait SliceImages: Sized {
    /// `(N, C, H, W)`.
    fn dim(&self) -> (usize, usize, usize, usize);

    /// Some slices that follow each other, `(n, C, H, W)`; those of the range that aren't there are left out.
    ///
    /// # Errors
    /// [`Error::Io`], where they are on the disk.
    fn part(&self, slices: Range<usize>) -> Result<CowArray<'_, f32, Ix4>>;

    /// The slices with all images in memory, for what can't do with parts of them.
    ///
    /// # Errors
    /// As [`part`](Self::part).
    fn in_memory(slices: &PatientSlices<Self>) -> Result<Cow<'_, PatientSlices>>;
}

/// The slices of a range that are there.
fn within(slices: Range<usize>, all: usize) -> Range<usize> {
    let end = slices.end.min(all);
    slices.start.min(end)..end
}

impl SliceImages for Array4<f32> {
    fn dim(&self) -> (usize, usize, usize, usize) {
        Array4::dim(self)
    }

    fn part(&self, slices: Range<usize>) -> Result<CowArray<'_, f32, Ix4>> {
        let range = within(slices, self.shape()[0]);
        Ok(self.slice(s![range, .., .., ..]).into())
    }

    fn in_memory(slices: &PatientSlices) -> Result<Cow<'_, PatientSlices>> {
        Ok(Cow::Borrowed(slices))
    }
}

impl SliceImages for ArrayView4<'_, f32> {
    fn dim(&self) -> (usize, usize, usize, usize) {
        ArrayView4::dim(self)
    }

    fn part(&self, slices: Range<usize>) -> Result<CowArray<'_, f32, Ix4>> {
        let range = within(slices, self.shape()[0]);
        Ok(self.slice(s![range, .., .., ..]).into())
    }

    fn in_memory(slices: &PatientSlices<Self>) -> Result<Cow<'_, PatientSlices>> {
        Ok(Cow::Owned(slices.with_images(slices.images.to_owned())))
    }
}

/// Images on the disk, of which a few at a time are in memory.
#[derive(Debug)]
pub struct ImagesOnDisk {
    /// One for each slice and channel.
    blocks: Blocks,
    dim: (usize, usize, usize, usize),
}

impl ImagesOnDisk {
    /// Nothing yet, in an empty file.
    pub(super) fn new(file: File, dim: (usize, usize, usize, usize)) -> Self {
        let (_, _, h, w) = dim;
        Self {
            blocks: Blocks::new(file, h * w),
            dim,
        }
    }

    /// Writes one channel of one slice, its rows one after the other.
    pub(super) fn write(&self, slice: usize, channel: usize, values: &[f32]) -> Result<()> {
        self.blocks.write(slice * self.dim.1 + channel, values)
    }
}

impl SliceImages for ImagesOnDisk {
    fn dim(&self) -> (usize, usize, usize, usize) {
        self.dim
    }

    fn part(&self, slices: Range<usize>) -> Result<CowArray<'_, f32, Ix4>> {
        let (n, c, h, w) = self.dim;
        let range = within(slices, n);
        let shape = (range.len(), c, h, w);
        let values = self.blocks.read(range.start * c, range.len() * c)?;
        let count = values.len();
        let array = Array4::from_shape_vec(shape, values)
            .map_err(|_| Error::shape("images on the disk", format!("{shape:?}"), &[count]))?;
        Ok(array.into())
    }

    fn in_memory(slices: &PatientSlices<Self>) -> Result<Cow<'_, PatientSlices>> {
        let all = slices.images.part(0..slices.images.dim.0)?.into_owned();
        Ok(Cow::Owned(slices.with_images(all)))
    }
}
