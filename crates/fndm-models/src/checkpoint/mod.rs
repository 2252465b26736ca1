//! Checkpoints in and out.

mod choose;
mod element;
mod limits;
mod pickle;
mod safetensors;
mod state_dict;
mod strict;
mod torch;
mod torch_write;

pub use limits::Limits;
pub use state_dict::{NetworkConfig, StateDict};

pub(crate) use strict::build_strictly;
