//! How bright a sequence is, where in the head.

use ndarray::{Array3, ArrayView3, Zip};

use super::depth::{OUTSIDE, SHELLS};
use super::feature::{Aspect, Feature};
use super::measure::plain;
use crate::preprocess::percentile;

/// A scale from 0 at the 1st percentile to 1 at the 99th.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    low: f64,
    range: f64,
}

impl Spread {
    pub(super) fn of(values: &mut [f32]) -> Self {
        let low = f64::from(percentile(values, 1.0).unwrap_or(0.0));
        let high = f64::from(percentile(values, 99.0).unwrap_or(1.0));
        let range = if high > low { high - low } else { 1.0 };
        Self { low, range }
    }

    pub(super) fn map(self, value: f32) -> f64 {
        ((f64::from(value) - self.low) / self.range).clamp(-0.2, 1.2)
    }
}

/// Percentiles of the whole head.
const IN_HEAD: [f64; 5] = [10., 25., 50., 75., 90.];
/// Percentiles of the inner shells together.
const INSIDE: [f64; 7] = [5., 10., 25., 50., 75., 90., 95.];
/// Percentiles of each of the inner shells.
const IN_SHELL: [f64; 3] = [25., 50., 75.];
/// Shells that scalp and skull lie in; further in lies brain, with and without a skull.
const RIM: usize = 4;
/// A difference up to this part of the scale never counts.
const TOLERANCE: f64 = 0.05;

/// Percentiles of the head on its own scale, the mean of every shell on that scale, and percentiles of the inner shells on theirs.
pub(super) fn intensities(
    sequence: &str,
    stack: &ArrayView3<'_, f32>,
    mut in_head: Vec<f32>,
    shells: &Array3<u8>,
) -> Vec<Feature> {
    let mut out = Vec::new();
    let mut add = |aspect, name: String, value: Option<f64>| {
        out.push(Feature {
            sequence: Some(sequence.to_owned()),
            ..plain(aspect, name, value.unwrap_or(0.), TOLERANCE)
        });
    };
    let scale = Spread::of(&mut in_head);
    let at =
        |values: &mut [f32], p: f64, scale: Spread| percentile(values, p).map(|v| scale.map(v));
    for p in IN_HEAD {
        let name = format!("at the head's {p}th percentile");
        add(Aspect::Intensity, name, at(&mut in_head, p, scale));
    }
    // Not both at a time.
    drop(in_head);
    let mut by_shell = by_shell(stack, shells);
    for (n, values) in by_shell.iter().enumerate() {
        let aspect = if n < RIM {
            Aspect::Skull
        } else {
            Aspect::Intensity
        };
        let sum: f64 = values.iter().map(|&v| scale.map(v)).sum();
        let mean = (!values.is_empty()).then(|| sum / values.len() as f64);
        let name = format!(
            "on average in shell {} of {} from outside",
            n + 1,
            SHELLS.len()
        );
        add(aspect, name, mean);
    }
    let mut inside = by_shell[RIM..].concat();
    let scale = Spread::of(&mut inside);
    for p in INSIDE {
        let name = format!("at the {p}th percentile inside the skull");
        add(Aspect::Intensity, name, at(&mut inside, p, scale));
    }
    for (n, values) in by_shell.iter_mut().enumerate().skip(RIM) {
        for p in IN_SHELL {
            let name = format!("at the {p}th percentile of shell {}", n + 1);
            add(Aspect::Intensity, name, at(values, p, scale));
        }
    }
    out
}

/// The values of each shell.
fn by_shell(stack: &ArrayView3<'_, f32>, shells: &Array3<u8>) -> Vec<Vec<f32>> {
    let mut counts = [0; SHELLS.len()];
    for &shell in shells.iter().filter(|shell| **shell != OUTSIDE) {
        counts[usize::from(shell)] += 1;
    }
    // Of their full lengths at once: a vector that grows holds its values twice while it does.
    let mut all: Vec<Vec<f32>> = counts.into_iter().map(Vec::with_capacity).collect();
    Zip::from(stack).and(shells).for_each(|&value, &shell| {
        if shell != OUTSIDE {
            all[usize::from(shell)].push(value);
        }
    });
    all
}
