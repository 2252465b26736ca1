use candle_core::Tensor;
use ndarray::{Array2, ArrayView3, Axis};

use crate::bank::MemoryBank;
use crate::coarse::head_patches;
use crate::config::MemoryConfig;
use crate::embed::embed;
use crate::pool::Pool;
use crate::progress::{OnProgress, report};
use crate::standardise::{Moments, Standardisation};
use crate::tensor::{batch_of, check_images};
use crate::{Error, FeatureExtractor, Result, Stage};

/// Builds a [`MemoryBank`] from healthy images that come batch by batch.
///
/// Where the config asks for standardisation, some images are observed first; then all are pushed.
/// However many come, no more features than the config's pool are held.
#[derive(Debug, Clone)]
pub struct BankBuilder {
    config: MemoryConfig,
    moments: Moments,
    standardisation: Option<Standardisation>,
    pool: Option<Pool>,
    extractor: Option<String>,
}

impl BankBuilder {
    /// An empty builder.
    ///
    /// # Errors
    /// When the config is wrong.
    pub fn new(config: MemoryConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            moments: Moments::default(),
            standardisation: None,
            pool: None,
            extractor: None,
        })
    }

    /// An empty builder whose features are those of an existing bank.
    pub(crate) fn resume(config: MemoryConfig, standardisation: Option<Standardisation>) -> Self {
        Self {
            config,
            moments: Moments::default(),
            standardisation,
            pool: None,
            extractor: None,
        }
    }

    /// Takes the scale of each channel from healthy images `(B, C, H, W)`.
    ///
    /// # Errors
    /// When features were pushed already, or the images don't fit the extractor.
    pub fn observe(&mut self, extractor: &dyn FeatureExtractor, images: &Tensor) -> Result<()> {
        if self.pool.is_some() {
            return Err(Error::config(
                "standardise",
                "observe images before the first push",
            ));
        }
        check_images(images, None)?;
        self.moments.observe(&extractor.maps(images)?)
    }

    /// Adds the patches of healthy images `(B, C, H, W)`. With their head `(B, H, W)`, those with no pixel of it are left out.
    ///
    /// # Errors
    /// When images had to be observed before, or they don't fit the extractor or the earlier ones.
    pub fn push(
        &mut self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<()> {
        check_images(images, head)?;
        if self.extractor.is_none() {
            self.extractor = extractor.fingerprint();
        }
        if self.config.standardise && self.standardisation.is_none() {
            let observed = self.moments.finish().ok_or_else(|| {
                Error::config("standardise", "observe images before the first push")
            })?;
            self.standardisation = Some(observed);
        }
        let embedding = embed(
            &self.config,
            self.standardisation.as_ref(),
            extractor,
            images,
        )?;
        let pool = match &mut self.pool {
            Some(pool) => pool,
            None => self.pool.insert(Pool::new(
                embedding.features.ncols(),
                self.config.pool_bytes,
                self.config.seed,
            )?),
        };
        let inside = head.map(|head| head_patches(head, embedding.grid));
        let mut inside = inside.iter().flatten();
        for row in embedding.features.axis_iter(Axis(0)) {
            if inside.next().is_none_or(|on| *on)
                && let Some(row) = row.as_slice()
            {
                pool.push(row);
            }
        }
        Ok(())
    }

    /// Pushes images `(N, C, H, W)` and their head `(N, H, W)` batch by batch.
    pub(crate) fn push_all(
        &mut self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let (n, _, _) = check_images(images, head)?;
        for start in (0..n).step_by(self.config.batch_size) {
            report(on_progress, Stage::Features, start, n)?;
            let count = self.config.batch_size.min(n - start);
            let head = head.map(|h| batch_of(h, start, count));
            let part = images.narrow(0, start, count)?;
            self.push(extractor, &part, head)
                .map_err(|e| e.after(start))?;
        }
        report(on_progress, Stage::Features, n, n)
    }

    /// Chooses the rows that stay.
    ///
    /// # Errors
    /// When nothing was pushed, or the caller stops it.
    pub fn finish(mut self, on_progress: OnProgress<'_>) -> Result<MemoryBank> {
        let config = self.config.clone();
        let standardisation = self.standardisation.take();
        let extractor = self.extractor.take();
        let (seen, features) = self.into_pool()?;
        let kept = config
            .coreset
            .select(features.view(), config.max_rows(), on_progress)?;
        let rows = features.select(Axis(0), &kept);
        drop(features);
        Ok(MemoryBank {
            extractor,
            ..MemoryBank::assemble(config, standardisation, rows, seen)?
        })
    }

    /// The number of patches pushed, and those held.
    pub(crate) fn into_pool(self) -> Result<(u64, Array2<f32>)> {
        let pool = self.pool.filter(|p| p.seen() > 0);
        let pool = pool.ok_or(Error::Empty {
            what: "the set of healthy patches",
        })?;
        Ok((pool.seen(), pool.into_rows()?))
    }
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
                let image = i * n / count;
                builder
                    .observe(extractor, &images.narrow(0, image, 1)?)
                    .map_err(|e| e.after(image))?;
            }
            report(on_progress, Stage::Statistics, count, count)?;
        }
        builder.push_all(extractor, images, head, on_progress)?;
        builder.finish(on_progress)
    }
}
