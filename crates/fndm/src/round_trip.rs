//! Encode to noise, sample back as healthy: equations (6), (8) and (9) of the paper.

pub(crate) mod long_steps;

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use fndm_models::{Classifier, ClassifierConfig, HybridInput, UNet, UNetConfig};
use fndm_solver::{
    Answer, Clip, Guidance, NoiseSchedule, Prediction, Query, RunTensor, Solver, SolverConfig,
};
use ndarray::ArrayView4;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::{DetectConfig, Error, Result, Start};

/// Slices of a part, where several are worked on side by side.
const PART: usize = 6;
/// Channels of the widest layer of a network up to which they are.
const NARROW: f64 = 128.;

/// Since then.
pub(crate) fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// A round trip through noise, with each direction's own conditions.
pub(crate) struct RoundTrip<'a> {
    unet: &'a UNet,
    /// The network of the encoding: the same, unless each direction has one of its own.
    encoder: &'a UNet,
    classifier: &'a Classifier,
    schedule: &'a NoiseSchedule,
    config: &'a DetectConfig,
    /// None where sampling begins with a state that takes no encoding.
    encode: Option<Solver>,
    sample: Solver,
    inputs: Inputs,
    prediction: Prediction,
    from_image: bool,
    /// Share of the image in the state that sampling begins with.
    alpha: f64,
    /// Deviation of the noise in it.
    sigma: f64,
}

/// What a UNet gives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given {
    /// What it predicts.
    pub(crate) prediction: Prediction,
    /// Whether that is less the conditioning image.
    pub(crate) from_image: bool,
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

