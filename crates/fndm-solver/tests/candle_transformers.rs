//! The DDIM and `UniPC` schedulers of candle-transformers, in the same process: where they are right, this crate takes the same
//! steps. What they do otherwise is noted at each test.

mod common;

use std::collections::HashSet;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::stable_diffusion::ddim::DDIMSchedulerConfig;
use candle_transformers::models::stable_diffusion::schedulers::{
    BetaSchedule, PredictionType, Scheduler, SchedulerConfig, TimestepSpacing,
};
use candle_transformers::models::stable_diffusion::uni_pc::{
    CorrectorConfiguration, KarrasSigmaSchedule, SigmaSchedule, SolverType, TimestepSchedule,
    UniPCSchedulerConfig,
};
use common::{Mixture, array, distance};
use fndm_solver::{
    Grid, LowerOrderFinal, NoiseSchedule, Prediction, Query, ScheduleConfig, SolverConfig,
    UniPcForm,
};

type AnyResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

const TRAINED: usize = 1000;

/// Both sides compute in f64.
const BOUND: f64 = 1e-11;

fn start() -> Tensor {
    let values = vec![0.75, -0.3, -0.6, 0.45, 0.2, 0.7];
    // `UniPC` of the peer takes four axes.
    Tensor::from_vec(values, (3, 2, 1, 1), &Device::Cpu).unwrap()
}

/// What a network of this kind gives for the mixture.
fn output(x: &Tensor, alpha: f64, sigma: f64, wanted: Prediction) -> candle_core::Result<Tensor> {
    let (noise, x0) = Mixture::example().noise_and_x0(x, alpha, sigma)?;
    let (of_x0, of_noise) = wanted.target_weights(alpha, sigma);
    (x0 * of_x0)? + (noise * of_noise)?
}

/// The states of the peer's run, the start first, on a schedule that is known to be the same.
fn peer(
    mut scheduler: Box<dyn Scheduler>,
    schedule: &NoiseSchedule,
    prediction: Prediction,
) -> candle_core::Result<Vec<Tensor>> {
    let mut states = vec![start()];
    for timestep in scheduler.timesteps().to_vec() {
        let x = &states[states.len() - 1];
        let t = schedule.time_of_index(timestep);
        let output = output(x, schedule.alpha(t), schedule.sigma(t), prediction)?;
        states.push(scheduler.step(&output, timestep, x)?);
    }
    Ok(states)
}

/// Ours, over these training steps.
fn ours(
    config: &SolverConfig,
    schedule: &NoiseSchedule,
    timesteps: &[usize],
) -> fndm_solver::Result<Vec<Tensor>> {
    let times: Vec<f64> = timesteps
        .iter()
        .map(|&i| schedule.time_of_index(i))
        .collect();
    let config = SolverConfig {
        steps: times.len() - 1,
        grid: Grid::Explicit(times.clone()),
        ..config.clone()
    };
    let solver = config.sample(schedule, times[times.len() - 1]..=times[0])?;
    let model = |query: Query<'_>| -> fndm_solver::Result<Tensor> {
        Ok(output(
            query.x,
            query.alpha,
            query.sigma,
            config.prediction,
        )?)
    };
    let mut states = vec![start()];
    for state in solver.trajectory(&states[0], model)? {
        states.push(state?);
    }
    Ok(states)
}

/// The largest difference of all states.
fn worst(a: &[Tensor], b: &[Tensor]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |worst, (a, b)| distance(a, &array(b)).max(worst))
}

/// alpha and sigma of a training step as the peer has them, by its way of adding noise.
fn levels(scheduler: &dyn Scheduler, timestep: usize) -> candle_core::Result<(f64, f64)> {
    let one = Tensor::ones((1, 1, 1, 1), DType::F64, &Device::Cpu)?;
    let zero = one.zeros_like()?;
    let value = |x: Tensor| x.flatten_all()?.get(0)?.to_scalar::<f64>();
    Ok((
        value(scheduler.add_noise(&one, zero.clone(), timestep)?)?,
        value(scheduler.add_noise(&zero, one, timestep)?)?,
    ))
}

const PREDICTIONS: [(PredictionType, Prediction); 3] = [
    (PredictionType::Epsilon, Prediction::Noise),
    (PredictionType::VPrediction, Prediction::V),
    (PredictionType::Sample, Prediction::X0),
];

