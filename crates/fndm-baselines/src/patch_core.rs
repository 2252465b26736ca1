//! `PatchCore` (Roth et al. 2022): distances to the nearest of a coreset of healthy patch features.

use std::path::Path;

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_memory::{
    BankBuilder, CoarseConfig, Coreset, CoresetMethod, CoresetSize, Edge, HealthyModel, ImageScore,
    MemoryBank, MemoryConfig, Progress, Score, Smoothing,
};
use fndm_models::Limits;

use crate::fit::{Extractor, Fit, Method};
use crate::healthy::Healthy;
use crate::maps::to_tensor;
use crate::{Baseline, Error, Result};

/// Where the bank stands in a folder.
const FILE: &str = "patch_core.safetensors";
/// Patches of healthy features that are held while the bank is built, in bytes.
const POOL: u64 = 4 << 30;

/// The authors' settings: features as they are, 10 % of the patches by the approximate greedy choice, squared distances, a Gaussian of 4
/// pixels.
#[must_use]
pub fn official() -> MemoryConfig {
    MemoryConfig {
        standardise: false,
        position_weight: 0.0,
        coreset: Coreset {
            method: CoresetMethod::Approximate { starts: 10 },
            size: CoresetSize::Fraction(0.1),
            projection: Some(128),
            seed: 0,
        },
        budget_bytes: POOL,
        pool_bytes: POOL,
        neighbours: 1,
        score: Score::Squared,
        image_score: ImageScore::Largest,
        coarse: CoarseConfig {
            smoothing: Smoothing::Pixels(4.0),
            edge: Edge::Symmetric,
            ..CoarseConfig::default()
        },
        ..MemoryConfig::default()
    }
}

/// anomalib's: Euclidean distances, a slice's score weighted by the nine neighbours of its nearest row, another edge of the smoothing.
#[must_use]
pub fn anomalib() -> MemoryConfig {
    let official = official();
    MemoryConfig {
        score: Score::Euclidean,
        image_score: ImageScore::Reweighted { neighbours: 9 },
        coarse: CoarseConfig {
            edge: Edge::Reflect,
            ..official.coarse.clone()
        },
        ..official
    }
}

/// `PatchCore` before it has seen a slice.
#[derive(Clone)]
pub struct PatchCoreMethod {
    /// The settings. The seeds in them give way to the fit's.
    pub config: MemoryConfig,
    /// Where the features come from, the finest map first.
    pub extractor: Extractor,
}

impl std::fmt::Debug for PatchCoreMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatchCoreMethod")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Method for PatchCoreMethod {
    fn name(&self) -> &'static str {
        "PatchCore"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(PatchCore::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, _: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(PatchCore::load(
            folder,
            &self.extractor,
            limits.tensor_bytes,
        )?))
    }
}

/// A bank with the extractor of its features.
pub struct PatchCore {
    bank: MemoryBank,
    extractor: Extractor,
}

impl std::fmt::Debug for PatchCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PatchCore")
            .field("bank", &self.bank)
            .finish_non_exhaustive()
    }
}

impl PatchCore {
    /// Builds the bank from the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &PatchCoreMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let healthy = Healthy::new(slices)?;
        let mut config = method.config.clone();
        (config.seed, config.coreset.seed) = (fit.seed, fit.seed);
        config.check()?;
        let batch = config.batch_size;
        let standardise = config.standardise.then_some(config.standardise_images);
        let mut builder = BankBuilder::new(config)?;
        let extractor = method.extractor.as_ref();
        let all: Vec<usize> = (0..healthy.len()).collect();
        if let Some(most) = standardise {
            // Evenly spread.
            let step = all.len().div_ceil(most);
            let some: Vec<usize> = all.iter().copied().step_by(step).collect();
            for part in some.chunks(batch) {
                builder.observe(extractor, &healthy.gather(part, &fit.device)?)?;
            }
        }
        let mut stopped = |_: Progress| match fit.stop.is_set() {
            true => std::ops::ControlFlow::Break(()),
            false => std::ops::ControlFlow::Continue(()),
        };
        for part in all.chunks(batch) {
            if fit.stop.is_set() {
                return Err(Error::Stopped);
            }
            builder.push(extractor, &healthy.gather(part, &fit.device)?, None)?;
        }
        let bank = builder.finish(&mut stopped);
        if bank.is_err() && fit.stop.is_set() {
            return Err(Error::Stopped);
        }
        Ok(Self {
            bank: bank?,
            extractor: method.extractor.clone(),
        })
    }

    /// Reads what [`Baseline::save`] wrote into `folder`, of at most so many bytes, for features of the same extractor.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole, or the extractor is another.
    pub fn load(folder: &Path, extractor: &Extractor, most_bytes: u64) -> Result<Self> {
        let bank = MemoryBank::load_within(folder.join(FILE), most_bytes)?;
        bank.check_extractor(extractor.as_ref())?;
        Ok(Self {
            bank,
            extractor: extractor.clone(),
        })
    }

    /// The bank.
    #[must_use]
    pub fn bank(&self) -> &MemoryBank {
        &self.bank
    }
}

impl Baseline for PatchCore {
    fn name(&self) -> &'static str {
        "PatchCore"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let maps = self
            .bank
            .score_maps(self.extractor.as_ref(), slices, None)?;
        to_tensor(&maps, slices.device())
    }

    /// By the config's rule.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        let scores = self
            .bank
            .image_scores(self.extractor.as_ref(), slices, None)?;
        Ok(scores.to_vec())
    }

    fn save(&self, folder: &Path) -> Result<()> {
        Ok(self.bank.save(folder.join(FILE))?)
    }
}
