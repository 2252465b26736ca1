//! DICOM series as volumes. Behind the feature `dicom`.
//!
//! A folder's files are grouped into series; the slices of a series are put in order along their
//! normal, and become one [`Volume`](crate::Volume) with the rescaled values and the affine of the
//! first slice's place, orientation and spacing. Slices that are missing, stand twice or do not
//! belong together are an error that names them. A number that cannot be read is an error that shows it.
//!
//! What is read:
//! - MR, CT and PET, one slice in a file, or many where functional groups say where each lies (enhanced
//!   multi-frame). Other objects (secondary captures, colour images, segmentations, reports) are
//!   listed by [`read_study`] with the reason, and passed over.
//! - Transfer syntaxes: implicit and explicit little endian, deflated, explicit big endian, RLE, JPEG lossless
//!   (process 14 with every predictor), JPEG 2000 with and without loss. Others, as JPEG-LS and lossy JPEG, are
//!   [`Error::Unsupported`](crate::Error::Unsupported) by name.
//! - `MONOCHROME2`, and `MONOCHROME1`, whose stored values are turned over within the range of the stored
//!   bits (`2^n - 1 - v` unsigned, `-1 - v` signed) before slope and intercept, so that high is bright in
//!   every volume. SimpleITK does the same; pydicom gives them as stored.
//! - A mask goes out as a Segmentation object ([`write_segmentation`]); [`Series::kind`] tells which sequence a series is.
//! - Absent or empty slope and intercept are 1 and 0; a slice alone without a distance or thickness is 1 mm thick.
//!
//! ```no_run
//! use fndm_data::{Limits, dicom, nifti};
//! let limits = Limits::default();
//! let study = dicom::read_study("study/scans", &limits)?;
//! for series in &study.series {
//!     println!("{} {}: {} slices", series.number(), series.description(), series.len());
//! }
//! for file in &study.unusable {
//!     println!("left out: {}", file.reason);
//! }
//! let flair = dicom::read_series("study/scans/7_flair", &limits)?;
//! nifti::write_map("p01/p01_flair.nii.gz", &flair)?;
//! # Ok::<(), fndm_data::Error>(())
//! ```

mod attributes;
mod elements;
mod header;
mod image;
mod jpeg;
mod jpeg2000;
mod kind;
mod pixels;
mod rle;
mod segmentation;
mod series;
mod study;
mod syntax;
mod write;

pub use kind::Kind;
pub use segmentation::{Algorithm, write_segmentation};
pub use series::Series;
pub use study::{Study, Unusable, list_series, read_series, read_study};
