//! Channel matrices and permutations, drawn from explicit seeds.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::mersenne::Mersenne;
use super::pcg::Pcg64;

/// The first `count` permutations of `n` that `NumPy`'s global generator gives after `numpy.random.seed(seed)`. CS-Flow's official
/// code orders the channels of block k's scales by three of seed k.
#[must_use]
pub fn numpy_permutations(n: usize, seed: u32, count: usize) -> Vec<Vec<usize>> {
    let mut twister = Mersenne::new(seed);
    (0..count).map(|_| shuffled(n, || twister.word())).collect()
}

/// The permutation of `n` that `numpy.random.default_rng(seed)` gives first. anomalib's CS-Flow orders the channels of all of block k's
/// scales by that of seed k.
#[must_use]
pub fn numpy_default_permutation(n: usize, seed: u32) -> Vec<usize> {
    let mut generator = Pcg64::new(seed);
    shuffled(n, || generator.word())
}

/// The numbers below `n` as `NumPy` shuffles them: each place from the last on takes one of those before it, drawn by as many bits as
/// that needs, again and again until it is one.
fn shuffled(n: usize, mut word: impl FnMut() -> u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let mask = usize::MAX >> last.leading_zeros();
        let chosen = loop {
            let drawn = word() as usize & mask;
            if drawn <= last {
                break drawn;
            }
        };
        order.swap(last, chosen);
    }
    order
}

/// A random order of the numbers below `n`. `stream` tells the draws of one seed apart.
#[must_use]
pub fn random_permutation(n: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut rng);
    order
}

/// A random rotation matrix `(n, n)`, row by row: Haar measure on SO(n), by orthogonalising a matrix of normal numbers.
#[must_use]
pub fn random_rotation(n: usize, seed: u64, stream: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut rows: Vec<Vec<f64>> = (0..n)
        .map(|_| (0..n).map(|_| rng.sample(StandardNormal)).collect())
        .collect();
    for i in 0..n {
        let (before, rest) = rows.split_at_mut(i);
        let row = &mut rest[0];
        // Twice, since once leaves rounding that grows with n.
        for _ in 0..2 {
            for other in &*before {
                let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v /= length);
    }
    let negative = determinant_sign(&rows) < 0.0;
    if let (true, Some(first)) = (negative, rows.first_mut()) {
        first.iter_mut().for_each(|v| *v = -*v);
    }
    rows.concat()
}

/// The sign of the determinant, by elimination with pivots.
fn determinant_sign(rows: &[Vec<f64>]) -> f64 {
    let mut m = rows.to_vec();
    let n = m.len();
    let mut sign = 1.0;
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| m[a][i].abs().total_cmp(&m[b][i].abs()));
        let pivot = pivot.unwrap_or(i);
        if pivot != i {
            m.swap(i, pivot);
            sign = -sign;
        }
        sign *= m[i][i].signum();
        let (top, below) = m.split_at_mut(i + 1);
        let top = &top[i];
        for row in below {
            let factor = row[i] / top[i];
            row[i..]
                .iter_mut()
                .zip(&top[i..])
                .for_each(|(a, b)| *a -= factor * b);
        }
    }
    sign
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_has_every_number_once() {
        let mut order = random_permutation(100, 3, 1);
        assert_eq!(order, random_permutation(100, 3, 1));
        assert_ne!(order, random_permutation(100, 3, 2));
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_rotation_keeps_lengths_and_orientation() {
        for n in [1, 2, 7, 40] {
            for seed in 0..4 {
                let m = random_rotation(n, seed, 0);
                let rows: Vec<Vec<f64>> = m.chunks(n).map(<[f64]>::to_vec).collect();
                for (i, a) in rows.iter().enumerate() {
                    for (j, b) in rows.iter().enumerate() {
                        let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                        assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
                    }
                }
                assert!(determinant_sign(&rows) > 0.0);
            }
        }
    }
}
