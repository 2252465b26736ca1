use fndm_memory::MAX_RADIUS;
use serde::{Deserialize, Serialize};

use crate::{Error, GuidedSmoothing, ResidualSide, Result, SolverChoice, VolumeScale};

/// Which parts of the method take part: Table 2 of the paper names them CG, NM and MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// CG: the classifier's gradient guides the sampling, equation (8).
    pub classifier_gradient: bool,
    /// NM: the input image is concatenated to the state.
    pub image_condition: bool,
    /// MB: the memory bank's coarse map is concatenated too.
    pub memory_bank: bool,
}

impl Parts {
    /// All three: FNDM.
    pub const FNDM: Self = Self {
        classifier_gradient: true,
        image_condition: true,
        memory_bank: true,
    };
    /// Classifier gradient and image condition.
    pub const CG_NM: Self = Self {
        memory_bank: false,
        ..Self::FNDM
    };
    /// The classifier gradient alone. With order 1 and many steps this is DiffANO.
    pub const CG: Self = Self {
        image_condition: false,
        ..Self::CG_NM
    };
}

/// The threshold of the anomaly map: over what Otsu's is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdScope {
    /// Each slice has its own, as in the paper.
    Slice,
    /// One for all slices of a patient.
    Volume,
    /// None: 0.5, for a map of probabilities.
    Half,
}

/// How the soft coarse map becomes x_seg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoarseRule {
    /// Above the threshold that was calibrated on healthy slices.
    Calibrated,
    /// Above that and above Otsu's threshold of the slice's soft map.
    Slice,
    /// Above that and above Otsu's threshold of the soft map of all slices of the patient.
    Volume,
}

/// Which model the coarse map comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoarseSource {
    /// The memory bank of healthy features, as in the paper.
    Bank,
    /// The Gaussians of healthy and of diseased slices ([`fndm_memory::Contrast`]).
    Contrast,
    /// The student's probability.
    Student,
    /// The calling program's own ([`DetectorBuilder::coarse`](crate::DetectorBuilder::coarse)).
    Own,
}

impl CoarseSource {
    /// The name in JSON files and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bank => "bank",
            Self::Contrast => "contrast",
            Self::Student => "student",
            Self::Own => "own",
        }
    }
}

/// The state that sampling begins with, at the noise level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// Encoded by the probability-flow ODE, equation (6).
    #[default]
    Encoded,
    /// `alpha x0 + sigma epsilon`, with fresh noise and no evaluation.
    Noised,
    /// `alpha x0`, the middle of all noised states, with no evaluation.
    Scaled,
}

