//! What a network would have to say to go in one step where the round trip takes several.

use candle_core::Tensor;
use fndm_solver::{Answer, Query, Solver};

use super::{Conditions, Place, RoundTrip};
use crate::{Error, Result};

/// The long steps of one direction, all slices' first steps first.
pub(crate) struct Taught {
    /// What the network is shown, `(steps B, C_in, H, W)`.
    pub(crate) inputs: Tensor,
    /// When, one for each sample.
    pub(crate) model_times: Vec<f32>,
    /// Under which label; none for a network of no labels.
    pub(crate) labels: Option<Tensor>,
    /// What it should give, `(steps B, C, H, W)`.
    pub(crate) targets: Tensor,
}

impl RoundTrip<'_> {
    /// The round trip of these slices in so many long steps for each direction: those of the encoding, where there is one, and
    /// of the sampling. `short` are the solvers that take them; their times must be among this one's.
    pub(crate) fn long_steps(
        &self,
        images: &Tensor,
        x_seg: &Tensor,
        place: Place<'_>,
        short: &Self,
    ) -> Result<(Option<Taught>, Taught)> {
        let (encode, state) = match (&self.encode, &short.encode) {
            (Some(long), Some(short)) => {
                let conditions = self.encoding_conditions(images, x_seg)?;
                let (taught, end) = self.follow((long, short), images, &conditions, |query| {
                    Ok(self.predict(self.encoder, query, &conditions)?.into())
                })?;
                (Some(taught), end)
            }
            _ => (None, (images * self.alpha)?),
        };
        let state = self.renewed(state, images, x_seg, place)?;
        let conditions = self.sampling_conditions(images, x_seg)?;
        let solvers = (&self.sample, &short.sample);
        let (sample, _) = self.follow(solvers, &state, &conditions, |query| {
            let output = self.predict(self.unet, query, &conditions)?;
            self.guided(query, output, &conditions.labels)
        })?;
        Ok((encode, sample))
    }

    fn follow(
        &self,
        (long, short): (&Solver, &Solver),
        start: &Tensor,
        conditions: &Conditions,
        model: impl FnMut(Query<'_>) -> Result<Answer>,
    ) -> Result<(Taught, Tensor)> {
        let (times, marks) = (long.times(), short.times());
        let steps = marks.len() - 1;
        let stride = (times.len() - 1) / steps;
        let same = times.iter().step_by(stride.max(1)).zip(marks);
        if stride * steps != times.len() - 1 || same.clone().any(|(a, b)| (a - b).abs() > 1e-9) {
            return Err(Error::option(
                "long steps",
                format!(
                    "so many that each is a whole number of the {} steps",
                    times.len() - 1
                ),
                steps,
            ));
        }
        let mut states = vec![start.clone()];
        for (i, state) in long.trajectory(start, model)?.enumerate() {
            let state = state?;
            if (i + 1) % stride == 0 {
                states.push(state);
            }
        }
        let batch = start.dim(0)?;
        let (mut inputs, mut targets, mut model_times) = (Vec::new(), Vec::new(), Vec::new());
        for (pair, time) in states.windows(2).zip(marks.windows(2)) {
            let at = |t: f64| (self.schedule.alpha(t), self.schedule.sigma(t));
            let ((alpha, sigma), (next_alpha, next_sigma)) = (at(time[0]), at(time[1]));
            let next = (&pair[1], next_alpha, next_sigma);
            let target = self.prediction.leading_to((&pair[0], alpha, sigma), next)?;
            targets.push(match self.from_image {
                true => (target - &conditions.image)?,
                false => target,
            });
            inputs.push(self.shown(&pair[0], conditions)?);
            let model_time = self.schedule.model_time(time[0]) as f32;
            model_times.extend(std::iter::repeat_n(model_time, batch));
        }
        let labels = match &conditions.unet_labels {
            Some(labels) => Some(Tensor::cat(&vec![labels; steps], 0)?),
            None => None,
        };
        let end = states.pop().unwrap_or_else(|| start.clone());
        Ok((
            Taught {
                inputs: Tensor::cat(&inputs, 0)?,
                model_times,
                labels,
                targets: Tensor::cat(&targets, 0)?,
            },
            end,
        ))
    }
}
