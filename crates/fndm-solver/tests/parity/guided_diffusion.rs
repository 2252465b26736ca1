//! guided-diffusion's DDIM in both directions, its respacing, and DDPM's posterior.

use candle_core::{DType, Device, Tensor};
use fndm_solver::{Clip, Grid, NoiseSchedule, Prediction, Respacing, SolverConfig};
use serde_json::Value;

use crate::by_time::by_time;
use crate::case::{Case, Read};
use crate::common::{Golden, Tally, array, distance, largest};
use crate::{AnyResult, full_schedule, has_inputs, start_of, trajectory};

/// A case as it was read.
struct Setup<'a> {
    id: &'a str,
    schedule: NoiseSchedule,
    dim: usize,
    reverse: bool,
    respacing: Respacing,
    kept: Option<Vec<usize>>,
    clips: bool,
    rescales: bool,
    single: bool,
    raises: Option<&'a str>,
    finite: bool,
    round_trip: Option<f64>,
}

fn respacing_of(value: &Value) -> Read<Respacing> {
    let count = |v: &Value| v.as_u64().map(|n| n as usize);
    match value {
        Value::String(text) => return text.parse::<Respacing>().map_err(|e| e.to_string()),
        Value::Array(counts) => counts
            .iter()
            .map(count)
            .collect::<Option<_>>()
            .map(Respacing::Sections),
        one => count(one).map(|n| Respacing::Sections(vec![n])),
    }
    .ok_or_else(|| format!("respacing {value}"))
}

fn read<'a>(golden: &Golden, case: &'a Value) -> Read<Setup<'a>> {
    let case = Case::new(case)?;
    let setup = Setup {
        id: case.text("id")?,
        schedule: full_schedule(golden, case.text("schedule")?).map_err(|e| e.to_string())?,
        dim: case.number("dim")?,
        reverse: match case.text("direction")? {
            "sample" => false,
            "reverse" => true,
            other => return Err(format!("direction {other}")),
        },
        respacing: respacing_of(case.get("respacing").ok_or("no respacing")?)?,
        kept: case.numbers("kept_timesteps")?,
        clips: case.flag("clip_denoised", false)?,
        rescales: case.flag("rescale_timesteps", false)?,
        single: match case.text_or("x_dtype", "float64")? {
            "float64" => false,
            "float32" => true,
            other => return Err(format!("x_dtype {other}")),
        },
        raises: case.get("raises").map(|v| v.as_str().unwrap_or("an error")),
        finite: case.flag("finite", true)?,
        round_trip: case.real("round_trip_max_error")?,
    };
    has_inputs(golden, "guided_ddim", setup.dim, case.text("start")?)?;
    if case.real_or("eta", 0.0)? != 0.0 {
        return Err("stochastic: its noise is PyTorch's".into());
    }
    case.all_used()?;
    Ok(setup)
}

impl Setup<'_> {
    /// The training steps that are visited, in the order of the run.
    fn indices(&self) -> fndm_solver::Result<Vec<usize>> {
        let mut indices = self.respacing.indices(self.schedule.steps())?;
        if !self.reverse {
            indices.reverse();
        }
        Ok(indices)
    }

    fn states(&self, golden: &Golden, case: &Value) -> fndm_solver::Result<Vec<Tensor>> {
        let schedule = &self.schedule;
        let mut times: Vec<f64> = self
            .indices()?
            .iter()
            .map(|&i| schedule.time_of_index(i))
            .collect();
        if !self.reverse {
            times.push(0.0);
        }
        let config = SolverConfig {
            clip: if self.clips {
                Clip::Static { max: 1.0 }
            } else {
                Clip::None
            },
            encode_to_noise: self.reverse,
            grid: Grid::Explicit(times.clone()),
            ..SolverConfig::ddim(times.len() - 1)
        };
        let span = times[0]..=times[times.len() - 1];
        let solver = if self.reverse {
            config.encode(schedule, span)?
        } else {
            config.sample(schedule, span)?
        };
        let mixture = golden.mixture(self.dim);
        let start = start_of(golden, "guided_ddim", case).tensor();
        trajectory(
            &solver,
            &start,
            by_time(|x, m, _| {
                let t = schedule.time_of_model_time(m);
                mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
            }),
        )
    }
}