impl Start {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How a slice is examined: the constants of §2 and §3 of the paper, and the ones that it leaves open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectConfig {
    /// The parts of the method in use.
    pub parts: Parts,
    /// Solver steps in each direction, one UNet evaluation each.
    pub steps: usize,
    /// Order of the solver: 1 (DDIM), 2 or 3.
    pub order: usize,
    /// Which solver, on which grid of times.
    #[serde(skip_serializing_if = "SolverChoice::is_default")]
    pub solver: SolverChoice,
    /// The state that sampling begins with.
    #[serde(skip_serializing_if = "Start::is_default")]
    pub start: Start,
    /// Steps of the encoding, where they are others than those of the sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encode_steps: Option<usize>,
    /// Time at which encoding ends and sampling starts, in (0, 1]: 1 is pure noise.
    pub noise_level: f64,
    /// The factor of the classifier's gradient in equation (8).
    pub guidance_scale: f64,
    /// Whether the UNet is given labels at all. Without them it must have been trained with labels withheld, as `DiffANO`'s is.
    pub label_condition: bool,
    /// Label given to the UNet while encoding: 0 healthy, 1 diseased.
    pub encode_label: u32,
    /// Label given to the UNet and to the classifier while sampling.
    pub sample_label: u32,
    /// Whether the coarse map is shown to the UNet while encoding too. What differs between the two directions is what
    /// disappears, so the default is no.
    pub coarse_when_encoding: bool,
    /// Which model the coarse map comes from.
    pub coarse_source: CoarseSource,
    /// How the soft coarse map becomes x_seg.
    pub coarse_rule: CoarseRule,
    /// Takes the place of the threshold that was calibrated on healthy slices.
    pub coarse_threshold: Option<f32>,
    /// x_seg grows by this many pixels.
    pub coarse_dilation: usize,
    /// Inside x_seg the encoded state is replaced by fresh noise of this deviation relative to sigma: 1 for one of the
    /// healthy tissues that may lie there, 0 for the middle of them. The lesion can then not come back through the state.
    /// `None` keeps the encoded state.
    pub region_noise: Option<f64>,
    /// Inside x_seg the conditioning image is blanked (-1).
    pub blank_condition: bool,
    /// Outside x_seg the reconstruction is the input itself: only what the coarse map marks can be an anomaly. It has no
    /// effect without the memory bank.
    pub keep_outside: bool,
    /// Predictions of x0 are cut to [-1, 1] while sampling.
    pub clip_x0: bool,
    /// Deviation in pixels of the Gaussian that smooths the anomaly map; 0 for none.
    pub smoothing: f64,
    /// Deviation in slices of the Gaussian that smooths the anomaly map over z; 0 for none, as in the paper.
    pub z_smoothing: f64,
    /// The anomaly map is multiplied by the soft coarse map, relative to its threshold, to this power, in [0, 4]: both then have
    /// a say. 0 is the paper's map. It has no effect without the memory bank.
    pub coarse_weight: f64,
    /// The anomaly map is raised to this power before Otsu's threshold, in (0, 4]. It changes no pixel's rank: below 1 a few very
    /// large values count less. 1 is the paper's map.
    pub map_power: f64,
    /// No difference of one sequence counts more than this, before the sum over sequences; the images are in [-1, 1].
    pub residual_limit: f64,
    /// Which differences of each sequence count, in the order of the model's sequences; empty for all of all, as in the paper.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub residual_sides: Vec<ResidualSide>,
    /// The outer pixels of the head that are left out of the anomaly map: scalp and skull differ for many reasons.
    pub head_erosion: usize,
    /// Smooths the anomaly map along the tissue that it lies in, before its scale and any threshold; none leaves it as it is, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guided_smoothing: Option<GuidedSmoothing>,
    /// Brings the anomaly map to the scale of its volume, before any threshold; none leaves it as it is, as in the paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_scale: Option<VolumeScale>,
    /// The threshold of the anomaly map.
    pub threshold: ThresholdScope,
    /// Whether slices that the student calls healthy have an empty mask. It takes a student.
    pub empty_when_healthy: bool,
    /// Slices in the networks at a time.
    pub batch: usize,
    /// Seed of the fresh noise.
    pub seed: u64,
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            parts: Parts::FNDM,
            steps: 10,
            order: 2,
            solver: SolverChoice::default(),
            start: Start::default(),
            encode_steps: None,
            noise_level: 0.6,
            guidance_scale: 1.,
            label_condition: true,
            encode_label: 1,
            sample_label: 0,
            coarse_when_encoding: false,
            coarse_source: CoarseSource::Bank,
            coarse_rule: CoarseRule::Slice,
            coarse_threshold: None,
            coarse_dilation: 1,
            region_noise: None,
            blank_condition: false,
            keep_outside: false,
            clip_x0: true,
            smoothing: 1.,
            z_smoothing: 0.,
            coarse_weight: 0.,
            map_power: 1.,
            residual_limit: 2.,
            residual_sides: Vec::new(),
            head_erosion: 3,
            guided_smoothing: None,
            volume_scale: None,
            threshold: ThresholdScope::Slice,
            empty_when_healthy: false,
            batch: 16,
            seed: 0,
        }
    }
}

impl DetectConfig {
    /// For a student's map of probabilities, which is smooth already: no part of the method, and one threshold a volume.
    #[must_use]
    pub fn student() -> Self {
        Self {
            smoothing: 0.,
            head_erosion: 0,
            threshold: ThresholdScope::Volume,
            empty_when_healthy: true,
            ..Self::default()
        }
    }

    /// For a network that was trained to remove lesions (healthy targets, a lesion in state and condition every time): one
    /// evaluation on the image with fresh noise, no encoding, no gradient. An encoding would carry the lesion into the state. The
    /// map is the residual and a little of the contrast's soft map (0.85 to 0.15 in their geometric mean), smoothed over z, on the scale
    /// of its volume.
    #[must_use]
    pub fn removing() -> Self {
        Self {
            steps: 1,
            order: 1,
            start: Start::Noised,
            guidance_scale: 0.,
            encode_label: 0,
            sample_label: 0,
            coarse_source: CoarseSource::Contrast,
            coarse_rule: CoarseRule::Volume,
            coarse_weight: 0.18,
            map_power: 0.85,
            z_smoothing: 0.7,
            volume_scale: Some(VolumeScale {
                steepness: 3.,
                least: 0.1,
            }),
            ..Self::default()
        }
    }

