//! Batches of a remover and of a student, made from (seed, number) alone.

use std::sync::Arc;

use fndm_data::corrupt::Donors;
use fndm_data::{Order, SliceSet, neighbours};
use ndarray::{Array2, Array3, Axis, s};
use rand::{Rng, RngExt};

use super::augment::Plan;
use super::{PixelTargets, RemoverConfig, StudentConfig};
use crate::random::{Purpose, generator};
use crate::slices::{check_slices, shape};
use crate::{Batch, Result, part_of};

/// One batch of a segmenter's training. Arrays are in the order (B, C, H, W).
#[derive(Debug, Clone, Default)]
pub struct PixelBatch {
    /// B, the input's C, H, W.
    pub shape: [usize; 4],
    /// What the network sees.
    pub input: Vec<f32>,
    /// What it should give: an image, or from 0 (healthy) to 1 (lesion).
    pub target: Vec<f32>,
    /// How much each pixel counts, (B, 1, H, W).
    pub weight: Vec<f32>,
    /// Position of each sample in the slice set.
    pub slices: Vec<usize>,
}

impl PixelBatch {
    fn of(shape: [usize; 4]) -> Self {
        Self {
            shape,
            ..Self::default()
        }
    }
}

impl Batch for PixelBatch {
    fn samples(&self) -> &[usize] {
        &self.slices
    }

    fn part(self, rank: usize, size: usize) -> Self {
        let [n, c, h, w] = self.shape;
        Self {
            shape: [n / size, c, h, w],
            input: part_of(self.input, rank, size),
            target: part_of(self.target, rank, size),
            weight: part_of(self.weight, rank, size),
            slices: part_of(self.slices, rank, size),
        }
    }
}

/// Makes a remover's batches: healthy slices, each with a pseudo-lesion.
#[derive(Debug)]
pub struct RemoverBatches {
    config: RemoverConfig,
    donors: Option<Arc<Donors>>,
    set: Arc<SliceSet>,
    order: Order,
    seed: u64,
}

impl RemoverBatches {
    /// # Errors
    /// When the config or the slices are not as they should be.
    pub fn new(config: &RemoverConfig, set: Arc<SliceSet>, seed: u64) -> Result<Self> {
        Self::with_donors(config, set, None, seed)
    }

    /// `donors` are the lesions to paste, where the config wants any.
    ///
    /// # Errors
    /// When the config, the slices or the donors are not as they should be.
    pub fn with_donors(
        config: &RemoverConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        check_slices(&set, Some(0.0))?;
        config.lesion.check_donors(donors.as_deref(), shape(&set))?;
        Self::unchecked(config, set, donors, seed)
    }

    /// Without looking at every pixel: for slices that were checked before.
    pub(super) fn unchecked(
        config: &RemoverConfig,
        set: Arc<SliceSet>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            order: Order::new(&set.labels, Some(0.0), seed)?,
            config: config.clone(),
            donors,
            set,
            seed,
        })
    }

    /// Batch number `index`, from 0.
    ///
    /// # Errors
    /// When a pseudo-lesion can't be drawn.
    pub fn draw(&mut self, index: u64) -> Result<PixelBatch> {
        let (config, set) = (&self.config, &self.set);
        let n = config.batch;
        let (_, c, h, w) = set.images.dim();
        let mut rng = generator(self.seed, Purpose::Remover, index);
        let mut batch = PixelBatch::of([n, c, h, w]);
        for position in 0..n {
            let slice = self.order.at(index * n as u64 + position as u64);
            let plan = config.augmentation.draw_place(&mut rng).plan((h, w));
            let mut clean = Array3::zeros((c, h, w));
            for (from, to) in set
                .images
                .index_axis(Axis(0), slice)
                .outer_iter()
                .zip(clean.outer_iter_mut())
            {
                plan.apply(from, to, -1.0);
            }
            config
                .augmentation
                .change_intensities(&mut rng, &mut clean, c);
            let head = moved_head(set, slice, &plan);
            let mut seen = clean.clone();
            let donors = self.donors.as_deref();
            let lesion = &config.lesion;
            let region = lesion.put_into(&mut rng, seen.view_mut(), head.view(), donors)?;
            batch.input.extend(seen.iter());
            batch.target.extend(clean.iter());
            let (background, more) = (config.background_weight as f32, config.region_weight as f32);
            batch
                .weight
                .extend(head.iter().zip(&region).map(|(&head, &region)| {
                    let base = if head { 1.0 } else { background };
                    base + more * region
                }));
            batch.slices.push(slice);
        }
        Ok(batch)
    }
}

fn moved_head(set: &SliceSet, slice: usize, plan: &Plan) -> Array2<bool> {
    let head = set
        .head
        .index_axis(Axis(0), slice)
        .mapv(|head| f32::from(u8::from(head)));
    let mut moved = Array2::zeros(head.dim());
    plan.apply(head.view(), moved.view_mut(), 0.0);
    moved.mapv(|share| share >= 0.5)
}

