//! Runs of a thousand steps: diffusers in float32, diffusers with every float32 in its text made float64, and this crate.
//!
//! `tests/precision` holds the peer's ends of 1000 steps of its multistep scheduler and its inverse, linear betas, on the
//! mixture of the reference data. See its README.

#[path = "common/by_time.rs"]
mod by_time;
mod common;

use std::collections::HashMap;
use std::path::Path;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use common::{Array, Mixture, array, distance};
use fndm_solver::{
    Grid, LowerOrderFinal, NoiseSchedule, ScheduleConfig, Solver, SolverConfig, ThirdOrder,
};
use serde_json::Value;

type AnyResult = Result<(), Box<dyn std::error::Error>>;

struct Peer {
    mixture: Mixture,
    arrays: HashMap<String, Array>,
    cases: Vec<Value>,
}

fn peer() -> Result<Peer, Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/precision");
    let cases = std::fs::read_to_string(folder.join("precision.json"))?;
    let tensors =
        candle_core::safetensors::load(folder.join("precision.safetensors"), &Device::Cpu)?;
    let arrays: HashMap<String, Array> = tensors
        .into_iter()
        .map(|(name, t)| Ok((name, array(&t.to_dtype(DType::F64)?))))
        .collect::<candle_core::Result<_>>()?;
    let mu = &arrays["d2.mu"];
    let mixture = Mixture {
        w: arrays["d2.w"].values.clone(),
        mu: (0..mu.shape[0]).map(|k| mu.entry(k).values).collect(),
        var: arrays["d2.var"].values.clone(),
    };
    Ok(Peer {
        mixture,
        arrays,
        cases: serde_json::from_str(&cases)?,
    })
}

/// The end of a run whose evaluation `i` asks the network at the training index `labels[i]`.
fn end(
    solver: &Solver,
    start: &Tensor,
    mixture: &Mixture,
    schedule: &NoiseSchedule,
    labels: Option<&[f64]>,
) -> fndm_solver::Result<Tensor> {
    solver.run(
        start,
        by_time(|x, model_time, i| {
            let label = labels.map_or(model_time, |l| l[i]);
            let t = schedule.time_of_model_time(label);
            mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
        }),
    )
}

#[test]
fn the_peer_in_double_precision_agrees() -> AnyResult {
    let peer = peer()?;
    let schedule = ScheduleConfig::linear(1000).build()?;
    println!(
        "{:<34} {:>5} {:>12} {:>12} {:>12} | from the flow: {:>9} {:>9}",
        "run", "order", "f32 - f64", "ours - f64", "ours in f32", "the peer", "ours"
    );
    for case in &peer.cases {
        let get =
            |what: &str| &peer.arrays[&format!("{}.{what}", case["id"].as_str().unwrap_or("?"))];
        let inverse = case["scheduler"]
            .as_str()
            .is_some_and(|s| s.contains("Inverse"));
        let order = case["order"].as_u64().ok_or("an order")? as usize;
        let labels = &get("timesteps").values;
        let sigmas = &get("sigmas").values[..=labels.len()];
        let start = peer.arrays[case["start"].as_str().ok_or("a start")?].tensor();
        let times: Vec<f64> = sigmas
            .iter()
            .map(|s| schedule.lambda_inverse(-s.ln()).max(0.0))
            .collect();
        // A step without length is none, and its label isn't asked at.
        let (mut own_times, mut asked) = (vec![times[0]], Vec::new());
        for (pair, &label) in times.windows(2).zip(labels) {
            if (pair[0] - pair[1]).abs() > 1e-9 {
                own_times.push(pair[1]);
                asked.push(label);
            }
        }
        let solver = |config: SolverConfig, times: &[f64]| {
            let span = times[0]..=times[times.len() - 1];
            if inverse {
                config.encode(&schedule, span)
            } else {
                config.sample(&schedule, span)
            }
        };
        let base = SolverConfig {
            third_order: ThirdOrder::Peers,
            lower_order_final: LowerOrderFinal::Never,
            grid: Grid::Explicit(own_times.clone()),
            ..SolverConfig::dpm_solver_pp(order, own_times.len() - 1)
        };
        let same = solver(base.clone(), &own_times)?;
        let ours = end(&same, &start, &peer.mixture, &schedule, Some(&asked))?;
        let narrow = end(
            &same,
            &start.to_dtype(DType::F32)?,
            &peer.mixture,
            &schedule,
            Some(&asked),
        )?;
        let (double, single) = (get("double"), get("single"));

        // The flow itself, between the same times, and ours with the network asked where its state is.
        let fine = SolverConfig {
            grid: Grid::UniformTime,
            ..SolverConfig::uni_pc(3, 5_000)
        };
        let fine = solver(fine, &own_times)?;
        let truth = array(&end(&fine, &start, &peer.mixture, &schedule, None)?);
        let aligned = end(&same, &start, &peer.mixture, &schedule, None)?;

        let rounding = distance(&single.tensor(), double);
        let error = distance(&ours, double);
        let by_narrow = distance(&narrow, &array(&ours));
        let (theirs, own) = (
            distance(&double.tensor(), &truth),
            distance(&aligned, &truth),
        );
        println!(
            "{:<34} {order:>5} {rounding:>12.1e} {error:>12.1e} {by_narrow:>12.1e} | {:>24.1e} {own:>9.1e}",
            format!(
                "{} {}",
                if inverse { "encoding" } else { "sampling" },
                case["spacing"].as_str().unwrap_or("?")
            ),
            theirs
        );
        // In double precision both are one.
        assert!(error < 1e-9, "{case}: {error:e}");
        // What is left is the float32 of the peer, and ours is as good or better.
        assert!(
            rounding < 1e-4 && by_narrow < 1e-4,
            "{case}: {rounding:e}, {by_narrow:e}"
        );
        // Asking where the state is never takes the run further from the flow.
        assert!(
            own <= theirs * 1.01 + 1e-9,
            "{case}: {own:e}, the peer {theirs:e}"
        );
    }
    Ok(())
}
