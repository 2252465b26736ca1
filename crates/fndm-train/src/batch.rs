//! Batches of objective (5) and of the classifier, made from (seed, number) alone.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use fndm_data::corrupt::Donors;
use fndm_data::{Order, SliceSet};
use fndm_solver::{NoiseSchedule, Prediction};
use ndarray::{Array2, Array3, ArrayView3, Axis};
use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use crate::loss_aware::TimeTable;
use crate::random::{Purpose, generator};
use crate::slices::{check_slices, shape};
use crate::{
    Augmentation, Batch, ClassifierTrainConfig, DiffusionConfig, LossWeight, Result, part_of,
};

/// One batch of the diffusion model's training. Arrays are in the order (B, C, H, W).
#[derive(Debug, Clone, Default)]
pub struct DiffusionBatch {
    /// B, C, H, W.
    pub shape: [usize; 4],
    /// Noised slices `x_t = alpha x_0 + sigma epsilon`, of the corrupted slice `x_0^n` where the state is corrupted too.
    pub state: Vec<f32>,
    /// Conditioning images `x_0^n`: corrupted inside `region`, or zeros where withheld.
    pub image: Vec<f32>,
    /// Coarse maps `x_seg`, 0 or 1, (B, 1, H, W): zeros where empty or withheld.
    pub coarse: Vec<f32>,
    /// What was really corrupted, 0 or 1, (B, 1, H, W); zeros where the image was withheld and the state is clean.
    pub region: Vec<f32>,
    /// What the network should predict: noise, `x_0` or v, or the change from the conditioning image to `x_0`.
    pub target: Vec<f32>,
    /// Discrete timesteps, `0..T`.
    pub timesteps: Vec<usize>,
    /// Times that the network is called with.
    pub model_times: Vec<f32>,
    /// Labels that the network is called with: 0, 1, or 2 where withheld.
    pub labels: Vec<u32>,
    /// Weight of each sample's squared error, by its noise level.
    pub weights: Vec<f32>,
    /// What each sample's weighted loss is multiplied by, since its timestep wasn't drawn uniformly: 1 unless loss-aware.
    pub correction: Vec<f32>,
    /// Position of each sample in the slice set.
    pub slices: Vec<usize>,
}

/// One batch of the classifier's training.
#[derive(Debug, Clone, Default)]
pub struct ClassifierBatch {
    /// B, C, H, W.
    pub shape: [usize; 4],
    /// Noised slices.
    pub state: Vec<f32>,
    /// Discrete timesteps, `0..T`.
    pub timesteps: Vec<usize>,
    /// Times that the network is called with.
    pub model_times: Vec<f32>,
    /// Labels: 0 healthy, 1 diseased.
    pub labels: Vec<u32>,
    /// Position of each sample in the slice set.
    pub slices: Vec<usize>,
}

/// Makes the diffusion model's batches.
#[derive(Debug)]
pub struct DiffusionBatches {
    config: DiffusionConfig,
    donors: Option<Arc<Donors>>,
    schedule: NoiseSchedule,
    set: Arc<SliceSet>,
    order: Order,
    seed: u64,
    purpose: Purpose,
    table: Option<Arc<TimeTable>>,
}

/// Makes the classifier's batches.
#[derive(Debug)]
pub struct ClassifierBatches {
    config: ClassifierTrainConfig,
    schedule: NoiseSchedule,
    set: Arc<SliceSet>,
    order: Order,
    seed: u64,
}

impl DiffusionBatches {
    /// # Errors
    /// When the config or the slices are not as they should be.
    pub fn new(config: &DiffusionConfig, set: Arc<SliceSet>, seed: u64) -> Result<Self> {
        Self::with_donors(config, set, None, seed)
    }

    /// `donors` are the lesions to paste, where the config wants any.
    ///
    /// # Errors
    /// When the config, the slices or the donors are not as they should be.
    pub fn with_donors(
        config: &DiffusionConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        check_slices(&set, config.diseased_share)?;
        config.check_donors(donors.as_deref(), shape(&set))?;
        Self::unchecked(config, set, donors, seed)
    }

