//! `FastFlow` (Yu et al. 2021): a flow of convolutions for each layer of features.

mod flow;
mod map;
mod method;

pub use flow::{FastFlow, FastFlowConfig, LayerConfig, LayerFlow, loss};
pub use map::score_map;
pub use method::{FastFlowBaseline, FastFlowMethod, FastFlowModel, FastFlowSettings};
