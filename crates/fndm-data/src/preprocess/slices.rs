//! The slices of one patient, and the way back to the input's grid.

use ndarray::{Array2, Array3, Array4, ArrayView2, Axis, ShapeBuilder};

use super::head::erode;
use super::resize::{Pad, Resampler};
use super::whole::WholeLesion;
use super::{SliceImages, count};
use crate::affine::{Affine, Orientation, Reorder};
use crate::nifti::Header;
use crate::patient::Grid;
use crate::{Error, Note, Result, Volume};

/// What is needed to put slices back on the grid that they were cut from.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    shape: [usize; 3],
    affine: Affine,
    header: Option<Header>,
    reorder: Reorder,
    stack: [usize; 3],
    pad: Pad,
    size: usize,
}

impl Geometry {
    pub(super) fn new(
        grid: &Grid,
        reorder: Reorder,
        stack: [usize; 3],
        pad: Pad,
        size: usize,
    ) -> Self {
        Self {
            shape: grid.shape,
            affine: grid.affine,
            header: grid.header.clone(),
            reorder,
            stack,
            pad,
            size,
        }
    }

    /// Of square slices that were cut from nothing: a voxel a pixel, 1 mm, growing as R, P and S do. `slices` is the length of the stack.
    pub(crate) fn of_square(slices: usize, size: usize) -> Self {
        Self {
            shape: [size, size, slices],
            affine: crate::affine::diagonal([1.0; 3]),
            header: None,
            reorder: Reorder {
                from: [2, 1, 0],
                flipped: [false; 3],
            },
            stack: [slices, size, size],
            pad: Pad::square(size, size, None, None),
            size,
        }
    }

    /// What is odd about where the input lies.
    pub(super) fn notes(&self) -> Vec<Note> {
        let lost = |header: &Header| header.sform_code <= 0 && header.qform_code <= 0;
        let taken = Orientation::of(&self.affine).codes();
        match self.header.as_ref().is_some_and(lost) {
            true => vec![Note::NoOrientation { taken }],
            false => Vec::new(),
        }
    }

    /// Shape of the input's array.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Affine of the input.
    #[must_use]
    pub fn affine(&self) -> &Affine {
        &self.affine
    }

    /// Number of slices of the whole volume in the plane that was cut.
    #[must_use]
    pub fn total_slices(&self) -> usize {
        self.stack[0]
    }

    /// The index along the slice axis as the file stores it, of slice `z` counted from the lower end. Its own inverse.
    #[must_use]
    pub fn stored_slice(&self, z: usize) -> usize {
        if self.reorder.flipped[0] {
            (self.stack[0] - 1).saturating_sub(z)
        } else {
            z
        }
    }

    /// From the input's array to the stack that was cut: (slice, row, column).
    #[must_use]
    pub fn reorder(&self) -> &Reorder {
        &self.reorder
    }

    /// Shape of the whole stack that was cut: slices, rows, columns, in the input's voxels.
    #[must_use]
    pub fn stack(&self) -> [usize; 3] {
        self.stack
    }

    /// Directions in which slices, rows and columns of the stack grow, read off the input's affine: `['S', 'P', 'L']` for axial slices.
    #[must_use]
    pub fn directions(&self) -> [char; 3] {
        Orientation::of(&self.reorder.affine(&self.affine, self.shape)).codes()
    }

    /// What lies to the left of a slice and what to its right, read off the input's affine: `['R', 'L']` for axial slices.
    #[must_use]
    pub fn sides(&self) -> [char; 2] {
        let [_, _, right] = self.directions();
        let left = match right {
            'R' => 'L',
            'L' => 'R',
            'A' => 'P',
            'P' => 'A',
            'S' => 'I',
            _ => 'S',
        };
        [left, right]
    }

    /// Where a resized slice lies in the slice that it was cut from: the row and the column of its upper left corner, which are below 0
    /// where it was padded, and its side, all in the input's pixels.
    #[must_use]
    pub fn square(&self) -> (isize, isize, usize) {
        let (row, column) = self.pad.corner();
        (row, column, self.pad.size)
    }

    /// Side of a resized pixel in millimetres, if rows and columns have the same.
    #[must_use]
    pub fn pixel_spacing(&self) -> [f64; 2] {
        let spacing = crate::affine::spacing(&self.affine);
        let factor = self.pad.size as f64 / self.size as f64;
        [1, 2].map(|axis| spacing[self.reorder.from[axis]] * factor)
    }

