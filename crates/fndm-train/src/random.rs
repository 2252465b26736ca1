//! One generator for every purpose and number, so that no draw depends on an earlier one.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a generator is for: two purposes never share their numbers.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Purpose {
    // 1 and 16 are those of `fndm_data::loading`, which draws the order of the slices.
    Diffusion = 2,
    Classifier = 3,
    Validation = 4,
    Remover = 5,
    Student = 6,
}

/// The generator number `index` of a purpose: (seed, purpose, index) alone decide what it yields.
pub(crate) fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}
