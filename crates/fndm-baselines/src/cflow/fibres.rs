use fndm_train::{Batch, Draw, part_of};
use serde::{Deserialize, Serialize};

use crate::flows::random_permutation;
use crate::healthy::Epochs;
use crate::{Error, Result};

/// What becomes of the rows of a batch that no whole fibre can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rest {
    /// They are dropped, as in the official code.
    Dropped,
    /// The last fibre takes them, as in anomalib.
    Kept,
}

/// How the rows of a batch of images are dealt out: layer by layer, in a random order, so many at a time.
#[derive(Debug, Clone)]
pub(super) struct Fibres {
    pub(super) epochs: Epochs,
    /// Rows of an image, layer by layer.
    pub(super) pixels: Vec<usize>,
    /// Rows of a fibre.
    pub(super) length: usize,
    pub(super) rest: Rest,
    pub(super) seed: u64,
}

/// Some rows of one layer of a batch of images.
#[derive(Debug, Clone)]
pub(super) struct Fibre {
    /// The number of the batch of images.
    pub(super) batch: u64,
    /// The batch's images.
    pub(super) images: Vec<usize>,
    pub(super) layer: usize,
    /// Positions among the batch's rows.
    pub(super) rows: Vec<usize>,
    /// The image of each row.
    samples: Vec<usize>,
}

impl Batch for Fibre {
    fn samples(&self) -> &[usize] {
        &self.samples
    }

    fn part(self, rank: usize, size: usize) -> Self {
        Self {
            rows: part_of(self.rows, rank, size),
            samples: part_of(self.samples, rank, size),
            ..self
        }
    }
}

impl Fibres {
    /// Fibres that a batch has of each layer.
    fn counts(&self) -> Vec<usize> {
        let images = self.epochs.batch_size();
        let rows = self.pixels.iter().map(|pixels| images * pixels);
        rows.map(|rows| rows / self.length).collect()
    }

    /// Fails where a layer has too few rows for one fibre.
    pub(super) fn check(&self) -> Result<()> {
        match self.counts().contains(&0) {
            false => Ok(()),
            true => {
                let images = self.epochs.batch_size();
                let least = self.pixels.iter().min().copied().unwrap_or(0) * images;
                let expected = format!("at most the {least} rows of a batch of {images} slices");
                Err(Error::config("fibre", expected, self.length))
            }
        }
    }

    /// Fibres of a batch of images: so many steps are made of it.
    pub(super) fn steps(&self) -> u64 {
        self.counts().iter().sum::<usize>() as u64
    }

    /// Draws fibre after fibre.
    pub(super) fn draw(self) -> Draw<Fibre> {
        let counts = self.counts();
        let mut order: Option<(u64, usize, Vec<usize>)> = None;
        Box::new(move |n| {
            let steps = self.steps();
            let batch = n / steps;
            let (mut layer, mut fibre) = (0, (n % steps) as usize);
            while fibre >= counts[layer] {
                fibre -= counts[layer];
                layer += 1;
            }
            let images = self.epochs.batch(batch);
            let all = images.len() * self.pixels[layer];
            if order.as_ref().is_none_or(|o| (o.0, o.1) != (batch, layer)) {
                let stream = batch * self.pixels.len() as u64 + layer as u64;
                order = Some((batch, layer, random_permutation(all, self.seed, stream)));
            }
            let order = order.as_ref().map_or(&[][..], |o| &o.2);
            let end = match self.rest {
                Rest::Kept if fibre + 1 == counts[layer] => all,
                _ => (fibre + 1) * self.length,
            };
            let rows = order[fibre * self.length..end].to_vec();
            let image = |row: &usize| images[row / self.pixels[layer]];
            Ok(Fibre {
                batch,
                layer,
                samples: rows.iter().map(image).collect(),
                images,
                rows,
            })
        })
    }
}
