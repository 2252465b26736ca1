//! Lesions one by one: which were found, how well, and how many findings are false.

mod detection;
mod size;

pub use detection::{DetectionRule, Lesion, LesionConfig, LesionReport, lesion_detection};
pub use size::{LesionSummary, SizeBins, SizeRow, scores_by_size};
