//! What is compared: one module a topic, with its peer in `peers/<topic>.py`.

mod baselines;
mod classifier_grad;
mod conv;
mod data;
mod detect;
mod memory;
mod metrics;
mod ops;
mod runtimes;
mod solver;
mod train_loop;
mod train_step;
mod unet;

use anyhow::{Result, bail};
use serde_json::Value;

/// A prepared case.
pub(crate) trait Case {
    /// One timed repetition.
    fn run(&mut self) -> Result<()>;

    /// Some numbers of the output, by which both sides are seen to compute the same.
    fn check(&mut self) -> Result<Vec<f64>>;
}

type Prepare = fn(&Value) -> Result<Box<dyn Case>>;

/// Every topic, by name.
const TOPICS: &[(&str, Prepare)] = &[
    ("baselines", baselines::prepare),
    ("classifier_grad", classifier_grad::prepare),
    ("conv", conv::prepare),
    ("data", data::prepare),
    ("detect", detect::prepare),
    ("memory", memory::prepare),
    ("metrics", metrics::prepare),
    ("ops", ops::prepare),
    ("runtimes", runtimes::prepare),
    ("solver", solver::prepare),
    ("train_loop", train_loop::prepare),
    ("train_step", train_step::prepare),
    ("unet", unet::prepare),
];

pub(crate) fn prepare(topic: &str, spec: &Value) -> Result<Box<dyn Case>> {
    match TOPICS.iter().find(|(name, _)| *name == topic) {
        Some((_, prepare)) => prepare(spec),
        None => bail!("no topic {topic:?}"),
    }
}

/// A whole number of the spec.
pub(crate) fn number(spec: &Value, key: &str) -> Result<usize> {
    match spec[key].as_u64() {
        Some(n) => Ok(n as usize),
        None => bail!("spec: expected a whole number {key:?}, got {}", spec[key]),
    }
}
