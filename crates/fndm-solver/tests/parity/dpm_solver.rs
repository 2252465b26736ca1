//! dpm-solver's runs: both algorithms, orders and methods, all its models, both directions.

use candle_core::Tensor;
use fndm_solver::{
    Algorithm, Clip, Error, Guidance, LowerOrderFinal, Method, NoiseSchedule, Prediction,
    SecondOrder, SolverConfig, ThirdOrder,
};
use serde_json::Value;

use crate::common::{Golden, Mixture, Tally, distance, flag, largest, number, text};
use crate::schedules::grid_of;
use crate::{AnyResult, stretched_schedule, trajectory};

type Model<'a> = Box<dyn FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor> + 'a>;

/// The model of a dpm-solver case: a closure on the schedule that it is solved on.
fn dpm_model<'a>(
    case: &Value,
    mixture: Mixture,
    schedule: &'a NoiseSchedule,
) -> (Prediction, Model<'a>) {
    let at = move |m: f64| {
        let t = schedule.time_of_model_time(m);
        (schedule.alpha(t), schedule.sigma(t))
    };
    let scale = case["guidance_scale"].as_f64().unwrap_or(0.0);
    let class: Vec<usize> = case["class_components"]
        .as_array()
        .map(|a| {
            a.iter()
                .filter_map(Value::as_u64)
                .map(|k| k as usize)
                .collect()
        })
        .unwrap_or_default();
    let noise = {
        let mixture = mixture.clone();
        move |x: &Tensor, m: f64, _: usize| {
            let (a, s) = at(m);
            mixture.noise(x, a, s)
        }
    };
    match text(case, "model") {
        "noise" => (Prediction::Noise, Box::new(noise)),
        "x_start" => (
            Prediction::X0,
            Box::new(move |x, m, _| {
                let (a, s) = at(m);
                (x - (mixture.noise(x, a, s)? * s)?)? / a
            }),
        ),
        "v" => (
            Prediction::V,
            Box::new(move |x, m, _| {
                let (a, s) = at(m);
                let eps = mixture.noise(x, a, s)?;
                let x0 = ((x - (&eps * s)?)? / a)?;
                (eps * a)? - (x0 * s)?
            }),
        ),
        "score" => (
            Prediction::Score,
            Box::new(move |x, m, _| {
                let (a, s) = at(m);
                mixture.noise(x, a, s)? * (-1.0 / s)
            }),
        ),
        "classifier" => {
            let part = mixture.part(&class);
            // ln p(class | x) = ln p(x | class) - ln p(x) + constant, and a score is -noise / sigma.
            let gradient = move |x: &Tensor, m: f64, _: usize| {
                let (a, s) = at(m);
                (mixture.noise(x, a, s)? - part.noise(x, a, s)?)? / s
            };
            (
                Prediction::Noise,
                Box::new(Guidance { scale }.compose(schedule, noise, gradient)),
            )
        }
        "classifier-free" => {
            let part = mixture.part(&class);
            (
                Prediction::Noise,
                Box::new(move |x, m, _| {
                    let (a, s) = at(m);
                    let (all, cond) = (mixture.noise(x, a, s)?, part.noise(x, a, s)?);
                    (&all + ((&cond - &all)? * scale)?)?.contiguous()
                }),
            )
        }
        other => panic!("unknown model {other}"),
    }
}

#[test]
fn runs() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("dpm_solver") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("dpm_solver") {
        let id = text(&case, "id");
        if let Some(error) = case.get("raises").and_then(Value::as_str) {
            tally.leave_out(id, &format!("the peer fails: {error}"));
            continue;
        }
        let schedule = stretched_schedule(&golden, text(&case, "schedule"))?;
        let (prediction, model) = dpm_model(&case, golden.mixture(number(&case, "dim")), &schedule);
        let clip = match case["dynamic_thresholding"].as_object() {
            Some(o) => Clip::Dynamic {
                ratio: o["ratio"].as_f64().expect("a ratio"),
                least: o["max_val"].as_f64().expect("a bound"),
                most: None,
            },
            None => Clip::None,
        };
        let config = SolverConfig {
            algorithm: match text(&case, "algorithm") {
                "dpmsolver++" => Algorithm::DpmSolverPlusPlus,
                "dpmsolver" => Algorithm::DpmSolver,
                other => panic!("unknown algorithm {other}"),
            },
            order: number(&case, "order"),
            method: match text(&case, "method") {
                "multistep" => Method::Multistep,
                "singlestep" => Method::Singlestep,
                "singlestep_fixed" => Method::SinglestepFixed,
                other => panic!("unknown method {other}"),
            },
            grid: grid_of(text(&case, "skip_type")),
            steps: number(&case, "steps"),
            lower_order_final: if flag(&case, "lower_order_final") {
                LowerOrderFinal::Below(10)
            } else {
                LowerOrderFinal::Never
            },
            prediction,
            second_order: if text(&case, "solver_type") == "taylor" {
                SecondOrder::Taylor
            } else {
                SecondOrder::Midpoint
            },
            third_order: ThirdOrder::Peers,
            clip,
            denoise_to_zero: flag(&case, "denoise_to_zero"),
            ..SolverConfig::default()
        };
        let time = |key: &str, otherwise: f64| case[key].as_f64().unwrap_or(otherwise);
        let solver = if text(&case, "direction") == "sample" {
            config.sample(
                &schedule,
                time("t_end", schedule.t_min())..=time("t_start", schedule.t_max()),
            )?
        } else {
            match config.encode(
                &schedule,
                time("t_start", schedule.t_min())..=time("t_end", schedule.t_max()),
            ) {
                Err(Error::EncodingOnlySampling { field }) => {
                    tally.leave_out(id, &format!("{field} while encoding is an error here"));
                    continue;
                }
                other => other?,
            }
        };
        let start = golden.get("inputs", text(&case, "start")).tensor();
        let states = trajectory(&solver, &start, model)?;
        let want = golden.get("dpm_solver", &format!("{id}.x"));
        let end = states.last().expect("a state");
        let error = distance(end, want) / largest(want).max(1.0);
        tally.compare(id, "end", error, 1e-9);
        if let Some(want) = golden.find("dpm_solver", &format!("{id}.trajectory")) {
            // The trajectory of a singlestep run lacks the start.
            let skipped = usize::from(text(&case, "method") != "multistep");
            tally.compare_states(id, &states[skipped..], want, 1e-9);
        }
    }
    tally.finish("dpm-solver");
    Ok(())
}
