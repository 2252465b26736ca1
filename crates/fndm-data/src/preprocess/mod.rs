//! From a patient's volumes to slices that a network can take, and back.

mod background;
mod head;
mod histogram;
mod images;
mod intensity;
mod on_disk;
mod resize;
mod slices;
mod stacks;
mod turned;
mod whole;

use std::fs::File;

use ndarray::{Array2, Array3, Array4, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};

use crate::layout::is_lesion_mask_name;
use crate::{Error, Note, Patient, Result, is_lesion};

pub use head::{HeadThreshold, erode};
pub use histogram::HistogramReference;
pub use images::{ImagesOnDisk, SliceImages};
pub use intensity::Normalization;
pub(crate) use intensity::{inside, percentile};
pub use resize::Resampler;
pub use slices::{Geometry, PatientSlices};
pub(crate) use stacks::Stacks;
pub use turned::Turned;
pub use whole::{Overlap, WholeLesion};

use resize::majority;

/// Largest side of a slice, in input pixels, after cropping and padding: a file may claim any shape.
const MOST_SIDE: usize = 1 << 13;
/// Is given the number of a slice, that of a channel, and the image `(H, W)`.
type PutImage<'a> = dyn FnMut(usize, usize, &Array2<f32>) -> Result<()> + 'a;

/// Most values of the slices of one patient: 4 GiB of them.
const MOST_VALUES: usize = 1 << 30;

/// Which way the volume is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// Slices from the feet to the head; rows from front to back, columns from the
    /// patient's right to left.
    #[default]
    Axial,
    /// Slices from back to front; rows from the head to the feet, columns from right to left.
    Coronal,
    /// Slices from left to right; rows from the head to the feet, columns from front to back.
    Sagittal,
}

impl Plane {
    /// Directions in which slices, rows and columns grow.
    pub(crate) fn codes(self) -> [char; 3] {
        match self {
            Self::Axial => ['S', 'P', 'L'],
            Self::Coronal => ['A', 'I', 'L'],
            Self::Sagittal => ['R', 'I', 'P'],
        }
    }
}

/// How volumes become slices. A plain value: set the fields, then [`apply`](Self::apply).
///
/// The steps, in order:
/// 1. Turn the arrays to canonical axes, whatever their order in the file, and cut.
/// 2. Find the head from the mean of the sequences: threshold, largest component, holes filled. Where there is a brain mask, it is taken.
/// 3. Choose slices by `z_range`, `drop_lower`, `drop_upper` and `min_head_fraction`.
/// 4. Scale each sequence to [-1, 1] by what lies in the head of the whole volume.
/// 5. Crop, pad to a square, keeping the aspect, and resize: area averages when shrinking,
///    linear when growing; masks by majority.
///
/// ```
/// use fndm_data::Preprocess;
/// // BraTS 2020 as in the paper: 80 lower and 26 upper slices dropped, 240 padded to 256.
/// let brats = Preprocess {
///     image_size: 256,
///     pad_to: Some(256),
///     drop_lower: 80,
///     drop_upper: 26,
///     ..Preprocess::default()
/// };
/// brats.check()?;
/// # Ok::<(), fndm_data::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preprocess {
    /// Height and width of the slices made. Default 64.
    pub image_size: usize,
    /// The way of cutting. Default axial.
    pub plane: Plane,
    /// Slices k of N with k / (N - 1) in this closed range are used. Default 0 to 1.
    pub z_range: (f64, f64),
    /// Slices left out at the lower end (index 0 upwards). Default 0.
    pub drop_lower: usize,
    /// Slices left out at the upper end. Default 0.
    pub drop_upper: usize,
    /// Slices whose head covers less than this fraction of the slice are left out.
    /// Default 0: none is.
    pub min_head_fraction: f64,
    /// Crop in the plane to at most this size, in input pixels, around the middle of the slice.
    /// Default: nothing is cropped.
    pub crop_to: Option<usize>,
    /// Pad in the plane to at least this size, in input pixels, before resizing. Default: only to a square.
    pub pad_to: Option<usize>,
    /// Lower and upper percentile within the head that are mapped to -1 and 1; values
    /// beyond are clipped. Default 1 and 99.
    pub percentiles: (f64, f64),
    /// How intensities are scaled. Default by `percentiles`.
    pub normalization: Normalization,
    /// How the head is told from the background.
    pub head: HeadThreshold,
    /// The name of a mask beside the sequences, as theirs are found (`brain` for `<id>_brain.nii.gz`), that says where the brain is: its
    /// voxels above 0. They take the place of the head that is found by `head`, and nothing outside of them is seen. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brain_mask: Option<String>,
}

