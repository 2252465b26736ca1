//! Slices in order, and the volume that they make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::{Array3, ShapeBuilder};

use super::file::Slice;
use crate::{Error, Limits, Result, Volume, affine};

/// Most files of a folder that are looked at.
const FILES: usize = 20_000;

/// How far a slice may lie from where even steps would put it, as a share of the step.
const UNEVEN: f64 = 0.05;

/// Directions written in decimals of different programs.
const TURNED: f64 = 1e-4;

/// One series: the slices of one scan.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    folder: PathBuf,
    slices: Vec<Slice>,
}

/// The series of a folder and of the folders in it, in the order of their numbers. Files that are not
/// DICOM, and those without an image, are passed over.
///
/// # Errors
/// [`Error::Io`], [`Error::Limit`], and for a file that is DICOM but cannot be used:
/// [`Error::Dicom`], [`Error::InvalidHeader`], [`Error::Truncated`], [`Error::Unsupported`].
pub fn list_series(folder: impl AsRef<Path>, limits: &Limits) -> Result<Vec<Series>> {
    let folder = folder.as_ref();
    let mut found: BTreeMap<(i32, String), Vec<Slice>> = BTreeMap::new();
    for path in files(folder)? {
        if let Some(slice) = Slice::open(&path, limits)? {
            let key = (slice.number, slice.series.clone());
            found.entry(key).or_default().push(slice);
        }
    }
    let series = |slices| Series {
        folder: folder.to_path_buf(),
        slices,
    };
    Ok(found.into_values().map(series).collect())
}

/// Reads a folder that holds one series.
///
/// # Errors
/// [`Error::MixedSeries`] when it holds none or several; as [`list_series`] and [`Series::read`].
pub fn read_series(folder: impl AsRef<Path>, limits: &Limits) -> Result<Volume> {
    let folder = folder.as_ref();
    let found = list_series(folder, limits)?;
    match found.as_slice() {
        [one] => one.read(limits),
        [] => Err(mixed(folder, "no DICOM image is in it".into())),
        several => {
            let names = several
                .iter()
                .map(|s| format!("{} \"{}\"", s.number(), s.description()));
            let names: Vec<String> = names.collect();
            let reason = format!("{} series are in it: {}", names.len(), names.join(", "));
            Err(mixed(folder, reason))
        }
    }
}

fn mixed(folder: &Path, reason: String) -> Error {
    Error::MixedSeries {
        folder: folder.to_path_buf(),
        reason,
    }
}

