//! Batches, and threads that make them ahead of their use.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use ndarray::{Array3, Array4};
use serde::{Deserialize, Serialize};

use super::{Augmentation, Order, Purpose, SliceCache, generator};
use crate::{Error, Result};

/// How batches are drawn and made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadConfig {
    /// Slices in a batch. Default 16.
    pub batch: usize,
    /// Decides order and augmentation.
    pub seed: u64,
    /// Share of diseased slices, see [`Order::new`]. Default: every slice equally often.
    pub diseased_share: Option<f64>,
    /// Changes of the slices. Default: none.
    pub augmentation: Augmentation,
    /// Batches that are kept ready. Default 4.
    pub ahead: usize,
    /// Threads that make them. Default 1.
    pub threads: usize,
}

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            batch: 16,
            seed: 0,
            diseased_share: None,
            augmentation: Augmentation::NONE,
            ahead: 4,
            threads: 1,
        }
    }
}

impl LoadConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn check(&self) -> Result<()> {
        for (name, value, most) in [
            ("batch", self.batch, 65_536),
            ("ahead", self.ahead, 1024),
            ("threads", self.threads, 256),
        ] {
            if !(1..=most).contains(&value) {
                let what = format!("LoadConfig.{name}");
                return Err(Error::config(what, format!("1 to {most}"), value));
            }
        }
        self.augmentation.check()
    }
}

/// One batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number, from 0.
    pub index: u64,
    /// Slices (B, C, H, W) in [-1, 1].
    pub images: Array4<f32>,
    /// Where the head is (B, H, W).
    pub head: Array3<bool>,
    /// 1 = diseased, 0 = healthy.
    pub labels: Vec<u8>,
    /// Index of each slice in the cache.
    pub slices: Vec<usize>,
}

/// Makes batches by their numbers.
#[derive(Debug, Clone)]
pub struct Batches {
    cache: Arc<SliceCache>,
    config: LoadConfig,
    order: Order,
}

impl Batches {
    /// # Errors
    /// As [`LoadConfig::check`] and [`Order::new`].
    pub fn new(cache: Arc<SliceCache>, config: &LoadConfig) -> Result<Self> {
        config.check()?;
        Ok(Self {
            order: Order::new(cache.labels(), config.diseased_share, config.seed)?,
            config: config.clone(),
            cache,
        })
    }

    /// Batch number `index`, from 0. It depends on (cache, config without `ahead` and `threads`, index) alone.
    pub fn at(&mut self, index: u64) -> Batch {
        let size = self.config.batch;
        let [_, c, h, w] = self.cache.shape();
        let (mut images, mut head) = (vec![0.0; size * c * h * w], vec![false; size * h * w]);
        let mut batch = (Vec::with_capacity(size), Vec::with_capacity(size));
        let places = images
            .chunks_exact_mut(c * h * w)
            .zip(head.chunks_exact_mut(h * w));
        for (position, (image, head)) in places.enumerate() {
            let draw = index
                .wrapping_mul(size as u64)
                .wrapping_add(position as u64);
            let slice = self.order.at(draw);
            // The order is that of the cache's own labels.
            if let (Some(stored), Some(bits)) =
                (self.cache.stored(slice), self.cache.head_bits(slice))
            {
                let mut rng = generator(self.config.seed, Purpose::Augmentation, draw);
                let moved = self.config.augmentation.draw(&mut rng);
                moved.images(stored, (h, w), image);
                moved.head(bits, (h, w), head);
                for channel in image.chunks_exact_mut(h * w) {
                    self.config.augmentation.contrast(&mut rng, channel);
                }
            }
            batch.0.push(self.cache.labels()[slice]);
            batch.1.push(slice);
        }
        Batch {
            index,
            images: Array4::from_shape_vec((size, c, h, w), images).unwrap_or_default(),
            head: Array3::from_shape_vec((size, h, w), head).unwrap_or_default(),
            labels: batch.0,
            slices: batch.1,
        }
    }
}

/// An endless iterator over batches that are made ahead by threads.
///
/// To go on where a run stopped, save [`position`](Self::position) and start there.
#[derive(Debug)]
pub struct Loader {
    /// Thread n makes the batches whose number leaves n after division by the number of threads.
    ready: Vec<Receiver<Batch>>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
}

impl Loader {
    /// Starts with batch number `first`.
    ///
    /// # Errors
    /// As [`Batches::new`]; [`Error::InvalidConfig`] where the system starts no thread.
    pub fn new(cache: Arc<SliceCache>, config: &LoadConfig, first: u64) -> Result<Self> {
        let batches = Batches::new(cache, config)?;
        let count = config.threads as u64;
        let mut loader = Self {
            ready: Vec::with_capacity(config.threads),
            threads: Vec::with_capacity(config.threads),
            next: first,
        };
        for number in 0..count {
            // One more is in the making on each thread.
            let (sender, receiver) = sync_channel(config.ahead.div_ceil(config.threads));
            let mut batches = batches.clone();
            // The first of this thread's numbers from `first` on.
            let start = first + (number + count - first % count) % count;
            let work = move || {
                for index in (start..).step_by(count as usize) {
                    // The receiver is gone when the loader is.
                    if sender.send(batches.at(index)).is_err() {
                        return;
                    }
                }
            };
            let started = std::thread::Builder::new()
                .name(format!("batches {number}"))
                .spawn(work);
            let thread = started.map_err(|error| {
                Error::config("LoadConfig.threads", "threads of the system", error)
            })?;
            loader.ready.push(receiver);
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// Number of the batch that comes next.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }
}

impl Iterator for Loader {
    type Item = Batch;

    /// The next batch. `None` only if a thread died.
    fn next(&mut self) -> Option<Batch> {
        let thread = (self.next % self.ready.len() as u64) as usize;
        let batch = self.ready.get(thread)?.recv().ok()?;
        self.next += 1;
        Some(batch)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closing the channels first lets threads that wait to send go on and end.
        self.ready.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
