use candle_core::Tensor;
use ndarray::{Array2, Array3, ArrayView3};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::cholesky::inverse_factor;
use crate::coarse::{HealthyModel, head_patches};
use crate::coarse_config::CoarseConfig;
use crate::gaussians::Gaussians;
use crate::patch::map_shapes;
use crate::progress::{OnProgress, report};
use crate::tensor::{batch_of, check_images, to_cpu, with_slice};
use crate::{Error, FeatureExtractor, Result, Stage};

/// A Gaussian of healthy features at every position (`PaDiM`, Defard et al. 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PadimConfig {
    /// Which channels of all maps together are used; none for a random choice.
    pub channels: Option<Vec<usize>>,
    /// How many channels are drawn where none are listed; all where there are no more.
    pub random_channels: usize,
    /// What is added to the diagonal of every covariance.
    pub regularisation: f64,
    /// The most bytes that means and covariances may take, in f64, while they are estimated.
    pub budget_bytes: u64,
    /// From scores to coarse maps.
    pub coarse: CoarseConfig,
    /// Images per pass through the extractor.
    pub batch_size: usize,
    /// Seed of the random choice of channels.
    pub seed: u64,
}

impl Default for PadimConfig {
    fn default() -> Self {
        Self {
            channels: None,
            random_channels: 100,
            regularisation: 0.01,
            budget_bytes: 1 << 30,
            coarse: CoarseConfig::default(),
            batch_size: 16,
            seed: 0,
        }
    }
}

impl PadimConfig {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the field.
    pub fn check(&self) -> Result<()> {
        self.coarse.check()?;
        for (field, value) in [
            ("random_channels", self.random_channels),
            ("batch_size", self.batch_size),
        ] {
            if value == 0 {
                return Err(Error::config(field, "expected 1 or more, got 0"));
            }
        }
        if !(self.regularisation > 0.0 && self.regularisation.is_finite()) {
            return Err(Error::config(
                "regularisation",
                format!("expected more than 0, got {}", self.regularisation),
            ));
        }
        if self.channels.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::config("channels", "expected 1 or more, got none"));
        }
        Ok(())
    }
}

/// The chosen channels of all maps, on the first map's grid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layout {
    /// Channels, height and width of each map.
    shapes: Vec<(usize, usize, usize)>,
    /// Map and channel within it.
    chosen: Vec<(usize, usize)>,
    grid: (usize, usize),
}

impl Layout {
    /// Every channel of maps of these shapes.
    pub(crate) fn all(shapes: Vec<(usize, usize, usize)>) -> Result<Self> {
        let config = PadimConfig {
            random_channels: usize::MAX,
            ..PadimConfig::default()
        };
        Self::new(&config, shapes)
    }

    pub(crate) fn grid(&self) -> (usize, usize) {
        self.grid
    }

    pub(crate) fn channels(&self) -> usize {
        self.chosen.len()
    }

    pub(crate) fn shapes(&self) -> &[(usize, usize, usize)] {
        &self.shapes
    }

