//! DICOM series, by the `dicom` crates. Behind the feature `dicom`.
//!
//! A folder's files are grouped into series; the slices of a series are put in order along their
//! normal, and become one [`Volume`](crate::Volume) with the rescaled values and the affine of the
//! first slice's place, orientation and spacing. Slices that are missing, stand twice or do not
//! belong together are an error that names them.
//!
//! Monochrome images of 8, 16 or 32 bits are read, one slice a file, uncompressed or with RLE.
//! Other transfer syntaxes and multi-frame files are [`Error::Unsupported`](crate::Error::Unsupported).
//!
//! ```no_run
//! use fndm_data::{Limits, dicom, nifti};
//! let limits = Limits::default();
//! for series in dicom::list_series("study/scans", &limits)? {
//!     println!("{} {}: {} slices", series.number(), series.description(), series.len());
//! }
//! let flair = dicom::read_series("study/scans/7_flair", &limits)?;
//! nifti::write_map("p01/p01_flair.nii.gz", &flair)?;
//! # Ok::<(), fndm_data::Error>(())
//! ```

mod file;
mod lengths;
mod series;

pub use series::{Series, list_series, read_series};
