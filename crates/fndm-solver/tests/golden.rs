//! Every case of the reference data: other people's programs run on a model whose exact answer is known.

mod common;

use candle_core::Tensor;
use common::{Array, Golden, Mixture, Tally, distance, flag, largest, number, text};
use fndm_solver::{
    Algorithm, Clip, Error, Grid, Guidance, LowerOrderFinal, Method, NoiseSchedule, Prediction,
    Respacing, ScheduleConfig, SecondOrder, Solver, SolverConfig, ThirdOrder,
};
use serde_json::Value;

type AnyResult = Result<(), Box<dyn std::error::Error>>;

/// The schedule as dpm-solver has it: entries that it clips are cut off and time is stretched over the rest, which is
/// the same as a schedule of fewer betas. (Ours clips without stretching; see `clipping_leaves_time_alone`.)
fn stretched_schedule(golden: &Golden, name: &str) -> fndm_solver::Result<NoiseSchedule> {
    let Some(betas) = golden.find("schedules", &format!("{name}.betas")) else {
        return NoiseSchedule::continuous_linear(0.1, 20.0, 1000);
    };
    let kept = golden
        .get("schedules", &format!("{name}.t_array"))
        .values
        .len();
    ScheduleConfig::Betas {
        betas: betas.values[..kept].to_vec(),
    }
    .build()
}

fn full_schedule(golden: &Golden, name: &str) -> fndm_solver::Result<NoiseSchedule> {
    NoiseSchedule::from_betas(&golden.get("schedules", &format!("{name}.betas")).values)
}

#[test]
fn schedules() -> AnyResult {
    let golden = Golden::load();
    let mut tally = Tally::default();
    let names: Vec<String> = golden.manifest["schedules"]
        .as_object()
        .map(|o| o.keys().cloned().collect())
        .unwrap_or_default();
    for name in names {
        let ours = stretched_schedule(&golden, &name)?;
        let get = |n: &str| golden.find("schedules", &format!("{name}.{n}"));
        // The betas themselves, from their formula.
        if let Some(betas) = get("betas") {
            let config = match name.as_str() {
                "linear" => Some(ScheduleConfig::linear(betas.values.len())),
                "cosine" => Some(ScheduleConfig::cosine(betas.values.len())),
                _ => None,
            };
            if let Some(config) = config {
                let whole = config.build()?;
                let (mut product, mut worst) = (1.0, 0f64);
                for (i, beta) in betas.values.iter().enumerate() {
                    product *= 1.0 - beta;
                    worst = worst.max((whole.alpha_of_index(i).powi(2) - product).abs());
                }
                tally.compare(&format!("{name}.betas"), worst, 1e-10);
            }
            let whole = full_schedule(&golden, &name)?;
            if let Some(cumprod) = get("gd_alphas_cumprod") {
                for (i, &a) in cumprod.values.iter().enumerate() {
                    let error = (whole.alpha_of_index(i).powi(2) - a).abs() / a.max(1e-3);
                    tally.compare(&format!("{name}.gd_alphas_cumprod[{i}]"), error, 1e-10);
                }
            }
        }
        if let (Some(t), Some(l)) = (get("t_array"), get("log_alpha_array")) {
            for (i, (&t, &l)) in t.values.iter().zip(&l.values).enumerate() {
                tally.compare(
                    &format!("{name}.log_alpha_array[{i}]"),
                    (ours.log_alpha(t) - l).abs(),
                    1e-10,
                );
            }
        }
        let times = &get("t").expect("a time grid").values;
        let continuous = get("t_array").is_none();
        for (i, &t) in times.iter().enumerate() {
            let id = format!("{name} at t = {t}");
            // At 1/T and above. The peer goes on with its first straight line below, past alpha = 1 into NaN;
            // ours runs to alpha = 1 at t = 0.
            if t < ours.t_min() && !continuous {
                tally.leave_out(
                    &id,
                    "below the first training step the peer extrapolates past alpha = 1",
                );
                continue;
            }
            for (what, value) in [
                ("log_alpha", ours.log_alpha(t)),
                ("alpha", ours.alpha(t)),
                ("std", ours.sigma(t)),
                ("lambda", ours.lambda(t)),
            ] {
                let want = get(what).expect("a schedule function").values[i];
                tally.compare(
                    &format!("{id}: {what}"),
                    (value - want).abs() / want.abs().max(1.0),
                    1e-10,
                );
            }
            let want = get("inverse_of_lambda").expect("an inverse").values[i];
            // The peer goes back through its own rounded lambda, so the inverse is compared at that lambda.
            let lambda = get("lambda").expect("lambda").values[i];
            tally.compare(
                &format!("{id}: inverse"),
                (ours.lambda_inverse(lambda) - want).abs(),
                1e-10,
            );
        }
        let lambdas = &get("lambda_grid").expect("a lambda grid").values;
        for (&l, &want) in lambdas
            .iter()
            .zip(&get("t_of_lambda_grid").expect("its times").values)
        {
            let id = format!("{name} at lambda = {l}");
            if want < ours.t_min() - 1e-9 && !continuous {
                tally.leave_out(
                    &id,
                    "below the first training step the peer extrapolates past alpha = 1",
                );
                continue;
            }
            tally.compare(&id, (ours.lambda_inverse(l) - want).abs(), 1e-10);
        }
    }
    tally.finish("schedules");
    Ok(())
}

