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

/// Where the records of the shards are, in the folder of results.
pub(crate) const FOLDER: &str = "_cohort";
