//! Whether a sequence is the one that it is called: Gaussians of the training's sequences with one covariance.

use serde::{Deserialize, Serialize};

use super::measure::{PatientProfile, SequenceProfile};

/// A Gaussian for each sequence over the numbers of a [`SequenceProfile`], with the covariance of all of them together (linear
/// discriminant analysis).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The sequences.
    names: Vec<String>,
    /// The mean of each.
    means: Vec<Vec<f32>>,
    /// The inverse of the covariance, row by row.
    precision: Vec<f32>,
}

/// A sequence, or a pair, that is more like another one.
pub(super) struct Mistaken {
    /// What is given as which.
    pub(super) pairs: Vec<(String, String)>,
    /// The logarithm of how much more likely that is.
    pub(super) margin: f64,
}

/// Fewer patients say nothing of a covariance.
const FEWEST: usize = 8;
/// Least share of the covariance that is its diagonal alone.
const SHRINKAGE: f64 = 0.05;
/// A squared distance of so much for each number is that of no such sequence.
const STRANGE: f64 = 4.;

impl Identity {
    pub(super) fn learn(profiles: &[&PatientProfile]) -> Option<Self> {
        let first = profiles.first()?;
        let classes = first.sequences.len();
        if profiles.len() < FEWEST || classes < 2 {
            return None;
        }
        let size = first.sequences[0].features.len();
        let mut means = vec![vec![0f64; size]; classes];
        for patient in profiles {
            for (mean, sequence) in means.iter_mut().zip(&patient.sequences) {
                for (sum, value) in mean.iter_mut().zip(numbers(sequence)) {
                    *sum += value / profiles.len() as f64;
                }
            }
        }
        let mut covariance = vec![0f64; size * size];
        let count = (profiles.len() * classes - classes) as f64;
        for patient in profiles {
            for (mean, sequence) in means.iter().zip(&patient.sequences) {
                let away: Vec<f64> = numbers(sequence).zip(mean).map(|(v, m)| v - m).collect();
                for i in 0..size {
                    for j in 0..size {
                        covariance[i * size + j] += away[i] * away[j] / count;
                    }
                }
            }
        }
        let shrinkage = (size as f64 / (2. * count)).clamp(SHRINKAGE, 1.);
        for i in 0..size {
            for j in 0..size {
                match i == j {
                    true => covariance[i * size + j] += 1e-5,
                    false => covariance[i * size + j] *= 1. - shrinkage,
                }
            }
        }
        let precision = inverse(covariance, size)?;
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
        Some(Self {
            names: first.sequences.iter().map(|s| s.name.clone()).collect(),
            means: means.into_iter().map(narrow).collect(),
            precision: narrow(precision),
        })
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let size = self.means.first().map_or(0, Vec::len);
        let fits = self.means.len() == self.names.len()
            && self.means.iter().all(|mean| mean.len() == size)
            && self.precision.len() == size * size;
        match fits {
            true => Ok(()),
            false => Err("identity: means and precision don't fit each other".into()),
        }
    }

    /// Squared distance of a sequence from the class of number `class`.
    fn distance(&self, sequence: &SequenceProfile, class: usize) -> f64 {
        let mean = &self.means[class];
        let away: Vec<f64> = (numbers(sequence).zip(mean))
            .map(|(v, &m)| v - f64::from(m))
            .collect();
        let rows = self.precision.chunks_exact(mean.len().max(1));
        rows.zip(&away)
            .map(|(row, a)| {
                let sum: f64 = row.iter().zip(&away).map(|(&p, b)| f64::from(p) * b).sum();
                a * sum
            })
            .sum()
    }

    /// The exchange of two sequences that is likelier than what is given, or the sequence that is likelier another one. Where the
    /// other explanation isn't likely either, none is given.
    pub(super) fn mistaken(&self, patient: &PatientProfile) -> Option<Mistaken> {
        let size = self.means.first()?.len();
        let known: Vec<(usize, &SequenceProfile)> = patient
            .sequences
            .iter()
            .filter(|s| s.features.len() == size)
            .filter_map(|s| Some((self.names.iter().position(|n| *n == s.name)?, s)))
            .collect();
        let strange = STRANGE * size as f64;
        let mut worst: Option<Mistaken> = None;
        let mut consider = |pairs: &[(usize, usize)], margin: f64, distance: f64| {
            let likelier = worst.as_ref().is_none_or(|w| margin > w.margin);
            if margin > 0. && distance <= strange && likelier {
                let name = |n: usize| self.names[n].clone();
                let pairs = pairs.iter().map(|&(is, as_)| (name(is), name(as_)));
                worst = Some(Mistaken {
                    pairs: pairs.collect(),
                    margin,
                });
            }
        };
        for (n, &(a, first)) in known.iter().enumerate() {
            for &(b, second) in &known[n + 1..] {
                let own = self.distance(first, a) + self.distance(second, b);
                let (ab, ba) = (self.distance(first, b), self.distance(second, a));
                consider(&[(b, a), (a, b)], 0.5 * (own - ab - ba), ab.max(ba));
            }
        }
        // By itself a sequence is told less surely than beside another.
        for &(own, sequence) in &known {
            for other in (0..self.names.len()).filter(|&other| other != own) {
                let far = self.distance(sequence, other);
                let margin = 0.5 * (self.distance(sequence, own) - far) - ALONE;
                consider(&[(other, own)], margin, far);
            }
        }
        worst
    }
}

/// What one sequence alone must be likelier by.
const ALONE: f64 = 6.;

fn numbers(sequence: &SequenceProfile) -> impl Iterator<Item = f64> {
    sequence.features.iter().map(|f| f.value)
}

/// The inverse of a symmetric positive matrix by Gauss and Jordan; `None` where it has none.
fn inverse(mut a: Vec<f64>, size: usize) -> Option<Vec<f64>> {
    let mut out = vec![0f64; size * size];
    for i in 0..size {
        out[i * size + i] = 1.;
    }
    for column in 0..size {
        let pivot = a[column * size + column];
        if !(pivot.is_finite() && pivot > 1e-12) {
            return None;
        }
        for j in 0..size {
            a[column * size + j] /= pivot;
            out[column * size + j] /= pivot;
        }
        for row in (0..size).filter(|&row| row != column) {
            let factor = a[row * size + column];
            for j in 0..size {
                a[row * size + j] -= factor * a[column * size + j];
                out[row * size + j] -= factor * out[column * size + j];
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        let size = 5;
        // A Gram matrix plus a diagonal is positive.
        let at = |i: usize, j: usize| ((i * 7 + j * 3) % 5) as f64 - 2.;
        let mut a = vec![0.; size * size];
        for i in 0..size {
            for j in 0..size {
                a[i * size + j] = (0..size).map(|k| at(i, k) * at(j, k)).sum();
            }
            a[i * size + i] += 1.;
        }
        let b = inverse(a.clone(), size).unwrap();
        for i in 0..size {
            for j in 0..size {
                let sum: f64 = (0..size).map(|k| a[i * size + k] * b[k * size + j]).sum();
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
        }
        assert!(inverse(vec![1., 1., 1., 1.], 2).is_none());
    }
}
