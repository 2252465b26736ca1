//! diffusers' multistep scheduler and its inverse, step by step, in float32 on their side.

use std::cmp::Ordering;

use candle_core::Tensor;
use fndm_solver::{
    Algorithm, Clip, Grid, LowerOrderFinal, NoiseSchedule, Prediction, SecondOrder, SolverConfig,
    ThirdOrder,
};
use serde_json::Value;

use crate::common::{Golden, Tally, number, text};
use crate::{AnyResult, full_schedule, start_of, trajectory};

/// Why a case can't be compared, before anything is run.
fn why_not(case: &Value) -> Option<String> {
    if let Some(error) = case.get("raises").and_then(Value::as_str) {
        return Some(format!("the peer fails: {error}"));
    }
    if case["finite"] == false {
        return Some("the peer's result isn't finite".into());
    }
    let options = &case["config"];
    let asks = |key: &str, text: &str| options[key].as_str().is_some_and(|v| v.starts_with(text));
    if asks("algorithm_type", "sde-") {
        return Some("stochastic: its noise is PyTorch's".into());
    }
    if options["use_flow_sigmas"] == true || asks("prediction_type", "flow") {
        return Some("flow matching has another process than this crate's".into());
    }
    None
}

/// The times of a run by our own means, where we have them: from the peer's integer labels, or by our grids.
fn own_times(
    case: &Value,
    labels: &[f64],
    whole: &NoiseSchedule,
) -> fndm_solver::Result<Option<Vec<f64>>> {
    let options = &case["config"];
    let on = |key: &str| options[key] == true;
    let grid = if on("use_karras_sigmas") {
        Grid::karras()
    } else if on("use_lu_lambdas") || on("use_exponential_sigmas") {
        Grid::UniformLambda
    } else if on("use_beta_sigmas") {
        return Ok(None);
    } else {
        let times = labels.iter().map(|&l| whole.time_of_index(l as usize));
        return Ok(Some(times.collect()));
    };
    let steps = number(case, "steps");
    if steps < 2 {
        return Ok(None);
    }
    let config = SolverConfig {
        grid,
        ..SolverConfig::ddim(steps - 1)
    };
    // The peer spreads them over the whole schedule, whatever is clipped.
    let solver = if text(case, "scheduler").contains("Inverse") {
        config.encode(whole, whole.span())?
    } else {
        config.sample(whole, whole.span())?
    };
    Ok(Some(solver.times().to_vec()))
}

fn config_of(case: &Value, times: &[f64]) -> SolverConfig {
    let options = &case["config"];
    let on = |key: &str, otherwise: bool| options[key].as_bool().unwrap_or(otherwise);
    let steps = times.len() - 1;
    let lowered = on("lower_order_final", true) && steps < 15;
    SolverConfig {
        algorithm: if options["algorithm_type"] == "dpmsolver" {
            Algorithm::DpmSolver
        } else {
            Algorithm::DpmSolverPlusPlus
        },
        order: options["solver_order"].as_u64().unwrap_or(2) as usize,
        steps,
        lower_order_final: if lowered {
            LowerOrderFinal::Always
        } else if on("euler_at_final", false) {
            LowerOrderFinal::LastStep
        } else {
            LowerOrderFinal::Never
        },
        prediction: match options["prediction_type"].as_str() {
            Some("sample") => Prediction::X0,
            Some("v_prediction") => Prediction::V,
            _ => Prediction::Noise,
        },
        second_order: if options["solver_type"] == "heun" {
            SecondOrder::Taylor
        } else {
            SecondOrder::Midpoint
        },
        third_order: ThirdOrder::Peers,
        clip: match (
            on("thresholding", false),
            options["sample_max_value"].as_f64().unwrap_or(1.0),
        ) {
            (false, _) => Clip::None,
            // With a largest value of 1 the peer's dynamic threshold is a plain limit.
            (true, 1.0) => Clip::Static { max: 1.0 },
            (true, most) => Clip::Dynamic {
                ratio: options["dynamic_thresholding_ratio"]
                    .as_f64()
                    .unwrap_or(0.995),
                least: 1.0,
                most: Some(most),
            },
        },
        grid: Grid::Explicit(times.to_vec()),
        ..SolverConfig::default()
    }
}

