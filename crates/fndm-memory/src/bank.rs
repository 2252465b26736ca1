use std::borrow::Cow;

use candle_core::Tensor;
use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, Axis};

use crate::calibration::Calibration;
use crate::coarse::{HealthyModel, head_patches};
use crate::coarse_config::CoarseConfig;
use crate::config::{MemoryConfig, Score};
use crate::embed::embed;
use crate::neighbours::NearestNeighbours;
use crate::patch::PatchEmbedding;
use crate::standardise::Standardisation;
use crate::tensor::{all_finite, batch_of, check_images, row_values};
use crate::{Error, FeatureExtractor, Result};

/// Patch features of healthy slices, and how far from them the patches of other slices lie.
#[derive(Debug, Clone)]
pub struct MemoryBank {
    pub(crate) config: MemoryConfig,
    pub(crate) standardisation: Option<Standardisation>,
    pub(crate) index: NearestNeighbours,
    pub(crate) calibration: Option<Calibration>,
    pub(crate) patches_seen: u64,
    /// The fingerprint of the extractor, where it has one.
    pub(crate) extractor: Option<String>,
}

impl MemoryBank {
    /// A bank of these rows `(N, D)` as they are, for features that come from elsewhere.
    ///
    /// # Errors
    /// When the config is wrong, the rows don't fit it or its budget, or there are none.
    pub fn from_rows(
        config: &MemoryConfig,
        standardisation: Option<Standardisation>,
        rows: Array2<f32>,
    ) -> Result<Self> {
        config.check()?;
        let seen = rows.nrows() as u64;
        Self::assemble(config.clone(), standardisation, rows, seen)
    }

    /// The same of a config that was checked.
    pub(crate) fn assemble(
        config: MemoryConfig,
        standardisation: Option<Standardisation>,
        rows: Array2<f32>,
        patches_seen: u64,
    ) -> Result<Self> {
        if rows.ncols() != config.dimension() {
            return Err(Error::Dimension {
                expected: config.dimension(),
                got: rows.ncols(),
            });
        }
        if rows.nrows() > config.max_rows() {
            let row = config.row_bytes() * rows.nrows() as u64;
            return Err(Error::Limit {
                what: "the bank".to_owned(),
                limit: config.budget_bytes,
                got: row,
            });
        }
        let index = NearestNeighbours::new(rows, config.storage)?;
        Ok(Self {
            config,
            standardisation,
            index,
            calibration: None,
            patches_seen,
            extractor: None,
        })
    }

    /// The config that it was built from.
    #[must_use]
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Always false: an empty bank can't be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Values per row.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.index.dimension()
    }

    /// Bytes that the rows take; never more than the config's budget.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.config.row_bytes() * self.len() as u64
    }

    /// How many healthy patches it was chosen from.
    #[must_use]
    pub fn patches_seen(&self) -> u64 {
        self.patches_seen
    }

    /// The rows and the search among them.
    #[must_use]
    pub fn index(&self) -> &NearestNeighbours {
        &self.index
    }

    /// Means and deviations of the channels, if the config asks for them.
    #[must_use]
    pub fn standardisation(&self) -> Option<&Standardisation> {
        self.standardisation.as_ref()
    }

    /// Patch features of images `(B, C, H, W)` in the bank's terms.
    ///
    /// # Errors
    /// When the images don't fit the extractor, its maps the bank, or it isn't the one that the bank was built with.
    pub fn embed(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
    ) -> Result<PatchEmbedding> {
        self.check_extractor(extractor)?;
        embed(
            &self.config,
            self.standardisation.as_ref(),
            extractor,
            images,
        )
    }

    /// The score of every query `(Q, D)`: the mean over its nearest rows, infinite when there are fewer rows than asked.
    ///
    /// # Errors
    /// When the queries are of another dimension, or one has a value that is NaN or infinite: it is named.
    pub fn score(&self, queries: ArrayView2<'_, f32>) -> Result<Array1<f32>> {
        let values = row_values(queries);
        let mut rows = values.chunks(queries.ncols().max(1));
        if let Some(row) = rows.position(|row| !all_finite(row)) {
            return Err(Error::non_finite(format!("query {row}"), None));
        }
        let found = self.index.search(queries, self.config.neighbours)?;
        let k = self.config.neighbours as f32;
        Ok(found
            .distances
            .map_axis(Axis(1), |distances| match self.config.score {
                Score::Squared => distances.sum() / k,
                Score::Euclidean => distances.iter().map(|d| d.sqrt()).sum::<f32>() / k,
            }))
    }
}

impl HealthyModel for MemoryBank {
    fn patch_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array3<f32>> {
        let (n, _, _) = check_images(images, head)?;
        if self.config.neighbours > self.len() {
            return Err(Error::config(
                "neighbours",
                format!(
                    "expected {} at most, as rows in the bank, got {}",
                    self.len(),
                    self.config.neighbours
                ),
            ));
        }
        let mut all: Option<Array3<f32>> = None;
        for start in (0..n).step_by(self.config.batch_size) {
            let count = self.config.batch_size.min(n - start);
            let embedding = self
                .embed(extractor, &images.narrow(0, start, count)?)
                .map_err(|e| e.after(start))?;
            let (h, w) = embedding.grid;
            let inside: Option<Vec<usize>> = head.map(|head| {
                let part = batch_of(head, start, count);
                let patches = head_patches(part, (h, w));
                (0..)
                    .zip(&patches)
                    .filter(|(_, on)| **on)
                    .map(|(i, _)| i)
                    .collect()
            });
            let queries = match &inside {
                Some(rows) => Cow::Owned(embedding.features.select(Axis(0), rows)),
                None => Cow::Borrowed(&embedding.features),
            };
            let scores = self.score(queries.view())?;
            let all = all.get_or_insert_with(|| Array3::zeros((n, h, w)));
            if all.dim() != (n, h, w) {
                return Err(Error::shape(
                    "feature maps",
                    format!("{:?}", all.dim()),
                    (n, h, w),
                ));
            }
            let mut part = all.slice_axis_mut(Axis(0), (start..start + count).into());
            match inside {
                Some(rows) => {
                    for (row, score) in rows.into_iter().zip(&scores) {
                        part[(row / (h * w), row / w % h, row % w)] = *score;
                    }
                }
                None => {
                    for (v, score) in part.iter_mut().zip(&scores) {
                        *v = *score;
                    }
                }
            }
        }
        all.ok_or(Error::Empty {
            what: "the set of images",
        })
    }

    fn coarse_config(&self) -> &CoarseConfig {
        &self.config.coarse
    }

    fn set_coarse_config(&mut self, config: CoarseConfig) -> Result<()> {
        config.check()?;
        self.config.coarse = config;
        Ok(())
    }

    fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    fn set_calibration(&mut self, calibration: Option<Calibration>) {
        self.calibration = calibration;
    }

    fn extractor(&self) -> Option<&str> {
        self.extractor.as_deref()
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }
}