    /// Without looking at every pixel: for slices that were checked before.
    pub(crate) fn unchecked(
        config: &DiffusionConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            donors,
            schedule: config.schedule.build()?,
            order: Order::new(&set.labels, config.diseased_share, seed)?,
            config: config.clone(),
            set,
            seed,
            purpose: Purpose::Diffusion,
            table: None,
        })
    }

    /// From now on timesteps are drawn by this table.
    pub(crate) fn with_table(self, table: Option<Arc<TimeTable>>) -> Self {
        Self { table, ..self }
    }

    /// The same for validation: other numbers, drawn from every slice equally often.
    pub(crate) fn for_validation(
        config: &DiffusionConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        let config = DiffusionConfig {
            diseased_share: None,
            augmentation: Augmentation::NONE,
            ..config.clone()
        };
        let mut batches = Self::with_donors(&config, set, donors, seed)?;
        batches.purpose = Purpose::Validation;
        Ok(batches)
    }

    /// The noise schedule.
    #[must_use]
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Batch number `index`, from 0.
    ///
    /// # Errors
    /// When a mask or a corruption can't be drawn.
    pub fn draw(&mut self, index: u64) -> Result<DiffusionBatch> {
        let steps = self.schedule.steps();
        let (times, table) = (self.config.times, self.table.clone());
        self.draw_at(index, |rng, _| match &table {
            Some(table) => table.draw(rng),
            None => times.draw(rng, steps),
        })
    }

    /// The same, with timesteps by `timestep(rng, position in the batch)`.
    pub(crate) fn draw_at(
        &mut self,
        index: u64,
        timestep: impl Fn(&mut rand_chacha::ChaCha8Rng, usize) -> usize,
    ) -> Result<DiffusionBatch> {
        let n = self.config.batch;
        let (_, c, h, w) = self.set.images.dim();
        let mut rng = generator(self.seed, self.purpose, index);
        let mut batch = DiffusionBatch {
            shape: [n, c, h, w],
            ..DiffusionBatch::default()
        };
        for position in 0..n {
            let slice = self.order.at(index * n as u64 + position as u64);
            let step = timestep(&mut rng, position);
            self.sample(&mut rng, slice, step, &mut batch)?;
        }
        Ok(batch)
    }

    fn sample(
        &self,
        rng: &mut rand_chacha::ChaCha8Rng,
        slice: usize,
        step: usize,
        batch: &mut DiffusionBatch,
    ) -> Result<()> {
        let config = &self.config;
        let (x0, head) = augmented(&self.set, slice, config.augmentation, rng);
        let (_, h, w) = x0.dim();

        let withheld: f64 = rng.random();
        let both = withheld < config.condition_dropout.image_and_coarse;
        let coarse_only = !both
            && withheld
                < config.condition_dropout.image_and_coarse + config.condition_dropout.coarse;
        let untouched = rng.random::<f64>() < config.empty_mask
            || (coarse_only && !config.condition_dropout.corrupt_without_coarse);

        let mut image = x0.clone();
        let mut region = Array2::from_elem((h, w), false);
        let mut coarse = region.clone();
        if !untouched && (!both || config.corrupt_state) {
            region = self.corrupt(rng, &mut image, &head)?;
            coarse = config.jitter.apply(rng, &region);
        }
        if both || coarse_only {
            coarse.fill(false);
        }

        let level = Level::at(&self.schedule, step);
        let (alpha, sigma) = (level.alpha as f32, level.sigma as f32);
        let (of_x0, of_noise) = config.prediction.target_weights(level.alpha, level.sigma);
        let (of_x0, of_noise) = (of_x0 as f32, of_noise as f32);
        let seen = if config.corrupt_state { &image } else { &x0 };
        for ((&x, &shown), &seen) in x0.iter().zip(&image).zip(seen) {
            let epsilon: f32 = rng.sample(StandardNormal);
            let wanted = if config.from_image { x - shown } else { x };
            batch.state.push(alpha * seen + sigma * epsilon);
            batch.target.push(of_noise * epsilon + of_x0 * wanted);
        }
        if both {
            image.fill(0.0);
        }
        batch.image.extend(image.iter());
        batch
            .coarse
            .extend(coarse.iter().map(|&m| f32::from(u8::from(m))));
        batch
            .region
            .extend(region.iter().map(|&m| f32::from(u8::from(m))));
        let label = u32::from(self.set.labels[slice]);
        let withheld = rng.random::<f64>() < config.label_dropout;
        batch.labels.push(if withheld { 2 } else { label });
        batch.timesteps.push(step);
        batch.model_times.push(level.model_time as f32);
        batch
            .weights
            .push(level.weight(config.loss_weight, config.prediction) as f32);
        let correction = self.table.as_ref().map_or(1.0, |t| t.correction(step));
        batch.correction.push(correction as f32);
        batch.slices.push(slice);
        Ok(())
    }

    /// Corrupts `image` somewhere inside the head, and says where. Nothing outside the head changes, and a real coarse map is
    /// empty there.
    fn corrupt(
        &self,
        rng: &mut rand_chacha::ChaCha8Rng,
        image: &mut Array3<f32>,
        head: &Array2<bool>,
    ) -> Result<Array2<bool>> {
        let config = &self.config;
        if let Some(lesion) = &config.lesion {
            let donors = self.donors.as_deref();
            let covered = lesion.put_into(rng, image.view_mut(), head.view(), donors)?;
            return Ok(covered.mapv(|share| share >= 0.5));
        }
        let mut region = config.masks.draw_in(rng, head.view());
        region.zip_mut_with(head, |inside, &head| *inside &= head);
        let other = rng.random_range(0..self.set.labels.len());
        let other = self.set.images.index_axis(Axis(0), other);
        config
            .corruption
            .apply(rng, image.view_mut(), region.view(), other, head.view())?;
        Ok(region)
    }
}

