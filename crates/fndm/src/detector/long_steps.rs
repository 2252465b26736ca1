use fndm_data::PatientSlices;
use ndarray::{Array4, Axis, concatenate};

use super::diffusion::to_array;
use super::{Detector, shape_error};
use crate::round_trip::long_steps::Taught;
use crate::round_trip::{Place, RoundTrip, batch_tensor};
use crate::{DetectConfig, Error, ModelConfig, Result, model_folder as names};

/// What a network of one direction would have to say to take long steps, for slices of one patient: see [`Detector::long_steps`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LongSteps {
    /// What the network is shown: state and conditions, `(N, C_in, H, W)`.
    pub inputs: Array4<f32>,
    /// The times that it is called with.
    pub model_times: Vec<f32>,
    /// The labels that it is called with; empty for a network of none.
    pub labels: Vec<u32>,
    /// What it should give, `(N, C, H, W)`.
    pub targets: Array4<f32>,
    /// The slice of each, by its position in the volume.
    pub z: Vec<usize>,
}

impl Detector {
    /// These settings with so many long steps of order 1 in each direction, no gradient: what networks that were taught by
    /// [`long_steps`](Self::long_steps) are run with.
    #[must_use]
    pub fn in_long_steps(config: &DetectConfig, steps: usize) -> DetectConfig {
        DetectConfig {
            steps,
            order: 1,
            encode_steps: None,
            guidance_scale: 0.,
            ..config.clone()
        }
    }

    /// Runs the round trip of these settings on the slices number `which`, and cuts each direction into so many long steps: what a
    /// network would have to be shown, and to give, for one step of order 1 to lead where several led. The classifier's gradient and
    /// everything else on the way is in it. First those of the encoding, where there is one, then those of the sampling.
    ///
    /// # Errors
    /// As [`Detector::examine`], when the long steps aren't whole numbers of the settings' steps, and for a network with learned
    /// variance.
    pub fn long_steps(
        &self,
        slices: &PatientSlices,
        which: &[usize],
        config: &DetectConfig,
        steps: usize,
    ) -> Result<(Option<LongSteps>, LongSteps)> {
        config.check()?;
        self.check_input(slices)?;
        let diffusion = self.diffusion.as_ref();
        let diffusion = diffusion.ok_or_else(ModelConfig::no_diffusion)?;
        let (unet, unet_file) = self.unet(diffusion, config);
        let (given, out) = (unet.config().out_channels, slices.images.dim().1);
        if given != out {
            let expected = format!("{out}, without learned variance");
            return Err(Error::option("unet.out_channels", expected, given));
        }
        if let Some(&slice) = which.iter().find(|&&slice| slice >= slices.len()) {
            let expected = format!("slices below {}", slices.len());
            return Err(Error::option("slice", expected, slice));
        }
        let short = Self::in_long_steps(config, steps);
        short.check()?;
        let encoder = diffusion.encoder.as_ref().unwrap_or(unet);
        let trip = |config| {
            let (classifier, schedule) = (&diffusion.classifier, &diffusion.schedule);
            let given = self.config.given_by(config);
            RoundTrip::new(unet, encoder, classifier, schedule, given, config)
        };
        let (long, short) = (trip(config)?, trip(&short)?);
        let x_seg = match config.parts.memory_bank {
            true => self.find_coarse(slices, config)?.x_seg,
            false => super::none_of(slices),
        };
        let classifier_file = self.named(names::CLASSIFIER);
        let (mut encode, mut sample) = (Vec::new(), Vec::new());
        for which in which.chunks(config.batch) {
            let images = slices.images.select(Axis(0), which);
            let images = batch_tensor(&images.view(), &self.device)?;
            let region = x_seg.select(Axis(0), which);
            let region = region.mapv(|inside| f32::from(u8::from(inside)));
            let region = batch_tensor(&region.insert_axis(Axis(1)).view(), &self.device)?;
            let z: Vec<usize> = which.iter().map(|&slice| slices.z[slice]).collect();
            let place = Place {
                unet: &unet_file,
                classifier: &classifier_file,
                patient: &slices.id,
                z: &z,
            };
            let (there, back) = long.long_steps(&images, &region, place, &short)?;
            if let Some(there) = there {
                encode.push(on_the_host(there, &z)?);
            }
            sample.push(on_the_host(back, &z)?);
        }
        let join = |parts: Vec<LongSteps>| joined(&slices.id, &parts);
        let encode = (!encode.is_empty()).then(|| join(encode)).transpose()?;
        Ok((encode, join(sample)?))
    }
}

fn on_the_host(taught: Taught, z: &[usize]) -> Result<LongSteps> {
    let n = taught.model_times.len();
    Ok(LongSteps {
        inputs: to_array(&taught.inputs)?,
        model_times: taught.model_times,
        labels: match taught.labels {
            Some(labels) => labels.to_vec1()?,
            None => Vec::new(),
        },
        targets: to_array(&taught.targets)?,
        z: z.iter().copied().cycle().take(n).collect(),
    })
}

fn joined(patient: &str, parts: &[LongSteps]) -> Result<LongSteps> {
    let all = |of: fn(&LongSteps) -> &Array4<f32>| {
        let views: Vec<_> = parts.iter().map(|part| of(part).view()).collect();
        concatenate(Axis(0), &views).map_err(|e| shape_error(patient, &e))
    };
    Ok(LongSteps {
        inputs: all(|part| &part.inputs)?,
        targets: all(|part| &part.targets)?,
        model_times: parts.iter().flat_map(|p| p.model_times.clone()).collect(),
        labels: parts.iter().flat_map(|p| p.labels.clone()).collect(),
        z: parts.iter().flat_map(|p| p.z.clone()).collect(),
    })
}
