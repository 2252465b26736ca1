//! dpm-solver's schedules and time grids, guided-diffusion's betas and products.

use candle_core::{DType, Device, Tensor};
use fndm_solver::{Grid, Method, NoiseSchedule, ScheduleConfig, SolverConfig};

use crate::case::{Case, Read};
use crate::common::{Golden, Tally};
use crate::{AnyResult, full_schedule, stretched_schedule};

const BELOW_THE_FIRST: &str =
    "below the first training step the peer extrapolates past alpha = 1, into NaN";

/// The config that the name of a schedule of the reference data stands for.
fn config_of(name: &str, betas: &[f64]) -> Option<ScheduleConfig> {
    let steps = betas.len();
    let (beta_start, beta_end) = (*betas.first()?, *betas.last()?);
    if name.contains("cosine") {
        Some(ScheduleConfig::cosine(steps))
    } else if name.contains("scaled") {
        Some(ScheduleConfig::ScaledLinear {
            steps,
            beta_start,
            beta_end,
        })
    } else if name == "linear" && steps == 1000 {
        Some(ScheduleConfig::linear(steps))
    } else if name.contains("linear") {
        Some(ScheduleConfig::Linear {
            steps,
            beta_start,
            beta_end,
        })
    } else {
        None
    }
}

#[test]
fn betas() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("schedules") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for (key, betas) in golden.file("schedules") {
        let Some(name) = key.strip_suffix(".betas") else {
            continue;
        };
        // Ours from the formula against theirs from the list.
        let whole = full_schedule(&golden, name)?;
        if let Some(config) = config_of(name, &betas.values) {
            let ours = config.build()?;
            for i in 0..whole.steps() {
                let error = (ours.alpha_of_index(i) - whole.alpha_of_index(i)).abs();
                tally.compare(name, &format!("alpha {i}"), error, 1e-10);
            }
        }
        if let Some(cumprod) = golden.find("schedules", &format!("{name}.gd_alphas_cumprod")) {
            for (i, &a) in cumprod.values.iter().enumerate() {
                let error = (whole.alpha_of_index(i).powi(2) - a).abs() / a.max(1e-3);
                tally.compare(name, &format!("gd_alphas_cumprod {i}"), error, 1e-10);
            }
        }
    }
    tally.finish("betas");
    Ok(())
}

/// What the manifest says of a schedule.
fn stated(golden: &Golden, name: &str, ours: &NoiseSchedule, tally: &mut Tally) -> Read<()> {
    let case = Case::new(&golden.manifest["schedules"][name])?;
    if let Some(kept) = case.whole("total_N_after_clipping")? {
        tally.compare(name, "steps", kept.abs_diff(ours.steps()) as f64, 0.0);
    }
    let betas = golden.find("schedules", &format!("{name}.betas"));
    if let (Some(total), Some(betas)) = (case.whole("T_before_clipping")?, betas) {
        tally.compare(
            name,
            "betas",
            total.abs_diff(betas.values.len()) as f64,
            0.0,
        );
    }
    if let Some(lambda) = case.real("marginal_lambda_at_1")? {
        tally.compare(name, "lambda at 1", (ours.lambda(1.0) - lambda).abs(), 1e-9);
    }
    // A continuous schedule is made of them.
    case.real("beta_0")?;
    case.real("beta_1")?;
    case.all_used()
}