impl Default for Preprocess {
    fn default() -> Self {
        Self {
            image_size: 64,
            plane: Plane::Axial,
            z_range: (0.0, 1.0),
            drop_lower: 0,
            drop_upper: 0,
            min_head_fraction: 0.0,
            crop_to: None,
            pad_to: None,
            percentiles: (1.0, 99.0),
            normalization: Normalization::Percentile,
            head: HeadThreshold::default(),
            brain_mask: None,
        }
    }
}

impl Preprocess {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], naming the field.
    pub fn check(&self) -> Result<()> {
        let bad = |field: &str, expected: &str, got: String| {
            Err(Error::config(format!("Preprocess.{field}"), expected, got))
        };
        if !(1..=4096).contains(&self.image_size) {
            return bad("image_size", "1 to 4096", self.image_size.to_string());
        }
        let (low, high) = self.z_range;
        if !(0.0 <= low && low <= high && high <= 1.0) {
            let expected = "0 <= lower <= upper <= 1";
            return bad("z_range", expected, format!("{:?}", self.z_range));
        }
        if !(0.0..=1.0).contains(&self.min_head_fraction) {
            return bad(
                "min_head_fraction",
                "0 to 1",
                self.min_head_fraction.to_string(),
            );
        }
        if self
            .pad_to
            .is_some_and(|size| !(1..=MOST_SIDE).contains(&size))
        {
            let expected = format!("1 to {MOST_SIDE}");
            return bad("pad_to", &expected, format!("{:?}", self.pad_to));
        }
        if self.crop_to == Some(0) {
            return bad("crop_to", "at least 1", "0".into());
        }
        let (low, high) = self.percentiles;
        if !(0.0 <= low && low < high && high <= 100.0) {
            let expected = "0 <= lower < upper <= 100";
            return bad("percentiles", expected, format!("{:?}", self.percentiles));
        }
        if self.brain_mask.as_deref().is_some_and(str::is_empty) {
            return bad("brain_mask", "the name of a mask", String::new());
        }
        if let Some(name) = self
            .brain_mask
            .as_deref()
            .filter(|name| is_lesion_mask_name(name))
        {
            // The lesions would limit where lesions are looked for.
            let expected = "a name that isn't one of lesion masks, as brain";
            return bad("brain_mask", expected, name.into());
        }
        self.normalization.check()?;
        self.head.check()
    }

    /// The names of what has to be read of a patient whose slices are of these sequences: theirs, and the brain mask's, if there is one.
    #[must_use]
    pub fn names_to_read<S: AsRef<str>>(&self, sequences: &[S]) -> Vec<String> {
        let names = sequences.iter().map(AsRef::as_ref);
        let all = names.chain(self.brain_mask.as_deref());
        all.map(String::from).collect()
    }

    /// Cuts a patient into slices.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`], every error of [`Patient::check`],
    /// [`Error::NoSlices`] when no slice is left, and [`Error::Shape`] for slices of more than 8192
    /// input pixels a side, or more than 2^30 values in all.
    pub fn apply(&self, patient: &Patient) -> Result<PatientSlices> {
        self.turn(patient)?.slices()
    }

    /// Indices of the slices to use.
    fn chosen(&self, id: &str, head: &Array3<bool>) -> Result<Vec<usize>> {
        let total = head.dim().0;
        let pixels = (head.dim().1 * head.dim().2) as f64;
        let upper = total.saturating_sub(self.drop_upper);
        let in_range = |k: usize| {
            let place = if total > 1 {
                k as f64 / (total - 1) as f64
            } else {
                self.z_range.0
            };
            place >= self.z_range.0 && place <= self.z_range.1
        };
        let placed: Vec<usize> = (self.drop_lower..upper).filter(|&k| in_range(k)).collect();
        let enough = |k: &usize| {
            let count = head.index_axis(Axis(0), *k).iter().filter(|b| **b).count();
            count as f64 >= self.min_head_fraction * pixels
        };
        let chosen: Vec<usize> = placed.iter().copied().filter(enough).collect();
        if chosen.is_empty() {
            let reason = format!(
                "of {total} slices, {} lie in z_range {:?} with {} dropped below and {} above, and none of \
                 these has a head that covers {} of it",
                placed.len(),
                self.z_range,
                self.drop_lower,
                self.drop_upper,
                self.min_head_fraction
            );
            return Err(Error::NoSlices {
                patient: id.to_string(),
                reason,
            });
        }
        Ok(chosen)
    }
}

