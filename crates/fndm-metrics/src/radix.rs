//! Sorting the keys of scores: radix sort by digits of 11 bits, in time linear in their number.

use crate::real::Real;
use rayon::prelude::*;

const DIGIT_BITS: usize = 11;
const DIGITS: usize = 1 << DIGIT_BITS;

/// Below this number of keys a comparison sort is quicker.
const SMALL: usize = 1 << 13;

/// Sorts each of the consecutive parts of `chunk` keys by itself; threads share the parts.
pub(crate) fn sort_chunks<T: Real>(keys: &mut [T::Key], chunk: usize) {
    keys.par_chunks_mut(chunk).for_each(sort::<T>);
}

/// Sorts the keys in ascending order. Needs as much memory again.
pub(crate) fn sort<T: Real>(keys: &mut [T::Key]) {
    let Some(&any) = keys.first() else {
        return;
    };
    if keys.len() < SMALL {
        keys.sort_unstable();
        return;
    }
    let passes = (T::KEY_BITS as usize).div_ceil(DIGIT_BITS);
    let mut counts = vec![[0usize; DIGITS]; passes];
    for &key in keys.iter() {
        for (pass, counts) in counts.iter_mut().enumerate() {
            counts[T::digit(key, (pass * DIGIT_BITS) as u32)] += 1;
        }
    }
    let mut other = vec![any; keys.len()];
    let mut swapped = false;
    for (pass, counts) in counts.iter_mut().enumerate() {
        // A digit that all keys share moves none of them.
        if counts.contains(&keys.len()) {
            continue;
        }
        let mut next = 0;
        for count in counts.iter_mut() {
            (*count, next) = (next, next + *count);
        }
        let (from, to) = if swapped {
            (other.as_slice(), &mut *keys)
        } else {
            (&*keys, other.as_mut_slice())
        };
        for &key in from {
            let place = &mut counts[T::digit(key, (pass * DIGIT_BITS) as u32)];
            to[*place] = key;
            *place += 1;
        }
        swapped = !swapped;
    }
    if swapped {
        keys.copy_from_slice(&other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn radix_sort_sorts_as_comparison_does() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for scale in [1.0f64, 1e-3, 1e12] {
            let scores: Vec<f64> = (0..3 * SMALL)
                .map(|_| scale * rng.random_range(-1.0..1.0))
                .collect();
            let mut keys: Vec<u64> = scores.iter().map(|score| score.key()).collect();
            let mut expected = keys.clone();
            expected.sort_unstable();
            sort::<f64>(&mut keys);
            assert_eq!(keys, expected);
            let mut keys: Vec<u32> = scores.iter().map(|&score| (score as f32).key()).collect();
            let mut expected = keys.clone();
            expected.sort_unstable();
            sort::<f32>(&mut keys);
            assert_eq!(keys, expected);
        }
    }
}
