//! Slices in order, and the volume that they make.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::{Array3, ShapeBuilder};

use super::header::Header;
use super::image::{Frame, Image};
use crate::{Error, Limits, Result, Volume, affine};

/// How far a slice may lie from where even steps would put it, as a share of the step.
const UNEVEN: f64 = 0.05;

/// How far the directions of slices may differ, in every part: programs round to three decimals or more. Over
/// 256 pixels it makes a quarter of a pixel.
const TURNED: f64 = 1e-3;

/// One series: the slices of one scan.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    folder: PathBuf,
    images: Vec<Image>,
    /// Files of this series that cannot be used.
    broken: Vec<PathBuf>,
}

/// One frame of one file.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    /// Which of the series' files it is in, and which frame of that.
    file: usize,
    pub(super) number: usize,
    pub(super) image: &'a Image,
    pub(super) frame: &'a Frame,
    /// Place along the normal, in millimetres.
    along: f64,
}

impl Slice<'_> {
    /// By place; of slices in one place, by file and frame.
    fn order(&self, other: &Self) -> Ordering {
        let file = || self.image.path.cmp(&other.image.path);
        let along = self.along.total_cmp(&other.along).then_with(file);
        along.then(self.number.cmp(&other.number))
    }

    /// File, and frame where there are several.
    fn name(&self) -> String {
        let path = self.image.path.display();
        match self.image.frames.len() {
            1 => path.to_string(),
            _ => format!("frame {} of {path}", self.number + 1),
        }
    }
}

pub(super) fn mixed(folder: &Path, reason: String) -> Error {
    Error::MixedSeries {
        folder: folder.to_path_buf(),
        reason,
    }
}

impl Series {
    pub(super) fn new(folder: &Path, images: Vec<Image>, broken: Vec<PathBuf>) -> Self {
        Self {
            folder: folder.to_path_buf(),
            images,
            broken,
        }
    }

    /// Number and description, for messages.
    pub(super) fn name(&self) -> String {
        format!("{} \"{}\"", self.number(), self.description())
    }

