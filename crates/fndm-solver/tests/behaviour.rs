//! Single features, each against a truth from outside the code.

#[path = "common/by_time.rs"]
mod by_time;
mod common;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use common::{Array, Mixture, array, distance};
use fndm_solver::{
    Algorithm, Answer, Clip, Error, Guidance, Method, NoiseSchedule, Prediction, Query,
    ScheduleConfig, SolverConfig,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

fn largest(t: &Tensor) -> f64 {
    common::largest(&array(t))
}

fn schedule() -> NoiseSchedule {
    ScheduleConfig::linear(1000).build().unwrap()
}

fn start() -> Tensor {
    Tensor::from_vec(vec![0.75, -0.3, -0.6, 0.45, 0.2, 0.7], (3, 2), &Device::Cpu).unwrap()
}

fn exact<'a>(
    schedule: &'a NoiseSchedule,
    mixture: &'a Mixture,
) -> impl FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor> + 'a {
    move |x, m, _| {
        let t = schedule.time_of_model_time(m);
        mixture.noise(x, schedule.alpha(t), schedule.sigma(t))
    }
}

#[test]
fn clipping_leaves_time_alone() -> AnyResult {
    let whole = ScheduleConfig::cosine(1000).build()?;
    let clipped = whole.clone().clipped(-5.1)?;
    assert_eq!(clipped.steps(), 1000);
    assert!(clipped.lambda(clipped.t_max()) >= -5.1);
    assert!(whole.lambda(clipped.t_max() + 0.001) < -5.1);
    // A looser bound brings nothing back.
    assert_eq!(clipped.clone().clipped(-10.0)?, clipped);
    for i in [0, 1, 500, 990] {
        let t = clipped.time_of_index(i);
        assert_eq!(clipped.alpha(t), whole.alpha(t));
        assert!((clipped.model_time(t) - i as f64).abs() < 1e-9);
    }
    Ok(())
}

#[test]
fn every_prediction_type_gives_the_same_run() -> AnyResult {
    let (schedule, mixture) = (schedule(), Mixture::example());
    for encode in [false, true] {
        for algorithm in [Algorithm::DpmSolverPlusPlus, Algorithm::DpmSolver] {
            let mut ends = Vec::new();
            for prediction in [
                Prediction::Noise,
                Prediction::X0,
                Prediction::V,
                Prediction::Score,
            ] {
                let config = SolverConfig {
                    algorithm,
                    prediction,
                    ..SolverConfig::dpm_solver_pp(3, 20)
                };
                let solver = if encode {
                    config.encode(&schedule, schedule.span())?
                } else {
                    config.sample(&schedule, schedule.span())?
                };
                ends.push(solver.run(
                    &start(),
                    by_time(|x, m, _| {
                        let t = schedule.time_of_model_time(m);
                        let (a, s) = (schedule.alpha(t), schedule.sigma(t));
                        let noise = mixture.noise(x, a, s)?;
                        let x0 = ((x - (&noise * s)?)? / a)?;
                        match prediction {
                            Prediction::Noise => Ok(noise),
                            Prediction::X0 => Ok(x0),
                            Prediction::V => (noise * a)? - (x0 * s)?,
                            Prediction::Score => noise * (-1.0 / s),
                        }
                    }),
                )?);
            }
            for end in &ends[1..] {
                assert!(distance(end, &array(&ends[0])) < 1e-9);
            }
        }
    }
    Ok(())
}

#[test]
fn conversions_agree_with_their_definitions() -> AnyResult {
    let (alpha, sigma) = (0.8, 0.6);
    let x0 = start();
    let noise = (start() * -1.7)?;
    let x = ((&x0 * alpha)? + (&noise * sigma)?)?;
    let v = ((&noise * alpha)? - (&x0 * sigma)?)?;
    for p in [
        Prediction::Noise,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
    ] {
        let output = p.target(&x0, &noise, alpha, sigma)?;
        assert!(
            distance(&p.noise(&x, &output, alpha, sigma)?, &array(&noise)) < 1e-12,
            "{p:?}"
        );
        assert!(
            distance(&p.x0(&x, &output, alpha, sigma)?, &array(&x0)) < 1e-12,
            "{p:?}"
        );
        assert!(
            distance(&p.v(&x, &output, alpha, sigma)?, &array(&v)) < 1e-12,
            "{p:?}"
        );
        // Guidance changes the noise in the same way, whatever is predicted.
        let gradient = (start() + 0.3)?;
        let guidance = Guidance { scale: 2.5 };
        let want = (&noise - (&gradient * (2.5 * sigma))?)?;
        let guided = guidance.apply_to(p, &output, &gradient, alpha, sigma)?;
        assert!(
            distance(&p.noise(&x, &guided, alpha, sigma)?, &array(&want)) < 1e-12,
            "{p:?}"
        );
        assert!(distance(&guidance.apply(&noise, &gradient, sigma)?, &array(&want)) < 1e-12);
    }
    Ok(())
}

