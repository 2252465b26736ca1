//! What isn't finite is an error that names the step and its time; it is never stepped over.

#[path = "common/by_time.rs"]
mod by_time;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use fndm_solver::{
    AdaptiveConfig, Algorithm, Answer, Clip, Error, Guidance, Method, NoiseSchedule, RunTensor,
    ScheduleConfig, SolverConfig,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

fn schedule() -> NoiseSchedule {
    ScheduleConfig::linear(1000).build().unwrap()
}

fn state(dtype: DType) -> Tensor {
    Tensor::full(0.5f64, (3, 2), &Device::Cpu)
        .and_then(|t| t.to_dtype(dtype))
        .unwrap()
}

/// The state with one value put in the place of another.
fn spoilt(x: &Tensor, value: f64) -> candle_core::Result<Tensor> {
    let mut values = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let last = values.len() - 1;
    values[last] = value;
    Tensor::from_vec(values, x.dims(), x.device())?.to_dtype(x.dtype())
}

fn configs() -> Vec<SolverConfig> {
    let base = SolverConfig::dpm_solver_pp(2, 9);
    vec![
        base.clone(),
        SolverConfig::ddim(9),
        SolverConfig::uni_pc(3, 9),
        SolverConfig {
            algorithm: Algorithm::DpmSolver,
            method: Method::Singlestep,
            order: 3,
            ..base.clone()
        },
        SolverConfig {
            clip: Clip::Static { max: 1.0 },
            ..base.clone()
        },
        SolverConfig {
            clip: Clip::Dynamic {
                ratio: 0.9,
                least: 1.0,
                most: Some(2.0),
            },
            ..base
        },
    ]
}

#[test]
fn a_network_that_fails_at_one_evaluation_is_named() -> AnyResult {
    let schedule = schedule();
    for config in configs() {
        let solver = config.sample(&schedule, schedule.span())?;
        let times = solver.model_times();
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                for at in [0, 4, solver.evaluations() - 1] {
                    let model = |x: &Tensor, _: f64, i: usize| {
                        if i == at {
                            spoilt(x, bad)
                        } else {
                            Ok(x.clone())
                        }
                    };
                    let error = solver.run(&state(dtype), by_time(model)).unwrap_err();
                    let Error::NonFinite {
                        evaluation,
                        t,
                        model_time,
                        sample,
                        ..
                    } = error
                    else {
                        panic!("{error:?} for {config:?}");
                    };
                    assert_eq!(sample, 2);
                    assert_eq!((evaluation, model_time), (at, times[at]));
                    assert!((schedule.model_time(t) - model_time).abs() < 1e-9);
                    let text = error.to_string();
                    assert!(text.contains("the network's output"), "{text}");
                    assert!(text.contains(&format!("evaluation {at}")), "{text}");
                    // The iterator ends with the same error.
                    let last = solver.trajectory(&state(dtype), by_time(model))?.last();
                    assert!(matches!(last, Some(Err(Error::NonFinite { .. }))));
                }
            }
        }
    }
    Ok(())
}

