//! Adaptive steps: errors follow the tolerance, and every sample takes its own steps.

#[path = "common/by_time.rs"]
mod by_time;
mod common;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use common::{Mixture, array, distance};
use fndm_solver::{
    AdaptiveConfig, AdaptiveQuery, AdaptiveRun, AdaptiveSolver, Algorithm, Error, Grid,
    NoiseSchedule, ScheduleConfig, SolverConfig,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

const SPAN: std::ops::RangeInclusive<f64> = 0.01..=0.9;

fn schedule() -> NoiseSchedule {
    ScheduleConfig::linear(1000).build().unwrap()
}

/// Four samples; the last is far out, where the flow is simple.
fn start() -> Tensor {
    let values = vec![0.75, -0.3, -0.6, 0.45, 0.2, 0.7, 9.0, -9.0];
    Tensor::from_vec(values, (4, 2), &Device::Cpu).unwrap()
}

/// The exact noise in each sample at its own time.
fn exact(schedule: &NoiseSchedule, query: AdaptiveQuery<'_>) -> candle_core::Result<Tensor> {
    let mixture = Mixture::example();
    let samples = query.model_times.iter().enumerate().map(|(k, &m)| {
        let t = schedule.time_of_model_time(m);
        let x = query.x.narrow(0, k, 1)?.contiguous()?;
        mixture.noise(&x, schedule.alpha(t), schedule.sigma(t))
    });
    Tensor::cat(&samples.collect::<candle_core::Result<Vec<_>>>()?, 0)
}

fn solver(
    config: &AdaptiveConfig,
    schedule: &NoiseSchedule,
    encode: bool,
) -> fndm_solver::Result<AdaptiveSolver> {
    if encode {
        config.encode(schedule, SPAN)
    } else {
        config.sample(schedule, SPAN)
    }
}

fn truth(schedule: &NoiseSchedule, encode: bool) -> fndm_solver::Result<Tensor> {
    let mixture = Mixture::example();
    let config = SolverConfig {
        grid: Grid::UniformLambda,
        ..SolverConfig::uni_pc(3, 2000)
    };
    let fine = if encode {
        config.encode(schedule, SPAN)?
    } else {
        config.sample(schedule, SPAN)?
    };
    fine.run(
        &start(),
        by_time(|x, m, _| {
            let t = schedule.time_of_model_time(m);
            mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
        }),
    )
}

fn every_kind() -> impl Iterator<Item = (bool, AdaptiveConfig)> {
    [false, true].into_iter().flat_map(|encode| {
        [Algorithm::DpmSolver, Algorithm::DpmSolverPlusPlus]
            .into_iter()
            .flat_map(move |algorithm| {
                [2, 3].into_iter().map(move |order| {
                    let config = AdaptiveConfig {
                        algorithm,
                        order,
                        ..AdaptiveConfig::default()
                    };
                    (encode, config)
                })
            })
    })
}

#[test]
fn errors_follow_the_tolerance() -> AnyResult {
    let schedule = schedule();
    for (encode, config) in every_kind() {
        let truth = array(&truth(&schedule, encode)?);
        let mut errors = Vec::new();
        for tolerance in [1e-2, 1e-4, 1e-6] {
            let config = AdaptiveConfig {
                atol: tolerance,
                rtol: tolerance,
                ..config.clone()
            };
            let run = solver(&config, &schedule, encode)?.run(&start(), |q| exact(&schedule, q))?;
            errors.push(distance(&run.x, &truth));
        }
        println!(
            "{:?} {}, encode {encode}: errors {errors:?}",
            config.algorithm, config.order
        );
        assert!(
            errors[1] < errors[0] / 4.0 && errors[2] < errors[1] / 4.0 && errors[2] < 1e-3,
            "{errors:?}"
        );
    }
    Ok(())
}

#[test]
fn each_sample_takes_its_own_steps() -> AnyResult {
    let schedule = schedule();
    for (encode, config) in every_kind() {
        let config = AdaptiveConfig {
            atol: 1e-6,
            rtol: 1e-6,
            ..config
        };
        let solver = solver(&config, &schedule, encode)?;
        let mut asked = vec![0; 4];
        let all: AdaptiveRun = solver.run(&start(), |q| {
            q.samples.iter().for_each(|&i| asked[i] += 1);
            exact(&schedule, q)
        })?;
        assert_eq!(all.evaluations, asked);
        for i in 0..4 {
            let alone = start().narrow(0, i, 1)?.contiguous()?;
            let alone = solver.run(&alone, |q| exact(&schedule, q))?;
            assert_eq!(alone.evaluations[0], all.evaluations[i]);
            assert_eq!(array(&alone.x).values, array(&all.x).entry(i).values);
        }
        let mut counts = all.evaluations.clone();
        counts.dedup();
        assert!(counts.len() > 1, "all samples took {counts:?} evaluations");
    }
    Ok(())
}

#[test]
fn states_of_every_type_and_a_learned_variance() -> AnyResult {
    let schedule = schedule();
    for (encode, config) in every_kind() {
        let wide = solver(&config, &schedule, encode)?.run(&start(), |q| exact(&schedule, q))?;
        let config = AdaptiveConfig {
            learned_variance: true,
            ..config
        };
        let solver = solver(&config, &schedule, encode)?;
        // Rounding at every step, times what the flow does to it; the bound that fixed steps have too.
        for (dtype, epsilon) in [
            (DType::F64, 0.0),
            (DType::F32, 1.2e-7),
            (DType::F16, 9.8e-4),
            (DType::BF16, 7.8e-3),
        ] {
            let run = solver.run(&start().to_dtype(dtype)?, |q| {
                let noise = exact(&schedule, q)?;
                Tensor::cat(&[&noise, &noise.ones_like()?], 1)
            })?;
            assert_eq!(run.x.dtype(), dtype);
            let error = distance(&run.x, &array(&wide.x));
            assert!(
                error <= 150.0 * epsilon,
                "{dtype:?} {encode} {config:?}: {error}"
            );
        }
    }
    Ok(())
}

#[test]
fn a_run_that_does_not_arrive_is_given_up() -> AnyResult {
    let schedule = schedule();
    let config = AdaptiveConfig {
        max_evaluations: 50,
        ..AdaptiveConfig::default()
    };
    let solver = solver(&config, &schedule, false)?;
    // A network that never gives the same answer never meets the tolerance.
    let mut sign = 1.0;
    let run = solver.run(&start(), |q| {
        sign = -sign;
        q.x * (1e6 * sign)
    });
    assert!(
        matches!(run, Err(Error::Evaluations { unfinished: 4, .. })),
        "{run:?}"
    );
    Ok(())
}