impl Series {
    /// `SeriesInstanceUID`.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.slices.first().map_or("", |s| &s.series)
    }

    /// `SeriesNumber`, 0 where there is none.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.slices.first().map_or(0, |s| s.number)
    }

    /// `SeriesDescription`, empty where there is none.
    #[must_use]
    pub fn description(&self) -> &str {
        self.slices.first().map_or("", |s| &s.description)
    }

    /// Number of slices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slices.len()
    }

    /// Whether there is no slice. [`list_series`] gives no such series.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Reads the volume: axes are columns, rows and slices of the images, in this order; slices
    /// go along the cross product of the two directions in the image.
    ///
    /// # Errors
    /// [`Error::MixedSeries`] when the slices have different sizes, spacings or directions;
    /// [`Error::MissingSlices`] when they are not evenly spaced on one line, or two are in one place;
    /// [`Error::Limit`]; and what is wrong with a file, as [`list_series`].
    pub fn read(&self, limits: &Limits) -> Result<Volume> {
        let Some(first) = self.slices.first() else {
            return Err(mixed(&self.folder, "no slice is in it".into()));
        };
        self.check_equal(first)?;
        let voxels = (first.rows * first.columns) as u64 * self.slices.len() as u64;
        if voxels > limits.voxels {
            return Err(Error::Limit {
                path: self.folder.clone(),
                what: "number of voxels",
                limit: limits.voxels,
                got: voxels,
            });
        }
        let normal = cross(first.directions);
        let mut order: Vec<(f64, &Slice)> = self
            .slices
            .iter()
            .map(|s| (dot(normal, s.position), s))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.path.cmp(&b.1.path)));
        let step = self.step(&order, normal)?;
        let mut values = Vec::new();
        for (_, slice) in &order {
            slice.pixels(limits, &mut values)?;
        }
        let shape = (first.columns, first.rows, order.len());
        let count = values.len();
        let data = Array3::from_shape_vec(shape.f(), values)
            .map_err(|_| Error::shape("voxels of the series", format!("{shape:?}"), &[count]))?;
        let origin = order.first().map_or(first.position, |o| o.1.position);
        let matrix = matrix(first, step, origin);
        if !affine::is_invertible(&matrix) {
            let reason = format!("the slices span no volume: {matrix:?}");
            return Err(mixed(&self.folder, reason));
        }
        Ok(Volume::new(data, matrix))
    }

    /// All slices have the same size, spacing and directions.
    fn check_equal(&self, first: &Slice) -> Result<()> {
        for slice in &self.slices {
            let turned = (0..6).any(|n| {
                let (d, c) = (n / 3, n % 3);
                (slice.directions[d][c] - first.directions[d][c]).abs() > TURNED
            });
            let spaced = (0..2)
                .any(|n| (slice.spacing[n] - first.spacing[n]).abs() > 1e-4 * first.spacing[n]);
            let what = if (slice.rows, slice.columns) != (first.rows, first.columns) {
                "sizes"
            } else if turned {
                "directions (a localiser of three planes has that)"
            } else if spaced {
                "spacings of pixels"
            } else {
                continue;
            };
            let (a, b) = (first.path.display(), slice.path.display());
            return Err(mixed(
                &self.folder,
                format!("{a} and {b} have different {what}"),
            ));
        }
        Ok(())
    }

    /// The step from slice to slice, of slices in order.
    fn step(&self, order: &[(f64, &Slice)], normal: [f64; 3]) -> Result<[f64; 3]> {
        let (Some(first), Some(last)) = (order.first(), order.last()) else {
            return Ok(normal);
        };
        if order.len() == 1 {
            let length = first.1.step.unwrap_or(1.0);
            return Ok(normal.map(|n| n * length));
        }
        let mut gaps: Vec<f64> = order.windows(2).map(|w| w[1].0 - w[0].0).collect();
        gaps.sort_by(f64::total_cmp);
        let usual = gaps[gaps.len() / 2];
        for pair in order.windows(2) {
            let gap = pair[1].0 - pair[0].0;
            if (gap - usual).abs() > UNEVEN * usual || gap <= 0.0 {
                return Err(Error::MissingSlices {
                    folder: self.folder.clone(),
                    first: pair[0].1.path.clone(),
                    second: pair[1].1.path.clone(),
                    gap,
                    usual,
                });
            }
        }
        let steps = (order.len() - 1) as f64;
        let step: [f64; 3] =
            std::array::from_fn(|n| (last.1.position[n] - first.1.position[n]) / steps);
        // Even along the normal, but also on one line?
        for (n, pair) in order.iter().enumerate() {
            let off = (0..3)
                .map(|c| (first.1.position[c] + n as f64 * step[c] - pair.1.position[c]).powi(2))
                .sum::<f64>()
                .sqrt();
            if off > 2.0 * UNEVEN * usual {
                let reason = format!(
                    "{} lies {off:.3} mm off the line of the other slices",
                    pair.1.path.display()
                );
                return Err(mixed(&self.folder, reason));
            }
        }
        Ok(step)
    }
}

/// The affine of a series: DICOM has x to the left and y to the back, the affine has them the other way.
fn matrix(slice: &Slice, step: [f64; 3], origin: [f64; 3]) -> affine::Affine {
    let mut out = affine::diagonal([1.0; 3]);
    for (row, sign) in [-1.0, -1.0, 1.0].into_iter().enumerate() {
        // Moving by a column is along a row, whose pixels are as far apart as columns are.
        out[row][0] = sign * slice.directions[0][row] * slice.spacing[1];
        out[row][1] = sign * slice.directions[1][row] * slice.spacing[0];
        out[row][2] = sign * step[row];
        out[row][3] = sign * origin[row];
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

/// The files of a folder and of the folders in it, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_path_buf(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let path = entry.map_err(Error::io(&folder))?.path();
            if path.is_dir() {
                if depth < 3 {
                    folders.push((path, depth + 1));
                }
            } else if path.is_file() {
                found.push(path);
            }
            if found.len() + folders.len() > FILES {
                return Err(Error::Limit {
                    path: folder,
                    what: "number of files",
                    limit: FILES as u64,
                    got: (found.len() + folders.len()) as u64,
                });
            }
        }
    }
    found.sort();
    Ok(found)
}