/// The first row and column of a patch `(h, w)`: of one that has some pixel of the target in every second slice that has any, else of any.
fn patch_place<R: Rng>(
    rng: &mut R,
    target: &Array2<f32>,
    (h, w): (usize, usize),
) -> (usize, usize) {
    let (height, width) = target.dim();
    let marked: Vec<(usize, usize)> = target
        .indexed_iter()
        .filter_map(|(place, &value)| (value > 0.5).then_some(place))
        .collect();
    // Each is drawn, whatever the others come to, so that a slice's target changes no later draw.
    let (around, of, y, x) = (
        rng.random::<f64>() < 0.5,
        rng.random::<f64>(),
        rng.random_range(0..=height - h),
        rng.random_range(0..=width - w),
    );
    let (dy, dx) = (rng.random_range(0..h), rng.random_range(0..w));
    let pixel = marked.get((of * marked.len() as f64) as usize);
    match pixel.filter(|_| around) {
        Some(&(row, column)) => (
            row.saturating_sub(dy).min(height - h),
            column.saturating_sub(dx).min(width - w),
        ),
        None => (y, x),
    }
}

/// Makes a student's batches: slices with their neighbours, and what the teacher says of them.
#[derive(Debug)]
pub struct StudentBatches {
    config: StudentConfig,
    donors: Option<Arc<Donors>>,
    set: Arc<SliceSet>,
    targets: Arc<PixelTargets>,
    /// (N, 2 context + 1).
    neighbours: Array2<usize>,
    order: Order,
    seed: u64,
}

impl StudentBatches {
    /// `context` neighbours on each side are shown.
    ///
    /// # Errors
    /// When the config, the slices or the targets are not as they should be.
    pub fn new(
        config: &StudentConfig,
        context: usize,
        set: Arc<SliceSet>,
        targets: Arc<PixelTargets>,
        seed: u64,
    ) -> Result<Self> {
        Self::with_donors(config, context, set, targets, None, seed)
    }

    /// `donors` are the lesions to paste into healthy slices, where the config wants any.
    ///
    /// # Errors
    /// When the config, the slices, the targets or the donors are not as they should be.
    pub fn with_donors(
        config: &StudentConfig,
        context: usize,
        set: Arc<SliceSet>,
        targets: Arc<PixelTargets>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        check_slices(&set, config.diseased_share)?;
        targets.check(&set)?;
        if let Some(shown) = &config.shown {
            shown.lesion.check_donors(donors.as_deref(), shape(&set))?;
        }
        Self::unchecked(config, context, set, targets, donors, seed)
    }

    /// Without looking at every pixel: for slices that were checked before.
    pub(super) fn unchecked(
        config: &StudentConfig,
        context: usize,
        set: Arc<SliceSet>,
        targets: Arc<PixelTargets>,
        donors: Option<Arc<Donors>>,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            donors,
            neighbours: neighbours(&set.patient, &set.z, context)?,
            order: Order::new(&set.labels, config.diseased_share, seed)?,
            config: config.clone(),
            set,
            targets,
            seed,
        })
    }

    /// Height and width of what a network sees: of a patch, or of the whole slice.
    fn patch_size(&self) -> (usize, usize) {
        let (_, _, h, w) = self.set.images.dim();
        let side = |whole: usize| self.config.patch.map_or(whole, |patch| patch.min(whole));
        (side(h), side(w))
    }

    /// Batch number `index`, from 0.
    ///
    /// # Errors
    /// When a pseudo-lesion can't be drawn.
    pub fn draw(&mut self, index: u64) -> Result<PixelBatch> {
        let n = self.config.batch;
        let (_, c, h, w) = self.set.images.dim();
        let seen = self.neighbours.dim().1;
        let mut rng = generator(self.seed, Purpose::Student, index);
        let (patch_h, patch_w) = self.patch_size();
        let mut batch = PixelBatch::of([n, c * seen, patch_h, patch_w]);
        let augmentation = self.config.augmentation;
        let mut plane = Array2::zeros((h, w));
        for position in 0..n {
            let slice = self.order.at(index * n as u64 + position as u64);
            let plan = augmentation.draw_place(&mut rng).plan((h, w));
            let mut input = Array3::zeros((c * seen, h, w));
            for (k, &from) in self.neighbours.row(slice).iter().enumerate() {
                let image = self.set.images.index_axis(Axis(0), from);
                for (c_in, from) in image.outer_iter().enumerate() {
                    plan.apply(from, input.index_axis_mut(Axis(0), k * c + c_in), -1.0);
                }
            }
            let (target, weight) = (self.targets.target(), self.targets.weight());
            plan.apply(target.index_axis(Axis(0), slice), plane.view_mut(), 0.0);
            if let (Some(shown), 0) = (&self.config.shown, self.set.labels[slice]) {
                let head = moved_head(&self.set, slice, &plan);
                let (head, donors) = (&head.view(), self.donors.as_deref());
                shown.show(
                    &mut rng,
                    input.view_mut(),
                    c,
                    head,
                    donors,
                    plane.view_mut(),
                )?;
            }
            augmentation.change_intensities(&mut rng, &mut input, c);
            let (y, x) = match self.config.patch {
                Some(_) => patch_place(&mut rng, &plane, (patch_h, patch_w)),
                None => (0, 0),
            };
            let (rows, columns) = (y..y + patch_h, x..x + patch_w);
            let cut = s![.., rows.clone(), columns.clone()];
            batch.input.extend(input.slice(cut));
            let cut = s![rows, columns];
            batch.target.extend(plane.slice(cut));
            plan.apply(weight.index_axis(Axis(0), slice), plane.view_mut(), 1.0);
            batch.weight.extend(plane.slice(cut));
            batch.slices.push(slice);
        }
        Ok(batch)
    }
}
