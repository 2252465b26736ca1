use candle_core::Tensor;
use ndarray::{Array1, ArrayView2, ArrayView3, Axis};

use crate::coarse::head_patches;
use crate::config::ImageScore;
use crate::tensor::{batch_of, check_images};
use crate::{Error, FeatureExtractor, MemoryBank, Result};

impl MemoryBank {
    /// The score of one image from the features `(P, D)` of its patches, as the config's [`ImageScore`] says.
    ///
    /// # Errors
    /// When there are no patches, they are of another dimension, or a value is NaN or infinite.
    pub fn image_score(&self, patches: ArrayView2<'_, f32>) -> Result<f32> {
        let support = match self.config.image_score {
            ImageScore::Largest => {
                let scores = self.score(patches)?;
                return scores
                    .into_iter()
                    .max_by(f32::total_cmp)
                    .ok_or(Error::Empty {
                        what: "the set of patches",
                    });
            }
            ImageScore::Reweighted { neighbours } => neighbours,
        };
        if let Some(((row, _), _)) = patches.indexed_iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::non_finite(format!("patch {row}"), None));
        }
        let found = self.index.search(patches, 1)?;
        let mut largest: Option<(usize, f32)> = None;
        for (patch, &distance) in found.distances.iter().enumerate() {
            if largest.is_none_or(|l| distance > l.1) {
                largest = Some((patch, distance));
            }
        }
        let (patch, distance) = largest.ok_or(Error::Empty {
            what: "the set of patches",
        })?;
        let distance = f64::from(distance).sqrt();
        let Some(Some(nearest)) = found.indices.get((patch, 0)) else {
            return Ok(f32::INFINITY);
        };
        if support == 1 {
            return Ok(distance as f32);
        }
        let rows = self
            .index
            .search(self.index.row(*nearest)?.view(), support)?;
        let mut distances = Vec::with_capacity(support);
        for row in rows.indices.iter().flatten() {
            let row = self.index.row(*row)?;
            let squares: f64 = (patches.row(patch).iter().zip(&row))
                .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
                .sum();
            distances.push(squares.sqrt());
        }
        // The first neighbour of the row is itself. Shifted by the largest, no exponential overflows.
        let shift = distances.iter().copied().fold(0.0, f64::max);
        let all: f64 = distances.iter().map(|d| (d - shift).exp()).sum();
        let own = distances.first().map_or(0.0, |d| (d - shift).exp());
        Ok(((1.0 - own / all) * distance) as f32)
    }

    /// The scores `(B)` of images `(B, C, H, W)`. With a head `(B, H, W)`, of its patches alone; 0 for an image without any.
    ///
    /// # Errors
    /// As [`HealthyModel::patch_scores`](crate::HealthyModel::patch_scores).
    pub fn image_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array1<f32>> {
        let (n, _, _) = check_images(images, head)?;
        let mut scores = Array1::zeros(n);
        for (i, score) in scores.iter_mut().enumerate() {
            let embedding = self
                .embed(extractor, &images.narrow(0, i, 1)?)
                .map_err(|e| e.after(i))?;
            let inside: Vec<usize> = match head {
                Some(head) => {
                    let patches = head_patches(batch_of(head, i, 1), embedding.grid);
                    (0..)
                        .zip(&patches)
                        .filter(|(_, on)| **on)
                        .map(|(i, _)| i)
                        .collect()
                }
                None => (0..embedding.features.nrows()).collect(),
            };
            if !inside.is_empty() {
                *score = self.image_score(embedding.features.select(Axis(0), &inside).view())?;
            }
        }
        Ok(scores)
    }
}