    fn new(config: &PadimConfig, shapes: Vec<(usize, usize, usize)>) -> Result<Self> {
        let all: Vec<(usize, usize)> = shapes
            .iter()
            .enumerate()
            .flat_map(|(l, s)| (0..s.0).map(move |c| (l, c)))
            .collect();
        let numbers = match &config.channels {
            Some(numbers) => numbers.clone(),
            None => {
                let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
                let count = config.random_channels.min(all.len());
                let mut numbers = sample(&mut rng, all.len(), count).into_vec();
                numbers.sort_unstable();
                numbers
            }
        };
        let chosen = numbers
            .iter()
            .map(|&n| {
                all.get(n).copied().ok_or_else(|| {
                    Error::config(
                        "channels",
                        format!("expected numbers below {}, got {n}", all.len()),
                    )
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let grid = shapes.first().map(|s| (s.1, s.2));
        let grid = grid.ok_or(Error::Empty {
            what: "the list of feature maps",
        })?;
        let layout = Self {
            shapes,
            chosen,
            grid,
        };
        let (c, p) = (layout.chosen.len() as u64, layout.positions() as u64);
        let got = c
            .saturating_add(1)
            .saturating_mul(c)
            .saturating_mul(p)
            .saturating_mul(8);
        if got > config.budget_bytes {
            let what = format!("PaDiM with {c} channels at {p} positions");
            return Err(Error::Limit {
                what,
                limit: config.budget_bytes,
                got,
            });
        }
        Ok(layout)
    }

    pub(crate) fn positions(&self) -> usize {
        self.grid.0 * self.grid.1
    }

    /// Features `(B * positions, C)` of maps, deeper maps resized by nearest neighbour.
    pub(crate) fn embed(&self, maps: &[Tensor], images: usize) -> Result<Vec<f32>> {
        let (count, shapes) = map_shapes(maps)?;
        if count != images || shapes != self.shapes {
            return Err(Error::shape(
                "feature maps",
                format!("{images} images of {:?}", self.shapes),
                (count, shapes),
            ));
        }
        let channels = self.chosen.len();
        let (h, w) = self.grid;
        let mut out = vec![0f32; images * h * w * channels];
        for (l, (map, &(c, mh, mw))) in maps.iter().zip(&shapes).enumerate() {
            let map = to_cpu(map)?;
            with_slice::<f32, _>(&map, |values| {
                for (at, &(_, channel)) in self
                    .chosen
                    .iter()
                    .enumerate()
                    .filter(|(_, chosen)| chosen.0 == l)
                {
                    for (i, out) in out.chunks_exact_mut(channels).enumerate() {
                        let (image, y, x) = (i / (h * w), i / w % h, i % w);
                        let plane = (image * c + channel) * mh * mw;
                        out[at] = values[plane + y * mh / h * mw + x * mw / w];
                    }
                }
            })?;
        }
        match out.iter().position(|v| !v.is_finite()) {
            None => Ok(out),
            Some(at) => {
                let image = at / (h * w * channels);
                let layer = self.chosen.get(at % channels).map_or(0, |chosen| chosen.0);
                Err(Error::non_finite(
                    format!("feature map {layer}"),
                    Some(image),
                ))
            }
        }
    }

    /// The score of each patch of images `(B, C, H, W)` by its position and feature: `(B, h, w)`, 0 for patches with no pixel of the head.
    pub(crate) fn scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
        batch: usize,
        score: impl Fn(usize, &[f32]) -> f32 + Sync,
    ) -> Result<Array3<f32>> {
        let (n, _, _) = check_images(images, head)?;
        let (h, w) = self.grid;
        let c = self.channels();
        let mut all = Vec::with_capacity(n * h * w);
        for start in (0..n).step_by(batch) {
            let count = batch.min(n - start);
            let maps = extractor.maps(&images.narrow(0, start, count)?)?;
            let features = self.embed(&maps, count).map_err(|e| e.after(start))?;
            let scores: Vec<f32> = features
                .par_chunks(c)
                .enumerate()
                .map(|(i, x)| score(i % (h * w), x))
                .collect();
            match head {
                Some(head) => {
                    let inside = head_patches(batch_of(head, start, count), (h, w));
                    all.extend(
                        scores
                            .iter()
                            .zip(&inside)
                            .map(|(v, on)| if *on { *v } else { 0.0 }),
                    );
                }
                None => all.extend(scores),
            }
        }
        if let Some(at) = all.iter().position(|v| !v.is_finite()) {
            return Err(Error::non_finite("patch scores", Some(at / (h * w))));
        }
        Array3::from_shape_vec((n, h, w), all)
            .map_err(|e| Error::shape("patch scores", "one per patch", e))
    }
}

/// Estimates a [`Padim`] from healthy images that come batch by batch.
#[derive(Debug, Clone)]
pub struct PadimBuilder {
    config: PadimConfig,
    layout: Option<Layout>,
    count: usize,
    /// `(positions, C)`.
    mean: Vec<f64>,
    /// `(positions, C, C)`, the lower triangles of the sums of outer products about the mean.
    scatter: Vec<f64>,
}

impl PadimBuilder {
    /// An empty builder.
    ///
    /// # Errors
    /// When the config is wrong.
    pub fn new(config: PadimConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            layout: None,
            count: 0,
            mean: Vec::new(),
            scatter: Vec::new(),
        })
    }

    /// Adds healthy images `(B, C, H, W)`.
    ///
    /// # Errors
    /// When they don't fit the extractor or the earlier ones, or the covariances don't fit the budget.
    pub fn push(&mut self, extractor: &dyn FeatureExtractor, images: &Tensor) -> Result<()> {
        let (b, _, _) = check_images(images, None)?;
        let maps = extractor.maps(images)?;
        let layout = match &self.layout {
            Some(layout) => layout,
            None => self
                .layout
                .insert(Layout::new(&self.config, map_shapes(&maps)?.1)?),
        };
        let (c, positions) = (layout.chosen.len(), layout.positions());
        let features = layout.embed(&maps, b)?;
        self.mean.resize(positions * c, 0.0);
        self.scatter.resize(positions * c * c, 0.0);
        for features in features.chunks_exact(positions * c) {
            self.count += 1;
            let count = self.count as f64;
            self.mean
                .par_chunks_mut(c)
                .zip(self.scatter.par_chunks_mut(c * c))
                .zip(features.par_chunks(c))
                .for_each(|((mean, scatter), x)| {
                    let before: Vec<f64> = x
                        .iter()
                        .zip(&*mean)
                        .map(|(&x, m)| f64::from(x) - m)
                        .collect();
                    for (m, d) in mean.iter_mut().zip(&before) {
                        *m += d / count;
                    }
                    let factor = (count - 1.0) / count;
                    for (i, row) in scatter.chunks_exact_mut(c).enumerate() {
                        let d = before[i] * factor;
                        for (s, b) in row[..=i].iter_mut().zip(&before) {
                            *s += d * b;
                        }
                    }
                });
        }
        Ok(())
    }

    /// Means `(h * w, C)` of the chosen channels so far, and their covariances `(h * w, C, C)` with the regularisation on the diagonal.
    ///
    /// # Errors
    /// With fewer than two images there is no covariance.
    pub fn moments(&self) -> Result<(Array2<f32>, Array3<f32>)> {
        let layout = self.layout.as_ref().ok_or(Error::Empty {
            what: "the set of healthy images",
        })?;
        if self.count < 2 {
            return Err(Error::shape("healthy images", "two or more", self.count));
        }
        let (p, c) = (layout.positions(), layout.chosen.len());
        let divisor = (self.count - 1) as f64;
        let mean = Array2::from_shape_fn((p, c), |(p, i)| self.mean[p * c + i] as f32);
        let covariance = Array3::from_shape_fn((p, c, c), |(p, i, j)| {
            // The lower triangle has them all.
            let sum = self.scatter[(p * c + i.max(j)) * c + i.min(j)];
            let more = match i == j {
                true => self.config.regularisation,
                false => 0.0,
            };
            (sum / divisor + more) as f32
        });
        Ok((mean, covariance))
    }

    /// Turns the sums into Gaussians.
    ///
    /// # Errors
    /// With fewer than two images there is no covariance.
    pub fn finish(self) -> Result<Padim> {
        let layout = self.layout.ok_or(Error::Empty {
            what: "the set of healthy images",
        })?;
        if self.count < 2 {
            return Err(Error::shape("healthy images", "two or more", self.count));
        }
        let c = layout.chosen.len();
        let mut whitening = self.scatter;
        let divisor = (self.count - 1) as f64;
        let regularisation = self.config.regularisation;
        whitening
            .par_chunks_mut(c * c)
            .map(|a| {
                for (i, row) in a.chunks_exact_mut(c).enumerate() {
                    for v in &mut *row {
                        *v /= divisor;
                    }
                    row[i] += regularisation;
                }
                inverse_factor(a, c)
            })
            .collect::<Option<Vec<()>>>()
            .ok_or_else(|| Error::non_finite("a covariance", None))?;
        Ok(Padim {
            config: self.config,
            layout,
            gaussians: Gaussians::new(self.mean.into_iter(), &whitening)?,
            calibration: None,
        })
    }
}

/// Gaussians of healthy features, one per position. A patch's score is its Mahalanobis distance.
///
/// Slices must lie alike in the image. That holds for heads, and is why it stands here beside the memory bank.
#[derive(Debug, Clone)]
pub struct Padim {
    config: PadimConfig,
    layout: Layout,
    gaussians: Gaussians,
    calibration: Option<Calibration>,
}

impl Padim {
    /// Estimates the Gaussians from healthy images `(N, C, H, W)`.
    ///
    /// # Errors
    /// As [`PadimBuilder`], and when the caller stops it.
    pub fn build(
        config: &PadimConfig,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let (n, _, _) = check_images(images, None)?;
        let mut builder = PadimBuilder::new(config.clone())?;
        for start in (0..n).step_by(config.batch_size) {
            report(on_progress, Stage::Features, start, n)?;
            let count = config.batch_size.min(n - start);
            let part = images.narrow(0, start, count)?;
            builder.push(extractor, &part).map_err(|e| e.after(start))?;
        }
        report(on_progress, Stage::Features, n, n)?;
        builder.finish()
    }

