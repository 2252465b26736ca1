//! Matching histograms to a reference, after Nyúl, Udupa and Zhang (IEEE Transactions
//! on Medical Imaging 19(2), 2000).

use ndarray::ArrayView3;
use serde::{Deserialize, Serialize};

use super::head::HeadMean;
use super::intensity::{inside, percentile};
use super::{Plane, Preprocess};
use crate::affine::Reorder;
use crate::{Error, Patient, Result};

/// Number of landmarks: the two percentiles of [`Preprocess::percentiles`] and the deciles between.
const LANDMARKS: usize = 11;

/// Where the percentiles of reference volumes lie, for each sequence, in [-1, 1].
///
/// Fit it on training patients only: it is a part of the model, and is saved with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistogramReference {
    /// Sequence and its landmarks: the lower percentile (-1), the deciles from the 10th to the
    /// 90th, the upper percentile (1).
    sequences: Vec<(String, Vec<f32>)>,
}

impl HistogramReference {
    /// The mean landmarks of some patients: each volume is scaled so that its percentiles
    /// become -1 and 1, then its deciles are averaged with the others'.
    ///
    /// # Errors
    /// Every error of [`Patient::check`]; [`Error::InvalidConfig`] for no patient or for patients
    /// with different sequences.
    pub fn fit<'a>(
        patients: impl IntoIterator<Item = &'a Patient>,
        preprocess: &Preprocess,
    ) -> Result<Self> {
        preprocess.check()?;
        let mut sums: Vec<(String, Vec<f64>)> = Vec::new();
        let mut count = 0.0;
        for patient in patients {
            patient.check()?;
            let found = landmarks_of(patient, preprocess)?;
            if sums.is_empty() {
                let zero = |(name, _): &(String, Vec<f64>)| (name.clone(), vec![0.0; LANDMARKS]);
                sums = found.iter().map(zero).collect();
            }
            let names = |list: &[(String, Vec<f64>)]| -> Vec<String> {
                list.iter().map(|(name, _)| name.clone()).collect()
            };
            if names(&sums) != names(&found) {
                return Err(Error::config(
                    format!("sequences of patient {}", patient.id),
                    format!("{:?}", names(&sums)),
                    format!("{:?}", names(&found)),
                ));
            }
            for ((_, sum), (_, values)) in sums.iter_mut().zip(&found) {
                for (sum, value) in sum.iter_mut().zip(values) {
                    *sum += value;
                }
            }
            count += 1.0;
        }
        if sums.is_empty() {
            return Err(Error::config(
                "patients of the histogram reference",
                "at least one",
                "none",
            ));
        }
        let mean = |sum: Vec<f64>| sum.iter().map(|s| (s / count) as f32).collect();
        Ok(Self {
            sequences: sums.into_iter().map(|(n, s)| (n, mean(s))).collect(),
        })
    }

    /// The landmarks of one sequence.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when the reference has no such sequence.
    pub fn landmarks(&self, sequence: &str) -> Result<&[f32]> {
        let found = self.sequences.iter().find(|(name, _)| name == sequence);
        match found {
            Some((_, landmarks)) => Ok(landmarks),
            None => Err(Error::config(
                "sequence of the histogram reference",
                format!(
                    "{:?}",
                    self.sequences.iter().map(|s| &s.0).collect::<Vec<_>>()
                ),
                sequence,
            )),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        for (name, landmarks) in &self.sequences {
            let rising = landmarks.windows(2).all(|pair| pair[0] <= pair[1]);
            let within = landmarks.iter().all(|v| (-1.0..=1.0).contains(v));
            if landmarks.len() != LANDMARKS || !rising || !within {
                return Err(Error::config(
                    format!("HistogramReference, landmarks of {name}"),
                    format!("{LANDMARKS} rising numbers from -1 to 1"),
                    format!("{landmarks:?}"),
                ));
            }
        }
        Ok(())
    }

    /// The landmarks of a volume's own values, unscaled.
    pub(super) fn percentiles(values: &mut [f32], ends: (f64, f64)) -> Vec<f32> {
        let deciles = (1..10).map(|n| f64::from(n) * 10.0);
        let places = std::iter::once(ends.0).chain(deciles).chain([ends.1]);
        let mut last = f32::NEG_INFINITY;
        places
            .map(|q| {
                // A decile beyond the outer percentiles must not turn the order round.
                let q = q.clamp(ends.0, ends.1);
                last = percentile(values, q).unwrap_or(0.0).max(last);
                last
            })
            .collect()
    }
}

fn landmarks_of(patient: &Patient, preprocess: &Preprocess) -> Result<Vec<(String, Vec<f64>)>> {
    let reference = patient.reference()?;
    let reorder = Reorder::new(&reference.affine, Plane::Axial.codes())?;
    let stacks: Vec<_> = patient
        .sequences
        .iter()
        .map(|(_, volume)| reorder.view(volume.data.view()))
        .collect();
    let shape = stacks.first().map_or((0, 0, 0), ArrayView3::dim);
    let mut mean = HeadMean::of(shape, stacks.len());
    for stack in &stacks {
        mean.add(stack);
    }
    let head = preprocess.head.find(mean);
    let mut out = Vec::with_capacity(stacks.len());
    for ((name, _), stack) in patient.sequences.iter().zip(&stacks) {
        let mut values = inside(stack, &head);
        let found = HistogramReference::percentiles(&mut values, preprocess.percentiles);
        let (low, high) = (f64::from(found[0]), f64::from(found[LANDMARKS - 1]));
        if high <= low {
            return Err(Error::ConstantVolume {
                patient: patient.id.clone(),
                sequence: name.clone(),
                value: low as f32,
            });
        }
        let scaled = |v: &f32| (f64::from(*v) - low) / (high - low) * 2.0 - 1.0;
        out.push((name.clone(), found.iter().map(scaled).collect()));
    }
    Ok(out)
}
