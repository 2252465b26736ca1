//! The exact flow, by `SciPy`'s DOP853 at its finest tolerance.

use fndm_solver::{Grid, SolverConfig};

use crate::common::{Golden, Tally, distance, number, text};
use crate::{AnyResult, stretched_schedule};

#[test]
fn ends() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("ode_truth") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("ode_truth") {
        let key = text(&case, "key");
        let dim = number(&case, "dim");
        let mixture = golden.mixture(dim);
        let schedule = stretched_schedule(&golden, text(&case, "schedule"))?;
        let span =
            case["t_from"].as_f64().expect("a time")..=case["t_to"].as_f64().expect("a time");
        let config = SolverConfig {
            grid: Grid::UniformLambda,
            ..SolverConfig::uni_pc(3, 1500)
        };
        let sampling = text(&case, "direction") == "sample";
        let solver = if sampling {
            config.sample(&schedule, span)?
        } else {
            config.encode(&schedule, span)?
        };
        let start = golden
            .get(
                "inputs",
                &format!("d{dim}.{}", if sampling { "noise" } else { "data" }),
            )
            .tensor();
        let end = solver.run(&start, |x, m, _| {
            let t = schedule.time_of_model_time(m);
            mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
        })?;
        let error = distance(&end, golden.get("ode_truth", key));
        tally.compare(key, "end", error, 1e-8);
    }
    tally.finish("ODE truth");
    Ok(())
}