#[test]
fn q_sample_noises_each_sample_at_its_own_index() -> AnyResult {
    let schedule = schedule();
    let (x0, noise) = (start(), (start() * 0.5)?);
    let indices = [0, 500, 999];
    let noised = array(&schedule.q_sample(&x0, &noise, &indices)?);
    let (x0v, nv) = (array(&x0).values, array(&noise).values);
    let mut product = Vec::new();
    let mut p = 1.0;
    for i in 0..1000 {
        p *= 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0);
        product.push(p);
    }
    for (k, value) in noised.values.iter().enumerate() {
        let a2: f64 = product[indices[k / 2]];
        assert!((value - (a2.sqrt() * x0v[k] + (1.0 - a2).sqrt() * nv[k])).abs() < 1e-12);
    }
    assert!(matches!(
        schedule.q_sample(&x0, &noise, &[0, 1]),
        Err(Error::Tensor { .. })
    ));
    assert!(matches!(
        schedule.q_sample(&x0, &noise, &[0, 1, 1000]),
        Err(Error::Schedule { .. })
    ));
    Ok(())
}

#[test]
fn narrow_types_stay_near_f64() -> AnyResult {
    let (schedule, mixture) = (schedule(), Mixture::example());
    // Rounding at every step, times what the flow does to it.
    for (dtype, epsilon) in [
        (DType::F32, 1.2e-7),
        (DType::F16, 9.8e-4),
        (DType::BF16, 7.8e-3),
    ] {
        let bound = 150.0 * epsilon;
        for encode in [false, true] {
            for config in [
                SolverConfig::dpm_solver_pp(2, 20),
                SolverConfig::dpm_solver_pp(3, 20),
                SolverConfig {
                    algorithm: Algorithm::DpmSolver,
                    ..SolverConfig::dpm_solver_pp(2, 20)
                },
                SolverConfig {
                    method: Method::Singlestep,
                    ..SolverConfig::dpm_solver_pp(3, 20)
                },
                SolverConfig::uni_pc(2, 20),
            ] {
                let solver = if encode {
                    config.encode(&schedule, schedule.span())?
                } else {
                    config.sample(&schedule, schedule.span())?
                };
                let wide = solver.run(&start(), by_time(exact(&schedule, &mixture)))?;
                let narrow = solver.run(
                    &start().to_dtype(dtype)?,
                    by_time(exact(&schedule, &mixture)),
                )?;
                assert_eq!(narrow.dtype(), dtype);
                let error = distance(&narrow, &array(&wide));
                assert!(
                    error < bound,
                    "{dtype:?}, encode {encode}: {error} for {config:?}"
                );
            }
        }
    }
    Ok(())
}

/// With eta = 1 and the exact score, DDIM steps are DDPM's: standard normal data stay standard normal.
#[test]
fn fresh_noise_keeps_the_distribution_and_is_seeded() -> AnyResult {
    let schedule = schedule();
    // Uniform, not normal: the noise has to make it so.
    let x: Vec<f64> = (0..5000).map(|i| f64::from(i) / 2499.5 - 1.0).collect();
    let x = Tensor::from_vec(x, (5000, 1), &Device::Cpu)?;
    let run = |eta: f64, seed: u64| -> fndm_solver::Result<Array> {
        let config = SolverConfig {
            eta,
            seed,
            ..SolverConfig::ddim(800)
        };
        let solver = config.sample(&schedule, schedule.span())?;
        Ok(array(&solver.run(
            &x,
            by_time(|x, m, _| x * schedule.sigma(schedule.time_of_model_time(m))),
        )?))
    };
    let a = run(1.0, 7)?;
    let n = a.values.len() as f64;
    let moment = |k: i32| a.values.iter().map(|v| v.powi(k)).sum::<f64>() / n;
    assert!(moment(1).abs() < 0.06, "mean {}", moment(1));
    assert!((moment(2) - 1.0).abs() < 0.08, "variance {}", moment(2));
    assert!((moment(4) - 3.0).abs() < 0.6, "fourth moment {}", moment(4));
    assert_eq!(a.values, run(1.0, 7)?.values);
    assert_ne!(a.values, run(1.0, 8)?.values);
    // Without it the flow is the identity up to its discretisation, and the seed is of no matter.
    assert_eq!(run(0.0, 7)?.values, run(0.0, 8)?.values);
    Ok(())
}

