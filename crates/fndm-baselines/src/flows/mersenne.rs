/// Words of state.
const N: usize = 624;
/// Distance of the two words that make a new one.
const M: usize = 397;

/// The Mersenne twister MT19937 (Matsumoto and Nishimura 1998), of which `NumPy`'s global generator draws permutations.
#[derive(Debug, Clone)]
pub(crate) struct Mersenne {
    words: Vec<u32>,
    at: usize,
}

impl Mersenne {
    pub(crate) fn new(seed: u32) -> Self {
        let mut words = vec![seed];
        for i in 1..N as u32 {
            let last = words[words.len() - 1];
            words.push(
                1_812_433_253u32
                    .wrapping_mul(last ^ (last >> 30))
                    .wrapping_add(i),
            );
        }
        Self { words, at: N }
    }

    /// Seeded by several words, as Python's `random.seed` does with a number's.
    pub(crate) fn of_key(key: &[u32]) -> Self {
        let mut twister = Self::new(19_650_218);
        let words = &mut twister.words;
        let mixed = |last: u32| last ^ (last >> 30);
        let mut i = 1;
        let mut next = |words: &mut [u32], f: &dyn Fn(u32, u32, u32) -> u32| {
            words[i] = f(words[i], mixed(words[i - 1]), i as u32);
            i += 1;
            if i == N {
                words[0] = words[N - 1];
                i = 1;
            }
        };
        for (j, word) in (0..key.len())
            .cycle()
            .take(N.max(key.len()))
            .map(|j| (j, key[j]))
        {
            next(words, &|old, last, _| {
                (old ^ last.wrapping_mul(1_664_525))
                    .wrapping_add(word)
                    .wrapping_add(j as u32)
            });
        }
        for _ in 1..N {
            next(words, &|old, last, i| {
                (old ^ last.wrapping_mul(1_566_083_941)).wrapping_sub(i)
            });
        }
        words[0] = 0x8000_0000;
        twister
    }

    fn renew(&mut self) {
        for i in 0..N {
            let joined = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % N] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + M) % N] ^ (joined >> 1) ^ odd;
        }
        self.at = 0;
    }

    pub(crate) fn word(&mut self) -> u32 {
        if self.at == N {
            self.renew();
        }
        let mut y = self.words[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ten_thousandth_word_is_the_standards() {
        // C++'s standard requires this number of mt19937, whose seed is 5489.
        let mut twister = Mersenne::new(5489);
        let last = (0..10_000).map(|_| twister.word()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
