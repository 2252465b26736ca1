use serde::{Deserialize, Serialize};

use crate::{DetectConfig, Parts};

/// The rows of the tables: the method, its ablations, and the rival that it must beat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The whole method: classifier gradient, image condition, memory bank.
    #[default]
    Fndm,
    /// Without the memory bank.
    CgNm,
    /// The classifier gradient alone, by the same solver.
    Cg,
    /// The classifier gradient alone as `DiffANO` (Wolleb et al. 2022) has it: DDIM, many steps, a UNet without labels.
    Diffano,
    /// Plain FLAIR intensity inside the head, no network.
    Flair,
    /// The coarse map alone, no diffusion.
    Memory,
    /// The student alone: one network, no diffusion.
    Student,
    /// The whole method with the student's map as the coarse one.
    FndmStudent,
}

impl Method {
    /// Whether the row's anomaly map is of probabilities, 0 to 1: the student's is, unless it is brought to the scale of its volume.
    #[must_use]
    pub fn gives_probabilities(self, config: &DetectConfig) -> bool {
        self == Self::Student && config.volume_scale.is_none()
    }

    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Fndm,
        Self::CgNm,
        Self::Cg,
        Self::Diffano,
        Self::Flair,
        Self::Memory,
        Self::Student,
        Self::FndmStudent,
    ];

    /// The rows of the usual table, in its order.
    pub const TABLE: [Self; 4] = [Self::Fndm, Self::CgNm, Self::Cg, Self::Flair];

    /// The name in JSON and CSV files.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Fndm => "fndm",
            Self::CgNm => "cg_nm",
            Self::Cg => "cg",
            Self::Diffano => "diffano",
            Self::Flair => "flair",
            Self::Memory => "memory",
            Self::Student => "student",
            Self::FndmStudent => "fndm_student",
        }
    }

    /// The name in tables for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Fndm => "FNDM (CG + NM + MB)",
            Self::CgNm => "CG + NM",
            Self::Cg => "CG",
            Self::Diffano => "DiffANO",
            Self::Flair => "FLAIR threshold",
            Self::Memory => "coarse map alone",
            Self::Student => "student",
            Self::FndmStudent => "FNDM with the student",
        }
    }

    /// Whether a row takes a student.
    #[must_use]
    pub fn takes_student(self) -> bool {
        matches!(self, Self::Student | Self::FndmStudent)
    }

    /// The parts of the method that a row uses; `None` for those without diffusion.
    #[must_use]
    pub fn parts(self) -> Option<Parts> {
        match self {
            Self::Fndm | Self::FndmStudent => Some(Parts::FNDM),
            Self::CgNm => Some(Parts::CG_NM),
            Self::Cg | Self::Diffano => Some(Parts::CG),
            Self::Flair | Self::Memory | Self::Student => None,
        }
    }
}