    /// A model of Gaussians that were estimated before: what [`shapes`](Self::shapes), [`mean`](Self::mean) and
    /// [`whitening`](Self::whitening) gave.
    ///
    /// # Errors
    /// When the config is wrong, the arrays aren't those of maps of these shapes, or a value isn't finite.
    pub fn from_parts(
        config: PadimConfig,
        shapes: Vec<(usize, usize, usize)>,
        mean: &Array2<f32>,
        whitening: &Array3<f32>,
    ) -> Result<Self> {
        config.check()?;
        if let Some(shape) = shapes.iter().find(|s| s.0 * s.1 * s.2 == 0) {
            return Err(Error::shape("feature maps", "at least one value", shape));
        }
        let layout = Layout::new(&config, shapes)?;
        let (p, c) = (layout.positions(), layout.chosen.len());
        if mean.dim() != (p, c) || whitening.dim() != (p, c, c) {
            return Err(Error::shape(
                "means and whitening",
                format!("{:?} and {:?}", (p, c), (p, c, c)),
                (mean.dim(), whitening.dim()),
            ));
        }
        let wide: Vec<f64> = whitening.iter().map(|&v| f64::from(v)).collect();
        let gaussians = Gaussians::new(mean.iter().map(|&v| f64::from(v)), &wide)?;
        Ok(Self {
            config,
            layout,
            gaussians,
            calibration: None,
        })
    }

