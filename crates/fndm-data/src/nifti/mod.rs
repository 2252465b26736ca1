//! NIfTI files in and out.

mod header;

pub use header::Header;