    /// Distance of neighbouring slices in millimetres.
    #[must_use]
    pub fn slice_spacing(&self) -> f64 {
        crate::affine::spacing(&self.affine)[self.reorder.from[0]]
    }

    /// Puts resized slices on the input's grid, each once `change` has had it there; voxels of other slices are 0.
    fn restore(
        &self,
        z: &[usize],
        resampler: &Resampler,
        slice: impl Fn(usize) -> Array2<f32>,
        change: impl Fn(usize, &mut Array2<f32>),
    ) -> Volume {
        let [i, j, k] = self.shape;
        let mut data = Array3::<f32>::zeros((i, j, k).f());
        let mut stack = self.reorder.view_mut(data.view_mut());
        let mut square = Array2::<f32>::zeros((self.pad.size, self.pad.size));
        for (n, &z) in z.iter().enumerate() {
            resampler.apply(slice(n).view(), square.view_mut());
            change(n, &mut square);
            if z < stack.dim().0 {
                stack
                    .index_axis_mut(Axis(0), z)
                    .slice_mut(self.pad.in_slice())
                    .assign(&square.slice(self.pad.in_square()));
            }
        }
        Volume {
            data,
            affine: self.affine,
            header: self.header.clone(),
        }
    }
}

/// Slices of one patient, ready for a network.
///
/// Their images are in memory as a rule. [`ImagesOnDisk`](super::ImagesOnDisk) are for patients of many slices: see
/// [`Turned::slices_on_disk`](super::Turned::slices_on_disk).
#[derive(Debug, Clone, PartialEq)]
pub struct PatientSlices<I = Array4<f32>> {
    /// Id of the patient, as in [`Patient`](crate::Patient).
    pub id: String,
    /// Names of the channels.
    pub sequences: Vec<String>,
    /// Slices (N, C, H, W) in [-1, 1]; the background is -1.
    pub images: I,
    /// For each slice, its index in the whole volume, from the lower end.
    pub z: Vec<usize>,
    /// Where the head is (N, H, W).
    pub head: Array3<bool>,
    /// Where the lesion is (N, H, W), for evaluation only. `None` without a mask.
    pub mask: Option<Array3<bool>>,
    /// 1 where the slice's mask has a voxel of lesion before resizing, else 0; or from
    /// [`Labels`](crate::labels::Labels). `None` without either.
    pub labels: Option<Vec<u8>>,
    /// Where the lesion is in the whole volume, also in slices that aren't used, for evaluation only. `None` without a mask, and of slices
    /// chosen among those of a patient.
    pub lesion: Option<WholeLesion>,
    /// What is odd about the files, mostly the mask. Tell the user.
    pub notes: Vec<Note>,
    /// The way back.
    pub geometry: Geometry,
}

impl<I: SliceImages> PatientSlices<I> {
    /// Whether all arrays are of the same slices, as far as their shapes tell. Those of
    /// [`Preprocess::apply`](super::Preprocess::apply) are.
    ///
    /// # Errors
    /// [`Error::Shape`] names the first array that isn't.
    pub fn check(&self) -> Result<()> {
        let (n, channels, h, w) = self.images.dim();
        let lengths = [
            ("positions", self.z.len(), n),
            ("sequences", self.sequences.len(), channels),
            ("labels", self.labels.as_ref().map_or(n, Vec::len), n),
        ];
        for (what, length, expected) in lengths {
            if length != expected {
                let what = format!("{what} of patient {}", self.id);
                return Err(Error::shape(what, format!("({expected})"), &[length]));
            }
        }
        for (what, array) in [("head", Some(&self.head)), ("mask", self.mask.as_ref())] {
            if let Some(array) = array.filter(|array| array.dim() != (n, h, w)) {
                let what = format!("{what} of patient {}", self.id);
                let expected = format!("{:?}", (n, h, w));
                return Err(Error::shape(what, expected, array.shape()));
            }
        }
        Ok(())
    }
}

impl PatientSlices {
    /// Some of the slices, by their indices in the order given.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for an index that is too large, and those of [`check`](Self::check).
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        self.check()?;
        if let Some(n) = indices.iter().find(|n| **n >= self.len()) {
            let expected = format!("below {}", self.len());
            return Err(Error::config("index of a slice", expected, n));
        }
        let labels = self.labels.as_ref();
        Ok(Self {
            id: self.id.clone(),
            sequences: self.sequences.clone(),
            images: self.images.select(Axis(0), indices),
            z: indices.iter().map(|&n| self.z[n]).collect(),
            head: self.head.select(Axis(0), indices),
            mask: self.mask.as_ref().map(|mask| mask.select(Axis(0), indices)),
            labels: labels.map(|labels| indices.iter().map(|&n| labels[n]).collect()),
            lesion: None,
            notes: self.notes.clone(),
            geometry: self.geometry.clone(),
        })
    }
}

