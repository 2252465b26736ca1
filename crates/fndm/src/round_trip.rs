//! Encode to noise, sample back as healthy: equations (6), (8) and (9) of the paper.

use std::cell::{Cell, RefCell};

use candle_core::{DType, Device, Tensor};
use fndm_models::{Classifier, ClassifierConfig, HybridInput, UNet, UNetConfig};
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

/// The networks' names and the slices of a batch, for messages; the fresh noise too depends on where a slice lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The file of the UNet.
    pub(crate) unet: &'a str,
    /// The file of the classifier.
    pub(crate) classifier: &'a str,
    /// The patient.
    pub(crate) patient: &'a str,
    /// The position of each slice in the volume.
    pub(crate) z: &'a [usize],
}

/// The evaluations of one direction: which one is running, and what went wrong in it.
///
/// The solver knows candle's errors alone, so that one of ours waits here until the solver has come back.
struct Watch<'a> {
    place: Place<'a>,
    direction: &'static str,
    steps: usize,
    step: Cell<usize>,
    failed: RefCell<Option<Error>>,
}

impl<'a> Watch<'a> {
    fn new(place: Place<'a>, direction: &'static str, steps: usize) -> Self {
        Self {
            place,
            direction,
            steps,
            step: Cell::new(0),
            failed: RefCell::new(None),
        }
    }

    /// One evaluation of the model by the solver.
    fn evaluate(&self, evaluate: impl FnOnce() -> Result<Tensor>) -> candle_core::Result<Tensor> {
        self.step.set(self.step.get() + 1);
        evaluate().map_err(|error| {
            *self.failed.borrow_mut() = Some(error);
            candle_core::Error::Msg("the network failed".to_owned())
        })
    }

    /// Fails where what `network` gave for a batch (B, ...) isn't finite.
    fn check(&self, network: &str, output: &Tensor) -> Result<()> {
        let Some(index) = fndm_kernels::first_non_finite(output)? else {
            return Ok(());
        };
        let each = output.elem_count() / output.dim(0)?.max(1);
        let value = output.flatten_all()?.get(index)?.to_dtype(DType::F32)?;
        Err(Error::NetworkNotFinite {
            network: network.to_owned(),
            patient: self.place.patient.to_owned(),
            slice: self
                .place
                .z
                .get(index / each.max(1))
                .copied()
                .unwrap_or_default(),
            direction: self.direction,
            step: self.step.get(),
            steps: self.steps,
            value: value.to_scalar::<f32>()?,
        })
    }

