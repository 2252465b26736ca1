//! NIfTI files in and out.
//!
//! Reads NIfTI-1 and NIfTI-2, single files (`.nii`) and pairs (`.hdr` + `.img`),
//! plain or gzip (told by content, not by name; all members of the stream), both byte
//! orders, every real scalar type up to 64 bits. Voxels are scaled as nibabel does.
//! The header is checked whole before any memory is taken for voxels, and what a
//! file may ask for is bounded by [`Limits`](crate::Limits).
//!
//! The reader is this crate's own: the `nifti` crate panics on some broken headers,
//! knows no NIfTI-2, unpacks only the first gzip member and loses the place in space on
//! writing. The tests compare with it where it is right.

mod bytes;
mod convert;
mod datatype;
mod gunzip;
mod header;
mod pair;
mod place;
mod read;
mod source;
mod voxels;
mod write;

pub use convert::Element;
pub use datatype::DataType;
pub use header::{Header, Version};
pub use read::{Image, read, read_bytes, read_header, read_image};
pub use write::{write, write_like, write_map, write_mask};