impl Turned<'_> {
    /// Cuts the slices: see [`Preprocess::apply`].
    ///
    /// # Errors
    /// [`Error::Shape`] for more than 2^30 values in all; [`Error::Io`], where the sequences are on the disk.
    pub fn slices(&self) -> Result<PatientSlices> {
        let dim = self.images_dim()?;
        let mut images = Array4::zeros(dim);
        self.cut(&mut |n, channel, small| {
            images.slice_mut(s![n, channel, .., ..]).assign(small);
            Ok(())
        })?;
        Ok(self.around(images))
    }

    /// As [`slices`](Self::slices), with the images in `file`, which is empty and open for reading and writing: a temporary one. They
    /// are read from there a few at a time.
    ///
    /// # Errors
    /// As [`slices`](Self::slices); [`Error::Io`] when the file can't be written.
    pub fn slices_on_disk(&self, file: File) -> Result<PatientSlices<ImagesOnDisk>> {
        let images = ImagesOnDisk::new(file, self.images_dim()?);
        let mut rows = Vec::new();
        self.cut(&mut |n, channel, small| {
            rows.clear();
            rows.extend(small.iter().copied());
            images.write(n, channel, &rows)
        })?;
        Ok(self.around(images))
    }

    /// (N, C, H, W) of the images.
    fn images_dim(&self) -> Result<(usize, usize, usize, usize)> {
        let size = self.preprocess.image_size;
        let (slices, channels) = (self.used.len(), self.names.len());
        if slices * channels > MOST_VALUES / (size * size) {
            let what = format!("slices of patient {}, cut", self.id);
            let expected = format!("(N, C, H, W) of at most {MOST_VALUES} values");
            return Err(Error::shape(
                what,
                expected,
                &[slices, channels, size, size],
            ));
        }
        Ok((slices, channels, size, size))
    }

    /// Cuts one image after the other, sequence by sequence: `put` gets the number of the slice, that of the channel, and the image.
    fn cut(&self, put: &mut PutImage<'_>) -> Result<()> {
        let Self {
            preprocess,
            pad,
            head,
            ..
        } = self;
        let size = preprocess.image_size;
        let resampler = Resampler::image(pad.size, size);
        let mut small = Array2::zeros((size, size));
        let mut square = Array2::zeros((pad.size, pad.size));
        for (channel, name) in self.names.iter().enumerate() {
            let stack = self.stacks.whole(channel)?;
            let normalization = &preprocess.normalization;
            let scale = normalization.fit(name, &stack.view(), head, preprocess.percentiles)?;
            for (n, &k) in self.used.iter().enumerate() {
                let slice = stack.index_axis(Axis(0), k);
                let slice = slice.slice(pad.in_slice());
                let inside = head.index_axis(Axis(0), k);
                let inside = inside.slice(pad.in_slice());
                square.fill(-1.0f32);
                let mut target = square.slice_mut(pad.in_square());
                ndarray::Zip::from(&mut target)
                    .and(&slice)
                    .and(&inside)
                    .for_each(|out, &value, &inside| {
                        if inside {
                            *out = scale.map(value);
                        }
                    });
                resampler.apply(square.view(), small.view_mut());
                put(n, channel, &small)?;
            }
        }
        Ok(())
    }

    /// The slices with these images.
    fn around<I>(&self, images: I) -> PatientSlices<I> {
        let (pad, size) = (&self.pad, self.preprocess.image_size);
        let (z, mask) = (self.used.as_slice(), self.mask);
        let shrink =
            |k: usize, bits: &dyn Fn(usize) -> Array2<bool>| majority(bits(k).view(), pad, size);
        let head_slice = |k: usize| self.head.index_axis(Axis(0), k).to_owned();
        let small_head = stack_up(z, size, |k| shrink(k, &head_slice));
        let lesion = mask.map(WholeLesion::of);
        let labels = lesion.as_ref().map(|lesion| {
            let bits = z.iter().map(|&k| u8::from(lesion.voxels_in(k) > 0));
            bits.collect()
        });
        let mut notes = self.notes.clone();
        notes.extend(mask.and_then(|mask| Note::on_head(mask, self.head.view())));
        notes.extend(lesion.as_ref().and_then(|lesion| Note::on_used(lesion, z)));
        let mask = mask.map(|mask| {
            let lesion = |k: usize| mask.index_axis(Axis(0), k).mapv(is_lesion);
            stack_up(z, size, |k| shrink(k, &lesion))
        });
        PatientSlices {
            id: self.id.clone(),
            sequences: self.names.clone(),
            images,
            z: z.to_vec(),
            head: small_head,
            mask,
            labels,
            lesion,
            notes,
            geometry: self.geometry.clone(),
        }
    }
}

/// Slices of bits, one for each index of `z`, as one array.
fn stack_up(z: &[usize], size: usize, slice: impl Fn(usize) -> Array2<bool>) -> Array3<bool> {
    let mut out = Array3::from_elem((z.len(), size, size), false);
    for (n, &k) in z.iter().enumerate() {
        out.index_axis_mut(Axis(0), n).assign(&slice(k));
    }
    out
}

/// Used by the parts below: number of true pixels.
fn count(bits: ArrayView2<'_, bool>) -> usize {
    bits.iter().filter(|b| **b).count()
}
