//! Encode to noise, sample back as healthy: equations (6), (8) and (9) of the paper.

use candle_core::{DType, Device, Tensor};
use fndm_models::{Classifier, HybridInput, UNet};
use fndm_solver::{Guidance, NoiseSchedule, Prediction, Solver, SolverConfig};
use ndarray::ArrayView4;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::{DetectConfig, Error, Result};

/// A round trip through noise, with each direction's own conditions.
pub(crate) struct RoundTrip<'a> {
    unet: &'a UNet,
    classifier: &'a Classifier,
    schedule: &'a NoiseSchedule,
    prediction: Prediction,
    config: &'a DetectConfig,
    encode: Solver,
    sample: Solver,
    inputs: Inputs,
}

/// What a UNet takes beside the state.
#[derive(Debug, Clone, Copy)]
struct Inputs {
    image: bool,
    coarse: bool,
    labels: Labels,
}

/// Which labels a UNet is given.
#[derive(Debug, Clone, Copy)]
enum Labels {
    /// It takes none.
    None,
    /// The one that stands for no label.
    Null(u32),
    /// Those of the settings.
    Given,
}

impl Inputs {
    fn of(unet: &UNet, classifier: &Classifier, config: &DetectConfig) -> Result<Self> {
        let (network, channels) = (unet.config(), classifier.config().in_channels);
        let image = network.in_channels >= 2 * channels;
        let coarse = network.in_channels == 2 * channels + 1;
        for (name, wanted, taken) in [
            ("image_condition", config.parts.image_condition, image),
            ("memory_bank", config.parts.memory_bank, coarse),
        ] {
            if wanted && !taken {
                let expected = format!("false for a UNet of {} channels", network.in_channels);
                return Err(Error::option(name, expected, wanted));
            }
        }
        let labels = match (network.num_classes, config.label_condition) {
            (None, _) => Labels::None,
            (Some(_), true) => Labels::Given,
            (Some(classes), false) if classes > 2 => Labels::Null(2),
            (Some(classes), false) => {
                let expected =
                    format!("true for a UNet of {classes} classes, none of them for no label");
                return Err(Error::option("label_condition", expected, false));
            }
        };
        Ok(Self {
            image,
            coarse,
            labels,
        })
    }
}

/// What the UNet is shown in one direction.
struct Conditions {
    image: Tensor,
    coarse: Tensor,
    /// The classifier's.
    labels: Tensor,
    /// The UNet's, if it takes any.
    unet_labels: Option<Tensor>,
}

impl<'a> RoundTrip<'a> {
    pub(crate) fn new(
        unet: &'a UNet,
        classifier: &'a Classifier,
        schedule: &'a NoiseSchedule,
        prediction: Prediction,
        config: &'a DetectConfig,
    ) -> Result<Self> {
        let solver = SolverConfig {
            prediction,
            ..SolverConfig::dpm_solver_pp(config.order, config.steps)
        };
        let inputs = Inputs::of(unet, classifier, config)?;
        let span = schedule.t_min()..=schedule.t_max().min(config.noise_level);
        Ok(Self {
            encode: solver.encode(schedule, span.clone())?,
            sample: SolverConfig {
                prediction: Prediction::X0,
                ..solver
            }
            .sample(schedule, span)?,
            unet,
            classifier,
            schedule,
            prediction,
            config,
            inputs,
        })
    }

    /// Evaluations of the UNet per slice.
    pub(crate) fn evaluations(&self) -> usize {
        self.encode.evaluations() + self.sample.evaluations()
    }

    /// Gradients of the classifier per slice.
    pub(crate) fn gradient_evaluations(&self) -> usize {
        if self.is_guided() {
            self.sample.evaluations()
        } else {
            0
        }
    }

    fn is_guided(&self) -> bool {
        self.config.parts.classifier_gradient && self.config.guidance_scale > 0.
    }

    /// The healthy reconstruction of `images` (B, C, H, W), given x_seg (B, 1, H, W) of zeros and ones. `first` is the
    /// index of the first image among the patient's: the fresh noise depends on it, not on the batch. `tick` is called
    /// after every evaluation.
    pub(crate) fn run(
        &self,
        images: &Tensor,
        x_seg: &Tensor,
        first: usize,
        tick: &mut dyn FnMut(),
    ) -> Result<Tensor> {
        let config = self.config;
        let empty = x_seg.zeros_like()?;
        let b = images.dim(0)?;
        let labels = |label: u32| Tensor::full(label, b, images.device());

        let shown = if config.coarse_when_encoding {
            x_seg
        } else {
            &empty
        };
        let conditions = self.conditions(images, shown, labels(config.encode_label)?)?;
        let state = self.encode.run(images, |x, model_time, _| {
            let output = self.predict(x, model_time, &conditions)?;
            tick();
            Ok(output)
        })?;
        let state = match config.region_noise {
            Some(deviation) => self.refresh(&state, x_seg, first, deviation)?,
            None => state,
        };

        let blanked = if config.blank_condition {
            // -1 is the background's value.
            let keep = x_seg.affine(-1., 1.)?;
            (images.broadcast_mul(&keep)?).broadcast_sub(x_seg)?
        } else {
            images.clone()
        };
        let conditions = self.conditions(&blanked, x_seg, labels(config.sample_label)?)?;
        let healthy = self.sample.run(&state, |x, model_time, _| {
            let output = self.predict(x, model_time, &conditions)?;
            let x0 = self
                .steer(x, &output, model_time, &conditions.labels)
                .map_err(candle_core::Error::wrap)?;
            tick();
            Ok(x0)
        })?;
        if config.keep_outside && config.parts.memory_bank {
            let difference = (healthy - images)?;
            return Ok((images + difference.broadcast_mul(x_seg)?)?);
        }
        Ok(healthy)
    }

