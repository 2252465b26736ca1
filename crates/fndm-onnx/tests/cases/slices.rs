//! Slices that the networks are run on.

use std::path::Path;

use candle_core::Tensor;
use fndm::ModelConfig;
use fndm_data::{
    Limits, PatientSlices, list_patients, phantom, read_sequences_below, with_neighbours,
};
use fndm_models::SegmenterConfig;
use ndarray::{Array4, Axis, s};

use super::random;

/// Slices `(N, C, H, W)` in order of their volume.
pub(crate) struct Slices {
    pub(crate) images: Tensor,
    array: Array4<f32>,
    z: Vec<usize>,
}

impl Slices {
    fn of(array: Array4<f32>, z: Vec<usize>) -> Self {
        let values = array.iter().copied().collect();
        let images = Tensor::from_vec(values, array.shape(), &super::CPU).unwrap();
        Self { images, array, z }
    }

    pub(crate) fn random(config: &ModelConfig, count: usize) -> Self {
        let side = config.preprocess.image_size;
        let shape = [count, config.sequences.len(), side, side];
        let values = random(&shape, 7).flatten_all().unwrap().to_vec1().unwrap();
        let array = Array4::from_shape_vec((count, shape[1], side, side), values).unwrap();
        Self::of(array, (0..count).collect())
    }

    /// Four slices from the middle of a phantom's head.
    pub(crate) fn phantom(config: &ModelConfig) -> Self {
        let patient = phantom::PhantomConfig::default()
            .build()
            .unwrap()
            .patient(10_000);
        Self::middle(&config.preprocess.apply(&patient).unwrap())
    }

    /// Four slices of a glioma patient; none, said aloud, where the data set isn't there.
    pub(crate) fn lgg(config: &ModelConfig) -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/lgg128");
        let Ok(list) = list_patients(&root) else {
            eprintln!("skipped: slices of gliomas: no {}", root.display());
            return None;
        };
        let sequences = &config.sequences;
        let patient =
            read_sequences_below(&root, &list.ids[0], sequences, &Limits::default()).unwrap();
        Some(Self::middle(&config.preprocess.apply(&patient).unwrap()))
    }

    fn middle(slices: &PatientSlices) -> Self {
        let from = slices.z.len() / 2 - 2;
        let array = slices.images.slice(s![from..from + 4, .., .., ..]);
        Self::of(array.to_owned(), slices.z[from..from + 4].to_vec())
    }

    /// With their neighbours, as a network of this config sees them.
    pub(crate) fn seen(&self, config: &SegmenterConfig) -> Tensor {
        let patient = vec![0; self.z.len()];
        let seen = with_neighbours(self.array.view(), &patient, &self.z, config.context).unwrap();
        let values = seen.iter().copied().collect();
        Tensor::from_vec(values, seen.shape(), &super::CPU).unwrap()
    }

    /// The state, the image as its condition, and a coarse map in [0, 1], as far as there are channels.
    pub(crate) fn conditioned(&self, channels: usize) -> Tensor {
        let noise = random(self.images.dims(), 11);
        let state = ((&self.images * 0.6).unwrap() + (noise * 0.8).unwrap()).unwrap();
        let coarse = self.array.mapv(|v| (v + 1.).clamp(0., 2.) / 2.);
        let coarse = coarse.mean_axis(Axis(1)).unwrap().insert_axis(Axis(1));
        let values: Vec<f32> = coarse.iter().copied().collect();
        let coarse = Tensor::from_vec(values, coarse.shape(), &super::CPU).unwrap();
        let all = Tensor::cat(&[&state, &self.images, &coarse], 1).unwrap();
        all.narrow(1, 0, channels).unwrap().contiguous().unwrap()
    }
}
