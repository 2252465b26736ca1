use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use fndm_train::{Batch, Draw, Fingerprint, part_of};
use ndarray::{Array4, Axis};

use crate::flows::random_permutation;
use crate::{Error, Result};

/// The healthy slices of a set: all that a method is fitted to.
#[derive(Debug, Clone)]
pub(crate) struct Healthy {
    images: Array4<f32>,
    names: Vec<String>,
    fingerprint: Fingerprint,
}

impl Healthy {
    pub(crate) fn new(set: &SliceSet) -> Result<Self> {
        let healthy = set.with_label(0);
        if healthy.is_empty() {
            let slices = set.labels.len();
            return Err(Error::NoHealthySlice { slices });
        }
        let name = |&n: &usize| {
            let id = set.patient.get(n).and_then(|&p| set.ids.get(p));
            let z = set.z.get(n).copied().unwrap_or(n);
            format!("{} z={z}", id.map_or("?", String::as_str))
        };
        Ok(Self {
            images: set.images.select(Axis(0), &healthy),
            names: healthy.iter().map(name).collect(),
            fingerprint: Fingerprint::of_slices(set),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.images.dim().0
    }

    /// What a training on these slices is known by.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    /// Slices `(B, C, H, W)`.
    pub(crate) fn gather(&self, at: &[usize], device: &Device) -> candle_core::Result<Tensor> {
        let (_, c, h, w) = self.images.dim();
        let chosen = self.images.select(Axis(0), at);
        let values = chosen.into_iter().collect::<Vec<f32>>();
        Tensor::from_vec(values, (at.len(), c, h, w), device)
    }

    pub(crate) fn names(&self, at: &[usize]) -> Vec<String> {
        let known = at.iter().filter_map(|&n| self.names.get(n));
        known.cloned().collect()
    }

    /// The batches of a training of so many slices each, or of all where there are fewer.
    pub(crate) fn epochs(&self, batch: usize, seed: u64) -> Epochs {
        Epochs {
            slices: self.len(),
            batch: batch.min(self.len()),
            seed,
        }
    }
}

/// All slices in a random order, again and again. What is left of an epoch that no batch can be made of is dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Epochs {
    slices: usize,
    batch: usize,
    seed: u64,
}

impl Epochs {
    /// Batches in an epoch.
    pub(crate) fn batches(&self) -> u64 {
        (self.slices / self.batch) as u64
    }

    /// Slices in a batch.
    pub(crate) fn batch_size(&self) -> usize {
        self.batch
    }

    /// The slices of batch `n`, counted from 0 over all epochs.
    pub(crate) fn batch(&self, n: u64) -> Vec<usize> {
        let (epoch, at) = (n / self.batches(), (n % self.batches()) as usize);
        let order = random_permutation(self.slices, self.seed, epoch);
        order[at * self.batch..][..self.batch].to_vec()
    }

    /// Draws batch after batch.
    pub(crate) fn draw(self) -> Draw<SliceBatch> {
        Box::new(move |n| Ok(SliceBatch { at: self.batch(n) }))
    }
}

/// Positions of a batch's slices among the healthy ones.
#[derive(Debug, Clone)]
pub(crate) struct SliceBatch {
    pub(crate) at: Vec<usize>,
}

impl Batch for SliceBatch {
    fn samples(&self) -> &[usize] {
        &self.at
    }

    fn part(self, rank: usize, size: usize) -> Self {
        Self {
            at: part_of(self.at, rank, size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_slice_once_and_begins_anywhere() {
        let epochs = Epochs {
            slices: 10,
            batch: 5,
            seed: 3,
        };
        let mut seen = [epochs.batch(4), epochs.batch(5)].concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert_ne!(epochs.batch(0), epochs.batch(2));
    }
}
