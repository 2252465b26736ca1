use fndm_data::corrupt::{Donors, PseudoLesion};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, ArrayViewMut3, Zip};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::check;

/// From where on a pixel of a pseudo-lesion is called lesion: half of its strength.
const LESION: f32 = 0.5;

/// Pseudo-lesions that a student is shown in healthy slices. Where they lie is known to the pixel, as no teacher's mask is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShownLesions {
    /// What is put in.
    pub lesion: PseudoLesion,
    /// Share of the healthy slices that get one.
    pub share: f64,
    /// Share of the neighbouring slices that show it too, weakened at random.
    pub neighbours: f64,
}

impl Default for ShownLesions {
    fn default() -> Self {
        Self {
            lesion: PseudoLesion::default(),
            share: 0.5,
            neighbours: 0.5,
        }
    }
}

impl ShownLesions {
    /// Fails with [`Error::Config`](crate::Error::Config) or [`Error::Data`](crate::Error::Data) on the first setting that is out of its
    /// range.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self) -> Result<()> {
        self.lesion.check()?;
        let share = 0.0..=1.0;
        check(share.contains(&self.share), "share", "0 to 1", self.share)?;
        let shown = self.neighbours;
        check(share.contains(&shown), "neighbours", "0 to 1", shown)
    }

    /// Puts a lesion into the slice in the middle of `input`, the stack of (2 n + 1) slices of `channels` sequences each
    /// `((2 n + 1) C, H, W)`, and weakly into its neighbours, in the share of slices that get one. `target` `(H, W)` is 1 there then.
    pub(super) fn show<R: Rng + Clone>(
        &self,
        rng: &mut R,
        mut input: ArrayViewMut3<'_, f32>,
        channels: usize,
        head: &ArrayView2<'_, bool>,
        donors: Option<&Donors>,
        mut target: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        if rng.random::<f64>() >= self.share {
            return Ok(());
        }
        let before = rng.clone();
        let slices = input.dim().0 / channels;
        let of = |k: usize| ndarray::s![k * channels..(k + 1) * channels, .., ..];
        let middle = slices / 2;
        let region: Array2<f32> =
            self.lesion
                .put_into(rng, input.slice_mut(of(middle)), *head, donors)?;
        Zip::from(&mut target)
            .and(&region)
            .for_each(|target, &region| {
                if region >= LESION {
                    *target = 1.0;
                }
            });
        for k in (0..slices).filter(|&k| k != middle) {
            if rng.random::<f64>() >= self.neighbours {
                continue;
            }
            let share = rng.random::<f32>();
            // The same draws give the same lesion.
            let mut neighbour = input.slice_mut(of(k));
            let mut changed = neighbour.to_owned();
            self.lesion
                .put_into(&mut before.clone(), changed.view_mut(), *head, donors)?;
            Zip::from(&mut neighbour)
                .and(&changed)
                .for_each(|v, &changed| *v += share * (changed - *v));
        }
        Ok(())
    }
}