/// The peer ends at training step 0, which is not the clean image.
#[test]
fn ddim() -> AnyResult {
    let schedules = [
        (
            BetaSchedule::Linear,
            ScheduleConfig::Linear {
                steps: TRAINED,
                beta_start: 1e-4,
                beta_end: 0.02,
            },
        ),
        (
            BetaSchedule::ScaledLinear,
            ScheduleConfig::ScaledLinear {
                steps: TRAINED,
                beta_start: 0.00085,
                beta_end: 0.012,
            },
        ),
    ];
    let mut worst_of_all = 0.0_f64;
    for (beta_schedule, ours_config) in schedules {
        let schedule = ours_config.build()?;
        let (beta_start, beta_end) = match beta_schedule {
            BetaSchedule::Linear => (1e-4, 0.02),
            _ => (0.00085, 0.012),
        };
        for (prediction_type, prediction) in PREDICTIONS {
            for timestep_spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing] {
                for steps in [5, 20, 100] {
                    let config = DDIMSchedulerConfig {
                        beta_schedule,
                        beta_start,
                        beta_end,
                        prediction_type,
                        timestep_spacing,
                        ..DDIMSchedulerConfig::default()
                    };
                    let scheduler = config.build(steps)?;
                    let mut timesteps = scheduler.timesteps().to_vec();
                    for &timestep in [0, 500].iter().chain(&timesteps) {
                        let t = schedule.time_of_index(timestep);
                        let (alpha, sigma) = levels(scheduler.as_ref(), timestep)?;
                        assert!((alpha - schedule.alpha(t)).abs() < BOUND);
                        assert!((sigma - schedule.sigma(t)).abs() < BOUND);
                    }
                    // Where the peer's last step leads.
                    timesteps.push(0);
                    let theirs = peer(scheduler, &schedule, prediction)?;
                    let config = SolverConfig {
                        prediction,
                        ..SolverConfig::ddim(steps)
                    };
                    let error = worst(&ours(&config, &schedule, &timesteps)?, &theirs);
                    assert!(error < BOUND, "{config:?}: {error}");
                    worst_of_all = worst_of_all.max(error);
                }
            }
        }
    }
    println!("DDIM: worst difference of a state {worst_of_all:.1e}");
    Ok(())
}

/// With linspace spacing the peer asks at rounded steps, yet each of its steps goes down by one and the same ratio: it ends a
/// step at another noise level than the next begins with. Single steps are right, and compared.
#[test]
fn ddim_with_linspace_spacing_step_by_step() -> AnyResult {
    let schedule = ScheduleConfig::Linear {
        steps: TRAINED,
        beta_start: 1e-4,
        beta_end: 0.02,
    }
    .build()?;
    let config = DDIMSchedulerConfig {
        beta_schedule: BetaSchedule::Linear,
        beta_start: 1e-4,
        beta_end: 0.02,
        timestep_spacing: TimestepSpacing::Linspace,
        ..DDIMSchedulerConfig::default()
    };
    let (steps, mut apart, mut error) = (12, 0, 0.0_f64);
    let ratio = TRAINED / steps;
    let mut scheduler = config.build(steps)?;
    let timesteps = scheduler.timesteps().to_vec();
    for pair in timesteps.windows(2) {
        let (from, to) = (pair[0], pair[0] - ratio);
        apart += usize::from(to != pair[1]);
        let t = schedule.time_of_index(from);
        let noise = output(
            &start(),
            schedule.alpha(t),
            schedule.sigma(t),
            Prediction::Noise,
        )?;
        let theirs = scheduler.step(&noise, from, &start())?;
        let ours = ours(&SolverConfig::ddim(1), &schedule, &[from, to])?;
        error = error.max(distance(&ours[1], &array(&theirs)));
    }
    assert!(apart > 0, "the peer's steps now join: compare whole runs");
    println!(
        "DDIM, linspace: {apart} steps end beside the next, worst difference of one {error:.1e}"
    );
    assert!(error < BOUND, "{error}");
    Ok(())
}

/// The peer's cosine schedule divides whole numbers: all its betas but the last are 0, so no image is ever noised before the last
/// step. Nothing can be compared with it.
#[test]
fn the_peers_cosine_schedule_is_flat() -> AnyResult {
    let config = DDIMSchedulerConfig {
        beta_schedule: BetaSchedule::SquaredcosCapV2,
        ..DDIMSchedulerConfig::default()
    };
    let scheduler = config.build(10)?;
    for timestep in [0, 500, TRAINED - 2] {
        assert_eq!(levels(scheduler.as_ref(), timestep)?.1, 0.0);
    }
    let schedule = ScheduleConfig::cosine(TRAINED).build()?;
    assert!((schedule.alpha(schedule.time_of_index(500)).powi(2) - 0.49).abs() < 0.01);
    Ok(())
}

