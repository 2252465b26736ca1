use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::Tensor;
use fndm_data::PatientSlices;
use fndm_models::UNet;
use fndm_runtime::side_by_side;
use ndarray::{Array3, Array4, Axis, concatenate, s};

use super::{Detector, Diffusion, SliceMaps, shape_error};
use crate::{
    DetectConfig, ModelConfig, Result, anomaly, model_folder as names,
    round_trip::{Place, RoundTrip, batch_tensor, milliseconds},
};

impl Detector {
    /// The network for these settings, that of the row where it has one of its own; and its file.
    pub(super) fn unet<'a>(
        &self,
        diffusion: &'a Diffusion,
        config: &DetectConfig,
    ) -> (&'a UNet, String) {
        let row = self.config.row_of(config);
        match row.and_then(|row| Some((row, diffusion.separate.get(&row)?))) {
            Some((row, unet)) => (unet, self.named(&names::separate(row))),
            None => (&diffusion.unet, self.named(names::UNET)),
        }
    }

    /// As [`Detector::examine`], by settings that were checked.
    pub(super) fn run_diffusion(
        &self,
        slices: &PatientSlices,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<SliceMaps> {
        self.check_input(slices)?;
        let start = Instant::now();
        let diffusion = self.diffusion.as_ref();
        let diffusion = diffusion.ok_or_else(ModelConfig::no_diffusion)?;
        let (unet, unet_file) = self.unet(diffusion, config);
        let classifier_file = self.named(names::CLASSIFIER);
        let encoder = diffusion.encoder.as_ref().unwrap_or(unet);
        let trip = RoundTrip::new(
            unet,
            encoder,
            &diffusion.classifier,
            &diffusion.schedule,
            self.config.given_by(config),
            config,
        )?;
        let mut maps = SliceMaps::empty(slices);
        if config.parts.memory_bank {
            let found = self.find_coarse(slices, config)?;
            (maps.coarse, maps.x_seg) = (found.soft, found.x_seg);
            maps.diseased = found.diseased;
        }
        let coarse = milliseconds(start);
        let names = [unet_file.as_str(), classifier_file.as_str()];
        let healthy = self.reconstruct(&trip, names, slices, &maps.x_seg, config, progress)?;
        let trip_done = Instant::now();
        maps.anomaly = anomaly::anomaly_map(slices.images.view(), healthy.view(), config)?;
        if config.parts.memory_bank && config.coarse_weight > 0. {
            let threshold = self.coarse_threshold(config)?;
            let weight = config.coarse_weight;
            anomaly::weigh_by_coarse(&mut maps.anomaly, &maps.coarse, threshold, weight);
        }
        if config.map_power != 1. {
            anomaly::raise(&mut maps.anomaly, config.map_power);
        }
        maps.healthy = Some(healthy);
        maps.evaluations = trip.evaluations();
        if config.parts.memory_bank {
            maps.evaluations += self.coarse_evaluations(config);
        }
        self.finish(&mut maps, slices, config)?;
        maps.gradient_evaluations = trip.gradient_evaluations();
        maps.milliseconds = milliseconds(start);
        tracing::debug!(
            patient = slices.id,
            coarse,
            mask = milliseconds(trip_done),
            all = maps.milliseconds,
            "milliseconds of a patient"
        );
        self.ask_student(&mut maps, slices)?;
        Ok(maps)
    }

    /// The healthy slices, by a part of them at a time, or by several side by side where that is faster. `names` are the files of UNet
    /// and classifier.
    fn reconstruct(
        &self,
        trip: &RoundTrip<'_>,
        [unet, classifier]: [&str; 2],
        slices: &PatientSlices,
        x_seg: &Array3<bool>,
        config: &DetectConfig,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Array4<f32>> {
        let n = slices.len();
        let (size, at_once) = trip.parts(config.batch, &self.device);
        let count = n.div_ceil(size);
        // Parts begin in order: one that isn't begun any more comes behind the one that failed.
        let failed = AtomicBool::new(false);
        let part = |at: usize, tell: &dyn Fn(usize)| {
            let range = at * n / count..(at + 1) * n / count;
            let images = slices.images.slice(s![range.clone(), .., .., ..]);
            let images = batch_tensor(&images, &self.device)?;
            let region = x_seg.slice(s![range.clone(), .., ..]);
            let region = region.mapv(|inside| f32::from(u8::from(inside)));
            let region = batch_tensor(&region.insert_axis(Axis(1)).view(), &self.device)?;
            let len = range.len();
            let place = Place {
                unet,
                classifier,
                patient: &slices.id,
                z: &slices.z[range],
            };
            to_array(&trip.run(&images, &region, place, &mut || tell(len))?)
        };
        let part = |at: usize, tell: &dyn Fn(usize)| {
            if failed.load(Ordering::Relaxed) {
                return None;
            }
            let found = part(at, tell);
            failed.fetch_or(found.is_err(), Ordering::Relaxed);
            Some(found)
        };
        let (mut done, total) = (0, n * trip.evaluations());
        let parts = side_by_side(count, at_once, part, |slices| {
            done += slices;
            progress(done as f64 / total as f64);
        });
        let parts = parts.into_iter().flatten().collect::<Result<Vec<_>>>()?;
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        concatenate(Axis(0), &views).map_err(|e| shape_error(&slices.id, &e))
    }
}

pub(super) fn to_array(images: &Tensor) -> Result<Array4<f32>> {
    let dims = images.dims4()?;
    let values = images.flatten_all()?.to_vec1::<f32>()?;
    Array4::from_shape_vec(dims, values).map_err(|e| shape_error("a batch", &e))
}
