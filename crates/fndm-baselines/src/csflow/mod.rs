//! CS-Flow (Rudolph et al. 2022): one flow through three scales of features.

mod flow;
mod map;
mod method;

pub use flow::{CrossFlow, CrossFlowConfig, loss, score};
pub use map::{MapKind, scale_map, score_map};
pub use method::{CsFlowBaseline, CsFlowMethod, CsFlowModel, CsFlowSettings, Orders};
