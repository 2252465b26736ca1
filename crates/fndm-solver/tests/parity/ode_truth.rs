//! The exact flow, by `SciPy`'s DOP853 at its finest tolerance.

use fndm_solver::{Grid, NoiseSchedule, SolverConfig};
use serde_json::Value;

use crate::by_time::by_time;
use crate::case::{Case, Read};
use crate::common::{Golden, Tally, distance};
use crate::{AnyResult, has_inputs, stretched_schedule};

/// Nearer than this nothing is compared.
const TOLERANCE: f64 = 1e-8;

struct Truth<'a> {
    key: &'a str,
    schedule: NoiseSchedule,
    dim: usize,
    sampling: bool,
    span: (f64, f64),
}

fn read<'a>(golden: &Golden, case: &'a Value, tally: &mut Tally) -> Read<Truth<'a>> {
    let case = Case::new(case)?;
    let key = case.text("key")?;
    let name = case.text("schedule")?;
    let time = |key: &str| case.real(key)?.ok_or_else(|| format!("no {key}"));
    let truth = Truth {
        key,
        schedule: stretched_schedule(golden, name).map_err(|e| format!("{name}: {e}"))?,
        dim: case.number("dim")?,
        sampling: match case.text("direction")? {
            "sample" => true,
            "inverse" => false,
            other => return Err(format!("direction {other}")),
        },
        span: (time("t_from")?, time("t_to")?),
    };
    let start = if truth.sampling { "noise" } else { "data" };
    has_inputs(
        golden,
        "ode_truth",
        truth.dim,
        &format!("d{}.{start}", truth.dim),
    )?;
    if golden.find("ode_truth", key).is_none() {
        return Err("the set has no result of it".into());
    }
    let lambdas = [case.real("lambda_from")?, case.real("lambda_to")?];
    let unsure = case.real_or("difference_to_a_coarser_tolerance", 0.0)?;
    case.all_used()?;
    if unsure > 0.1 * TOLERANCE {
        return Err(format!("the truth is unsure by {unsure:.1e}"));
    }
    for (t, want) in [truth.span.0, truth.span.1].into_iter().zip(lambdas) {
        if let Some(want) = want {
            let error = (truth.schedule.lambda(t) - want).abs();
            tally.compare(key, &format!("lambda at {t}"), error, 1e-9);
        }
    }
    Ok(truth)
}

#[test]
fn ends() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("ode_truth") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("ode_truth") {
        let truth = match read(&golden, &case, &mut tally) {
            Ok(truth) => truth,
            Err(reason) => {
                tally.leave_out(&case["key"].to_string(), &reason);
                continue;
            }
        };
        let (schedule, dim) = (&truth.schedule, truth.dim);
        let mixture = golden.mixture(dim);
        let config = SolverConfig {
            grid: Grid::UniformLambda,
            ..SolverConfig::uni_pc(3, 1500)
        };
        let span = truth.span.0..=truth.span.1;
        let solver = if truth.sampling {
            config.sample(schedule, span)?
        } else {
            config.encode(schedule, span)?
        };
        let start = if truth.sampling { "noise" } else { "data" };
        let start = golden.get("inputs", &format!("d{dim}.{start}")).tensor();
        let end = solver.run(
            &start,
            by_time(|x, m, _| {
                let t = schedule.time_of_model_time(m);
                mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
            }),
        )?;
        let error = distance(&end, golden.get("ode_truth", truth.key));
        tally.compare(truth.key, "end", error, TOLERANCE);
    }
    tally.finish("ODE truth");
    Ok(())
}