#[test]
fn functions() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("schedules") {
        return Ok(());
    }
    let mut tally = Tally::default();
    let names: Vec<String> = golden.manifest["schedules"]
        .as_object()
        .map(|o| o.keys().cloned().collect())
        .unwrap_or_default();
    for name in names {
        if golden.find("schedules", &format!("{name}.t")).is_none() {
            tally.leave_out(&name, "the set has no time grid of it");
            continue;
        }
        let ours = stretched_schedule(&golden, &name)?;
        if let Err(reason) = stated(&golden, &name, &ours, &mut tally) {
            tally.leave_out(&format!("{name}, as the manifest states it"), &reason);
        }
        let get = |n: &str| golden.find("schedules", &format!("{name}.{n}"));
        let knots = get("t_array").zip(get("log_alpha_array"));
        // At 1/T and above, or from 0 on in continuous time.
        let first = if knots.is_some() { ours.t_min() } else { 0.0 };
        if let Some((times, log_alphas)) = knots {
            let pairs = times.values.iter().zip(&log_alphas.values);
            for (i, (&t, &l)) in pairs.enumerate() {
                let error = (ours.log_alpha(t) - l).abs();
                let what = format!("log_alpha_array {i}");
                tally.compare(&format!("{name}, knots"), &what, error, 1e-10);
            }
        }
        let times = &get("t").expect("a time grid").values;
        for (i, &t) in times.iter().enumerate() {
            let id = format!("{name} at t = {t}");
            if t < first - 1e-12 {
                tally.leave_out(&id, BELOW_THE_FIRST);
                continue;
            }
            for (what, value) in [
                ("log_alpha", ours.log_alpha(t)),
                ("alpha", ours.alpha(t)),
                ("std", ours.sigma(t)),
                ("lambda", ours.lambda(t)),
            ] {
                let want = get(what).expect("a schedule function").values[i];
                let error = (value - want).abs() / want.abs().max(1.0);
                tally.compare(&id, what, error, 1e-10);
            }
            let want = get("inverse_of_lambda").expect("an inverse").values[i];
            // The peer goes back through its own rounded lambda, so the inverse is compared at that lambda.
            let lambda = get("lambda").expect("lambda").values[i];
            let error = (ours.lambda_inverse(lambda) - want).abs();
            tally.compare(&id, "inverse", error, 1e-10);
        }
        let lambdas = &get("lambda_grid").expect("a lambda grid").values;
        let times = &get("t_of_lambda_grid").expect("its times").values;
        for (&l, &want) in lambdas.iter().zip(times) {
            let id = format!("{name} at lambda = {l}");
            if want < first - 1e-9 {
                tally.leave_out(&id, BELOW_THE_FIRST);
                continue;
            }
            tally.compare(&id, "t", (ours.lambda_inverse(l) - want).abs(), 1e-10);
        }
    }
    tally.finish("schedule functions");
    Ok(())
}

pub(crate) fn grid_of(skip: &str) -> Read<Grid> {
    Ok(match skip {
        "logSNR" => Grid::UniformLambda,
        "time_uniform" => Grid::UniformTime,
        "time_quadratic" => Grid::QuadraticTime,
        other => return Err(format!("skip type {other}")),
    })
}

/// What the key of a time grid says: `schedule.skip.N.kind`, and whether orders are meant.
fn grid_key(key: &str) -> Read<(&str, Grid, usize, &str, bool)> {
    let unknown = || format!("the key {key} isn't known here");
    let parts: Vec<&str> = key.split('.').collect();
    let (orders, parts) = match parts[..] {
        [ref front @ .., "orders"] => (true, front),
        [ref front @ .., "t"] => (false, front),
        _ => (false, &parts[..]),
    };
    let [name, skip, steps, kind] = *parts else {
        return Err(unknown());
    };
    let steps = steps.parse().map_err(|_| unknown())?;
    Ok((name, grid_of(skip)?, steps, kind, orders))
}

#[test]
fn time_grids() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("time_grids") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for (key, want) in golden.file("time_grids") {
        let (name, grid, steps, kind, orders) = match grid_key(key) {
            Ok(parts) => parts,
            Err(reason) => {
                tally.leave_out(key, &reason);
                continue;
            }
        };
        let schedule = match stretched_schedule(&golden, name) {
            Ok(schedule) => schedule,
            Err(error) => {
                tally.leave_out(key, &error.to_string());
                continue;
            }
        };
        let base = SolverConfig {
            grid,
            ..SolverConfig::dpm_solver_pp(1, steps)
        };
        let single = kind
            .strip_prefix("singlestep")
            .and_then(|order| order.parse().ok());
        let solver = match (kind, single) {
            ("sample", _) => base.sample(&schedule, schedule.span())?,
            ("inverse", _) => base.encode(&schedule, schedule.span())?,
            (_, Some(order)) => SolverConfig {
                method: Method::Singlestep,
                order,
                ..base
            }
            .sample(&schedule, schedule.span())?,
            (other, None) => {
                tally.leave_out(key, &format!("grids of kind {other}"));
                continue;
            }
        };
        let ours: Vec<f64> = if orders {
            // The order of a singlestep step is the number of its evaluations.
            let mut evaluations = vec![0.0; solver.times().len() - 1];
            let mut stepper = solver.stepper(&Tensor::zeros(1, DType::F64, &Device::Cpu)?)?;
            while let Some(query) = stepper.query() {
                evaluations[query.step] += 1.0;
                let output = query.x.clone();
                stepper.advance(&output)?;
            }
            evaluations
        } else {
            solver.times().to_vec()
        };
        if ours.len() != want.values.len() {
            tally.fail(
                key,
                &format!("{} values, ours {}", want.values.len(), ours.len()),
            );
            continue;
        }
        let errors = ours.iter().zip(&want.values).map(|(a, b)| (a - b).abs());
        tally.compare(key, "", errors.fold(0.0, f64::max), 1e-10);
    }
    tally.finish("time grids");
    Ok(())
}
