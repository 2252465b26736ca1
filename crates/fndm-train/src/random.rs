//! One generator for every purpose and number, so that no draw depends on an earlier one.

use fndm_data::stream;
use rand_chacha::ChaCha8Rng;

/// What a generator is for: two purposes never share their numbers.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(crate) enum Purpose {
    // 1 is that of `fndm_data::Order`.
    Diffusion = 2,
    Classifier = 3,
    Validation = 4,
    Remover = 5,
    Student = 6,
}

/// The generator number `index` of a purpose: (seed, purpose, index) alone decide what it yields.
pub(crate) fn generator(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    stream(seed, purpose as u64, index)
}
