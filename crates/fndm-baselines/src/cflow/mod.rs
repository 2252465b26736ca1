//! `CFlow-AD` (Gudovskiy et al. 2022): a flow for each layer of features, conditioned on the position.

mod decoder;
mod fibres;
mod loss;
mod map;
mod method;
mod network;
mod position;
mod task;

pub use decoder::{Decoder, DecoderConfig};
pub use fibres::Rest;
pub use loss::{log_likelihood, loss, per_dimension};
pub use map::{ScoreMap, score_map};
pub use method::{CflowBaseline, CflowMethod, CflowRate, CflowSettings};
pub use network::{CflowLayer, CflowModel, CflowNetwork, MixingKind, Reference};
pub use position::position_encoding;

use network::rows;
