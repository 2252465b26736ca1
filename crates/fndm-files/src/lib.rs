#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`write_atomic`], [`write_json`], [`write_by`], [`AtomicFile`]: one file, complete or not there; [`read_json`] reads one again.
//! - [`OutputFolder`]: a folder that is made whole under a temporary name and then takes the place of the old one.
//! - [`WorkFolder`]: a folder that is filled piece by piece, and gone on with later.
//! - [`Inputs`]: what a program reads, and may not touch.
//! - [`check_writable`]: whether an output can be written, in the first second.
//! - [`chain`]: an error and its causes in one line, as reports, logs and screens have it; [`counted`]: a number of things.

mod atomic;
mod chain;
mod counted;
mod error;
mod filling;
mod inputs;
mod lock;
mod marker;
mod output;
mod resolve;
mod work;
mod writable;

pub use atomic::{AtomicFile, read_json, sync_folder, write_atomic, write_by, write_json};
pub use chain::chain;
pub use counted::counted;
pub use error::{Error, Result};
pub use inputs::Inputs;
pub use marker::{MARKER, Maker, is_complete};
pub use output::OutputFolder;
pub use resolve::resolve;
pub use work::WorkFolder;
pub use writable::check_writable;
