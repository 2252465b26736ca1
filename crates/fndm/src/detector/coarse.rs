use fndm_data::PatientSlices;
use fndm_memory::CoarseConfig;
use ndarray::{Array3, Axis, s};

use super::{Detector, check_finite};
use crate::{
    CoarseModel, CoarseRule, CoarseSource, DetectConfig, Error, Result, Student, ThresholdScope,
    anomaly, model_folder as names,
};

/// The coarse map of the slices of one patient.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CoarseMaps {
    /// The soft map, `(N, H, W)`, 0 and up.
    pub soft: Array3<f32>,
    /// The coarse segmentation x_seg, `(N, H, W)`.
    pub x_seg: Array3<bool>,
    /// The threshold of each slice; infinite for one with no head.
    pub thresholds: Vec<f32>,
    /// How likely each slice is diseased, where the map is the student's.
    pub diseased: Option<Vec<f64>>,
}

impl Detector {
    /// The model that the coarse map comes from.
    fn coarse_model(&self, source: CoarseSource) -> Result<&dyn CoarseModel> {
        let student = self.student.as_ref().map(|s| s as &dyn CoarseModel);
        let found = match source {
            CoarseSource::Student => student,
            other => self.coarse.get(&other).map(AsRef::as_ref),
        };
        found.ok_or_else(|| match self.config.check_coarse(source) {
            Err(error) => error,
            Ok(()) => Error::option("coarse source", "one that the model has", source.name()),
        })
    }

    /// The student, where the coarse map is its.
    fn coarse_student(&self, config: &DetectConfig) -> Option<&Student> {
        let student = self.student.as_ref();
        student.filter(|_| config.coarse_source == CoarseSource::Student)
    }

    /// Evaluations of a network that the settings' coarse map takes for each slice: a student's; features are not counted.
    pub(super) fn coarse_evaluations(&self, config: &DetectConfig) -> usize {
        self.coarse_student(config).map_or(0, Student::evaluations)
    }

    /// The file of the model that the coarse map comes from, or its name.
    fn coarse_file(&self, source: CoarseSource) -> String {
        match source {
            CoarseSource::Bank => self.named(names::MEMORY),
            CoarseSource::Contrast => self.named(names::CONTRAST),
            CoarseSource::Student => self.named(names::STUDENT),
            CoarseSource::Own => "the coarse model of the program".into(),
        }
    }

    /// The threshold of the soft map: the settings' own, or the one calibrated on healthy slices.
    pub(super) fn coarse_threshold(&self, config: &DetectConfig) -> Result<f32> {
        let source = config.coarse_source;
        let calibrated = match config.coarse_threshold {
            Some(threshold) => return Ok(threshold),
            None => self.coarse_model(source)?.threshold()?,
        };
        if calibrated.is_finite() {
            return Ok(calibrated);
        }
        Err(Error::Input {
            what: format!("threshold in {}", self.coarse_file(source)),
            expected: "a finite number".into(),
            got: calibrated.to_string(),
        })
    }

    /// The soft map of the settings' source, and x_seg, without any diffusion.
    ///
    /// # Errors
    /// As [`Detector::examine`].
    pub fn coarse_map(&self, slices: &PatientSlices, config: &DetectConfig) -> Result<CoarseMaps> {
        config.check()?;
        self.check_input(slices)?;
        self.find_coarse(slices, config)
    }

    /// The same of settings and slices that were checked.
    pub(super) fn find_coarse(
        &self,
        slices: &PatientSlices,
        config: &DetectConfig,
    ) -> Result<CoarseMaps> {
        let model = self.coarse_model(config.coarse_source)?;
        let mut soft = model.soft_map(slices, &self.device)?;
        let what = format!("{}: the coarse map", self.coarse_file(config.coarse_source));
        if soft.dim() != slices.head.dim() {
            return Err(Error::Input {
                what,
                expected: format!("{:?}", slices.head.dim()),
                got: format!("{:?}", soft.dim()),
            });
        }
        check_finite(&soft, &what, slices)?;
        // By the whole map, as the student's own row.
        let student = self.coarse_student(config);
        let diseased = student.map(|student| student.diseased(&soft));
        anomaly::keep_inside(&mut soft, &slices.head);
        let head = slices.head.view();
        let calibrated = self.coarse_threshold(config)?;
        let settings = CoarseConfig {
            dilation: config.coarse_dilation,
            ..model.coarse_config()
        };
        let scope = match config.coarse_rule {
            CoarseRule::Calibrated => {
                let x_seg = settings.binarise(soft.view(), head, calibrated)?;
                return Ok(CoarseMaps {
                    thresholds: vec![calibrated; x_seg.len_of(Axis(0))],
                    soft,
                    x_seg,
                    diseased,
                });
            }
            CoarseRule::Slice => ThresholdScope::Slice,
            CoarseRule::Volume => ThresholdScope::Volume,
        };
        let inner = slices.eroded_head(settings.head_erosion);
        let otsu = anomaly::threshold(soft.view(), inner.view(), scope)?;
        let mut x_seg = Array3::from_elem(soft.dim(), false);
        let thresholds = otsu.thresholds.iter().map(|t| t.max(calibrated));
        let thresholds: Vec<f32> = thresholds.collect();
        for (i, &threshold) in thresholds.iter().enumerate() {
            let one = s![i..i + 1, .., ..];
            let mask = settings.binarise(soft.slice(one), slices.head.slice(one), threshold)?;
            x_seg.slice_mut(one).assign(&mask);
        }
        Ok(CoarseMaps {
            soft,
            x_seg,
            thresholds,
            diseased,
        })
    }
}