impl Place<'_> {
    /// An error of a run, told with the network and the slice where they gave what isn't finite.
    fn told(&self, error: Error, direction: &'static str, steps: usize) -> Error {
        match error {
            Error::Solver(fndm_solver::Error::NonFinite {
                what,
                value,
                sample,
                evaluation,
                ..
            }) if what != RunTensor::Start => Error::NetworkNotFinite {
                network: match what {
                    RunTensor::Gradient | RunTensor::Guided => self.classifier.to_owned(),
                    _ => self.unet.to_owned(),
                },
                patient: self.patient.to_owned(),
                slice: self.z.get(sample).copied().unwrap_or_default(),
                direction,
                step: (evaluation + 1).min(steps),
                steps,
                value: value as f32,
            },
            other => other,
        }
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
        // A coarse map that isn't shown can still have its say in the anomaly map, or in the state.
        let coarse_counts = coarse || config.coarse_weight > 0. || config.region_noise.is_some();
        for (name, wanted, works) in [
            ("image_condition", config.parts.image_condition, image),
            ("memory_bank", config.parts.memory_bank, coarse_counts),
        ] {
            if wanted && !works {
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
    unet: &UNetConfig,
    classifier: &ClassifierConfig,
    schedule: &NoiseSchedule,
    given: Given,
    config: &DetectConfig,
) -> Result<(Option<Solver>, Solver)> {
    for (name, expected, wrong) in [
        (
            "prediction",
            "x0 where the output is added to the image",
            given.prediction != Prediction::X0,
        ),
        (
            "image_condition",
            "true for a UNet whose output is added to the image; CG takes one of its own (train --separate)",
            !config.parts.image_condition,
        ),
        (
            "blank_condition",
            "false where the output is added to the image",
            config.blank_condition,
        ),
    ] {
        if given.from_image && wrong {
            return Err(Error::option(name, expected, "another"));
        }
    }
    let solver = |(order, steps)| SolverConfig {
        prediction: given.prediction,
        learned_variance: unet.out_channels == 2 * classifier.in_channels,
        ..config.solver.config(order, steps)
    };
    let mut sample = solver((config.order, config.steps));
    if config.clip_x0 {
        sample.clip = Clip::Static { max: 1. };
    }
    let span = schedule.t_min()..=schedule.t_max().min(config.noise_level);
    let encode = match config.start {
        Start::Encoded => Some(solver(config.encoding()).encode(schedule, span.clone())?),
        Start::Noised | Start::Scaled => None,
    };
    Ok((encode, sample.sample(schedule, span)?))
}

/// Whether these settings can be run on a network of this config, without the network itself.
pub(crate) fn check_settings(
    unet: &UNetConfig,
    classifier: &ClassifierConfig,
    schedule: &NoiseSchedule,
    given: Given,
    config: &DetectConfig,
) -> Result<()> {
    config.check()?;
    Inputs::of(unet, classifier, config)?;
    solvers(unet, classifier, schedule, given, config).map(|_| ())
}

impl<'a> RoundTrip<'a> {
    pub(crate) fn new(
        unet: &'a UNet,
        encoder: &'a UNet,
        classifier: &'a Classifier,
        schedule: &'a NoiseSchedule,
        given: Given,
        config: &'a DetectConfig,
    ) -> Result<Self> {
        let networks = (unet.config(), classifier.config());
        let inputs = Inputs::of(networks.0, networks.1, config)?;
        let (encode, sample) = solvers(networks.0, networks.1, schedule, given, config)?;
        let time = config.noise_level.min(schedule.t_max());
        Ok(Self {
            encode,
            sample,
            unet,
            encoder,
            classifier,
            schedule,
            config,
            inputs,
            prediction: given.prediction,
            from_image: given.from_image,
            alpha: schedule.alpha(time),
            sigma: schedule.sigma(time),
        })
    }

    /// Evaluations of the UNet per slice.
    pub(crate) fn evaluations(&self) -> usize {
        let encode = self.encode.as_ref().map_or(0, Solver::evaluations);
        encode + self.sample.evaluations()
    }

    /// Of a batch of so many slices, how many go through the networks together, and how many such parts side by side. Neither depends
    /// on the number of threads, so that results don't.
    ///
    /// On a CPU, a thread of its own for each part of narrow networks spares threads the waiting at the end of each layer, and keeps their
    /// data in their caches. The weights of wide networks are read for every part, which would take longer.
    pub(crate) fn parts(&self, batch: usize, device: &Device) -> (usize, usize) {
        let widest = [self.unet, self.encoder].map(|unet| {
            let factors = unet.config().channel_mult.iter().copied();
            factors.fold(0., f64::max) * unet.config().model_channels as f64
        });
        let narrow = widest.iter().all(|&channels| channels <= NARROW);
        // Fewer slices than two parts have go together as they were asked for.
        if !device.is_cpu() || !narrow || batch < 2 * PART {
            return (batch, 1);
        }
        (PART, batch / PART)
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
        let start = Instant::now();
        let state = match &self.encode {
            Some(encode) => self.encoded(encode, images, x_seg, place, tick)?,
            None => (images * self.alpha)?,
        };
        let state = self.renewed(state, images, x_seg, place)?;
        let encoding = milliseconds(start);
        let start = Instant::now();
        let conditions = self.sampling_conditions(images, x_seg)?;
        let healthy = self.sample.run(&state, |query| {
            let output = self.predict(self.unet, query, &conditions)?;
            let answer = self.guided(query, output, &conditions.labels)?;
            tick();
            Ok(answer)
        });
        let healthy =
            healthy.map_err(|error| place.told(error, "sampling", self.sample.evaluations()))?;
        tracing::debug!(
            patient = place.patient,
            slices = place.z.len(),
            encoding,
            sampling = milliseconds(start),
            "milliseconds of a part"
        );
        if config.keep_outside && config.parts.memory_bank {
            let difference = (healthy - images)?;
            return Ok((images + difference.broadcast_mul(x_seg)?)?);
        }
        Ok(healthy)
    }

    /// The state that the ODE ends with.
    fn encoded(
        &self,
        encode: &Solver,
        images: &Tensor,
        x_seg: &Tensor,
        place: Place<'_>,
        tick: &mut dyn FnMut(),
    ) -> Result<Tensor> {
        let conditions = self.encoding_conditions(images, x_seg)?;
        let state = encode.run(images, |query| {
            let output = self.predict(self.encoder, query, &conditions)?;
            tick();
            Ok(output)
        });
        state.map_err(|error| place.told(error, "encoding", encode.evaluations()))
    }

    /// The state that sampling begins with, from the one that encoding ended with, or from the image's own part of it.
    fn renewed(
        &self,
        state: Tensor,
        images: &Tensor,
        x_seg: &Tensor,
        place: Place<'_>,
    ) -> Result<Tensor> {
        let state = match self.config.start {
            Start::Noised => (state + self.noise(images, place.z, 1.)?)?,
            Start::Encoded | Start::Scaled => state,
        };
        match self.config.region_noise {
            Some(deviation) => self.refresh(&state, x_seg, place.z, deviation),
            None => Ok(state),
        }
    }

    fn encoding_conditions(&self, images: &Tensor, x_seg: &Tensor) -> Result<Conditions> {
        let shown = match self.config.coarse_when_encoding {
            true => x_seg.clone(),
            false => x_seg.zeros_like()?,
        };
        self.conditions(images, &shown, self.config.encode_label)
    }

    fn sampling_conditions(&self, images: &Tensor, x_seg: &Tensor) -> Result<Conditions> {
        let blanked = if self.config.blank_condition {
            // -1 is the background's value.
            let keep = x_seg.affine(-1., 1.)?;
            (images.broadcast_mul(&keep)?).broadcast_sub(x_seg)?
        } else {
            images.clone()
        };
        self.conditions(&blanked, x_seg, self.config.sample_label)
    }

    fn conditions(&self, image: &Tensor, coarse: &Tensor, label: u32) -> Result<Conditions> {
        let parts = self.config.parts;
        let labels = Tensor::full(label, image.dim(0)?, image.device())?;
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

    /// What a network is shown, time and label apart.
    fn shown(&self, state: &Tensor, conditions: &Conditions) -> Result<Tensor> {
        let input = HybridInput {
            state: state.clone(),
            image: self.inputs.image.then(|| conditions.image.clone()),
            coarse: self.inputs.coarse.then(|| conditions.coarse.clone()),
        };
        Ok(input.concat()?)
    }

    /// What a network gives.
    fn predict(&self, unet: &UNet, query: Query<'_>, conditions: &Conditions) -> Result<Tensor> {
        let labels = conditions.unet_labels.as_ref();
        let output = unet.forward(&self.shown(query.x, conditions)?, &times(query)?, labels)?;
        match self.from_image {
            true => Ok((output + &conditions.image)?),
            false => Ok(output),
        }
    }

    /// The UNet's output, with the classifier's gradient where that is in use.
    fn guided(&self, query: Query<'_>, output: Tensor, labels: &Tensor) -> Result<Answer> {
        if !self.is_guided() {
            return Ok(output.into());
        }
        let scale = self.config.guidance_scale;
        let gradient = self
            .classifier
            .log_prob_gradient(query.x, &times(query)?, labels)?;
        Ok(Answer::guided(output, Guidance { scale }, gradient))
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
        let noise = self.noise(state, z, deviation)?;
        let keep = x_seg.affine(-1., 1.)?;
        Ok((state.broadcast_mul(&keep)? + noise.broadcast_mul(x_seg)?)?)
    }

    /// Fresh noise of the shape of `like`, of a deviation relative to sigma: that of a slice is its own, whatever slices are
    /// examined with it.
    fn noise(&self, like: &Tensor, z: &[usize], deviation: f64) -> Result<Tensor> {
        let (b, c, h, w) = like.dims4()?;
        let mut values = Vec::with_capacity(b * c * h * w);
        for &z in z {
            let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
            rng.set_stream(z as u64);
            values.extend((0..c * h * w).map(|_| -> f32 { StandardNormal.sample(&mut rng) }));
        }
        let noise = Tensor::from_vec(values, (b, c, h, w), like.device())?;
        Ok((noise * (self.sigma * deviation))?)
    }
}

/// The network's time of a query, one for each sample.
fn times(query: Query<'_>) -> Result<Tensor> {
    let (b, time) = (query.x.dim(0)?, query.model_time as f32);
    Ok(Tensor::full(time, b, query.x.device())?)
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
