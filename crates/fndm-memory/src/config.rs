use serde::{Deserialize, Serialize};

use crate::coarse_config::CoarseConfig;
use crate::coreset::Coreset;
use crate::patch::PatchFeatures;
use crate::rows::Storage;
use crate::{Error, Result};

/// The unit of a patch's score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// The mean squared distance to the nearest rows, as `PatchCore`'s code has it.
    #[default]
    Squared,
    /// The mean distance to the nearest rows.
    Euclidean,
}

/// The score of a whole image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageScore {
    /// The largest score of its patches.
    #[default]
    Largest,
    /// The largest distance of its patches to their nearest rows, weighted by how unusual that row is among its own neighbours
    /// (Roth et al. 2022, equation 7). The distance is Euclidean, whatever the unit of the patches' scores.
    Reweighted {
        /// How many neighbours of that row, itself included. With 1 the weight is 1.
        neighbours: usize,
    },
}

/// Everything that makes a [`MemoryBank`](crate::MemoryBank).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// From maps to patch features.
    pub patch: PatchFeatures,
    /// Whether every channel is brought to mean 0 and deviation 1 over healthy images first.
    pub standardise: bool,
    /// How many images, evenly spread, [`MemoryBank::build`](crate::MemoryBank::build) takes means and deviations from.
    pub standardise_images: usize,
    /// Weight of the patch's place. Two values are added to its features: x and y in [-1, 1], times this, times the root of the dimension. 0 adds none.
    pub position_weight: f64,
    /// Choice of the rows that stay.
    pub coreset: Coreset,
    /// How the rows are kept.
    pub storage: Storage,
    /// The most bytes that the rows may take. Fewer rows are chosen where the coreset would take more.
    pub budget_bytes: u64,
    /// The most bytes of features that are held while the bank is built. Beyond it, a uniform random sample is.
    /// Building takes this, the coreset's projection if it has one, and the bank.
    pub pool_bytes: u64,
    /// How many nearest rows make a score.
    pub neighbours: usize,
    /// The unit of a score.
    pub score: Score,
    /// From the scores of an image's patches to one score.
    pub image_score: ImageScore,
    /// From scores to coarse maps.
    pub coarse: CoarseConfig,
    /// Images per pass through the extractor.
    pub batch_size: usize,
    /// Seed of the sample in the pool.
    pub seed: u64,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            patch: PatchFeatures::default(),
            standardise: true,
            standardise_images: 512,
            position_weight: 0.0,
            coreset: Coreset::default(),
            storage: Storage::F32,
            budget_bytes: 64 << 20,
            pool_bytes: 256 << 20,
            neighbours: 1,
            score: Score::Squared,
            image_score: ImageScore::Largest,
            coarse: CoarseConfig::default(),
            batch_size: 16,
            seed: 0,
        }
    }
}

impl MemoryConfig {
    /// Whether the values make sense, and at least one row fits the budgets.
    ///
    /// # Errors
    /// [`Error::Config`] names the field; [`Error::Budget`] when no row fits.
    pub fn check(&self) -> Result<()> {
        self.patch.check()?;
        self.coreset.check()?;
        self.coarse.check()?;
        for (field, value) in [
            ("neighbours", self.neighbours),
            ("batch_size", self.batch_size),
            ("standardise_images", self.standardise_images),
        ] {
            if value == 0 {
                return Err(Error::config(field, "expected 1 or more, got 0"));
            }
        }
        if let ImageScore::Reweighted { neighbours: 0 } = self.image_score {
            return Err(Error::config(
                "image_score.neighbours",
                "expected 1 or more, got 0",
            ));
        }
        if !(0.0..=1e6).contains(&self.position_weight) {
            return Err(Error::config(
                "position_weight",
                format!("expected 0 to 1e6, got {}", self.position_weight),
            ));
        }
        for (row, budget) in [
            (self.row_bytes(), self.budget_bytes),
            (4 * self.dimension() as u64, self.pool_bytes),
        ] {
            if row > budget {
                return Err(Error::Budget { row, budget });
            }
        }
        Ok(())
    }

    /// Values per row.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.patch.target_dimension + if self.position_weight > 0.0 { 2 } else { 0 }
    }

    pub(crate) fn row_bytes(&self) -> u64 {
        (self.dimension() * self.storage.bytes()) as u64
    }

    /// The most rows that the budget holds.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        let rows = self.budget_bytes.checked_div(self.row_bytes()).unwrap_or(0);
        usize::try_from(rows).unwrap_or(usize::MAX)
    }
}