/// The schedule of the peer's `UniPC`, which is defined by sigmas alone: alpha^2 = 1 / (1 + sigma^2).
fn karras() -> AnyResult<(UniPCSchedulerConfig, NoiseSchedule)> {
    let sigmas = KarrasSigmaSchedule::default();
    let root = |sigma: f64| sigma.powf(1.0 / sigmas.rho);
    let square = |i: usize| {
        let t = (i + 1) as f64 / TRAINED as f64;
        let sigma =
            root(sigmas.sigma_max) + (1.0 - t) * (root(sigmas.sigma_min) - root(sigmas.sigma_max));
        1.0 / (1.0 + sigma.powf(2.0 * sigmas.rho))
    };
    let betas = (0..TRAINED).map(|i| match i {
        0 => 1.0 - square(0),
        i => 1.0 - square(i) / square(i - 1),
    });
    let schedule = ScheduleConfig::Betas {
        betas: betas.collect(),
    }
    .build()?;
    let config = UniPCSchedulerConfig {
        sigma_schedule: SigmaSchedule::Karras(sigmas),
        timestep_schedule: TimestepSchedule::Linspace,
        corrector: CorrectorConfiguration::Disabled,
        lower_order_final: false,
        ..UniPCSchedulerConfig::default()
    };
    let scheduler = config.build(10)?;
    for timestep in [0, 1, 500, TRAINED - 1] {
        let t = schedule.time_of_index(timestep);
        let (alpha, sigma) = levels(scheduler.as_ref(), timestep)?;
        assert!((alpha - schedule.alpha(t)).abs() < BOUND);
        assert!((sigma - schedule.sigma(t)).abs() < BOUND);
    }
    Ok((config, schedule))
}

fn uni_pc(order: usize, form: UniPcForm, prediction: Prediction) -> SolverConfig {
    SolverConfig {
        uni_pc_form: form,
        lower_order_final: LowerOrderFinal::Never,
        prediction,
        ..SolverConfig::uni_pc(order, 1)
    }
}

fn corrected(
    config: &UniPCSchedulerConfig,
    order: usize,
    form: SolverType,
) -> UniPCSchedulerConfig {
    UniPCSchedulerConfig {
        corrector: CorrectorConfiguration::Enabled {
            skip_steps: HashSet::new(),
        },
        solver_order: order,
        solver_type: form,
        ..config.clone()
    }
}

const FORMS: [(SolverType, UniPcForm); 2] = [
    (SolverType::Bh1, UniPcForm::Bh1),
    (SolverType::Bh2, UniPcForm::Bh2),
];

/// Without its corrector the peer's `UniPC` of order 1 is DDIM; with it, ours of order 1. Its run ends at training step 0, which is
/// asked twice: a step without length, which isn't compared.
#[test]
fn uni_pc_of_order_1() -> AnyResult {
    let (config, schedule) = karras()?;
    let mut worst_of_all = 0.0_f64;
    for (prediction_type, prediction) in PREDICTIONS {
        for steps in [6, 20] {
            let plain = UniPCSchedulerConfig {
                prediction_type,
                solver_order: 1,
                ..config.clone()
            };
            let scheduler = plain.build(steps)?;
            let timesteps = scheduler.timesteps().to_vec();
            let theirs = peer(scheduler, &schedule, prediction)?;
            let ddim = SolverConfig {
                prediction,
                ..SolverConfig::ddim(1)
            };
            let error = worst(&ours(&ddim, &schedule, &timesteps)?, &theirs[..steps]);
            assert!(error < BOUND, "{prediction:?}, {steps} steps: {error}");
            worst_of_all = worst_of_all.max(error);
            for (solver_type, form) in FORMS {
                let theirs = corrected(&plain, 1, solver_type).build(steps)?;
                let theirs = peer(theirs, &schedule, prediction)?;
                let ours = ours(&uni_pc(1, form, prediction), &schedule, &timesteps)?;
                let error = worst(&ours, &theirs[..steps]);
                assert!(error < BOUND, "{form:?}, {prediction:?}, {steps}: {error}");
                worst_of_all = worst_of_all.max(error);
            }
        }
    }
    println!("UniPC of order 1: worst difference of a state {worst_of_all:.1e}");
    Ok(())
}

/// The peer's predictor of order 2 takes the past evaluation for one a step older than it is (`step_index - (i + 1)`, which is right
/// in its corrector; diffusers has `step_index - i` here). Up to its second step there is no older one, so those are right; from
/// the third on it isn't of order 2.
#[test]
fn uni_pc_of_order_2_as_far_as_the_peer_is_right() -> AnyResult {
    let (config, schedule) = karras()?;
    let mut worst_of_all = 0.0_f64;
    for (solver_type, form) in FORMS {
        let theirs = corrected(&config, 2, solver_type).build(10)?;
        let timesteps = theirs.timesteps().to_vec();
        let theirs = peer(theirs, &schedule, Prediction::Noise)?;
        let ours = ours(&uni_pc(2, form, Prediction::Noise), &schedule, &timesteps)?;
        let error = worst(&ours[..3], &theirs[..3]);
        assert!(error < BOUND, "{form:?}: {error}");
        worst_of_all = worst_of_all.max(error);
        let third = distance(&ours[3], &array(&theirs[3]));
        println!("UniPC of order 2, {form:?}: the third step differs by {third:.1e}");
        assert!(
            third > 1e-4,
            "the peer's third step is right now: compare whole runs"
        );
    }
    println!("UniPC of order 2, two steps: worst difference of a state {worst_of_all:.1e}");
    Ok(())
}
