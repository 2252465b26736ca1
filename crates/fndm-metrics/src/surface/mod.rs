//! Distances between the surfaces of two masks, in 1 to 3 dimensions, with voxel spacing.

mod area;
mod bits;
mod border;
mod definition;
mod distances;
mod grid;
mod nearest;
mod surfel;
mod transform;
mod voxels;

pub use border::{BorderDistances, Connectivity};
pub use definition::{
    Definition, average_surface_distance, average_symmetric_surface_distance, hausdorff,
    percentile_hausdorff, surface_dice,
};
pub(crate) use grid::Mask;
pub use surfel::SurfelDistances;
pub use transform::distance_transform;
pub use voxels::VoxelDistances;