#[test]
fn ddim() -> AnyResult {
    let golden = Golden::load();
    if golden.lacks("guided_ddim") {
        return Ok(());
    }
    let mut tally = Tally::default();
    for case in golden.cases("guided_ddim") {
        let setup = match read(&golden, &case) {
            Ok(setup) => setup,
            Err(reason) => {
                tally.leave_out(
                    case["id"].as_str().unwrap_or("a case without a name"),
                    &reason,
                );
                continue;
            }
        };
        let (id, schedule) = (setup.id, &setup.schedule);
        if setup.raises.is_some() || !setup.finite {
            let peer = setup.raises.unwrap_or("a result that isn't finite");
            tally.peer_failed(id, peer, setup.states(&golden, &case));
            continue;
        }
        let ours = match setup.indices() {
            Ok(indices) => indices,
            Err(error) => {
                tally.fail(id, &format!("the peer has a result, ours is {error}"));
                continue;
            }
        };
        if let Some(kept) = &setup.kept {
            let mut rising = ours.clone();
            rising.sort_unstable();
            if *kept != rising {
                tally.fail(id, &format!("kept_timesteps {kept:?}, ours {rising:?}"));
                continue;
            }
        }
        if let Some(labels) = golden.find("guided_ddim", &format!("{id}.labels")) {
            // What the model is given is scaled to 0..1000 where the case says so.
            let scale = if setup.rescales {
                1000.0 / schedule.steps() as f64
            } else {
                1.0
            };
            if ours.len() != labels.values.len() {
                tally.fail(id, &format!("labels {:?}, ours {ours:?}", labels.values));
                continue;
            }
            let errors = ours
                .iter()
                .zip(&labels.values)
                .map(|(&a, b)| (a as f64 * scale - b).abs());
            tally.compare(id, "labels", errors.fold(0.0, f64::max), 1e-4);
        }
        let noisiest = ours
            .iter()
            .map(|&i| schedule.alpha_of_index(i))
            .fold(1.0, f64::min);
        let rounding = f64::from(f32::EPSILON) / noisiest;
        if setup.single && rounding > 1e-4 {
            let reason = format!(
                "the peer divides by alpha = {noisiest:.1e} in float32, which alone is off by {rounding:.1e}"
            );
            tally.leave_out(id, &reason);
            continue;
        }
        let Some(want) = golden.find("guided_ddim", &format!("{id}.x")) else {
            tally.leave_out(id, "the set has no result of it");
            continue;
        };
        let states = setup.states(&golden, &case)?;
        let end = states.last().expect("a state");
        let error = distance(end, want) / largest(want).max(1.0);
        tally.compare(id, "end", error, 1e-4);
        if let Some(stated) = setup.round_trip {
            let data = golden.get("inputs", &format!("d{}.data", setup.dim));
            let error = (distance(end, data) - stated).abs() / largest(data).max(1.0);
            tally.compare(id, "round trip", error, 1e-4);
        }
        if let Some(want) = golden.find("guided_ddim", &format!("{id}.trajectory")) {
            tally.compare_states(id, &states[1..], want, 1e-4);
        }
    }
    tally.finish("guided-diffusion DDIM");
    Ok(())
}

/// What the peer makes of a respacing: its steps, or nothing where it fails.
fn kept_by_peer(case: &Value) -> Read<Option<Vec<usize>>> {
    let case = Case::new(case)?;
    let kept = case.numbers("value")?;
    let fails = case.get("error").is_some() | case.get("raises").is_some();
    case.all_used()?;
    match (kept, fails) {
        (None, false) => Err("neither steps nor an error".into()),
        (Some(_), true) => Err("steps and an error".into()),
        (kept, _) => Ok(kept),
    }
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
        let parts = key
            .split_once(" / ")
            .and_then(|(t, spec)| Some((t.parse().ok()?, spec)));
        let (total, spec): (usize, &str) = match parts {
            Some(parts) => parts,
            None => {
                tally.leave_out(&key, "steps / spec are expected");
                continue;
            }
        };
        let want = match kept_by_peer(&case) {
            Ok(want) => want,
            Err(reason) => {
                tally.leave_out(&key, &reason);
                continue;
            }
        };
        let ours = spec
            .parse::<Respacing>()
            .and_then(|s| s.indices(total))
            .ok();
        if ours != want {
            tally.fail(&key, &format!("{want:?}, ours {ours:?}"));
        } else {
            tally.compare(&key, "indices", 0.0, 0.0);
        }
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
        let mut indices = vec![1, 2, 10, last / 2, last.saturating_sub(1), last];
        indices.retain(|i| (1..=last).contains(i));
        indices.dedup();
        for i in indices {
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
                let end = solver.run(&x, by_time(|x, _, _| x.ones_like()? * x0))?;
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
