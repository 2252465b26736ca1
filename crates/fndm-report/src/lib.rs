#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`PatientPage`], [`Layer`], [`Frame`]: the page of one patient, with a viewer of its slices.
//! - [`Measure`], [`LesionPart`]: volumes and lesions.
//! - [`Check`], [`Light`]: whether the input is like the training data.
//! - [`IndexPage`], [`Entry`]: the page of many patients.
//! - [`is_unchanged_page`]: whether a file may be replaced.
//! - [`Section`], [`Block`]: words, tables, charts and pictures of either.

mod atlas;
mod block;
mod check;
mod error;
mod frame;
mod html;
mod index;
mod layer;
mod measure;
mod patient;

pub use block::{Block, Picture, Section};
pub use check::{Check, Finding, Light};
pub use error::{Error, Result};
pub use frame::Frame;
pub use html::is_unchanged_page;
pub use index::{Column, Entry, IndexPage};
pub use layer::{Kind, Layer, Place, map_range, shrunk, usual_range};
pub use measure::{LesionPart, Measure, millimetres};
pub use patient::{PatientPage, SliceAt};