impl ClassifierBatches {
    /// # Errors
    /// When the config or the slices are not as they should be.
    pub fn new(config: &ClassifierTrainConfig, set: Arc<SliceSet>, seed: u64) -> Result<Self> {
        config.check()?;
        check_slices(&set, config.diseased_share)?;
        Self::unchecked(config, set, seed)
    }

    /// Without looking at every pixel: for slices that were checked before.
    pub(crate) fn unchecked(
        config: &ClassifierTrainConfig,
        set: Arc<SliceSet>,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            schedule: config.schedule.build()?,
            order: Order::new(&set.labels, config.diseased_share, seed)?,
            config: config.clone(),
            set,
            seed,
        })
    }

    /// Batch number `index`, from 0.
    #[must_use]
    pub fn draw(&mut self, index: u64) -> ClassifierBatch {
        let n = self.config.batch;
        let (_, c, h, w) = self.set.images.dim();
        let mut rng = generator(self.seed, Purpose::Classifier, index);
        let mut batch = ClassifierBatch::of(n, [c, h, w]);
        for position in 0..n {
            let slice = self.order.at(index * n as u64 + position as u64);
            let step = self.config.times.draw(&mut rng, self.schedule.steps());
            let (x0, _) = augmented(&self.set, slice, self.config.augmentation, &mut rng);
            batch.push(&mut rng, &self.schedule, &x0.view(), step);
            batch.labels.push(u32::from(self.set.labels[slice]));
            batch.slices.push(slice);
        }
        batch
    }
}

impl ClassifierBatch {
    pub(crate) fn of(n: usize, [c, h, w]: [usize; 3]) -> Self {
        Self {
            shape: [n, c, h, w],
            ..Self::default()
        }
    }

    /// Adds a noised slice.
    pub(crate) fn push(
        &mut self,
        rng: &mut impl Rng,
        schedule: &NoiseSchedule,
        x0: &ArrayView3<'_, f32>,
        step: usize,
    ) {
        let level = Level::at(schedule, step);
        let (alpha, sigma) = (level.alpha as f32, level.sigma as f32);
        self.state.extend(x0.iter().map(|&x| {
            let epsilon: f32 = rng.sample(StandardNormal);
            alpha * x + sigma * epsilon
        }));
        self.timesteps.push(step);
        self.model_times.push(level.model_time as f32);
    }
}