    fn conditions(&self, image: &Tensor, coarse: &Tensor, labels: Tensor) -> Result<Conditions> {
        let parts = self.config.parts;
        // A condition that isn't used is all zeros, as in training where it was withheld.
        let given = |used: bool, condition: &Tensor| {
            if used {
                Ok(condition.clone())
            } else {
                condition.zeros_like()
            }
        };
        let unet_labels = match self.inputs.labels {
            Labels::None => None,
            Labels::Null(label) => Some(Tensor::full(label, image.dim(0)?, image.device())?),
            Labels::Given => Some(labels.clone()),
        };
        Ok(Conditions {
            unet_labels,
            image: given(parts.image_condition, image)?,
            coarse: given(parts.memory_bank, coarse)?,
            labels,
        })
    }

    fn predict(
        &self,
        x: &Tensor,
        model_time: f64,
        conditions: &Conditions,
    ) -> candle_core::Result<Tensor> {
        let (b, c, _, _) = x.dims4()?;
        let input = HybridInput {
            state: x.clone(),
            image: self.inputs.image.then(|| conditions.image.clone()),
            coarse: self.inputs.coarse.then(|| conditions.coarse.clone()),
        };
        let t = Tensor::full(model_time as f32, b, x.device())?;
        let output = input
            .concat()
            .and_then(|input| {
                self.unet
                    .forward(&input, &t, conditions.unet_labels.as_ref())
            })
            .map_err(candle_core::Error::wrap)?;
        // A network with learned sigma has twice the channels; the variance isn't used.
        output.narrow(1, 0, c)
    }

    /// From the UNet's output to the guided prediction of x0.
    fn steer(
        &self,
        x: &Tensor,
        output: &Tensor,
        model_time: f64,
        labels: &Tensor,
    ) -> Result<Tensor> {
        let time = self.schedule.time_of_model_time(model_time);
        let (alpha, sigma) = (self.schedule.alpha(time), self.schedule.sigma(time));
        let mut x0 = self.prediction.x0(x, output, alpha, sigma)?;
        if self.is_guided() {
            let t = Tensor::full(model_time as f32, x.dim(0)?, x.device())?;
            let gradient = self.classifier.log_prob_gradient(x, &t, labels)?;
            let guidance = Guidance {
                scale: self.config.guidance_scale,
            };
            x0 = guidance.apply_to(Prediction::X0, &x0, &gradient, alpha, sigma)?;
        }
        if self.config.clip_x0 {
            x0 = x0.clamp(-1f32, 1f32)?;
        }
        Ok(x0)
    }

    /// The state with fresh noise inside x_seg, of a deviation relative to sigma. The image's own part (alpha x0) is dropped
    /// there, so this is for noise levels near 1.
    fn refresh(
        &self,
        state: &Tensor,
        x_seg: &Tensor,
        first: usize,
        deviation: f64,
    ) -> Result<Tensor> {
        let (b, c, h, w) = state.dims4()?;
        let mut values = Vec::with_capacity(b * c * h * w);
        for i in first..first + b {
            let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
            rng.set_stream(i as u64);
            values.extend((0..c * h * w).map(|_| -> f32 { StandardNormal.sample(&mut rng) }));
        }
        let sigma = self
            .schedule
            .sigma(self.config.noise_level.min(self.schedule.t_max()));
        let noise =
            (Tensor::from_vec(values, (b, c, h, w), state.device())? * (sigma * deviation))?;
        let keep = x_seg.affine(-1., 1.)?;
        Ok((state.broadcast_mul(&keep)? + noise.broadcast_mul(x_seg)?)?)
    }
}

/// An array `(B, C, H, W)` as a tensor of the same shape on the device.
///
/// # Errors
/// When the device refuses it.
pub fn batch_tensor(array: &ArrayView4<'_, f32>, device: &Device) -> Result<Tensor> {
    let dims = array.dim();
    let values: Vec<f32> = array.iter().copied().collect();
    Ok(Tensor::from_vec(values, dims, device)?.to_dtype(DType::F32)?)
}
