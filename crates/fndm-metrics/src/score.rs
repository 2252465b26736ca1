//! A metric's answer: a number, or the reason why there is none.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why a metric has no value. A 0/0 is never turned into a number silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Undefined {
    /// Neither mask has a voxel.
    BothEmpty,
    /// The result has no voxel, the reference has.
    ResultEmpty,
    /// The reference has no voxel, the result has.
    ReferenceEmpty,
    /// The reference covers the whole image, so that there is no true negative to find.
    ReferenceFull,
    /// No label is positive.
    NoPositive,
    /// No label is negative.
    NoNegative,
    /// The value is NaN or infinite, so that a mean of it would say nothing.
    NotFinite,
    /// All differences are 0.
    NoDifference,
    /// There is no case to count.
    NoCases,
    /// The case could not be computed for a reason outside the metric (a missing file, say).
    Failed,
}

impl Undefined {
    /// The reason in words, as tables show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BothEmpty => "both empty",
            Self::ResultEmpty => "result empty",
            Self::ReferenceEmpty => "reference empty",
            Self::ReferenceFull => "reference full",
            Self::NoPositive => "no positive",
            Self::NoNegative => "no negative",
            Self::NotFinite => "not finite",
            Self::NoDifference => "no difference",
            Self::NoCases => "no cases",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Undefined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a metric says about one case.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The metric's value.
    Value(f64),
    /// The metric has no value, and why.
    Undefined(Undefined),
}

impl Score {
    /// The value, where there is one.
    #[must_use]
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Value(value) => Some(value),
            Self::Undefined(_) => None,
        }
    }

    /// The reason, where there is no value.
    #[must_use]
    pub fn undefined(self) -> Option<Undefined> {
        match self {
            Self::Value(_) => None,
            Self::Undefined(reason) => Some(reason),
        }
    }

    /// The value if it is a number that can be averaged; NaN and infinity become
    /// [`Undefined::NotFinite`].
    #[must_use]
    pub fn finite(self) -> Self {
        match self {
            Self::Value(value) if !value.is_finite() => Self::Undefined(Undefined::NotFinite),
            score => score,
        }
    }

    /// The value after `change`; a reason stays as it is.
    #[must_use]
    pub fn map(self, change: impl FnOnce(f64) -> f64) -> Self {
        match self {
            Self::Value(value) => Self::Value(change(value)),
            Self::Undefined(reason) => Self::Undefined(reason),
        }
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => fmt::Display::fmt(value, f),
            Self::Undefined(reason) => write!(f, "undefined ({reason})"),
        }
    }
}