#[test]
fn runs() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("diffusers") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("diffusers") {
        let id = text(&case, "id");
        if let Some(reason) = why_not(&case) {
            tally.leave_out(id, &reason);
            continue;
        }
        let get = |what: &str| golden.get("diffusers", &format!("{id}.{what}"));
        let whole = full_schedule(&golden, text(&case, "schedule"))?;
        let labels = &get("timesteps").values;
        // The inverse scheduler drops repeated labels, but not their sigmas: its last steps are missing.
        let sigmas = &get("sigmas").values[..=labels.len()];
        let times: Vec<f64> = sigmas
            .iter()
            .map(|s| whole.lambda_inverse(-s.ln()).clamp(0.0, whole.t_max()))
            .collect();
        if labels.len() == number(&case, "steps") {
            // To a tenth of a training step: their float32 betas leave the ends of lambda unsure by 3e-5.
            if let Some(own) = own_times(&case, labels, &whole)? {
                let errors = own.iter().zip(&times).map(|(a, b)| (a - b).abs());
                tally.compare(id, "times", errors.fold(0.0, f64::max), 1e-4);
            }
        }
        let inverse = text(&case, "scheduler").contains("Inverse");
        let order = case["config"]["solver_order"].as_u64().unwrap_or(2);
        let mut config = config_of(&case, &times);
        if times[times.len() - 1] == times[times.len() - 2] {
            // The peer's last step has no length, which we drop, and its lowered order goes there.
            if config.lower_order_final == LowerOrderFinal::Always && order == 3 {
                tally.leave_out(id, "the peer lowers the order of a step without length");
                continue;
            }
            config.lower_order_final = LowerOrderFinal::Never;
        }
        let falls = |w: &[f64]| w[0].partial_cmp(&w[1]) != Some(Ordering::Less);
        let rises = |w: &[f64]| w[0].partial_cmp(&w[1]) != Some(Ordering::Greater);
        let one_way = if inverse {
            times.windows(2).all(rises)
        } else {
            times.windows(2).all(falls)
        };
        if !one_way {
            tally.leave_out(id, "the peer's sigmas turn around on the way");
            continue;
        }
        let span = times[0]..=times[times.len() - 1];
        let solver = if inverse {
            config.encode(&whole, span)
        } else {
            config.sample(&whole, span)
        };
        let solver = match solver {
            Err(fndm_solver::Error::EncodingOnlySampling { field }) => {
                tally.leave_out(id, &format!("{field} while encoding is an error here"));
                continue;
            }
            other => other?,
        };
        let mixture = golden.mixture(number(&case, "dim"));
        let prediction = config.prediction;
        let model = |x: &Tensor, _: f64, i: usize| {
            // The model is handed the peer's integer label.
            let t = whole.time_of_index(labels[i] as usize);
            let (a, s) = (whole.alpha(t), whole.sigma(t));
            let eps = mixture.noise(x, a, s)?;
            let x0 = ((x - (&eps * s)?)? / a)?;
            match prediction {
                Prediction::X0 => Ok(x0),
                Prediction::V => (eps * a)? - (x0 * s)?,
                Prediction::Noise | Prediction::Score => Ok(eps),
            }
        };
        let want = get("trajectory");
        let start = start_of(&golden, "diffusers", &case).tensor();
        let start = start.reshape(want.shape[1..].to_vec())?;
        let mut states = trajectory(&solver, &start, model)?;
        // Steps without length, which only the peer takes.
        while let (true, Some(end)) = (states.len() < want.shape[0], states.last()) {
            states.push(end.clone());
        }
        tally.compare_states(id, &states, want, 1e-3);
    }
    tally.finish("diffusers");
    Ok(())
}
