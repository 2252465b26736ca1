//! Writing files and folders of results so that nothing of a user's is lost.
//!
//! **The one rule.** A folder is replaced or emptied only when it bears a marker that we wrote ([`MARKER`]: the program, what the
//! folder holds, and every file of it with length and checksum) and holds only what we wrote, as we wrote it. What a user added or
//! changed is named in the refusal. An output that is, holds, or would change an input is refused before anything is computed.
//!
//! - [`write_atomic`], [`write_json`], [`write_by`], [`AtomicFile`]: one file, complete or not there.
//! - [`OutputFolder`]: a folder that is made whole under a temporary name and then takes the place of the old one.
//! - [`WorkFolder`]: a folder that is filled piece by piece, and gone on with later.
//! - [`Inputs`]: what a program reads, and may not touch.
//! - [`check_writable`]: whether an output can be written, in the first second.
//!
//! ```
//! use fndm_files::{Inputs, Maker, OutputFolder};
//!
//! # let place = tempfile::tempdir().unwrap();
//! # let place = place.path();
//! # std::fs::create_dir(place.join("data")).unwrap();
//! let inputs = Inputs::new().folder(place.join("data"));
//! let maker = Maker::new("detect", "0.1.0", "patient p1");
//! let mut out = OutputFolder::create(place.join("out/p1"), &maker, &inputs)?;
//! out.write("report.txt", b"nothing found\n")?;
//! out.finish()?;
//! assert!(place.join("out/p1/report.txt").is_file());
//! // The input itself is refused.
//! assert!(OutputFolder::create(place.join("data"), &maker, &inputs).is_err());
//! # Ok::<(), fndm_files::Error>(())
//! ```

mod atomic;
mod error;
mod inputs;
mod lock;
mod marker;
mod output;
mod resolve;
mod work;
mod writable;

pub use atomic::{AtomicFile, write_atomic, write_by, write_json};
pub use error::{Error, Result};
pub use inputs::Inputs;
pub use marker::{MARKER, Maker};
pub use output::OutputFolder;
pub use resolve::resolve;
pub use work::WorkFolder;
pub use writable::check_writable;