impl Batch for DiffusionBatch {
    fn samples(&self) -> &[usize] {
        &self.slices
    }

    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn part(self, rank: usize, size: usize) -> Self {
        let [n, c, h, w] = self.shape;
        Self {
            shape: [n / size, c, h, w],
            state: part_of(self.state, rank, size),
            image: part_of(self.image, rank, size),
            coarse: part_of(self.coarse, rank, size),
            region: part_of(self.region, rank, size),
            target: part_of(self.target, rank, size),
            timesteps: part_of(self.timesteps, rank, size),
            model_times: part_of(self.model_times, rank, size),
            labels: part_of(self.labels, rank, size),
            weights: part_of(self.weights, rank, size),
            correction: part_of(self.correction, rank, size),
            slices: part_of(self.slices, rank, size),
        }
    }
}

impl Batch for ClassifierBatch {
    fn samples(&self) -> &[usize] {
        &self.slices
    }

    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn part(self, rank: usize, size: usize) -> Self {
        let [n, c, h, w] = self.shape;
        Self {
            shape: [n / size, c, h, w],
            state: part_of(self.state, rank, size),
            timesteps: part_of(self.timesteps, rank, size),
            model_times: part_of(self.model_times, rank, size),
            labels: part_of(self.labels, rank, size),
            slices: part_of(self.slices, rank, size),
        }
    }
}

/// A slice and its head mask, changed by the augmentation.
fn augmented(
    set: &SliceSet,
    slice: usize,
    augmentation: Augmentation,
    rng: &mut impl Rng,
) -> (Array3<f32>, Array2<bool>) {
    let mut x0 = set.images.index_axis(Axis(0), slice).to_owned();
    let mut head = set.head.index_axis(Axis(0), slice).to_owned();
    augmentation.apply(rng, &mut x0, &mut head);
    (x0, head)
}

/// The noise level of a discrete timestep.
pub(crate) struct Level {
    pub(crate) alpha: f64,
    pub(crate) sigma: f64,
    pub(crate) model_time: f64,
}

impl Level {
    pub(crate) fn at(schedule: &NoiseSchedule, step: usize) -> Self {
        let t = schedule.time_of_index(step);
        Self {
            alpha: schedule.alpha(t),
            sigma: schedule.sigma(t),
            model_time: schedule.model_time(t),
        }
    }

    fn weight(&self, weight: LossWeight, prediction: Prediction) -> f64 {
        let LossWeight::MinSnr { gamma } = weight else {
            return 1.0;
        };
        let snr = (self.alpha / self.sigma).powi(2);
        let on_x0 = snr.min(gamma);
        match prediction {
            Prediction::X0 => on_x0,
            // At a signal of zero 0 / 0: the limit is 1.
            Prediction::Noise => (gamma / snr).min(1.0),
            Prediction::V => on_x0 / (snr + 1.0),
            Prediction::Score => (gamma / snr).min(1.0) * self.sigma.powi(2),
        }
    }
}

/// A batch's arrays as tensors.
pub(crate) fn tensor(values: Vec<f32>, shape: &[usize], device: &Device) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Min-SNR where no signal is left, and where there is nothing else.
    #[test]
    fn weights_are_finite_at_both_ends() {
        let weight = LossWeight::MinSnr { gamma: 5.0 };
        let at = |alpha, sigma, prediction| {
            let level = Level {
                alpha,
                sigma,
                model_time: 0.0,
            };
            level.weight(weight, prediction)
        };
        for (prediction, no_signal, no_noise) in [
            (Prediction::Noise, 1.0, 0.0),
            (Prediction::Score, 1.0, 0.0),
            (Prediction::V, 0.0, 0.0),
            (Prediction::X0, 0.0, 5.0),
        ] {
            assert_eq!(at(0.0, 1.0, prediction), no_signal, "{prediction:?}");
            assert_eq!(at(1.0, 0.0, prediction), no_noise, "{prediction:?}");
        }
    }
}
