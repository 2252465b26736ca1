use candle_core::Tensor;
use ndarray::Array3;
use rayon::prelude::*;

use super::{Contrast, ContrastConfig};
use crate::cholesky::inverse_factor;
use crate::gaussians::Gaussians;
use crate::padim::Layout;
use crate::patch::map_shapes;
use crate::progress::{OnProgress, report};
use crate::smooth::{Edge, gaussian_blur};
use crate::tensor::check_images;
use crate::{Error, FeatureExtractor, Result, Stage};

/// Sums over the slices of one label, at every position.
#[derive(Debug, Clone, Default)]
struct Moments {
    count: usize,
    /// `(positions, C)`.
    mean: Vec<f64>,
    /// `(positions, C, C)`, the lower triangles of the sums of outer products about the mean.
    scatter: Vec<f64>,
}

impl Moments {
    /// Adds one slice's features `(positions, C)` (Welford's update).
    fn push(&mut self, features: &[f32], c: usize) {
        self.mean.resize(features.len(), 0.0);
        self.scatter.resize(features.len() * c, 0.0);
        self.count += 1;
        let count = self.count as f64;
        let factor = (count - 1.0) / count;
        self.mean
            .par_chunks_mut(c)
            .zip(self.scatter.par_chunks_mut(c * c))
            .zip(features.par_chunks(c))
            .for_each(|((mean, scatter), x)| {
                for i in 0..c {
                    let delta = f64::from(x[i]) - mean[i];
                    for j in 0..=i {
                        scatter[i * c + j] += delta * (f64::from(x[j]) - mean[j]) * factor;
                    }
                }
                for (m, &x) in mean.iter_mut().zip(x) {
                    *m += (f64::from(x) - *m) / count;
                }
            });
    }

    /// Averages the moments over neighbours and turns them into Gaussians.
    fn gaussians(
        &self,
        c: usize,
        (h, w): (usize, usize),
        config: &ContrastConfig,
    ) -> Result<Gaussians> {
        let positions = h * w;
        let sigma = config.pooling.sigma((h, w));
        // About the mean of all positions, so that no large numbers cancel below.
        let centre: Vec<f64> = (0..c)
            .map(|i| self.mean.iter().skip(i).step_by(c).sum::<f64>() / positions as f64)
            .collect();
        let offset = |p: usize, i: usize| self.mean[p * c + i] - centre[i];
        let planes = |count: usize, value: &dyn Fn(usize, usize) -> f64| {
            let mut planes =
                Array3::from_shape_fn((count, h, w), |(k, y, x)| value(k, y * w + x) as f32);
            gaussian_blur(&mut planes, sigma, Edge::Symmetric)?;
            Ok::<_, Error>(planes)
        };
        let pairs: Vec<(usize, usize)> =
            (0..c).flat_map(|i| (0..=i).map(move |j| (i, j))).collect();
        let count = self.count as f64;
        let mean = planes(c, &|i, p| offset(p, i))?;
        let second = planes(pairs.len(), &|k, p| {
            let (i, j) = pairs[k];
            self.scatter[(p * c + i) * c + j] / count + offset(p, i) * offset(p, j)
        })?;
        let mut whitening = vec![0f64; positions * c * c];
        whitening
            .par_chunks_mut(c * c)
            .enumerate()
            .map(|(p, a)| {
                let at = (p / w, p % w);
                let mean = |i: usize| f64::from(mean[(i, at.0, at.1)]);
                for (k, &(i, j)) in pairs.iter().enumerate() {
                    a[i * c + j] = f64::from(second[(k, at.0, at.1)]) - mean(i) * mean(j);
                }
                for i in 0..c {
                    // Rounding may leave a variance of nothing just below 0. NaN stays NaN, and is told below.
                    let variance = &mut a[i * c + i];
                    if *variance < 0.0 {
                        *variance = 0.0;
                    }
                    *variance += config.regularisation;
                }
                inverse_factor(a, c)
            })
            .collect::<Option<Vec<()>>>()
            .ok_or_else(|| Error::non_finite("a covariance", None))?;
        let mean = (0..positions * c).map(|k| {
            let (p, i) = (k / c, k % c);
            f64::from(mean[(i, p / w, p % w)]) + centre[i]
        });
        Gaussians::new(mean, &whitening)
    }
}

/// Estimates a [`Contrast`] from labelled slices that come batch by batch.
#[derive(Debug, Clone)]
pub struct ContrastBuilder {
    config: ContrastConfig,
    layout: Option<Layout>,
    healthy: Moments,
    diseased: Moments,
}

impl ContrastBuilder {
    /// An empty builder.
    ///
    /// # Errors
    /// When the config is wrong.
    pub fn new(config: ContrastConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            layout: None,
            healthy: Moments::default(),
            diseased: Moments::default(),
        })
    }

    /// Adds slices `(B, C, H, W)` with their labels: 0 healthy, 1 diseased.
    ///
    /// # Errors
    /// When they don't fit the extractor or the earlier ones, or a label is neither.
    pub fn push(
        &mut self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        labels: &[u8],
    ) -> Result<()> {
        let (b, _, _) = check_images(images, None)?;
        if labels.len() != b || labels.iter().any(|&label| label > 1) {
            let expected = format!("{b} values of 0 (healthy) or 1 (diseased)");
            return Err(Error::shape("labels", expected, format!("{labels:?}")));
        }
        let maps = extractor.maps(images)?;
        let layout = match &self.layout {
            Some(layout) => layout,
            None => self.layout.insert(Layout::all(map_shapes(&maps)?.1)?),
        };
        let c = layout.channels();
        let features = layout.embed(&maps, b)?;
        for (features, &label) in features.chunks_exact(layout.positions() * c).zip(labels) {
            let moments = match label {
                0 => &mut self.healthy,
                _ => &mut self.diseased,
            };
            moments.push(features, c);
        }
        Ok(())
    }

    /// Turns the sums into Gaussians.
    ///
    /// # Errors
    /// With fewer than two slices of a label there is no covariance.
    pub fn finish(self) -> Result<Contrast> {
        for (what, moments) in [
            ("healthy slices", &self.healthy),
            ("diseased slices", &self.diseased),
        ] {
            if moments.count < 2 {
                return Err(Error::shape(what, "two or more", moments.count));
            }
        }
        let layout = self.layout.ok_or(Error::Empty {
            what: "the set of slices",
        })?;
        let (c, grid) = (layout.channels(), layout.grid());
        Ok(Contrast {
            healthy: self.healthy.gaussians(c, grid, &self.config)?,
            diseased: self.diseased.gaussians(c, grid, &self.config)?,
            layout,
            config: self.config,
            calibration: None,
        })
    }
}

impl Contrast {
    /// Estimates both Gaussians from slices `(N, C, H, W)` with their labels: 0 healthy, 1 diseased.
    ///
    /// # Errors
    /// As [`ContrastBuilder`], and when the caller stops it.
    pub fn build(
        config: &ContrastConfig,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        labels: &[u8],
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let (n, _, _) = check_images(images, None)?;
        if labels.len() != n {
            return Err(Error::shape("labels", format!("{n} values"), labels.len()));
        }
        let mut builder = ContrastBuilder::new(config.clone())?;
        for start in (0..n).step_by(config.batch_size) {
            report(on_progress, Stage::Features, start, n)?;
            let count = config.batch_size.min(n - start);
            let labels = &labels[start..start + count];
            let part = images.narrow(0, start, count)?;
            builder
                .push(extractor, &part, labels)
                .map_err(|e| e.after(start))?;
        }
        report(on_progress, Stage::Features, n, n)?;
        builder.finish()
    }
}