#[test]
fn a_learned_variance_is_dropped() -> AnyResult {
    let schedule = schedule();
    let x = start().reshape((1, 3, 2, 1))?;
    let noise = |x: &Tensor, m: f64, _: usize| x * schedule.sigma(schedule.time_of_model_time(m));
    let plain = SolverConfig::dpm_solver_pp(2, 8)
        .sample(&schedule, schedule.span())?
        .run(&x, by_time(noise))?;
    let config = SolverConfig {
        learned_variance: true,
        ..SolverConfig::dpm_solver_pp(2, 8)
    };
    let solver = config.sample(&schedule, schedule.span())?;
    let both = solver.run(
        &x,
        by_time(|x, m, i| Tensor::cat(&[noise(x, m, i)?, x.ones_like()?], 1)),
    )?;
    assert_eq!(array(&both).values, array(&plain).values);
    assert!(matches!(
        solver.run(&x, by_time(noise)),
        Err(Error::Tensor { .. })
    ));
    Ok(())
}

/// Guidance and limits of the solver give the bits of those that a model works out itself, in terms of x0.
#[test]
fn a_guided_answer_is_what_a_model_would_work_out() -> AnyResult {
    let (schedule, mixture) = (schedule(), Mixture::example());
    let guidance = Guidance { scale: 0.7 };
    for prediction in [Prediction::Noise, Prediction::V, Prediction::X0] {
        for dtype in [DType::F64, DType::F32] {
            let config = SolverConfig {
                prediction,
                clip: Clip::Static { max: 0.8 },
                ..SolverConfig::dpm_solver_pp(2, 12)
            };
            let by_hand = SolverConfig {
                prediction: Prediction::X0,
                clip: Clip::None,
                ..config.clone()
            };
            let solver = config.sample(&schedule, schedule.span())?;
            let by_hand = by_hand.sample(&schedule, schedule.span())?;
            let asked = |query: Query<'_>| -> fndm_solver::Result<(Tensor, Tensor)> {
                let wide = query.x.to_dtype(DType::F64)?;
                let (noise, x0) = mixture.noise_and_x0(&wide, query.alpha, query.sigma)?;
                let output = match prediction {
                    Prediction::X0 => x0,
                    Prediction::V => ((noise * query.alpha)? - (x0 * query.sigma)?)?,
                    Prediction::Noise | Prediction::Score => noise,
                };
                let gradient = (wide * -0.5)?;
                Ok((output.to_dtype(dtype)?, gradient.to_dtype(dtype)?))
            };
            let start = start().to_dtype(dtype)?;
            let guided = solver.run(&start, |query| -> fndm_solver::Result<Answer> {
                let (output, gradient) = asked(query)?;
                Ok(Answer::guided(output, guidance, gradient))
            })?;
            let mut cut = 0;
            let wanted = by_hand.run(&start, |query| -> fndm_solver::Result<Tensor> {
                let (output, gradient) = asked(query)?;
                let (alpha, sigma) = (query.alpha, query.sigma);
                let x0 = prediction.x0(query.x, &output, alpha, sigma)?;
                let x0 = guidance.apply_to(Prediction::X0, &x0, &gradient, alpha, sigma)?;
                let limited = x0.clamp(-0.8, 0.8)?;
                cut += array(&(x0 - &limited)?)
                    .values
                    .iter()
                    .filter(|d| **d != 0.0)
                    .count();
                Ok(limited)
            })?;
            assert!(cut > 0, "the limit has no effect");
            assert_eq!(
                array(&guided).values,
                array(&wanted).values,
                "{prediction:?}"
            );

            // Without a limit it is guided in the network's own terms, which differs by rounding.
            let config = SolverConfig {
                clip: Clip::None,
                ..config
            };
            let solver = config.sample(&schedule, schedule.span())?;
            let free = solver.run(&start, |query| -> fndm_solver::Result<Answer> {
                let (output, gradient) = asked(query)?;
                Ok(Answer::guided(output, guidance, gradient))
            })?;
            let wanted = by_hand.run(&start, |query| -> fndm_solver::Result<Tensor> {
                let (output, gradient) = asked(query)?;
                let (alpha, sigma) = (query.alpha, query.sigma);
                let x0 = prediction.x0(query.x, &output, alpha, sigma)?;
                guidance.apply_to(Prediction::X0, &x0, &gradient, alpha, sigma)
            })?;
            let bound = if dtype == DType::F64 { 1e-12 } else { 3e-5 };
            let error = distance(&free, &array(&wanted));
            assert!(error < bound * largest(&wanted), "{prediction:?}: {error}");
        }
    }
    Ok(())
}

