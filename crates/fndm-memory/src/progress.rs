use std::fmt;
use std::ops::ControlFlow;

use crate::{Error, Result};

/// A stage of building a bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Mean and deviation of every channel; counted in images.
    Statistics,
    /// Patch features; counted in images.
    Features,
    /// Choice of the rows that stay; counted in rows.
    Coreset,
    /// Score maps of healthy slices for the threshold; counted in images.
    Calibration,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Statistics => "statistics",
            Self::Features => "features",
            Self::Coreset => "coreset",
            Self::Calibration => "calibration",
        })
    }
}

/// How far a long computation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// How much of it is done.
    pub done: usize,
    /// How much there is in all.
    pub total: usize,
}

/// A progress function that shows nothing and never stops.
///
/// Pass `&mut fndm_memory::silent` where a progress function is asked for.
pub fn silent(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The caller's progress function: it sees how far the work is, and stops it with [`ControlFlow::Break`].
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

pub(crate) fn report(
    on_progress: OnProgress<'_>,
    stage: Stage,
    done: usize,
    total: usize,
) -> Result<()> {
    match on_progress(Progress { stage, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled { stage }),
    }
}
