//! Brain MR in and out: NIfTI files, data set layouts, slices, splits, lesion masks, a phantom.
//!
//! Training a slice model and judging it on volumes needs the same few steps each
//! time: find the files, read them safely, cut them right, keep patients apart, and put the
//! result back where it belongs. This crate does them, on [`ndarray`] arrays, and
//! knows no tensor library.
//!
//! ```
//! use fndm_data::{Preprocess, SliceSet, nifti, phantom::PhantomConfig};
//!
//! // A made patient; `read_patient(folder, &["flair", "t1"], &Limits::default())` reads a real one.
//! let patient = PhantomConfig::default().patient(7)?;
//! let preprocess = Preprocess { image_size: 64, z_range: (0.3, 0.85), ..Preprocess::default() };
//! let slices = preprocess.apply(&patient)?;
//!
//! // For training: slices and one bit for each, no pixel of a mask.
//! let set = SliceSet::from_patients([slices.clone()])?;
//! assert_eq!(set.labels.len(), set.images.dim().0);
//!
//! // For a result: a map of each slice goes back to the patient's own grid and file type.
//! let bright = slices.images.map_axis(ndarray::Axis(1), |channels| channels[0] > 0.9);
//! let mask = slices.to_mask(&bright)?;
//! let folder = tempfile::tempdir().unwrap();
//! nifti::write_mask(folder.path().join("anomaly.nii.gz"), &mask)?;
//! # Ok::<(), fndm_data::Error>(())
//! ```
//!
//! The example `inspect` tells what is in a data set's folder, what is wrong with it, and which
//! slices would be used.
//!
//! # Parts
//! - [`nifti`]: NIfTI-1 and -2 in and out, within [`Limits`]. [`Volume`] is what comes of it.
//! - `dicom` (feature `dicom`): series of slices as volumes.
//! - [`affine`]: orientation codes, reorientation, voxel sizes.
//! - [`layout`]: BraTS, ISLES (BIDS) and plain folders, manifests; [`list_patients`], [`read_patient`].
//! - [`Patient`]: checked sequences on one grid; [`find_identical_sequences`].
//! - [`Splits`]: training, validation and test by patient, with a leak check; [`Folds`]: folds by patient, to choose by.
//! - [`labels`]: healthy or diseased per slice, from a table or from folders.
//! - [`Preprocess`]: slicing, head mask, normalisation, resizing, all of which can be
//!   undone; [`PatientSlices`] and, for training, [`SliceSet`].
//! - [`loading`]: batches for training, from a compact cache, made ahead by threads.
//! - [`freeform`] and [`corrupt`]: lesion-like masks, and what is done under them.
//! - [`phantom`]: a procedural brain with lesions of known mask, for machines with no data.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as ndarray does"
)]

pub mod affine;
pub mod corrupt;
#[cfg(feature = "dicom")]
pub mod dicom;
mod error;
mod folds;
pub mod freeform;
pub mod labels;
pub mod layout;
mod lesion;
mod limits;
pub mod loading;
mod neighbours;
pub mod nifti;
mod open;
mod patient;
pub mod phantom;
pub mod preprocess;
mod slice_set;
mod splits;
mod text;
mod volume;

pub use error::{Error, Result};
pub use folds::Folds;
pub use layout::{
    list_patients, read_patient, read_patient_below, read_sequences, read_sequences_below,
};
pub use lesion::{Note, is_lesion};
pub use limits::Limits;
pub use neighbours::{neighbours, with_neighbours};
pub use patient::{Patient, find_identical_sequences};
pub use preprocess::{HistogramReference, Normalization, PatientSlices, Plane, Preprocess};
pub use slice_set::SliceSet;
pub use splits::{Side, Splits};
pub use volume::Volume;
