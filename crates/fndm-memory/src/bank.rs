use std::borrow::Cow;

use candle_core::Tensor;
use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, Axis, concatenate};
use serde::{Deserialize, Serialize};

use crate::builder::BankBuilder;
use crate::calibration::Calibration;
use crate::coarse::{CoarseConfig, HealthyModel, head_patches};
use crate::coreset::{Coreset, greedy_more};
use crate::neighbours::{NearestNeighbours, Storage};
use crate::patch::{PatchEmbedding, PatchFeatures};
use crate::progress::{OnProgress, report};
use crate::standardise::Standardisation;
use crate::tensor::{batch_of, check_images};
use crate::{Error, FeatureExtractor, Result, Stage};

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

/// Everything that makes a [`MemoryBank`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// From maps to patch features.
    pub patch: PatchFeatures,
    /// Whether every channel is brought to mean 0 and deviation 1 over healthy images first.
    pub standardise: bool,
    /// How many images, evenly spread, [`MemoryBank::build`] takes means and deviations from.
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

    fn row_bytes(&self) -> u64 {
        (self.dimension() * self.storage.bytes()) as u64
    }

    /// The most rows that the budget holds.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        let rows = self.budget_bytes.checked_div(self.row_bytes()).unwrap_or(0);
        usize::try_from(rows).unwrap_or(usize::MAX)
    }
}

/// Patch features of healthy slices, and how far from them the patches of other slices lie.
#[derive(Debug, Clone)]
pub struct MemoryBank {
    pub(crate) config: MemoryConfig,
    pub(crate) standardisation: Option<Standardisation>,
    pub(crate) index: NearestNeighbours,
    pub(crate) calibration: Option<Calibration>,
    pub(crate) patches_seen: u64,
}

impl MemoryBank {
    /// Builds a bank from healthy images `(N, C, H, W)`. With their head `(N, H, W)`, patches with no pixel of it are left out.
    ///
    /// Images that don't fit into memory at once go through a [`BankBuilder`].
    ///
    /// # Errors
    /// When the config is wrong, the images don't fit the extractor, no patch is left, or the caller stops it.
    pub fn build(
        config: &MemoryConfig,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let (n, _, _) = check_images(images, head)?;
        let mut builder = BankBuilder::new(config.clone())?;
        let batch = config.batch_size;
        if config.standardise {
            let count = config.standardise_images.min(n);
            for i in 0..count {
                if i % batch == 0 {
                    report(on_progress, Stage::Statistics, i, count)?;
                }
                builder.observe(extractor, &images.narrow(0, i * n / count, 1)?)?;
            }
            report(on_progress, Stage::Statistics, count, count)?;
        }
        for start in (0..n).step_by(batch) {
            report(on_progress, Stage::Features, start, n)?;
            let count = batch.min(n - start);
            let head = head.map(|h| batch_of(h, start, count));
            builder.push(extractor, &images.narrow(0, start, count)?, head)?;
        }
        report(on_progress, Stage::Features, n, n)?;
        builder.finish(on_progress)
    }

    /// A bank of these rows `(N, D)` as they are, for features that come from elsewhere.
    ///
    /// # Errors
    /// When the config is wrong, the rows don't fit it or its budget, or there are none.
    pub fn from_rows(
        config: &MemoryConfig,
        standardisation: Option<Standardisation>,
        rows: Array2<f32>,
    ) -> Result<Self> {
        let seen = rows.nrows() as u64;
        Self::assemble(config.clone(), standardisation, rows, seen)
    }