fn grid_of(skip: &str) -> Grid {
    match skip {
        "logSNR" => Grid::UniformLambda,
        "time_uniform" => Grid::UniformTime,
        "time_quadratic" => Grid::QuadraticTime,
        other => panic!("unknown skip type {other}"),
    }
}

#[test]
fn time_grids() -> AnyResult {
    let golden = Golden::load();
    let mut tally = Tally::default();
    for (key, want) in golden.file("time_grids") {
        let parts: Vec<&str> = key.split('.').collect();
        let schedule = stretched_schedule(&golden, parts[0])?;
        let steps: usize = parts[2].parse()?;
        let base = SolverConfig {
            grid: grid_of(parts[1]),
            ..SolverConfig::dpm_solver_pp(1, steps)
        };
        let solver = match (parts[3], parts.get(4).copied()) {
            ("sample", _) => base.sample(&schedule, schedule.span())?,
            ("inverse", _) => base.encode(&schedule, schedule.span())?,
            (single, what) => {
                let order: usize = single.trim_start_matches("singlestep").parse()?;
                let solver = SolverConfig {
                    method: Method::Singlestep,
                    order,
                    ..base
                }
                .sample(&schedule, schedule.span())?;
                if what == Some("orders") {
                    assert_eq!(
                        solver.evaluations(),
                        want.values.iter().sum::<f64>() as usize,
                        "{key}"
                    );
                    tally.compare(
                        key,
                        (solver.times().len() as f64 - 1.0 - want.values.len() as f64).abs(),
                        0.0,
                    );
                    continue;
                }
                solver
            }
        };
        assert_eq!(solver.times().len(), want.values.len(), "{key}");
        let error = solver
            .times()
            .iter()
            .zip(&want.values)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        tally.compare(key, error, 1e-10);
    }
    tally.finish("time grids");
    Ok(())
}

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

/// Runs a solver and returns the state after every step, the start first.
fn trajectory(
    solver: &Solver,
    start: &Tensor,
    mut model: impl FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor>,
) -> fndm_solver::Result<Vec<Tensor>> {
    let mut states = vec![start.clone()];
    let mut stepper = solver.stepper(start)?;
    let mut asked = 0;
    while let Some(query) = stepper.query() {
        let output = model(query.x, query.model_time, query.evaluation)?;
        asked += 1;
        stepper.advance(&output)?;
        if stepper.steps_done() == states.len() {
            states.push(stepper.x().clone());
        }
    }
    assert_eq!(
        asked,
        solver.evaluations(),
        "evaluations asked for before the run"
    );
    Ok(states)
}

