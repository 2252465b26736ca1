#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`ScheduleConfig`], [`NoiseSchedule`]: alpha, sigma and lambda in f64, at any time and at training indices.
//! - [`SolverConfig`]: algorithm, order, method, [`Grid`], prediction type; a plain serde value.
//! - [`Solver`]: the checked config on a schedule and a span; [`Solver::run`] takes a batch through.
//! - [`Query`], [`Answer`]: what a model is asked, and what it says: an output, guided or not.
//! - [`Stepper`]: the same run one network evaluation at a time; a value that can be cloned, stored and resumed.
//! - [`Trajectory`]: the same run as an iterator over its states.
//! - [`AdaptiveConfig`], [`AdaptiveSolver`]: steps from a tolerance, for each sample on its own.
//! - [`Guidance`]: classifier guidance (Li et al. 2023, eq. 8) over any noise model and any gradient.
//! - [`Prediction`]: what a network predicts, conversions between noise, x0 and v, and training targets.
//! - [`Respacing`]: guided-diffusion's choice of training steps.
//! - [`Clip`]: static and dynamic thresholds on the predicted clean image.
//!
//! # Which method
//!
//! The largest error in x against the number of network evaluations, on a Gaussian mixture whose flow is known, over the
//! whole of a linear schedule, uniform in lambda (`cargo run --release -p fndm-solver --example convergence`); adaptive
//! runs by the mean over their samples. DPM-Solver++ 2M is the usual choice up to about ten evaluations, and the
//! paper's; beyond, 3M and `UniPC` gain an order each.
//!
#![doc = include_str!("../docs/convergence.svg")]
//!
//! # Schedules that end in pure noise
//!
//! [`ScheduleConfig::zero_terminal_snr`] rescales a schedule as Lin et al. (2024) do: alpha is 0 at t = 1. Runs may start and
//! end there; the step out of pure noise, or into it, is of order 1. The network predicts v or x0, as the noise alone doesn't
//! determine the image. [`Grid::Trailing`] over `0..=1` are the paper's steps.
//!
//! # What isn't finite
//!
//! A network's output, a start or a result with NaN or infinity ends a run with [`Error::NonFinite`], which names the step,
//! its time and the sample. The check is one pass over memory.
//!
//! # A thousand steps in single precision
//!
//! diffusers computes in float32. The largest differences at the end of 1000 steps, linear betas, on a Gaussian mixture
//! (`cargo test -p fndm-solver --test precision -- --nocapture`): the peer in float32 from the peer with every float32 in its
//! text made float64; this crate in f64, and in f32, from the latter; and how far the peer and this crate are from the flow
//! itself.
//!
//! | run, labels | order | peer f32 - f64 | ours - peer f64 | ours f32 - f64 | peer, from the flow | ours |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | sampling, linspace | 1 | 8.7e-7 | 3.1e-15 | 6.3e-7 | 2.3e-3 | 2.3e-3 |
//! | encoding, linspace | 1 | 6.2e-6 | 9.5e-15 | 1.0e-6 | 2.9e-3 | 2.4e-3 |
//! | sampling, trailing | 1 | 1.0e-6 | 2.8e-15 | 5.3e-7 | 2.1e-3 | 2.1e-3 |
//! | sampling, trailing | 2 | 1.2e-6 | 1.1e-15 | 9.7e-7 | 8.5e-5 | 8.5e-5 |
//! | sampling, trailing | 3 | 1.1e-6 | 3.1e-15 | 1.0e-6 | 2.0e-4 | 2.0e-4 |
//!
//! In double precision both are one. Larger differences come from labels: 1000 linspace labels have one twice, the peer
//! takes a step without length there (NaN from order 2 on), and its inverse scheduler drops the label but not its sigma, so
//! that the network is asked one training step beside its state from there on.
//!
//! # Conventions
//!
//! `x_t` = `alpha_t` `x_0` + `sigma_t` epsilon with alpha^2 + sigma^2 = 1, and lambda = ln(alpha / sigma). Time t runs from 0 (data) to
//! 1 (noise); a model trained on T steps saw t = 1/T, 2/T, .. 1. The scalars of all steps are worked out in f64 before a run;
//! tensors, of type f64, f32, f16 or bf16, are met once per network evaluation, in one linear combination.

mod adaptive;
mod checks;
mod clip;
mod coefficients;
mod config;
mod error;
mod grid;
mod guidance;
mod plan;
mod prediction;
mod respacing;
mod schedule;
mod schedule_config;
mod solver;
mod stepper;
mod stored;
mod trajectory;

pub use adaptive::{AdaptiveConfig, AdaptiveQuery, AdaptiveRun, AdaptiveSolver};
pub use config::{
    Algorithm, Clip, LowerOrderFinal, Method, SecondOrder, SolverConfig, ThirdOrder, UniPcForm,
};
pub use error::{Error, Result, RunTensor};
pub use grid::Grid;
pub use guidance::Guidance;
pub use prediction::Prediction;
pub use respacing::Respacing;
pub use schedule::NoiseSchedule;
pub use schedule_config::ScheduleConfig;
pub use solver::Solver;
pub use stepper::{Answer, Query, Stepper};
pub use trajectory::Trajectory;