/// A limit on the clean image would make a number of what the guidance blew up.
#[test]
fn guidance_that_is_not_finite_is_named() -> AnyResult {
    let schedule = schedule();
    for config in configs() {
        let solver = config.sample(&schedule, schedule.span())?;
        for (gradient, scale, wanted) in [
            (f64::NAN, 1.0, RunTensor::Gradient),
            (f64::NEG_INFINITY, 0.0, RunTensor::Gradient),
            (1e30, 1e30, RunTensor::Guided),
        ] {
            let run = solver.run(&state(DType::F32), |query| -> fndm_solver::Result<Answer> {
                let x = query.x.clone();
                let gradient = spoilt(
                    &x.zeros_like()?,
                    if query.evaluation == 2 { gradient } else { 0.0 },
                )?;
                Ok(Answer::guided(x, Guidance { scale }, gradient))
            });
            let Err(Error::NonFinite {
                what,
                value,
                sample: 2,
                evaluation: 2,
                ..
            }) = run
            else {
                panic!("{run:?}");
            };
            assert_eq!(what, wanted);
            assert!(!value.is_finite());
        }
        let wrong = solver.run(&state(DType::F32), |query| -> fndm_solver::Result<Answer> {
            let gradient = query.x.narrow(0, 0, 1)?;
            Ok(Answer::guided(
                query.x.clone(),
                Guidance::default(),
                gradient,
            ))
        });
        assert!(matches!(wrong, Err(Error::Tensor { .. })), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn the_step_is_the_one_of_the_runs_times() -> AnyResult {
    let schedule = schedule();
    // Singlestep of order 3 in 9 evaluations: steps of 3, 3, 2 and 1.
    let config = SolverConfig {
        method: Method::Singlestep,
        ..SolverConfig::dpm_solver_pp(3, 9)
    };
    let solver = config.sample(&schedule, schedule.span())?;
    for (evaluation, want) in [0, 0, 0, 1, 1, 1, 2, 2, 3].into_iter().enumerate() {
        let error = solver.run(
            &state(DType::F64),
            by_time(|x, _, i| {
                if i == evaluation {
                    x * f64::NAN
                } else {
                    Ok(x.clone())
                }
            }),
        );
        assert!(
            matches!(error, Err(Error::NonFinite { step, .. }) if step == want),
            "{error:?}"
        );
    }
    Ok(())
}

#[test]
fn states_that_are_not_finite() -> AnyResult {
    let schedule = schedule();
    let solver = SolverConfig::ddim(4).sample(&schedule, schedule.span())?;
    let x = spoilt(&state(DType::F32), f64::NAN)?;
    assert!(matches!(
        solver.stepper(&x),
        Err(Error::NonFinite { step: 0, .. })
    ));
    // A finite output whose step leaves the range of the type.
    let x = (state(DType::F16) * 6e4)?;
    let error = solver.run(&x, by_time(|x, _, _| x * -1.0));
    assert!(matches!(error, Err(Error::NonFinite { .. })), "{error:?}");

    let adaptive = AdaptiveConfig::default().sample(&schedule, schedule.span())?;
    let x = spoilt(&state(DType::F32), f64::INFINITY)?;
    let run = adaptive.run(&x, |q| Ok(q.x.clone()));
    assert!(matches!(run, Err(Error::NonFinite { .. })), "{run:?}");
    Ok(())
}

/// The error estimate of a NaN is neither accepted nor tried again for ever.
#[test]
fn adaptive_runs_stop_at_once() -> AnyResult {
    let schedule = schedule();
    for algorithm in [Algorithm::DpmSolver, Algorithm::DpmSolverPlusPlus] {
        for order in [2, 3] {
            let config = AdaptiveConfig {
                algorithm,
                order,
                ..AdaptiveConfig::default()
            };
            let solver = config.sample(&schedule, schedule.span())?;
            for bad in [f64::NAN, f64::INFINITY] {
                for at in 0..6 {
                    let mut asked = 0;
                    // Only the last sample goes wrong.
                    let run = solver.run(&state(DType::F32), |q| {
                        asked += 1;
                        let noise = (q.x * 0.5)?;
                        if asked == at + 1 {
                            spoilt(&noise, bad)
                        } else {
                            Ok(noise)
                        }
                    });
                    let Err(Error::NonFinite {
                        step,
                        evaluation,
                        sample: 2,
                        ..
                    }) = run
                    else {
                        panic!("{run:?}");
                    };
                    assert_eq!(asked, at + 1, "the run ends where it went wrong");
                    assert!(evaluation <= at && step <= evaluation);
                }
            }
            // A step that leaves the range of f16: the estimate is infinite although the network's answer isn't.
            let run = solver.run(&(state(DType::F16) * 1e5)?, |q| q.x * -1.0);
            assert!(matches!(run, Err(Error::NonFinite { .. })), "{run:?}");
        }
    }
    Ok(())
}