#[test]
fn dpm_solver() -> AnyResult {
    let golden = Golden::load();
    let mut tally = Tally::default();
    for case in golden.cases("dpm_solver") {
        let id = text(&case, "id");
        let schedule = stretched_schedule(&golden, text(&case, "schedule"))?;
        let (prediction, model) = dpm_model(&case, golden.mixture(number(&case, "dim")), &schedule);
        let clip = match case["dynamic_thresholding"].as_object() {
            Some(o) => Clip::Dynamic {
                ratio: o["ratio"].as_f64().expect("a ratio"),
                max: o["max_val"].as_f64().expect("a bound"),
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
        tally.compare(
            id,
            distance(states.last().expect("a state"), want) / largest(want).max(1.0),
            1e-9,
        );
        if let Some(want) = golden.find("dpm_solver", &format!("{id}.trajectory")) {
            let skipped = usize::from(text(&case, "method") != "multistep");
            assert_eq!(states.len(), want.shape[0] + skipped, "{id}");
            for (i, state) in states[skipped..].iter().enumerate() {
                let want = want.entry(i);
                tally.compare(
                    &format!("{id} step {i}"),
                    distance(state, &want) / largest(&want).max(1.0),
                    1e-9,
                );
            }
        }
    }
    tally.finish("dpm-solver");
    Ok(())
}

#[test]
fn ode_truth() -> AnyResult {
    let golden = Golden::load();
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
        tally.compare(key, distance(&end, golden.get("ode_truth", key)), 1e-8);
    }
    tally.finish("ODE truth");
    Ok(())
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

#[test]
fn diffusers() -> AnyResult {
    let golden = Golden::load();
    let mut tally = Tally::default();
    for case in golden.cases("diffusers") {
        let id = text(&case, "id");
        if let Some(error) = case.get("raises").and_then(Value::as_str) {
            tally.leave_out(id, &format!("the peer fails: {error}"));
            continue;
        }
        let options = &case["config"];
        let on = |key: &str| options[key].as_bool();
        let inverse = text(&case, "scheduler").contains("Inverse");
        let labels = golden
            .get("diffusers", &format!("{id}.timesteps"))
            .values
            .clone();
        let asked = number(&case, "steps");
        if labels.len() != asked {
            tally.leave_out(
                id,
                "the peer drops repeated labels and takes fewer steps than its own sigmas",
            );
            continue;
        }
        let whole = full_schedule(&golden, text(&case, "schedule"))?;
        let schedule = match options["lambda_min_clipped"].as_f64() {
            Some(l) => whole.clone().clipped(l)?,
            None => whole.clone(),
        };
        // Karras and uniform-lambda spacing cover the whole schedule, whatever is clipped.
        let spread = if on("use_karras_sigmas") == Some(true) {
            Some(Grid::karras())
        } else if on("use_lu_lambdas") == Some(true) {
            Some(Grid::UniformLambda)
        } else {
            None
        };
        let own_spread = spread.is_some();
        let mut times = match spread {
            Some(grid) => {
                let config = SolverConfig {
                    grid,
                    ..SolverConfig::ddim(asked - 1)
                };
                let solver = if inverse {
                    config.encode(&whole, whole.span())?
                } else {
                    config.sample(&whole, whole.span())?
                };
                solver.times().to_vec()
            }
            None => labels
                .iter()
                .map(|&l| whole.time_of_index(l as usize))
                .collect(),
        };
        // The last time: the noisiest step kept, the first training step, or t = 0.
        if inverse {
            if !own_spread {
                times.push(schedule.t_max());
            }
        } else if options["final_sigmas_type"] == "sigma_min" {
            times.push(whole.t_min());
        } else {
            times.push(0.0);
        }
        // A second copy of the end is a step of length 0, which we drop. The peer spends its final lower order on it.
        let ends_twice =
            inverse && (own_spread || times[times.len() - 1] == times[times.len() - 2]);
        let config = SolverConfig {
            algorithm: if options["algorithm_type"] == "dpmsolver" {
                Algorithm::DpmSolver
            } else {
                Algorithm::DpmSolverPlusPlus
            },
            order: options["solver_order"].as_u64().unwrap_or(2) as usize,
            steps: times.len() - 1,
            lower_order_final: if ends_twice {
                assert_eq!(options["solver_order"], 2, "{id}");
                LowerOrderFinal::Never
            } else if on("euler_at_final") == Some(true) {
                LowerOrderFinal::LastStep
            } else if on("lower_order_final") == Some(false) {
                LowerOrderFinal::Never
            } else {
                LowerOrderFinal::Below(15)
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
            // With a largest value of 1 the peer's dynamic threshold is a plain limit.
            clip: if on("thresholding") == Some(true) {
                assert_eq!(options["sample_max_value"].as_f64(), Some(1.0), "{id}");
                Clip::Static { max: 1.0 }
            } else {
                Clip::None
            },
            grid: Grid::Explicit(times.clone()),
            ..SolverConfig::default()
        };
        let span = times[0]..=times[times.len() - 1];
        let solver = if inverse {
            config.encode(&whole, span)?
        } else {
            config.sample(&whole, span)?
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
        let want = golden.get("diffusers", &format!("{id}.trajectory"));
        let start = start_of(&golden, "diffusers", &case);
        let start = start.tensor().reshape(want.shape[1..].to_vec())?;
        let states = trajectory(&solver, &start, model)?;
        let scale = largest(want).max(1.0);
        for (i, state) in states.iter().enumerate() {
            tally.compare(
                &format!("{id} step {i}"),
                distance(state, &want.entry(i)) / scale,
                1e-3,
            );
        }
        if inverse && own_spread {
            tally.compare(
                &format!("{id} last"),
                distance(states.last().expect("a state"), &want.last()) / scale,
                1e-3,
            );
        }
    }
    tally.finish("diffusers");
    Ok(())
}

#[test]
fn guided_diffusion_ddim() -> AnyResult {
    let golden = Golden::load();
    let mut tally = Tally::default();
    for case in golden.cases("guided_ddim") {
        let id = text(&case, "id");
        let schedule = full_schedule(&golden, text(&case, "schedule"))?;
        let labels = golden
            .get("guided_ddim", &format!("{id}.labels"))
            .values
            .clone();
        // The labels themselves come from the respacing.
        let spec = match &case["respacing"] {
            Value::String(s) => s.parse::<Respacing>()?,
            Value::Array(a) => Respacing::Sections(
                a.iter()
                    .filter_map(Value::as_u64)
                    .map(|n| n as usize)
                    .collect(),
            ),
            other => panic!("unknown respacing {other}"),
        };
        let mut ours: Vec<f64> = spec
            .indices(schedule.steps())?
            .iter()
            .map(|&i| i as f64)
            .collect();
        let reverse = text(&case, "direction") == "reverse";
        if !reverse {
            ours.reverse();
        }
        assert_eq!(ours, labels, "{id}");
        let mut times: Vec<f64> = labels
            .iter()
            .map(|&l| schedule.time_of_index(l as usize))
            .collect();
        if !reverse {
            times.push(0.0);
        }
        let clip = if flag(&case, "clip_denoised") {
            Clip::Static { max: 1.0 }
        } else {
            Clip::None
        };
        let noisiest = schedule.alpha(times[0].max(times[times.len() - 1]));
        let rounding = f64::from(f32::EPSILON) / noisiest;
        if text(&case, "x_dtype") == "float32" && rounding > 1e-4 {
            let reason = format!(
                "the peer divides by alpha = {noisiest:.1e} in float32, which alone is off by {rounding:.1e}"
            );
            tally.leave_out(id, &reason);
            continue;
        }
        let config = SolverConfig {
            clip,
            encode_to_noise: reverse,
            grid: Grid::Explicit(times.clone()),
            ..SolverConfig::ddim(times.len() - 1)
        };
        let span = times[0]..=times[times.len() - 1];
        let solver = if reverse {
            config.encode(&schedule, span)?
        } else {
            config.sample(&schedule, span)?
        };
        let mixture = golden.mixture(number(&case, "dim"));
        let start = start_of(&golden, "guided_ddim", &case).tensor();
        let states = trajectory(&solver, &start, |x, m, _| {
            let t = schedule.time_of_model_time(m);
            mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
        })?;
        let want = golden.get("guided_ddim", &format!("{id}.x"));
        tally.compare(
            id,
            distance(states.last().expect("a state"), want) / largest(want).max(1.0),
            1e-4,
        );
        if let Some(want) = golden.find("guided_ddim", &format!("{id}.trajectory")) {
            for (i, state) in states[1..].iter().enumerate() {
                let want = want.entry(i);
                tally.compare(
                    &format!("{id} step {i}"),
                    distance(state, &want) / largest(&want).max(1.0),
                    1e-4,
                );
            }
        }
    }
    tally.finish("guided-diffusion DDIM");
    Ok(())
}

#[test]
fn guided_diffusion_respacing() -> AnyResult {
    let golden = Golden::load();
    let mut tally = Tally::default();
    let cases = golden.manifest["space_timesteps"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for (key, case) in cases {
        let (steps, spec) = key.split_once(" / ").expect("steps / spec");
        let ours = spec
            .parse::<Respacing>()
            .and_then(|s| s.indices(steps.parse().expect("a number")));
        let agree = match (case["value"].as_array(), &ours) {
            (Some(want), Ok(ours)) => want
                .iter()
                .filter_map(Value::as_u64)
                .map(|n| n as usize)
                .eq(ours.iter().copied()),
            (None, Err(_)) => true,
            _ => false,
        };
        tally.compare(&key, if agree { 0.0 } else { 1.0 }, 0.0);
    }
    tally.finish("respacing");
    Ok(())
}