impl<I> PatientSlices<I> {
    /// Number of slices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.z.len()
    }

    /// Whether there is no slice. [`Preprocess::apply`](super::Preprocess::apply) never gives this.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.z.is_empty()
    }

    /// The same slices with their images elsewhere.
    pub(super) fn with_images<J>(&self, images: J) -> PatientSlices<J> {
        PatientSlices {
            id: self.id.clone(),
            sequences: self.sequences.clone(),
            images,
            z: self.z.clone(),
            head: self.head.clone(),
            mask: self.mask.clone(),
            labels: self.labels.clone(),
            lesion: self.lesion.clone(),
            notes: self.notes.clone(),
            geometry: self.geometry.clone(),
        }
    }

    /// The head of each slice without its outer `pixels`, which are mostly scalp and skull.
    #[must_use]
    pub fn eroded_head(&self, pixels: usize) -> Array3<bool> {
        let mut out = self.head.clone();
        for mut slice in out.axis_iter_mut(Axis(0)) {
            let small = erode(slice.view(), pixels);
            slice.assign(&small);
        }
        out
    }

    /// Fraction of each slice that is head.
    #[must_use]
    pub fn head_fractions(&self) -> Vec<f64> {
        let share = |slice: ArrayView2<'_, bool>| count(slice) as f64 / slice.len().max(1) as f64;
        self.head.axis_iter(Axis(0)).map(share).collect()
    }

    /// Maps (N, H, W), one for each slice in the order of [`z`](Self::z), on the input's grid:
    /// linear in the plane, 0 in slices that were not used and in what was cropped.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn to_volume(&self, maps: &Array3<f32>) -> Result<Volume> {
        self.check_stack("maps", maps.dim())?;
        let resampler = Resampler::linear(self.geometry.size, self.geometry.pad.size);
        let slice = |n: usize| maps.index_axis(Axis(0), n).to_owned();
        Ok(self.geometry.restore(&self.z, &resampler, slice, |_, _| {}))
    }

    /// Masks on the input's grid, 0 or 1, of what is above each slice's threshold in maps (N, H, W): where the input's pixels are smaller than the
    /// map's, the border is drawn by the map between its pixels, linearly, and not along them. Slices whose mask (N, H, W) is empty stay
    /// empty. Where nothing is resized, and where there are no thresholds, it is [`to_mask`](Self::to_mask) of the masks.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn to_mask_above(
        &self,
        maps: &Array3<f32>,
        thresholds: &[f32],
        masks: &Array3<bool>,
    ) -> Result<Volume> {
        if thresholds.is_empty() {
            return self.to_mask(masks);
        }
        self.check_stack("maps", maps.dim())?;
        self.check_stack("masks", masks.dim())?;
        if thresholds.len() != self.len() {
            let expected = format!("({})", self.len());
            return Err(Error::shape("thresholds", expected, &[thresholds.len()]));
        }
        let resampler = Resampler::linear(self.geometry.size, self.geometry.pad.size);
        let slice = |n: usize| maps.index_axis(Axis(0), n).to_owned();
        let mark = |n: usize, square: &mut Array2<f32>| {
            let any = masks.index_axis(Axis(0), n).iter().any(|&bit| bit);
            square.mapv_inplace(|value| f32::from(u8::from(any && value > thresholds[n])));
        };
        Ok(self.geometry.restore(&self.z, &resampler, slice, mark))
    }

    /// Masks (N, H, W) on the input's grid, 0 or 1: nearest pixel in the plane, 0 in
    /// slices that were not used.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn to_mask(&self, masks: &Array3<bool>) -> Result<Volume> {
        self.check_stack("masks", masks.dim())?;
        let resampler = Resampler::nearest(self.geometry.size, self.geometry.pad.size);
        let slice = |n: usize| {
            let bits = masks.index_axis(Axis(0), n);
            bits.mapv(|bit| f32::from(u8::from(bit)))
        };
        Ok(self.geometry.restore(&self.z, &resampler, slice, |_, _| {}))
    }

    fn check_stack(&self, what: &str, got: (usize, usize, usize)) -> Result<()> {
        let size = self.geometry.size;
        let expected = (self.z.len(), size, size);
        if got == expected {
            return Ok(());
        }
        let got = [got.0, got.1, got.2];
        Err(Error::shape(what, format!("{expected:?}"), &got))
    }
}
