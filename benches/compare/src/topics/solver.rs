//! One step of DPM-Solver++ in the middle of a run: from a network's output to the next state.

use super::{Case, number};
use crate::inputs::{sample, tensor};
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use fndm_solver::{Grid, LowerOrderFinal, ScheduleConfig, SolverConfig, Stepper, ThirdOrder};
use serde_json::Value;

/// Steps of the whole run, and how many are done before the one that is timed; `peers/solver.py` has the same.
const STEPS: usize = 25;
const DONE: u32 = 5;

struct Step {
    before: Stepper,
    output: Tensor,
    after: Option<Tensor>,
}

impl Case for Step {
    fn run(&mut self) -> Result<()> {
        self.after = None;
        let mut stepper = self.before.clone();
        stepper.advance(&self.output)?;
        self.after = Some(stepper.x().clone());
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.after.as_ref().context("nothing has run")?)?)
    }
}

/// diffusers' times: integer labels, evenly spaced and rounded, and the data at the end.
fn labels() -> Vec<f64> {
    let mut times: Vec<f64> = (1..=STEPS)
        .map(|i| ((999. * i as f64 / STEPS as f64).round() + 1.) / 1000.)
        .collect();
    times.push(0.);
    times.sort_by(|a, b| b.total_cmp(a));
    times
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let (order, batch, size) = (
        number(spec, "order")?,
        number(spec, "batch")?,
        number(spec, "size")?,
    );
    let schedule = ScheduleConfig::linear(1000).build()?;
    let (grid, low) = match spec["peer"].as_str() {
        Some("diffusers") => (Grid::Explicit(labels()), 0.),
        Some("dpm_solver") => (Grid::UniformTime, schedule.t_min()),
        other => bail!("spec: unknown peer {other:?}"),
    };
    let config = SolverConfig {
        grid,
        third_order: ThirdOrder::Peers,
        lower_order_final: LowerOrderFinal::Never,
        ..SolverConfig::dpm_solver_pp(order, STEPS)
    };
    let solver = config.sample(&schedule, low..=1.)?;
    let shape = [batch, 4, size, size];
    let mut before = solver.stepper(&tensor(1, &shape)?)?;
    for i in 0..DONE {
        before.advance(&tensor(10 + i, &shape)?)?;
    }
    Ok(Box::new(Step {
        before,
        output: tensor(10 + DONE, &shape)?,
        after: None,
    }))
}
