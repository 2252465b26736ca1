//! guided-diffusion's DDIM in both directions, its respacing, and DDPM's posterior.

use candle_core::{DType, Device, Tensor};
use fndm_solver::{Clip, Grid, Prediction, Respacing, SolverConfig};
use serde_json::Value;

use crate::common::{Golden, Tally, array, distance, flag, largest, number, text};
use crate::{AnyResult, full_schedule, start_of, trajectory};

#[test]
fn ddim() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("guided_ddim") {
        return Ok(());
    }
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
        let mut times: Vec<f64> = ours
            .iter()
            .map(|&l| schedule.time_of_index(l as usize))
            .collect();
        // What the model is given is scaled to 0..1000 where the case says so.
        let scale = if flag(&case, "rescale_timesteps") {
            1000.0 / schedule.steps() as f64
        } else {
            1.0
        };
        assert_eq!(ours.len(), labels.len(), "{id}");
        let errors = ours.iter().zip(&labels).map(|(a, b)| (a * scale - b).abs());
        tally.compare(id, "labels", errors.fold(0.0, f64::max), 1e-4);
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
        let end = states.last().expect("a state");
        let error = distance(end, want) / largest(want).max(1.0);
        tally.compare(id, "end", error, 1e-4);
        if let Some(want) = golden.find("guided_ddim", &format!("{id}.trajectory")) {
            tally.compare_states(id, &states[1..], want, 1e-4);
        }
    }
    tally.finish("guided-diffusion DDIM");
    Ok(())
}

#[test]
fn respacing() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("space_timesteps") {
        return Ok(());
    }
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
        tally.compare(&key, "indices", if agree { 0.0 } else { 1.0 }, 0.0);
    }
    tally.finish("respacing");
    Ok(())
}

/// A DDIM step with eta = 1 between neighbours is a draw from the posterior `q(x_(t-1) | x_t, x_0)`.
#[test]
fn posterior() -> AnyResult {
    let golden = Golden::load();
    let part = ".gd_posterior_variance";
    if !golden.file("schedules").keys().any(|k| k.ends_with(part)) {
        println!("SKIPPED: {} has no {part}", golden.folder.display());
        return Ok(());
    }
    let mut tally = Tally::default();
    for (key, coefficients) in golden.file("schedules") {
        let Some(name) = key.strip_suffix(".gd_posterior_mean_coef1") else {
            continue;
        };
        let of = |what: &str| {
            &golden
                .get("schedules", &format!("{name}.gd_posterior_{what}"))
                .values
        };
        let schedule = full_schedule(&golden, name)?;
        let count = 20_000;
        let last = schedule.steps() - 1;
        for i in [1, 2, 10, last / 2, last - 1, last] {
            let times = [i, i - 1].map(|i| schedule.time_of_index(i));
            let config = SolverConfig {
                eta: 1.0,
                prediction: Prediction::X0,
                grid: Grid::Explicit(times.to_vec()),
                ..SolverConfig::ddim(1)
            };
            let solver = config.sample(&schedule, times[1]..=times[0])?;
            // The same noise every time, as the seed is the same.
            let step = |x: f64, x0: f64| -> fndm_solver::Result<Vec<f64>> {
                let x = Tensor::full(x, (1, count), &Device::Cpu)?;
                let end = solver.run(&x, |x, _, _| x.ones_like()? * x0)?;
                assert_eq!(end.dtype(), DType::F64);
                Ok(array(&end).values)
            };
            let noise = step(0.0, 0.0)?;
            let by = |other: Vec<f64>| other[0] - noise[0];
            let id = format!("{name} {i}");
            let error = (by(step(0.0, 1.0)?) - coefficients.values[i]).abs();
            tally.compare(&id, "weight of x0", error, 1e-10);
            let error = (by(step(1.0, 0.0)?) - of("mean_coef2")[i]).abs();
            tally.compare(&id, "weight of x", error, 1e-10);
            // Of so many draws, to five standard deviations.
            let variance = noise.iter().map(|v| v * v).sum::<f64>() / count as f64;
            let error = (variance / of("variance")[i] - 1.0).abs();
            tally.compare(&id, "variance", error, 5.0 * (2.0 / count as f64).sqrt());
        }
    }
    tally.finish("posterior");
    Ok(())
}