    pub(crate) fn assemble(
        config: MemoryConfig,
        standardisation: Option<Standardisation>,
        rows: Array2<f32>,
        patches_seen: u64,
    ) -> Result<Self> {
        config.check()?;
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
    /// When the images don't fit the extractor, or its maps the bank.
    pub fn embed(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
    ) -> Result<PatchEmbedding> {
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
    /// When the queries are of another dimension.
    pub fn score(&self, queries: ArrayView2<'_, f32>) -> Result<Array1<f32>> {
        let found = self.index.search(queries, self.config.neighbours)?;
        let k = self.config.neighbours as f32;
        Ok(found
            .distances
            .map_axis(Axis(1), |distances| match self.config.score {
                Score::Squared => distances.sum() / k,
                Score::Euclidean => distances.iter().map(|d| d.sqrt()).sum::<f32>() / k,
            }))
    }

    /// The score of one image from the features `(P, D)` of its patches, as the config's [`ImageScore`] says.
    ///
    /// # Errors
    /// When there are no patches, or they are of another dimension.
    pub fn image_score(&self, patches: ArrayView2<'_, f32>) -> Result<f32> {
        let support = match self.config.image_score {
            ImageScore::Largest => {
                let scores = self.score(patches)?;
                return scores
                    .into_iter()
                    .max_by(f32::total_cmp)
                    .ok_or(Error::Empty {
                        what: "the set of patches",
                    });
            }
            ImageScore::Reweighted { neighbours } => neighbours,
        };
        let found = self.index.search(patches, 1)?;
        let mut largest: Option<(usize, f32)> = None;
        for (patch, &distance) in found.distances.iter().enumerate() {
            if largest.is_none_or(|l| distance > l.1) {
                largest = Some((patch, distance));
            }
        }
        let (patch, distance) = largest.ok_or(Error::Empty {
            what: "the set of patches",
        })?;
        let distance = f64::from(distance).sqrt();
        let Some(Some(nearest)) = found.indices.get((patch, 0)) else {
            return Ok(f32::INFINITY);
        };
        if support == 1 {
            return Ok(distance as f32);
        }
        let rows = self
            .index
            .search(self.index.row(*nearest)?.view(), support)?;
        let mut distances = Vec::with_capacity(support);
        for row in rows.indices.iter().flatten() {
            let row = self.index.row(*row)?;
            let squares: f64 = (patches.row(patch).iter().zip(&row))
                .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                .sum();
            distances.push(squares.sqrt());
        }
        // The first neighbour of the row is itself. Shifted by the largest, no exponential overflows.
        let shift = distances.iter().copied().fold(0.0, f64::max);
        let all: f64 = distances.iter().map(|d| (d - shift).exp()).sum();
        let own = distances.first().map_or(0.0, |d| (d - shift).exp());
        Ok(((1.0 - own / all) * distance) as f32)
    }

    /// The scores `(B)` of images `(B, C, H, W)`. With a head `(B, H, W)`, of its patches alone; 0 for an image without any.
    ///
    /// # Errors
    /// As [`HealthyModel::patch_scores`].
    pub fn image_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array1<f32>> {
        let (n, _, _) = check_images(images, head)?;
        let mut scores = Array1::zeros(n);
        for (i, score) in scores.iter_mut().enumerate() {
            let embedding = self.embed(extractor, &images.narrow(0, i, 1)?)?;
            let inside: Vec<usize> = match head {
                Some(head) => {
                    let patches = head_patches(batch_of(head, i, 1), embedding.grid);
                    (0..)
                        .zip(&patches)
                        .filter(|(_, on)| **on)
                        .map(|(i, _)| i)
                        .collect()
                }
                None => (0..embedding.features.nrows()).collect(),
            };
            if !inside.is_empty() {
                *score = self.image_score(embedding.features.select(Axis(0), &inside).view())?;
            }
        }
        Ok(scores)
    }

    /// Joins two banks of the same config. Where both together exceed the budget, the rows that are farthest apart stay.
    ///
    /// The calibration is dropped: scores shrink as rows are added.
    ///
    /// # Errors
    /// [`Error::Incompatible`] when features, standardisation, storage or score differ; when the caller stops it.
    pub fn merge(&self, other: &Self, on_progress: OnProgress<'_>) -> Result<Self> {
        let (a, b) = (&self.config, &other.config);
        let differs = [
            ("patch features", a.patch != b.patch),
            ("position weights", a.position_weight != b.position_weight),
            ("storage", a.storage != b.storage),
            ("numbers of neighbours", a.neighbours != b.neighbours),
            ("scores", a.score != b.score),
            (
                "standardisation",
                self.standardisation != other.standardisation,
            ),
        ];
        if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
            return Err(Error::Incompatible {
                message: format!("their {what} differ"),
            });
        }
        let seen = self.patches_seen.saturating_add(other.patches_seen);
        self.with_more(other.index.to_array()?, seen, on_progress)
    }

    /// Adds healthy images `(N, C, H, W)` without building anew: what is farthest from the rows there are is added.
    ///
    /// The coreset's size is taken of the new patches. The rest is as in [`MemoryBank::build`] and [`MemoryBank::merge`].
    ///
    /// # Errors
    /// As [`MemoryBank::build`].
    pub fn extend(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let (n, _, _) = check_images(images, head)?;
        let mut builder = BankBuilder::resume(self.config.clone(), self.standardisation.clone());
        let batch = self.config.batch_size;
        for start in (0..n).step_by(batch) {
            report(on_progress, Stage::Features, start, n)?;
            let count = batch.min(n - start);
            let head = head.map(|h| batch_of(h, start, count));
            builder.push(extractor, &images.narrow(0, start, count)?, head)?;
        }
        report(on_progress, Stage::Features, n, n)?;
        let (seen, new) = builder.into_pool()?;
        let count = self.config.coreset.count(new.nrows()).max(1);
        let old = self.index.to_array()?;
        let all = join(&old, &new)?;
        let more = greedy_more(all.view(), old.nrows(), count, on_progress)?;
        let new = all.select(Axis(0), &more);
        self.with_more(new, self.patches_seen.saturating_add(seen), on_progress)
    }

    /// The own rows and these, within the budget.
    fn with_more(&self, more: Array2<f32>, seen: u64, on_progress: OnProgress<'_>) -> Result<Self> {
        let mut rows = join(&self.index.to_array()?, &more)?;
        drop(more);
        let limit = self.config.max_rows();
        if rows.nrows() > limit {
            let kept = self
                .config
                .coreset
                .reduce(rows.view(), limit, on_progress)?;
            rows = rows.select(Axis(0), &kept);
        }
        Self::assemble(
            self.config.clone(),
            self.standardisation.clone(),
            rows,
            seen,
        )
    }
}

fn join(a: &Array2<f32>, b: &Array2<f32>) -> Result<Array2<f32>> {
    concatenate(Axis(0), &[a.view(), b.view()]).map_err(|_| Error::Dimension {
        expected: a.ncols(),
        got: b.ncols(),
    })
}

/// Patch features with everything that the config adds.
pub(crate) fn embed(
    config: &MemoryConfig,
    standardisation: Option<&Standardisation>,
    extractor: &dyn FeatureExtractor,
    images: &Tensor,
) -> Result<PatchEmbedding> {
    let maps = extractor.maps(images)?;
    let mut embedding = config.patch.embed_standardised(&maps, standardisation)?;
    let count = images.dim(0)?;
    if embedding.images != count {
        return Err(Error::shape(
            "feature maps",
            format!("{count} images, as given"),
            embedding.images,
        ));
    }
    if config.position_weight > 0.0 {
        let (h, w) = embedding.grid;
        let d = embedding.features.ncols();
        let weight = config.position_weight * (d as f64).sqrt();
        let place = |i: usize, n: usize| (weight * ((2 * i + 1) as f64 / n as f64 - 1.0)) as f32;
        let old = embedding.features;
        embedding.features = Array2::from_shape_fn((old.nrows(), d + 2), |(row, column)| {
            if column < d {
                old[(row, column)]
            } else if column == d {
                place(row % w, w)
            } else {
                place(row / w % h, h)
            }
        });
    }
    Ok(embedding)
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
            let embedding = self.embed(extractor, &images.narrow(0, start, count)?)?;
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

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }
}