    /// What the solver came back with: a state that is finite, or the first thing that went wrong.
    fn end(&self, state: fndm_solver::Result<Tensor>) -> Result<Tensor> {
        if let Some(error) = self.failed.borrow_mut().take() {
            return Err(error);
        }
        let state = state?;
        // Finite predictions may still add up to an infinite state.
        self.check(self.place.unet, &state)?;
        Ok(state)
    }
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
    fn of(
        network: &UNetConfig,
        classifier: &ClassifierConfig,
        config: &DetectConfig,
    ) -> Result<Self> {
        let channels = classifier.in_channels;
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

/// The solvers of both directions.
fn solvers(
    schedule: &NoiseSchedule,
    prediction: Prediction,
    config: &DetectConfig,
) -> Result<(Solver, Solver)> {
    let solver = SolverConfig {
        prediction,
        ..SolverConfig::dpm_solver_pp(config.order, config.steps)
    };
    let span = schedule.t_min()..=schedule.t_max().min(config.noise_level);
    let encode = solver.encode(schedule, span.clone())?;
    let sample = SolverConfig {
        prediction: Prediction::X0,
        ..solver
    }
    .sample(schedule, span)?;
    Ok((encode, sample))
}

/// Whether these settings can be run on a network of this config, without the network itself.
pub(crate) fn check_settings(
    unet: &UNetConfig,
    classifier: &ClassifierConfig,
    schedule: &NoiseSchedule,
    prediction: Prediction,
    config: &DetectConfig,
) -> Result<()> {
    config.check()?;
    Inputs::of(unet, classifier, config)?;
    solvers(schedule, prediction, config).map(|_| ())
}

impl<'a> RoundTrip<'a> {
    pub(crate) fn new(
        unet: &'a UNet,
        classifier: &'a Classifier,
        schedule: &'a NoiseSchedule,
        prediction: Prediction,
        config: &'a DetectConfig,
    ) -> Result<Self> {
        let inputs = Inputs::of(unet.config(), classifier.config(), config)?;
        let (encode, sample) = solvers(schedule, prediction, config)?;
        Ok(Self {
            encode,
            sample,
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

    /// The healthy reconstruction of `images` (B, C, H, W), given x_seg (B, 1, H, W) of zeros and ones. The fresh noise depends on
    /// the seed and on where in the volume a slice lies, not on which others are examined with it. `tick` is called after
    /// every evaluation.
    pub(crate) fn run(
        &self,
        images: &Tensor,
        x_seg: &Tensor,
        place: Place<'_>,
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
        let watch = Watch::new(place, "encoding", self.encode.evaluations());
        let state = self.encode.run(images, |x, model_time, _| {
            let output = watch.evaluate(|| self.predict(x, model_time, &conditions, &watch))?;
            tick();
            Ok(output)
        });
        let state = watch.end(state)?;
        let state = match config.region_noise {
            Some(deviation) => self.refresh(&state, x_seg, place.z, deviation)?,
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
        let watch = Watch::new(place, "sampling", self.sample.evaluations());
        let healthy = self.sample.run(&state, |x, model_time, _| {
            let x0 = watch.evaluate(|| {
                let output = self.predict(x, model_time, &conditions, &watch)?;
                self.steer(x, &output, model_time, &conditions.labels, &watch)
            })?;
            tick();
            Ok(x0)
        });
        let healthy = watch.end(healthy)?;
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
        watch: &Watch<'_>,
    ) -> Result<Tensor> {
        let (b, c, _, _) = x.dims4()?;
        let input = HybridInput {
            state: x.clone(),
            image: self.inputs.image.then(|| conditions.image.clone()),
            coarse: self.inputs.coarse.then(|| conditions.coarse.clone()),
        };
        let t = Tensor::full(model_time as f32, b, x.device())?;
        let labels = conditions.unet_labels.as_ref();
        let output = self.unet.forward(&input.concat()?, &t, labels)?;
        // A network with learned sigma has twice the channels; the variance isn't used.
        let output = output.narrow(1, 0, c)?;
        // Before anything clamps it: a clamp may take NaN for a number.
        watch.check(watch.place.unet, &output)?;
        Ok(output)
    }

    /// From the UNet's output to the guided prediction of x0.
    fn steer(
        &self,
        x: &Tensor,
        output: &Tensor,
        model_time: f64,
        labels: &Tensor,
        watch: &Watch<'_>,
    ) -> Result<Tensor> {
        let time = self.schedule.time_of_model_time(model_time);
        let (alpha, sigma) = (self.schedule.alpha(time), self.schedule.sigma(time));
        let mut x0 = self.prediction.x0(x, output, alpha, sigma)?;
        if self.is_guided() {
            let t = Tensor::full(model_time as f32, x.dim(0)?, x.device())?;
            let gradient = self.classifier.log_prob_gradient(x, &t, labels)?;
            watch.check(watch.place.classifier, &gradient)?;
            let guidance = Guidance {
                scale: self.config.guidance_scale,
            };
            x0 = guidance.apply_to(Prediction::X0, &x0, &gradient, alpha, sigma)?;
        }
        if self.config.clip_x0 {
            // The scale of the guidance may blow up what was finite.
            watch.check(watch.place.classifier, &x0)?;
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
        z: &[usize],
        deviation: f64,
    ) -> Result<Tensor> {
        let (b, c, h, w) = state.dims4()?;
        let mut values = Vec::with_capacity(b * c * h * w);
        for &z in z {
            let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
            rng.set_stream(z as u64);
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