    /// `SeriesInstanceUID`.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.images.first().map_or("", |i| &i.series)
    }

    /// `SeriesNumber`, 0 where there is none.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.images.first().and_then(|i| i.number).unwrap_or(0)
    }

    /// `SeriesDescription`, empty where there is none.
    #[must_use]
    pub fn description(&self) -> &str {
        self.images.first().map_or("", |i| &i.description)
    }

    /// `StudyInstanceUID`, empty where there is none.
    #[must_use]
    pub fn study(&self) -> String {
        self.word(dicom_dictionary_std::tags::STUDY_INSTANCE_UID)
    }

    /// `PatientID` and `PatientName`, empty where there is none.
    #[must_use]
    pub fn patient(&self) -> (String, String) {
        let id = self.word(dicom_dictionary_std::tags::PATIENT_ID);
        (id, self.word(dicom_dictionary_std::tags::PATIENT_NAME))
    }

    /// `FrameOfReferenceUID`, empty where there is none: series that share it lie in one space.
    #[must_use]
    pub fn frame_of_reference(&self) -> String {
        self.word(dicom_dictionary_std::tags::FRAME_OF_REFERENCE_UID)
    }

    fn word(&self, tag: dicom_core::Tag) -> String {
        self.header().map(|h| h.text(tag)).unwrap_or_default()
    }

    /// The first file's.
    pub(super) fn header(&self) -> Option<&Header> {
        self.images.first().map(|image| &image.header)
    }

    /// The files with slices of the series, in their order.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        self.images
            .iter()
            .map(|image| image.path.as_path())
            .collect()
    }

    /// The files, in the order of their paths.
    pub(super) fn images(&self) -> &[Image] {
        &self.images
    }

    /// Number of slices: frames of all files.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.iter().map(|i| i.frames.len()).sum()
    }

    /// Whether there is no slice. [`list_series`](super::list_series) gives no such series.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the volume: axes are columns, rows and slices of the images, in this order; slices
    /// go along the cross product of the two directions in the image.
    ///
    /// # Errors
    /// [`Error::MixedSeries`] when the slices have different sizes, spacings or directions;
    /// [`Error::MissingSlices`] or [`Error::MissingFrames`] when they are not evenly spaced on one line, or two
    /// are in one place; [`Error::Limit`]; [`Error::Pixels`] when a frame cannot be decoded; and what is wrong
    /// with a file of the series, as [`list_series`](super::list_series).
    pub fn read(&self, limits: &Limits) -> Result<Volume> {
        if let Some(path) = self.broken.first() {
            // What is wrong with it is told as when it was found.
            return Err(match Image::open(path, limits) {
                Err(refused) => refused.error,
                Ok(_) => Error::Dicom {
                    path: path.clone(),
                    reason: "changed while it was read".into(),
                },
            });
        }
        let Some(first) = self.images.first() else {
            return Err(mixed(&self.folder, "no slice is in it".into()));
        };
        let plane = first.rows * first.columns;
        let voxels = (plane as u64).saturating_mul(self.len() as u64);
        if voxels > limits.voxels {
            return Err(Error::Limit {
                path: self.folder.clone(),
                what: "number of voxels",
                limit: limits.voxels,
                got: voxels,
            });
        }
        let order = self.ordered()?;
        let Some(first) = order.first() else {
            return Err(mixed(&self.folder, "no slice is in it".into()));
        };
        let step = self.step(&order)?;
        let matrix = matrix(first.frame, step);
        if !affine::is_invertible(&matrix) {
            let reason = format!("the slices span no volume: {matrix:?}");
            return Err(mixed(&self.folder, reason));
        }
        let values = self.values(&order, plane, limits)?;
        let shape = (first.image.columns, first.image.rows, order.len());
        let count = values.len();
        let data = Array3::from_shape_vec(shape.f(), values)
            .map_err(|_| Error::shape("voxels of the series", format!("{shape:?}"), &[count]))?;
        Ok(Volume::new(data, matrix))
    }

    /// The slices along their normal. All have the same size, spacing and directions.
    pub(super) fn ordered(&self) -> Result<Vec<Slice<'_>>> {
        let mut slices: Vec<Slice<'_>> = Vec::with_capacity(self.len());
        for (file, image) in self.images.iter().enumerate() {
            for (number, frame) in image.frames.iter().enumerate() {
                slices.push(Slice {
                    file,
                    number,
                    image,
                    frame,
                    along: 0.0,
                });
            }
        }
        let Some(first) = slices.first().copied() else {
            return Ok(slices);
        };
        let normal = cross(first.frame.directions);
        for slice in &mut slices {
            self.check_equal(&first, slice)?;
            slice.along = dot(normal, slice.frame.position);
        }
        slices.sort_by(Slice::order);
        Ok(slices)
    }

    fn check_equal(&self, first: &Slice<'_>, slice: &Slice<'_>) -> Result<()> {
        let (a, b) = (first.frame, slice.frame);
        let turned = (0..6).any(|n| {
            let (d, c) = (n / 3, n % 3);
            (a.directions[d][c] - b.directions[d][c]).abs() > TURNED
        });
        let spaced = (0..2).any(|n| (a.spacing[n] - b.spacing[n]).abs() > 1e-4 * a.spacing[n]);
        let size = |s: &Slice<'_>| (s.image.rows, s.image.columns);
        let what = if size(slice) != size(first) {
            format!("sizes: {:?} and {:?}", size(first), size(slice))
        } else if turned {
            format!(
                "directions (a localiser of three planes has that): {:?} and {:?}",
                a.directions, b.directions
            )
        } else if spaced {
            format!("spacings of pixels: {:?} and {:?}", a.spacing, b.spacing)
        } else {
            return Ok(());
        };
        let (a, b) = (first.name(), slice.name());
        Err(mixed(
            &self.folder,
            format!("{a} and {b} have different {what}"),
        ))
    }

    /// The step from slice to slice, of slices in order.
    fn step(&self, order: &[Slice<'_>]) -> Result<[f64; 3]> {
        let (Some(first), Some(last)) = (order.first(), order.last()) else {
            return Ok([0.0; 3]);
        };
        if order.len() == 1 {
            // Nothing but the file's own word tells how thick a slice alone is.
            let length = first.frame.step.unwrap_or(1.0);
            return Ok(cross(first.frame.directions).map(|n| n * length));
        }
        let gap = |pair: &[Slice<'_>]| pair[1].along - pair[0].along;
        let mut gaps: Vec<f64> = order.windows(2).map(gap).collect();
        gaps.sort_by(f64::total_cmp);
        let usual = gaps[gaps.len() / 2];
        for pair in order.windows(2) {
            let gap = gap(pair);
            if (gap - usual).abs() > UNEVEN * usual || gap <= 0.0 {
                return Err(self.missing(&pair[0], &pair[1], gap, usual));
            }
        }
        let steps = (order.len() - 1) as f64;
        let (start, end) = (first.frame.position, last.frame.position);
        let step: [f64; 3] = std::array::from_fn(|n| (end[n] - start[n]) / steps);
        // Even along the normal, but also on one line?
        for (n, slice) in order.iter().enumerate() {
            let off = (0..3)
                .map(|c| (start[c] + n as f64 * step[c] - slice.frame.position[c]).powi(2))
                .sum::<f64>()
                .sqrt();
            if off > 2.0 * UNEVEN * usual {
                let name = slice.name();
                let reason = format!("{name} lies {off:.3} mm off the line of the other slices");
                return Err(mixed(&self.folder, reason));
            }
        }
        Ok(step)
    }

    fn missing(&self, first: &Slice<'_>, second: &Slice<'_>, gap: f64, usual: f64) -> Error {
        if first.file == second.file {
            return Error::MissingFrames {
                path: first.image.path.clone(),
                first: first.number + 1,
                second: second.number + 1,
                gap,
                usual,
            };
        }
        Error::MissingSlices {
            folder: self.folder.clone(),
            first: first.image.path.clone(),
            second: second.image.path.clone(),
            gap,
            usual,
        }
    }

    /// The values of slices in order, each of `plane` pixels. Every file is read once.
    fn values(&self, order: &[Slice<'_>], plane: usize, limits: &Limits) -> Result<Vec<f32>> {
        let mut values = vec![0f32; plane * order.len()];
        let mut files: BTreeMap<usize, Vec<(usize, &mut [f32])>> = BTreeMap::new();
        for (slice, place) in order.iter().zip(values.chunks_exact_mut(plane)) {
            files
                .entry(slice.file)
                .or_default()
                .push((slice.number, place));
        }
        for (file, mut frames) in files {
            if let Some(image) = self.images.get(file) {
                image.values(limits, &mut frames)?;
            }
        }
        Ok(values)
    }
}

/// The affine that [`Series::read`] gives a volume of these slices in order.
pub(super) fn matrix_of(series: &Series, order: &[Slice<'_>]) -> Result<affine::Affine> {
    let step = series.step(order)?;
    match order.first() {
        Some(first) => Ok(matrix(first.frame, step)),
        None => Err(mixed(&series.folder, "no slice is in it".into())),
    }
}

/// The affine of a series: DICOM has x to the left and y to the back, the affine has them the other way.
fn matrix(slice: &Frame, step: [f64; 3]) -> affine::Affine {
    let mut out = affine::diagonal([1.0; 3]);
    for (row, sign) in [-1.0, -1.0, 1.0].into_iter().enumerate() {
        // Moving by a column is along a row, whose pixels are as far apart as columns are.
        out[row][0] = sign * slice.directions[0][row] * slice.spacing[1];
        out[row][1] = sign * slice.directions[1][row] * slice.spacing[0];
        out[row][2] = sign * step[row];
        out[row][3] = sign * slice.position[row];
    }
    out
}

fn cross([a, b]: [[f64; 3]; 2]) -> [f64; 3] {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|n| a[n] * b[n]).sum()
}