/// A model that sees the whole query gives the same bits, and its own error comes out as it went in.
#[test]
fn a_model_of_queries_and_its_own_error() -> AnyResult {
    #[derive(Debug, PartialEq)]
    enum Own {
        Broken(usize),
        Solver,
    }
    impl From<Error> for Own {
        fn from(_: Error) -> Self {
            Self::Solver
        }
    }
    let (schedule, mixture) = (schedule(), Mixture::example());
    for encode in [false, true] {
        let config = SolverConfig {
            method: Method::Singlestep,
            ..SolverConfig::dpm_solver_pp(3, 20)
        };
        let solver = if encode {
            config.encode(&schedule, schedule.span())?
        } else {
            config.sample(&schedule, schedule.span())?
        };
        let times = solver.model_times();
        let own = solver.run(&start(), |query| -> fndm_solver::Result<Tensor> {
            assert!((query.alpha - schedule.alpha(query.t)).abs() < 1e-12);
            assert!((query.lambda - (query.alpha / query.sigma).ln()).abs() < 1e-9);
            assert_eq!(query.model_time, times[query.evaluation]);
            Ok(mixture.noise(query.x, query.alpha, query.sigma)?)
        })?;
        // The schedule's alpha and sigma at the same time, by way of the network's own.
        let asked = solver.run(&start(), by_time(exact(&schedule, &mixture)))?;
        assert!(distance(&own, &array(&asked)) < 1e-10);
    }
    let solver = SolverConfig::ddim(4).sample(&schedule, schedule.span())?;
    let broken = solver.run(&start(), |query| match query.evaluation {
        2 => Err(Own::Broken(query.step)),
        _ => Ok(query.x.clone()),
    });
    assert_eq!(broken.unwrap_err(), Own::Broken(2));
    let wrong = solver.run(&start(), |_| -> Result<Tensor, Own> {
        Ok(Tensor::zeros(7, DType::F64, &Device::Cpu).unwrap())
    });
    assert_eq!(wrong.unwrap_err(), Own::Solver);
    Ok(())
}

#[test]
fn static_clipping_bounds_the_clean_image() -> AnyResult {
    let schedule = schedule();
    let config = SolverConfig {
        clip: Clip::Static { max: 0.5 },
        denoise_to_zero: true,
        ..SolverConfig::dpm_solver_pp(2, 8)
    };
    let end = config
        .sample(&schedule, schedule.span())?
        .run(&(start() * 3.0)?, by_time(|x, _, _| x.zeros_like()))?;
    assert!(largest(&end) <= 0.5 + 1e-12);
    Ok(())
}

#[test]
fn dynamic_thresholds_lie_between_their_bounds() -> AnyResult {
    // Samples whose largest values are 1, 2, .. 6 times 0.5; the network's answer is x0 itself.
    let x: Vec<f64> = (0..60)
        .map(|i| f64::from(i / 10 + 1) * 0.5 * f64::from(i % 10) / 9.0)
        .collect();
    let x = Tensor::from_vec(x, (6, 10), &Device::Cpu)?;
    let schedule = schedule();
    let config = SolverConfig {
        clip: Clip::Dynamic {
            ratio: 1.0,
            least: 1.0,
            most: Some(2.0),
        },
        prediction: Prediction::X0,
        ..SolverConfig::ddim(1)
    };
    let end = config.sample(&schedule, 0.0..=1.0)?;
    let end = array(&end.run(&x, by_time(|x, _, _| Ok(x.clone())))?);
    for (i, (got, x)) in end.values.iter().zip(array(&x).values).enumerate() {
        let s = (f64::from(i as u32 / 10 + 1) * 0.5).clamp(1.0, 2.0);
        assert!((got - x.min(s) / s).abs() < 1e-12, "value {i}: {got}");
    }
    Ok(())
}
