//! What a student is taught, wherever one is trained.

use anyhow::{Context, Result};
use clap::ValueEnum;
use fndm_study::student::StudentPlan;

use crate::common;

/// The lesions that are to be found: they decide a student's teachers, and what a diffusion model removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lesions {
    /// Any, by the Gaussians of both labels and a remover of lesions
    Any,
    /// Small, and bright in FLAIR, as in multiple sclerosis: by how far a pixel is above its slice
    SmallBright,
}

/// The number of the sequence that small lesions are bright in.
pub(super) fn flair(sequences: &[String]) -> Result<usize> {
    let flair = sequences.iter().position(|name| name == "flair");
    flair.with_context(|| {
        let got = sequences.join(", ");
        format!("--lesions small-bright: expected flair among the sequences, got {got}")
    })
}

/// The plan of a student for slices of these sequences and this size, with `more` laid over it.
pub(crate) fn plan(
    lesions: Lesions,
    sequences: &[String],
    size: usize,
    (iterations, seed): (u64, u64),
    more: Option<(&str, &str)>,
) -> Result<StudentPlan> {
    let mut plan = StudentPlan::new(sequences, size, iterations, seed);
    if lesions == Lesions::SmallBright {
        plan = plan.small_bright(flair(sequences)?);
    }
    if let Some((option, text)) = more {
        plan = common::overlay(&plan, text).with_context(|| option.to_owned())?;
    }
    plan.check_slices(sequences.len(), size)?;
    Ok(plan)
}
