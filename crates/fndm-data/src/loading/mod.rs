//! Batches of slices for training: a compact cache, an order, augmentation, and threads that work ahead.
//!
//! Every batch is a function of (seed, number) alone, whatever the number of threads: a run that
//! stopped after batch n goes on with `Loader::new(cache, &config, n)` and sees what it would have seen.
//!
//! ```
//! use std::sync::Arc;
//! use fndm_data::loading::{LoadConfig, Loader, SliceCache};
//! use fndm_data::{Preprocess, SliceSet, phantom::PhantomConfig};
//!
//! let config = PhantomConfig { size: 32, slices: 6, ..PhantomConfig::default() };
//! let patient = config.patient(7)?;
//! let preprocess = Preprocess { image_size: 32, ..Preprocess::default() };
//! let set = SliceSet::from_patients([preprocess.apply(&patient)?])?;
//! let cache = Arc::new(SliceCache::new(&set)?);
//!
//! let config = LoadConfig { batch: 4, seed: 3, ..LoadConfig::default() };
//! let mut loader = Loader::new(Arc::clone(&cache), &config, 0)?;
//! let batches: Vec<_> = loader.by_ref().take(3).collect();
//! assert_eq!(batches[0].images.dim(), (4, 4, 32, 32));
//! assert_eq!(loader.position(), 3);
//!
//! let mut resumed = Loader::new(cache, &config, 2)?;
//! assert_eq!(resumed.next().as_ref(), batches.last());
//! # Ok::<(), fndm_data::Error>(())
//! ```

mod augment;
mod cache;
mod loader;
mod order;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use augment::Augmentation;
pub use cache::SliceCache;
pub use loader::{Batch, Batches, LoadConfig, Loader};
pub use order::Order;

/// What a generator is for: two purposes never share their numbers.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Purpose {
    Order = 1,
    Augmentation = 16,
}

/// The generator number `index` of a purpose: (seed, purpose, index) alone decide what it yields.
fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}
