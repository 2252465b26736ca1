//! Data in the formats of other programs, in and out: BIDS, DICOM, ONNX, 3D Slicer. The programs are run as a user runs them.

#[path = "formats/bids.rs"]
mod bids;
#[path = "formats/common.rs"]
mod common;
#[path = "formats/dicom.rs"]
mod dicom;
#[path = "formats/onnx.rs"]
mod onnx;
#[path = "formats/slicer.rs"]
mod slicer;
