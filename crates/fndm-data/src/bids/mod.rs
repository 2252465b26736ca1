//! BIDS: subjects, sessions and the names of files, and which file is which sequence.
//!
//! A [`Tree`] is a folder of `sub-<label>` folders, with or without `ses-<label>` folders in them. Each session is a patient of its
//! own: `sub-01/ses-pre`. Which file is which sequence is told by suffix and contrast agent; where several fit, a [`Filter`] chooses,
//! and without one the session can't be used.
//!
//! ```no_run
//! use fndm_data::{Limits, bids::Tree};
//!
//! let tree = Tree::read("bids", &[], &Limits::default())?;
//! for session in &tree.sessions {
//!     for (sequence, image) in session.choose(&["flair", "t1"], &[])? {
//!         println!("{}: {sequence} is {}", session.id(), image.path.display());
//!     }
//! }
//! # Ok::<(), fndm_data::Error>(())
//! ```

mod filter;
mod mask;
mod name;
mod sequence;
mod tree;

pub use filter::Filter;
pub use name::Name;
pub use tree::{Image, Session, Tree};
