#![doc = include_str!("../README.md")]
//!
//! # Parts
//! - [`nifti`]: NIfTI-1 and -2 in and out, within [`Limits`]. [`Volume`] is what comes of it.
//! - `dicom` (feature `dicom`): series of slices as volumes.
//! - [`affine`]: orientation codes, reorientation, voxel sizes.
//! - [`layout`]: BraTS, ISLES (BIDS) and plain folders, manifests; [`list_patients`], [`read_patient`].
//! - [`bids`]: subjects, sessions and entities of a BIDS data set.
//! - [`Patient`]: checked sequences on one grid; [`find_identical_sequences`].
//! - [`Splits`]: training, validation and test by patient, with a leak check; [`Folds`]: folds by patient, to choose by.
//! - [`labels`]: healthy or diseased per slice, from a table or from folders.
//! - [`Preprocess`]: slicing, head mask, normalisation, resizing, all of which can be
//!   undone; [`PatientSlices`] and, for training, [`SliceSet`].
//! - [`Order`], [`stream`]: which slice comes when, and random numbers that depend on no earlier ones.
//! - [`freeform`] and [`corrupt`]: lesion-like masks, and what is done under them.
//! - [`phantom`]: a procedural brain with lesions of known mask, for machines with no data.

#![allow(
    clippy::needless_pass_by_value,
    reason = "array views are passed by value, as ndarray does"
)]

pub mod affine;
pub mod bids;
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
mod neighbours;
pub mod nifti;
mod open;
mod order;
mod patient;
pub mod phantom;
pub mod preprocess;
pub mod profile;
mod resample;
mod slice_set;
mod splits;
mod stream;
mod text;
mod volume;

pub use error::{Error, Result};
pub use folds::Folds;
pub use layout::{
    list_patients, read_patient, read_patient_below, read_sequences, read_sequences_below,
};
pub use lesion::{Note, is_lesion};
pub use limits::Limits;
pub use neighbours::{neighbours, neighbours_of, with_neighbours};
pub use order::Order;
pub use patient::{Patient, find_identical_sequences};
pub use preprocess::{
    Geometry, HistogramReference, ImagesOnDisk, Normalization, Overlap, PatientSlices, Plane,
    Preprocess, SliceImages, Turned, WholeLesion,
};
pub use resample::{resample, resample_mask};
pub use slice_set::SliceSet;
pub use splits::{Side, Splits};
pub use stream::stream;
pub use volume::Volume;