    /// Channels, height and width of the maps that it was built from.
    #[must_use]
    pub fn shapes(&self) -> &[(usize, usize, usize)] {
        self.layout.shapes()
    }

    /// Lower triangular matrices `(h * w, C, C)`: W^T W is the inverse covariance.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn whitening(&self) -> Result<Array3<f32>> {
        let (p, c) = (self.layout.positions(), self.layout.chosen.len());
        Array3::from_shape_vec((p, c, c), self.gaussians.whitening.clone())
            .map_err(|e| Error::shape("whitening", "one matrix per position", e))
    }

    /// The config that it was built from.
    #[must_use]
    pub fn config(&self) -> &PadimConfig {
        &self.config
    }

    /// The grid of positions, (h, w).
    #[must_use]
    pub fn grid(&self) -> (usize, usize) {
        self.layout.grid
    }

    /// Means `(h * w, C)` of the chosen channels.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn mean(&self) -> Result<Array2<f32>> {
        let shape = (self.layout.positions(), self.layout.chosen.len());
        Array2::from_shape_vec(shape, self.gaussians.mean.clone())
            .map_err(|e| Error::shape("means", "one per position", e))
    }

    /// Inverse covariances `(h * w, C, C)` of the chosen channels, regularised.
    #[must_use]
    pub fn inverse_covariance(&self) -> Array3<f32> {
        let c = self.layout.chosen.len();
        Array3::from_shape_fn((self.layout.positions(), c, c), |(p, i, j)| {
            let w = &self.gaussians.whitening[p * c * c..][..c * c];
            let value = |k: usize, i: usize| f64::from(w[k * c + i]);
            (i.max(j)..c)
                .map(|k| value(k, i) * value(k, j))
                .sum::<f64>() as f32
        })
    }
}

impl HealthyModel for Padim {
    fn patch_scores(
        &self,
        extractor: &dyn FeatureExtractor,
        images: &Tensor,
        head: Option<ArrayView3<'_, bool>>,
    ) -> Result<Array3<f32>> {
        let score = |position: usize, x: &[f32]| self.gaussians.distance(position, x).sqrt() as f32;
        let batch = self.config.batch_size;
        self.layout.scores(extractor, images, head, batch, score)
    }

    fn coarse_config(&self) -> &CoarseConfig {
        &self.config.coarse
    }

    fn set_coarse_config(&mut self, config: CoarseConfig) -> Result<()> {
        config.check()?;
        self.config.coarse = config;
        Ok(())
    }

    fn calibration(&self) -> Option<&Calibration> {
        self.calibration.as_ref()
    }

    fn set_calibration(&mut self, calibration: Option<Calibration>) {
        self.calibration = calibration;
    }

    fn batch_size(&self) -> usize {
        self.config.batch_size
    }
}
