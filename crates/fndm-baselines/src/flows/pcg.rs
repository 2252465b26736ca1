//! `NumPy`'s default generator: PCG64 (O'Neill 2014), seeded by a `SeedSequence`.

const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
/// Words of a seed sequence's pool.
const POOL: usize = 4;

/// PCG XSL RR 128/64, of which `numpy.random.default_rng(seed)` draws permutations.
#[derive(Debug, Clone)]
pub(super) struct Pcg64 {
    state: u128,
    increment: u128,
    /// The upper half of a number whose lower half has been given.
    half: Option<u32>,
}

/// Mixes words, with a constant that changes at every use.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn mix(&mut self, value: u32) -> u32 {
        let value = value ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let value = value.wrapping_mul(self.constant);
        value ^ (value >> 16)
    }
}

/// The first eight words that a seed sequence of this number generates.
fn seed_words(seed: u32) -> [u32; 8] {
    let mut hash = Hash {
        constant: 0x43b0_d7e5,
        multiplier: 0x931e_8875,
    };
    let mut pool = [seed, 0, 0, 0].map(|word| hash.mix(word));
    for from in 0..POOL {
        for to in 0..POOL {
            if from != to {
                let (left, right) = (pool[to], hash.mix(pool[from]));
                let mixed = 0xca01_f9dd_u32
                    .wrapping_mul(left)
                    .wrapping_sub(0x4973_f715_u32.wrapping_mul(right));
                pool[to] = mixed ^ (mixed >> 16);
            }
        }
    }
    let mut hash = Hash {
        constant: 0x8b51_f9dd,
        multiplier: 0x58f3_8ded,
    };
    std::array::from_fn(|i| hash.mix(pool[i % POOL]))
}

impl Pcg64 {
    pub(super) fn new(seed: u32) -> Self {
        let words = seed_words(seed);
        let long = |i: usize| u128::from(words[2 * i]) | u128::from(words[2 * i + 1]) << 32;
        let (start, stream) = (long(0) << 64 | long(1), long(2) << 64 | long(3));
        let mut generator = Self {
            state: 0,
            increment: stream << 1 | 1,
            half: None,
        };
        generator.advance();
        generator.state = generator.state.wrapping_add(start);
        generator.advance();
        generator
    }

    fn advance(&mut self) {
        let product = self.state.wrapping_mul(MULTIPLIER);
        self.state = product.wrapping_add(self.increment);
    }

    pub(super) fn word(&mut self) -> u32 {
        if let Some(half) = self.half.take() {
            return half;
        }
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        let number = folded.rotate_right((self.state >> 122) as u32);
        self.half = Some((number >> 32) as u32);
        number as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_numpys() {
        // numpy.random.default_rng(0).random() is 0.6369616873214543: the upper 53 bits of the first number.
        let mut generator = Pcg64::new(0);
        let (low, high) = (generator.word(), generator.word());
        let number = u64::from(low) | u64::from(high) << 32;
        let share = (number >> 11) as f64 * 2f64.powi(-53);
        assert_eq!(share, 0.636_961_687_321_454_3);
    }
}
