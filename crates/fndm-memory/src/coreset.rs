use ndarray::ArrayView2;
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::greedy::{Greedy, Start};
use crate::progress::OnProgress;
use crate::projection::SparseProjection;
use crate::{Error, Result};

/// How the rows that stay are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoresetMethod {
    /// All rows stay, as far as the budget goes; beyond it a random sample.
    All,
    /// A random sample.
    Random,
    /// Farthest-point selection. The first point is the one farthest from all others.
    Greedy,
    /// Farthest-point selection. The first point is the one farthest from a few random ones.
    Approximate {
        /// How many random points.
        starts: usize,
    },
}

/// How many rows stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoresetSize {
    /// A part of the rows in (0, 1], cut to a whole number.
    Fraction(f64),
    /// A number of rows.
    Rows(usize),
}

/// Choice of the rows that represent all the others.
///
/// Greedy selection (Roth et al. 2022, algorithm 1) reads the features where they lie. Beside them it holds a few numbers per row,
/// one block of choices (at most 512 rows) and, where one is asked for, the projection: O(N) memory, never N x N. It chooses fewer rows than
/// asked when all others are copies of chosen ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coreset {
    /// How the rows are chosen.
    pub method: CoresetMethod,
    /// How many stay.
    pub size: CoresetSize,
    /// Dimension of the random projection in which greedy distances are taken; none where the features have no more than that.
    pub projection: Option<usize>,
    /// Seed of the projection, the random starts and the random sample.
    pub seed: u64,
}

impl Default for Coreset {
    fn default() -> Self {
        Self {
            method: CoresetMethod::Approximate { starts: 10 },
            size: CoresetSize::Rows(10_000),
            projection: Some(128),
            seed: 0,
        }
    }
}

impl Coreset {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub fn check(&self) -> Result<()> {
        match self.size {
            CoresetSize::Fraction(f) if !(f > 0.0 && f <= 1.0) => {
                return Err(Error::config(
                    "coreset.size",
                    format!("expected (0, 1], got {f}"),
                ));
            }
            CoresetSize::Rows(0) => {
                return Err(Error::config(
                    "coreset.size",
                    "expected 1 or more rows, got 0",
                ));
            }
            CoresetSize::Fraction(_) | CoresetSize::Rows(_) => {}
        }
        if let CoresetMethod::Approximate { starts: 0 } = self.method {
            return Err(Error::config(
                "coreset.method.starts",
                "expected 1 or more, got 0",
            ));
        }
        if self.projection == Some(0) {
            return Err(Error::config(
                "coreset.projection",
                "expected 1 or more, got 0",
            ));
        }
        Ok(())
    }

    /// The number of rows that stay of `rows`.
    #[must_use]
    pub fn count(&self, rows: usize) -> usize {
        match (self.method, self.size) {
            (CoresetMethod::All, _) => rows,
            (_, CoresetSize::Fraction(f)) => (rows as f64 * f) as usize,
            (_, CoresetSize::Rows(n)) => n.min(rows),
        }
    }

    /// The numbers of the rows of `features` `(N, D)` that stay, at most `limit`: in order of choice for greedy methods,
    /// ascending for the others.
    ///
    /// # Errors
    /// When the config is wrong, nothing is asked for, a value is NaN or infinite, or the caller stops it.
    pub fn select(
        &self,
        features: ArrayView2<'_, f32>,
        limit: usize,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<usize>> {
        self.check()?;
        let n = features.nrows();
        let count = self.count(n).min(limit);
        if n == 0 || features.ncols() == 0 {
            return Err(Error::Empty {
                what: "the set of features",
            });
        }
        if count == 0 {
            return Err(Error::Empty {
                what: "the coreset",
            });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let starts = match self.method {
            CoresetMethod::All if count == n => return Ok((0..n).collect()),
            CoresetMethod::All | CoresetMethod::Random => {
                let mut rows = sample(&mut rng, n, count).into_vec();
                rows.sort_unstable();
                return Ok(rows);
            }
            CoresetMethod::Greedy => None,
            CoresetMethod::Approximate { starts } => {
                Some(sample(&mut rng, n, starts.min(n)).into_vec())
            }
        };
        let projection = match self.projection {
            Some(to) if to < features.ncols() => {
                Some(SparseProjection::new(features.ncols(), to, self.seed)?)
            }
            _ => None,
        };
        let projected = projection.map(|p| p.apply(features)).transpose()?;
        let view = projected.as_ref().map_or(features, |p| p.view());
        match starts {
            None => greedy(view, count, on_progress),
            Some(starts) => greedy_from(view, &starts, count, on_progress),
        }
    }
}

impl Coreset {
    /// As [`Coreset::select`], for as many rows as the limit allows, whatever the size in the config.
    pub(crate) fn reduce(
        &self,
        features: ArrayView2<'_, f32>,
        limit: usize,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<usize>> {
        let size = CoresetSize::Rows(limit);
        Self {
            size,
            ..self.clone()
        }
        .select(features, limit, on_progress)
    }
}

/// Greedy selection of `count` of the features `(N, D)` as they are. The first choice is the point with the largest root sum of
/// squared distances to all others; each next one is the farthest from those chosen. Of equal ones the first counts.
///
/// # Errors
/// When there are no features, a value is NaN or infinite, or the caller stops it.
pub fn greedy(
    features: ArrayView2<'_, f32>,
    count: usize,
    on_progress: OnProgress<'_>,
) -> Result<Vec<usize>> {
    check_features(features)?;
    Greedy::new(features, Start::Farthest)?.choose(count, on_progress)
}

/// [`greedy`], with the mean distance to `starts` as every point's first distance. The start points aren't chosen by that.
///
/// # Errors
/// When there are no features or no starts, a start is out of range, a value is NaN or infinite, or the caller stops it.
pub fn greedy_from(
    features: ArrayView2<'_, f32>,
    starts: &[usize],
    count: usize,
    on_progress: OnProgress<'_>,
) -> Result<Vec<usize>> {
    check_features(features)?;
    if starts.is_empty() {
        return Err(Error::Empty {
            what: "the set of start points",
        });
    }
    if let Some(&s) = starts.iter().find(|&&s| s >= features.nrows()) {
        return Err(Error::shape(
            "start points",
            format!("numbers below {}", features.nrows()),
            s,
        ));
    }
    Greedy::new(features, Start::Points(starts))?.choose(count, on_progress)
}

/// Greedy selection of `count` more rows, where the first `chosen` are chosen already.
pub(crate) fn greedy_more(
    features: ArrayView2<'_, f32>,
    chosen: usize,
    count: usize,
    on_progress: OnProgress<'_>,
) -> Result<Vec<usize>> {
    check_features(features)?;
    Greedy::new(features, Start::Chosen(chosen))?.choose(count, on_progress)
}

fn check_features(features: ArrayView2<'_, f32>) -> Result<()> {
    if features.is_empty() {
        return Err(Error::Empty {
            what: "the set of features",
        });
    }
    if features.iter().any(|v| !v.is_finite()) {
        return Err(Error::non_finite("features", None));
    }
    Ok(())
}
