//! Saved banks: safetensors with the config and a checksum in the header.

mod checksum;
mod read;
mod write;

pub(crate) use checksum::checksum;
pub(crate) use write::unwritable;

use serde::{Deserialize, Serialize};

use crate::config::MemoryConfig;
use crate::smooth::{Edge, Smoothing};

/// The header's key. One key alone, so that the same bank is the same bytes.
const KEY: &str = "fndm-memory";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    checksum: String,
    bank: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    version: u32,
    config: MemoryConfig,
    patches_seen: u64,
    maps: usize,
    calibration: Option<CalibrationDescription>,
    /// Banks from before it was written have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extractor: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CalibrationDescription {
    pixels: u64,
    slices: usize,
    smoothing: Smoothing,
    edge: Edge,
    head_erosion: usize,
}
