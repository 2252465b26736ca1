//! Segmentation and ranking metrics that say what they compute.

mod aggregate;
mod bootstrap;
mod components;
mod confusion;
mod empty;
mod error;
mod lesion;
mod otsu;
mod paired;
mod ranking;
mod real;
mod score;
mod streaming;
mod surface;
mod table;

pub use aggregate::Aggregate;
pub use bootstrap::{BootstrapConfig, Interval, bootstrap_mean};
pub use components::{Components, connected_components};
pub use confusion::{
    Confusion, dice, jaccard, precision, recall, relative_volume_difference, specificity,
    volumetric_similarity,
};
pub use empty::{EmptyPolicy, EmptyRules, image_diagonal};
pub use error::{Error, Result};
pub use lesion::{
    DetectionRule, Lesion, LesionConfig, LesionReport, LesionSummary, SizeBins, SizeRow,
    lesion_detection, scores_by_size,
};
pub use otsu::{
    Integer, OTSU_BINS, OTSU_INTEGER_RANGE, otsu, otsu_exact, otsu_exact_masked, otsu_integer,
    otsu_masked, otsu_with_bins,
};
pub use paired::{Paired, paired_comparison, wilcoxon_signed_rank};
pub use ranking::{
    BestDice, Ranking, auroc, average_precision, best_dice, best_dice_pooled, best_mean_dice,
};
pub use real::Real;
pub use score::{Score, Undefined};
pub use streaming::{Bounded, RankingHistogram};
pub use surface::{
    BorderDistances, Connectivity, Definition, SurfelDistances, VoxelDistances,
    average_surface_distance, average_symmetric_surface_distance, distance_transform, hausdorff,
    percentile_hausdorff, surface_dice,
};
pub use table::{Better, Cell, Column, Row, Table};
