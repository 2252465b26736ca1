//! Large cohorts: which patients are whose, which are done, and what is kept of both.
//!
//! Each patient has a folder of its own, with a [`record::Record`] of what made it. Each shard has a [`progress::Progress`]. What the
//! shards wrote is joined by `fndm collect`.

pub(crate) mod fingerprint;
pub(crate) mod list;
pub(crate) mod pipeline;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod scores;
mod shard;

pub(crate) use progress::Progress;
pub(crate) use record::{How, Record};
pub(crate) use shard::{Shard, ShardOptions};

/// What the checks of patients' output folders say of a run as a whole. Where one of several can't be written, as with a result that
/// somebody edited, that patient fails when its turn comes, and stops nobody; where none can, nothing needs to be computed.
pub(crate) fn check_each(
    checks: impl IntoIterator<Item = fndm_files::Result<()>>,
) -> fndm_files::Result<()> {
    let mut first = None;
    for check in checks {
        match check {
            Ok(()) => return Ok(()),
            Err(error) => first = first.or(Some(error)),
        }
    }
    first.map_or(Ok(()), Err)
}

/// Where the records of the shards are, in the folder of results.
pub(crate) const FOLDER: &str = "_cohort";
