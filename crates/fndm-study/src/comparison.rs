//! Arms of a study side by side: every patient is examined by each, and scored at once, so that no more than figures are kept.

use std::ops::ControlFlow;

use fndm::{DetectConfig, Detector, Method};
use fndm_data::PatientSlices;

use crate::{
    BitCase, BitRow, BitScores, Case, Error, Evaluation, Level, MaskScores, MethodMap, Result,
    flair_quantile, method_map,
};

/// One arm of a comparison: a method with its settings.
#[derive(Debug, Clone)]
pub struct Arm {
    /// Its key in tables and files: that of the method, where the method has one arm alone.
    pub key: String,
    /// Its name for people.
    pub title: String,
    /// The method.
    pub method: Method,
    /// The method's settings.
    pub config: DetectConfig,
    /// In place of the method's map: the brightest FLAIR, above this quantile of the slice, inside the head eroded by so many pixels.
    pub flair_quantile: Option<(f64, usize)>,
}

impl Arm {
    /// A method under its own name.
    #[must_use]
    pub fn new(method: Method, config: DetectConfig) -> Self {
        Self {
            key: method.key().to_string(),
            title: method.title().to_string(),
            method,
            config,
            flair_quantile: None,
        }
    }

    fn map(
        &self,
        detector: &Detector,
        config: &DetectConfig,
        slices: &PatientSlices,
        progress: &mut dyn FnMut(f64),
    ) -> Result<MethodMap> {
        let Some((quantile, erosion)) = self.flair_quantile else {
            return method_map(detector, self.method, config, slices, progress);
        };
        let (anomaly, inner_head, milliseconds) = flair_quantile(slices, erosion, quantile, false)?;
        progress(1.);
        let mask = anomaly.mapv(|v| v > 0.);
        Ok(MethodMap::plain(anomaly, inner_head, mask, milliseconds))
    }
}

/// How an arm is scored, patient by patient.
pub trait Scoring {
    /// What comes out of it.
    type Figures;

    /// Scores what the arm says of one more patient.
    ///
    /// # Errors
    /// When the patient has no truth to compare with, or a map isn't finite.
    fn add(&mut self, slices: &PatientSlices, found: &MethodMap) -> Result<()>;

    /// The figures over all patients.
    ///
    /// # Errors
    /// When there are no figures of such patients.
    fn finish(self) -> Result<Self::Figures>;
}

impl Scoring for MaskScores {
    /// One evaluation a level.
    type Figures = Vec<Evaluation>;

    fn add(&mut self, slices: &PatientSlices, found: &MethodMap) -> Result<()> {
        if let Some(maps) = &found.maps {
            self.evaluations = (maps.evaluations, maps.gradient_evaluations);
        }
        self.add_case(&Case::new(slices, found)?)
    }

    fn finish(self) -> Result<Vec<Evaluation>> {
        MaskScores::finish(self)
    }
}

impl Scoring for BitScores {
    type Figures = BitRow;

    fn add(&mut self, slices: &PatientSlices, found: &MethodMap) -> Result<()> {
        self.add_case(&BitCase::new(slices, found)?)
    }

    fn finish(self) -> Result<BitRow> {
        BitScores::finish(self)
    }
}

/// Arms and their scores so far. Patients are added one by one, as [`Patients::each`](crate::Patients::each) reads them.
#[derive(Debug)]
pub struct Comparison<S> {
    arms: Vec<(Arm, S)>,
}

impl Comparison<MaskScores> {
    /// Against lesion masks, at these levels.
    #[must_use]
    pub fn by_masks(arms: Vec<Arm>, levels: &[Level]) -> Self {
        Self::by(arms, |arm| MaskScores::new(&arm.key, levels))
    }
}

impl Comparison<MaskScores> {
    /// Takes the pixels of all patients so far away, of each arm: see [`MaskScores::take_pixels`].
    pub fn take_pixels(&mut self) -> Vec<(Vec<f32>, Vec<bool>)> {
        let scores = self.arms.iter_mut().map(|(_, scores)| scores);
        scores.map(MaskScores::take_pixels).collect()
    }
}

impl Comparison<BitScores> {
    /// Against one bit a slice.
    #[must_use]
    pub fn by_bits(arms: Vec<Arm>) -> Self {
        Self::by(arms, |arm| BitScores::new(&arm.key))
    }
}

impl<S: Scoring> Comparison<S> {
    fn by(arms: Vec<Arm>, score: impl Fn(&Arm) -> S) -> Self {
        let scored = |arm: Arm| {
            let scores = score(&arm);
            (arm, scores)
        };
        Self {
            arms: arms.into_iter().map(scored).collect(),
        }
    }

    /// The settings of all arms, as a report has them.
    #[must_use]
    pub fn settings(&self) -> Vec<(Method, DetectConfig)> {
        let arms = self.arms.iter().map(|(arm, _)| arm);
        arms.map(|arm| (arm.method, arm.config.clone())).collect()
    }

    /// Examines a patient by every arm. `progress` is told the arm and the share of its work on this patient; where it breaks, the
    /// comparison ends after that arm. Returns the maps, in the order of the arms.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; when the patient can't be examined or scored.
    pub fn add(
        &mut self,
        detector: &Detector,
        slices: &PatientSlices,
        progress: &mut dyn FnMut(&Arm, f64) -> ControlFlow<()>,
    ) -> Result<Vec<MethodMap>> {
        self.add_with(detector, slices, &|_| {}, progress)
    }

    /// As [`Comparison::add`], with settings that are this patient's own.
    ///
    /// # Errors
    /// As there.
    pub fn add_with(
        &mut self,
        detector: &Detector,
        slices: &PatientSlices,
        adapt: &dyn Fn(&mut DetectConfig),
        progress: &mut dyn FnMut(&Arm, f64) -> ControlFlow<()>,
    ) -> Result<Vec<MethodMap>> {
        let mut all = Vec::with_capacity(self.arms.len());
        for (arm, scores) in &mut self.arms {
            let mut config = arm.config.clone();
            adapt(&mut config);
            let mut go_on = ControlFlow::Continue(());
            let found = arm.map(detector, &config, slices, &mut |share| {
                if go_on.is_continue() {
                    go_on = progress(arm, share);
                }
            })?;
            if go_on.is_break() {
                return Err(Error::Cancelled);
            }
            scores.add(slices, &found)?;
            all.push(found);
        }
        Ok(all)
    }

    /// The scores of every arm as they are, to be joined with those of other patients.
    #[must_use]
    pub fn into_scores(self) -> Vec<S> {
        self.arms.into_iter().map(|(_, scores)| scores).collect()
    }

    /// The figures of every arm.
    ///
    /// # Errors
    /// As [`Scoring::finish`].
    pub fn finish(self) -> Result<Vec<S::Figures>> {
        self.arms.into_iter().map(|(_, s)| s.finish()).collect()
    }
}
