//! The numbers that two patients are compared by.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Aspect {
    /// Whether the files can be read and every sequence is there.
    Sequences,
    /// Sequences that are one image under two names.
    Copies,
    /// Distances of slices, rows and columns.
    VoxelSize,
    /// Extent of the volume.
    FieldOfView,
    /// Extent of the head, and its share of the picture that the networks see.
    HeadSize,
    /// Number of slices, and how much of the head lies at which height.
    SliceRange,
    /// Whether the head stands as the header says.
    Orientation,
    /// The rim of the head: scalp and skull, or brain.
    Skull,
    /// How intensities are spread in the head.
    Intensity,
}

impl Aspect {
    /// The aspects that training patients and a new one are compared by, number by number.
    pub const MEASURED: [Self; 6] = [
        Self::VoxelSize,
        Self::FieldOfView,
        Self::HeadSize,
        Self::SliceRange,
        Self::Skull,
        Self::Intensity,
    ];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequences => "sequences",
            Self::Copies => "copies",
            Self::VoxelSize => "voxel size",
            Self::FieldOfView => "field of view",
            Self::HeadSize => "head size",
            Self::SliceRange => "slice range",
            Self::Orientation => "orientation",
            Self::Skull => "skull",
            Self::Intensity => "intensity",
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How two values of a feature are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// By their difference.
    Difference,
    /// By the logarithm of their ratio. Values are above 0.
    Ratio,
}

/// One number that was measured of a patient.
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// What it belongs to.
    pub aspect: Aspect,
    /// The sequence, where it is of one.
    pub sequence: Option<String>,
    /// What it is, with its unit: "mm between slices".
    pub name: String,
    /// The number.
    pub value: f64,
    /// How it is compared.
    pub scale: Scale,
    /// A difference (or a logarithm of a ratio) up to this never counts.
    pub tolerance: f64,
}

impl Feature {
    /// The value on the axis of comparison.
    #[must_use]
    pub fn compared(&self) -> f64 {
        match self.scale {
            Scale::Difference => self.value,
            Scale::Ratio => self.value.max(f64::MIN_POSITIVE).ln(),
        }
    }
}
