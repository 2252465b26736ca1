//! Brain MR in and out: NIfTI, layouts, slices, splits, lesion masks, a phantom.

pub mod affine;
pub mod corrupt;
mod error;
pub mod freeform;
mod limits;
pub mod nifti;
pub mod phantom;
mod volume;

pub use error::{Error, Result};
pub use limits::Limits;
pub use volume::{Patient, Volume};
