#![doc = include_str!("../README.md")]
//!
//! # Definitions
//!
//! `R` is the result, `G` the reference; TP, FP, FN, TN count voxels. `d(p, S)` is the Euclidean
//! distance, with spacing, from `p` to the nearest point of `S`.
//!
//! | Metric | Formula | As in |
//! | :-- | :-- | :-- |
//! | [`dice`] | `2 TP / (2 TP + FP + FN)` | medpy `dc`, `SimpleITK`, surface-distance |
//! | [`jaccard`] | `TP / (TP + FP + FN)` | medpy `jc`, `SimpleITK` |
//! | [`precision`], [`recall`], [`specificity`] | `TP/(TP+FP)`, `TP/(TP+FN)`, `TN/(TN+FP)` | medpy |
//! | [`volumetric_similarity`] | `1 - abs(FP - FN) / (2 TP + FP + FN)` | Taha and Hanbury 2015; 1 - half of `SimpleITK`'s signed one |
//! | [`relative_volume_difference`] | `(FP - FN) / (TP + FN)` | medpy `ravd` |
//! | [`hausdorff`], [`Definition::Medpy`] | largest of `d(r, ∂G)`, `d(g, ∂R)` over border voxels `∂R`, `∂G` | medpy `hd` |
//! | [`hausdorff`], [`Definition::SurfaceDistance`] | the same over the voxel corners on the surfaces | surface-distance at 100 % |
//! | [`hausdorff`], [`Definition::SimpleItk`] | largest of `d(r, G)`, `d(g, R)` over *all* voxels | `SimpleITK` |
//! | [`percentile_hausdorff`], [`Definition::Medpy`] | percentile of both directions' `d` *joined*, interpolated | medpy `hd95` |
//! | [`percentile_hausdorff`], [`Definition::SurfaceDistance`] | *larger* of the two directions' percentiles, weighted by area, not interpolated | surface-distance `compute_robust_hausdorff` |
//! | [`average_symmetric_surface_distance`], [`Definition::Medpy`] | mean of both directions' `d` joined | medpy 0.5 `assd` |
//! | [`BorderDistances::mean_of_averages`] | mean of the two directions' means | medpy before 0.5 |
//! | [`average_symmetric_surface_distance`], [`Definition::SurfaceDistance`] | mean of the two directions' area-weighted means | surface-distance has the two means |
//! | [`average_symmetric_surface_distance`], [`Definition::SimpleItk`] | mean of the two means over all voxels, inside ones counting 0 | `SimpleITK` average Hausdorff |
//! | [`surface_dice`] | area within the tolerance of the other surface / all area | surface-distance, "NSD" |
//! | [`auroc`] | share of (positive, negative) pairs in order, ties one half | scikit-learn `roc_auc_score` |
//! | [`average_precision`] | `sum (recall step) x precision`, equal scores as one threshold | scikit-learn |
//! | [`best_dice`] | largest Dice of any threshold, `score >= threshold` | "ceiling" or "best" Dice |
//! | [`best_dice_pooled`], [`best_mean_dice`] | one threshold for a set of images: for their joined pixels, or for the mean of their Dice | |
//! | [`RankingHistogram`] | AUROC, average precision and best Dice from counts in bins, each with bounds that hold for certain | |
//! | [`otsu`] | largest variance between classes, 256 bins, threshold a bin's centre | scikit-image |
//! | [`otsu_integer`] | the same with a bin for each whole number | scikit-image, images of integers |
//! | [`otsu_exact`] | the same over all partings of the sorted values, no bins | Otsu 1979 |
//! | [`LesionReport::sensitivity`] | lesions found / lesions; a lesion is a connected component | |
//! | [`LesionReport::f1`] | `2 TP / (2 TP + FP + FN)` over lesions | |
//! | [`LesionReport::lesion_wise_dice`] | sum of the lesions' Dice / (lesions + false lesions) | |
//! | [`bootstrap_mean`] | percentiles of the means of patients drawn with replacement | Efron 1979 |
//! | [`wilcoxon_signed_rank`] | share of sign patterns with a rank sum as far from the middle, exact with ties up to 200 | Wilcoxon 1945; scipy `wilcoxon` |
//!
//! A mask empty on one side: Dice and Jaccard are 0, surface Dice too, distances are undefined.
//! Both sides empty: all are undefined. What is 0 / 0 is never made a number silently. [`EmptyRules`] turns that into what a study has agreed on.
//! Scores that are NaN or infinite are an error that names their position.
//!
//! # Dimensions
//!
//! A mask is judged in the axes of its array, 1 to 3 for distances and lesions (surface elements: 2 or
//! 3), any number for overlap. An array of one slice `(X, Y, 1)` is a volume, in which every pixel
//! of a mask is on the border: that is also what medpy and surface-distance make of it. For a
//! slice, pass an array of two axes. Four axes are an error wherever there are distances.
//!
//! # Cost
//!
//! Distances take time linear in the number of voxels, and for masks that lie close to each other
//! little more than reading them. Beyond the masks they need a few bits per voxel and 8 bytes per
//! border voxel (16 per surface element); 2 bytes per voxel of a mask's box come on top where the
//! masks lie far apart. AUROC and its like take one radix sort. Threads are rayon's; the result has
//! the same bits on any number of them.
//!
//! # Parts
//!
//! - Overlap: [`Confusion`] and the functions of its metrics.
//! - Distances: [`BorderDistances`], [`SurfelDistances`], [`VoxelDistances`] measure once and
//!   answer many questions; [`hausdorff`], [`percentile_hausdorff`] and their like answer one.
//!   [`distance_transform`] is the exact linear-time transform below them.
//! - Thresholds: [`otsu`], [`otsu_masked`], [`otsu_exact`], [`otsu_integer`].
//! - Ranking: [`Ranking`] (exact, one sort), [`rank_in_passes`] (exact, of more pixels than fit in memory), [`RankingHistogram`]
//!   (one pass, with bounds).
//! - Probabilities: [`Reliability`].
//! - Lesions: [`connected_components`], [`lesion_detection`], [`LesionSummary`], [`SizeBins`],
//!   [`scores_by_size`].
//! - Undefined values: [`Score`], [`Undefined`], [`EmptyPolicy`], [`EmptyRules`].
//! - Many cases: [`per_slice`], [`Aggregate`], [`bootstrap_mean`] by patient, [`paired_comparison`], [`Table`] as
//!   Markdown, CSV, JSON and LaTeX.

mod aggregate;
mod bootstrap;
mod components;
mod confusion;
mod empty;
mod error;
mod lesion;
mod otsu;
mod paired;
mod passes;
mod radix;
mod ranking;
mod real;
mod reliability;
mod score;
mod slices;
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
pub use passes::{PooledRanking, rank_in_passes};
pub use ranking::{
    BestDice, Ranking, auroc, average_precision, best_dice, best_dice_pooled, best_mean_dice,
};
pub use real::Real;
pub use reliability::{Reliability, ReliabilityBin};
pub use score::{Score, Undefined};
pub use slices::per_slice;
pub use streaming::{Bounded, RankingHistogram};
pub use surface::{
    BorderDistances, Connectivity, Definition, SurfelDistances, VoxelDistances,
    average_surface_distance, average_symmetric_surface_distance, distance_transform, hausdorff,
    percentile_hausdorff, surface_dice,
};
pub use table::{Better, Cell, Column, Row, Table};
