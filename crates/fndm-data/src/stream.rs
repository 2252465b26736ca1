//! Random numbers by seed, purpose and number.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator number `index` of a purpose: (seed, purpose, index) alone decide what it yields, so that no draw depends on an earlier
/// one. Two purposes never share their numbers; 1 is that of [`Order`](crate::Order).
#[must_use]
pub fn stream(seed: u64, purpose: u64, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&purpose.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(index);
    rng
}
