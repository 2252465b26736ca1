//! Every case of the reference data: other people's programs run on a model whose exact answer is known.

#[path = "../common/by_time.rs"]
mod by_time;
#[path = "../common/mod.rs"]
mod common;

mod case;
mod diffusers;
mod dpm_solver;
mod guided_diffusion;
mod ode_truth;
mod schedules;

use candle_core::Tensor;
use case::Read;
use common::{Array, Golden, text};
use fndm_solver::{Answer, Error, NoiseSchedule, Query, ScheduleConfig, Solver};
use serde_json::Value;

type AnyResult = Result<(), Box<dyn std::error::Error>>;

/// The schedule as dpm-solver has it: entries that it clips are cut off and time is stretched over the rest, which is
/// the same as a schedule of fewer betas. (Ours clips without stretching; see `clipping_leaves_time_alone`.)
fn stretched_schedule(golden: &Golden, name: &str) -> fndm_solver::Result<NoiseSchedule> {
    let Some(betas) = golden.find("schedules", &format!("{name}.betas")) else {
        // dpm-solver's continuous schedule, with its default bounds.
        let bound = |key: &str, usual: f64| {
            golden.manifest["schedules"][name][key]
                .as_f64()
                .unwrap_or(usual)
        };
        if golden.manifest["schedules"].get(name).is_none() {
            return Err(no_schedule(name));
        }
        let (low, high) = (bound("beta_0", 0.1), bound("beta_1", 20.0));
        return NoiseSchedule::continuous_linear(low, high, 1000);
    };
    let kept = golden
        .find("schedules", &format!("{name}.t_array"))
        .map_or(betas.values.len(), |t| t.values.len());
    ScheduleConfig::Betas {
        betas: betas.values[..kept].to_vec(),
    }
    .build()
}

fn full_schedule(golden: &Golden, name: &str) -> fndm_solver::Result<NoiseSchedule> {
    match golden.find("schedules", &format!("{name}.betas")) {
        Some(betas) => NoiseSchedule::from_betas(&betas.values),
        None => Err(no_schedule(name)),
    }
}

fn no_schedule(name: &str) -> Error {
    Error::Schedule {
        what: name.to_string(),
        expected: "betas in the set".into(),
        got: "none".into(),
    }
}

/// Whether the set has the mixture of a case and the point that it starts from.
fn has_inputs(golden: &Golden, file: &str, dim: usize, start: &str) -> Read<()> {
    if golden.find("mixtures", &format!("d{dim}.w")).is_none() {
        return Err(format!("the set has no mixture of dimension {dim}"));
    }
    let there = match start.strip_prefix("end of ") {
        Some(other) => ["x", "trajectory"]
            .iter()
            .any(|kind| golden.find(file, &format!("{other}.{kind}")).is_some()),
        None => golden.find("inputs", start).is_some(),
    };
    if there {
        Ok(())
    } else {
        Err(format!("the set has no start {start}"))
    }
}

/// Runs a solver and returns the state after every step, the start first.
fn trajectory<A: Into<Answer>>(
    solver: &Solver,
    start: &Tensor,
    mut model: impl FnMut(Query<'_>) -> fndm_solver::Result<A>,
) -> fndm_solver::Result<Vec<Tensor>> {
    let mut asked = 0;
    let counted = |query: Query<'_>| {
        asked += 1;
        model(query)
    };
    let mut states = vec![start.clone()];
    for state in solver.trajectory(start, counted)? {
        states.push(state?);
    }
    assert_eq!(
        asked,
        solver.evaluations(),
        "evaluations asked for before the run"
    );
    Ok(states)
}

/// The starting point of a diffusers or guided-diffusion case: an input, or the end of another case.
fn start_of(golden: &Golden, file: &str, case: &Value) -> Array {
    let start = text(case, "start");
    match start.strip_prefix("end of ") {
        Some(other) => match golden.find(file, &format!("{other}.x")) {
            Some(x) => x.clone(),
            None => golden.get(file, &format!("{other}.trajectory")).last(),
        },
        None => golden.get("inputs", start).clone(),
    }
}