    /// Order and steps of the encoding: an encoding of fewer steps than the order has that of its steps.
    pub(crate) fn encoding(&self) -> (usize, usize) {
        let steps = self.encode_steps.unwrap_or(self.steps);
        (self.order.min(steps), steps)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first value out of range, with its name.
    pub fn check(&self) -> Result<()> {
        if self.steps == 0 || self.steps > 4000 {
            return Err(Error::option("steps", "1 to 4000", self.steps));
        }
        if !(1..=3).contains(&self.order) {
            return Err(Error::option("order", "1, 2 or 3", self.order));
        }
        if self.order > self.steps {
            let expected = format!("at most the number of steps ({})", self.steps);
            return Err(Error::option("order", expected, self.order));
        }
        self.solver.config(self.order, self.steps).check()?;
        if let Some(steps) = self.encode_steps {
            if steps == 0 || steps > 4000 {
                return Err(Error::option("encode steps", "1 to 4000", steps));
            }
            let (order, steps) = self.encoding();
            self.solver.config(order, steps).check()?;
        }
        // Written so that NaN fails too.
        if !(self.noise_level > 0. && self.noise_level <= 1.) {
            return Err(Error::option(
                "noise level",
                "above 0, up to 1",
                self.noise_level,
            ));
        }
        // The networks compute in float32.
        if !(self.guidance_scale >= 0. && self.guidance_scale <= f64::from(f32::MAX)) {
            return Err(Error::option(
                "guidance scale",
                "0 or more, up to 3.4e38",
                self.guidance_scale,
            ));
        }
        for (name, label) in [
            ("encode label", self.encode_label),
            ("sample label", self.sample_label),
        ] {
            if label > 1 {
                return Err(Error::option(name, "0 (healthy) or 1 (diseased)", label));
            }
        }
        if let Some(t) = self.coarse_threshold
            && !t.is_finite()
        {
            return Err(Error::option("x_seg threshold", "a finite number", t));
        }
        if !(self.smoothing >= 0. && self.smoothing <= 64.) {
            return Err(Error::option("smoothing", "0 to 64 pixels", self.smoothing));
        }
        if !(0. ..=100.).contains(&self.z_smoothing) {
            return Err(Error::option(
                "z smoothing",
                "0 to 100 slices",
                self.z_smoothing,
            ));
        }
        if let Some(deviation) = self.region_noise
            && !(0. ..=4.).contains(&deviation)
        {
            return Err(Error::option("region noise", "0 to 4", deviation));
        }
        if !(0. ..=4.).contains(&self.coarse_weight) {
            return Err(Error::option("coarse weight", "0 to 4", self.coarse_weight));
        }
        if !(self.map_power > 0. && self.map_power <= 4.) {
            return Err(Error::option(
                "map power",
                "above 0, up to 4",
                self.map_power,
            ));
        }
        if !(self.residual_limit > 0. && self.residual_limit <= 2.) {
            return Err(Error::option(
                "residual limit",
                "above 0, up to 2",
                self.residual_limit,
            ));
        }
        let sides = &self.residual_sides;
        ResidualSide::check(sides, sides.len())?;
        if let Some(smoothing) = &self.guided_smoothing {
            smoothing.check()?;
        }
        if let Some(scale) = &self.volume_scale {
            scale.check()?;
        }
        for (option, pixels) in [
            ("head erosion", self.head_erosion),
            ("x_seg dilation", self.coarse_dilation),
        ] {
            if pixels > MAX_RADIUS {
                let expected = format!("at most {MAX_RADIUS} pixels");
                return Err(Error::option(option, expected, pixels));
            }
        }
        if !(1..=4096).contains(&self.batch) {
            return Err(Error::option("batch", "1 to 4096", self.batch));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fndm_memory::CoarseConfig;

    use super::*;

    #[test]
    fn every_value_is_checked() {
        let ok = DetectConfig::default();
        ok.check().unwrap();
        let bad = [
            DetectConfig {
                steps: 0,
                ..ok.clone()
            },
            DetectConfig {
                order: 4,
                ..ok.clone()
            },
            DetectConfig {
                order: 2,
                steps: 1,
                ..ok.clone()
            },
            DetectConfig {
                encode_steps: Some(0),
                ..ok.clone()
            },
            DetectConfig {
                noise_level: 0.,
                ..ok.clone()
            },
            DetectConfig {
                noise_level: f64::NAN,
                ..ok.clone()
            },
            DetectConfig {
                guidance_scale: f64::INFINITY,
                ..ok.clone()
            },
            DetectConfig {
                guidance_scale: 1e39,
                ..ok.clone()
            },
            DetectConfig {
                encode_label: 2,
                ..ok.clone()
            },
            DetectConfig {
                coarse_threshold: Some(f32::NAN),
                ..ok.clone()
            },
            DetectConfig {
                map_power: 0.,
                ..ok.clone()
            },
            DetectConfig {
                guided_smoothing: Some(GuidedSmoothing {
                    range: 0.,
                    ..GuidedSmoothing::of_size(64)
                }),
                ..ok.clone()
            },
            DetectConfig {
                volume_scale: Some(VolumeScale {
                    steepness: 0.,
                    least: 0.,
                }),
                ..ok.clone()
            },
            DetectConfig {
                map_power: f64::NAN,
                ..ok.clone()
            },
            DetectConfig {
                region_noise: Some(-0.1),
                ..ok.clone()
            },
            DetectConfig {
                region_noise: Some(f64::NAN),
                ..ok.clone()
            },
            DetectConfig {
                coarse_weight: f64::NAN,
                ..ok.clone()
            },
            DetectConfig {
                smoothing: f64::NAN,
                ..ok.clone()
            },
            DetectConfig {
                z_smoothing: f64::NAN,
                ..ok.clone()
            },
            DetectConfig {
                residual_limit: f64::NAN,
                ..ok.clone()
            },
            DetectConfig {
                residual_sides: vec![ResidualSide::Neither; 2],
                ..ok.clone()
            },
            DetectConfig {
                batch: 0,
                ..ok.clone()
            },
            DetectConfig {
                coarse_dilation: 65,
                ..ok.clone()
            },
            DetectConfig {
                head_erosion: 257,
                ..ok.clone()
            },
        ];
        for config in bad {
            assert!(
                matches!(config.check(), Err(Error::Option { .. })),
                "{config:?}"
            );
        }
    }

    /// What is allowed here is allowed where it is used.
    #[test]
    fn the_dilation_has_one_limit() {
        let most = DetectConfig {
            coarse_dilation: MAX_RADIUS,
            ..DetectConfig::default()
        };
        most.check().unwrap();
        let used = CoarseConfig {
            dilation: most.coarse_dilation,
            ..CoarseConfig::default()
        };
        used.check().unwrap();
        let more = CoarseConfig {
            dilation: most.coarse_dilation + 1,
            ..used
        };
        assert!(more.check().is_err());
    }

    #[test]
    fn unknown_settings_are_refused() {
        let unknown = serde_json::from_str::<DetectConfig>(r#"{"stepps": 3}"#);
        assert!(unknown.unwrap_err().to_string().contains("stepps"));
        let text =
            r#"{"classifier_gradient":true,"image_condition":true,"memory_bank":true,"x":1}"#;
        assert!(serde_json::from_str::<Parts>(text).is_err());
    }

    /// Files of older versions know no solver but the default one, and are written as they were.
    #[test]
    fn the_solver_is_optional_in_files() {
        let plain = DetectConfig::default();
        let text = serde_json::to_string(&plain).unwrap();
        assert!(!text.contains("solver"), "{text}");
        assert_eq!(serde_json::from_str::<DetectConfig>(&text).unwrap(), plain);
        let text =
            r#"{"order": 3, "solver": {"algorithm": "uni_pc", "grid": {"karras": {"rho": 7}}}}"#;
        let other: DetectConfig = serde_json::from_str(text).unwrap();
        other.check().unwrap();
        assert_eq!(other.solver.algorithm, fndm_solver::Algorithm::UniPc);
        let text = serde_json::to_string(&other).unwrap();
        assert_eq!(serde_json::from_str::<DetectConfig>(&text).unwrap(), other);
        let unknown = serde_json::from_str::<DetectConfig>(r#"{"solver": {"eta": 1}}"#);
        assert!(unknown.unwrap_err().to_string().contains("eta"));
        // What the solver has no form for.
        let ddim = serde_json::from_str::<DetectConfig>(r#"{"solver": {"algorithm": "ddim"}}"#);
        let error = ddim.unwrap().check().unwrap_err();
        assert!(matches!(error, Error::Solver(_)), "{error}");
    }

    #[test]
    fn a_config_survives_json() {
        let config = DetectConfig {
            coarse_threshold: Some(0.25),
            ..DetectConfig::default()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DetectConfig>(&text).unwrap(), config);
    }
}
