use std::path::Path;

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_models::{Limits, ResNetConfig};
use fndm_train::{OptimizerConfig, UpdateRule};
use serde::{Deserialize, Serialize};

use super::map::OFFICIAL_SIZE;
use super::student::{Student, StudentConfig};
use super::{LossScale, MapStyle, score_map, scores};
use crate::distilled::{Distilled, Schedule};
use crate::enlarge::{Corners, enlarge};
use crate::fit::{Extractor, Fit, Method};
use crate::fitted::feature_shapes;
use crate::healthy::Healthy;
use crate::{Baseline, Result};

/// What STFPM's student is and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StfpmSettings {
    /// The student, a residual network: as many of its layers are built as the teacher's maps ask for. The authors' is as the
    /// teacher is.
    pub student: ResNetConfig,
    /// The loss.
    pub loss: LossScale,
    /// How the map is made.
    pub map: MapStyle,
    /// Passes over the healthy slices.
    pub epochs: u64,
    /// Slices of a step.
    pub batch: usize,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
}

impl StfpmSettings {
    /// The authors': descent at 0.4 with momentum 0.9, 100 epochs of 32 slices, the map always of 64 x 64. They keep the student with
    /// the smallest mean map on a fifth of the healthy slices; ours is that of the last step.
    #[must_use]
    pub fn official() -> Self {
        Self {
            student: ResNetConfig::resnet18(),
            loss: LossScale::Official,
            map: MapStyle::Official,
            epochs: 100,
            batch: 32,
            optimizer: OptimizerConfig {
                lr: 0.4,
                l2: 1e-4,
                rule: UpdateRule::Sgd { momentum: 0.9 },
                ..OptimizerConfig::default()
            },
        }
    }

    /// anomalib's: half the loss, summed over slices, a weight decay of 1e-3, the map of the slice's size.
    #[must_use]
    pub fn anomalib() -> Self {
        let official = Self::official();
        Self {
            loss: LossScale::Anomalib,
            map: MapStyle::Anomalib,
            optimizer: OptimizerConfig {
                l2: 1e-3,
                ..official.optimizer.clone()
            },
            ..official
        }
    }
}

/// STFPM before it has seen a slice.
#[derive(Clone)]
pub struct StfpmMethod {
    /// The settings.
    pub settings: StfpmSettings,
    /// The teacher. The finest of its maps first; the others smaller by halves.
    pub extractor: Extractor,
}

impl std::fmt::Debug for StfpmMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StfpmMethod")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Method for StfpmMethod {
    fn name(&self) -> &'static str {
        "STFPM"
    }

    fn fit(&self, slices: &SliceSet, fit: &Fit) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(Stfpm::fit(self, slices, fit)?))
    }

    fn load(&self, folder: &Path, limits: &Limits, device: &Device) -> Result<Box<dyn Baseline>> {
        Ok(Box::new(Stfpm::load(
            folder,
            &self.extractor,
            limits,
            device,
        )?))
    }
}

/// A fitted student with its teacher.
#[derive(Debug)]
pub struct Stfpm(Distilled<Student>);

impl Stfpm {
    /// Trains on the healthy slices of a set.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(method: &StfpmMethod, slices: &SliceSet, fit: &Fit) -> Result<Self> {
        let settings = &method.settings;
        let healthy = Healthy::new(slices)?;
        let first = healthy.gather(&[0], &fit.device)?;
        let config = StudentConfig::new(
            settings.student.clone(),
            (settings.loss, settings.map),
            first.dim(1)?,
            &feature_shapes(&method.extractor.maps(&first)?)?,
            method.extractor.fingerprint(),
        )?;
        let schedule = Schedule {
            epochs: settings.epochs,
            batch: settings.batch,
            optimizer: settings.optimizer.clone(),
        };
        Distilled::train(config, &schedule, &method.extractor, healthy, fit).map(Self)
    }

    /// Reads what [`Baseline::save`] wrote into `folder`, for a teacher of the same features.
    ///
    /// # Errors
    /// When there is no such file, or it isn't whole, or the extractor is another.
    pub fn load(
        folder: &Path,
        extractor: &Extractor,
        limits: &Limits,
        device: &Device,
    ) -> Result<Self> {
        let known = |config: &StudentConfig| config.features.clone();
        Distilled::load(folder, known, extractor, limits, device).map(Self)
    }

    /// The student's sizes.
    #[must_use]
    pub fn config(&self) -> &StudentConfig {
        self.0.config()
    }

    /// The maps at their own size: the authors' are of 64 x 64.
    fn own_maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = slices.dims4()?;
        let (teacher, student) = self.0.pairs(slices)?;
        let style = self.config().map;
        let size = match style {
            MapStyle::Official => OFFICIAL_SIZE,
            MapStyle::Anomalib => (h, w),
        };
        score_map(&teacher, &student, size, style)
    }
}

impl Baseline for Stfpm {
    fn name(&self) -> &'static str {
        "STFPM"
    }

    fn maps(&self, slices: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = slices.dims4()?;
        let maps = self.own_maps(slices)?.unsqueeze(1)?;
        Ok(enlarge(&maps, (h, w), Corners::Free)?.squeeze(1)?)
    }

    /// The largest value of the map at the slice's size.
    fn scores(&self, slices: &Tensor) -> Result<Vec<f32>> {
        let (_, _, h, w) = slices.dims4()?;
        scores(&self.own_maps(slices)?, (h, w))
    }

    fn save(&self, folder: &Path) -> Result<()> {
        self.0.save(folder)
    }
}
