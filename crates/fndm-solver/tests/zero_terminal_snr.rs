//! Schedules that end in pure noise (Lin et al. 2024), in both directions, on normal data whose flow is known in closed form.

#[path = "common/by_time.rs"]
mod by_time;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use fndm_solver::{
    AdaptiveConfig, Algorithm, Error, Grid, Guidance, Method, NoiseSchedule, Prediction,
    ScheduleConfig, SolverConfig, UniPcForm,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

const T: usize = 1000;
const MEAN: f64 = 0.7;
const DEVIATION: f64 = 0.4;

fn schedule() -> NoiseSchedule {
    ScheduleConfig::linear(T)
        .zero_terminal_snr()
        .build()
        .unwrap()
}

/// Standard normal values, as far out as three deviations.
fn noise() -> Vec<f64> {
    vec![-3.0, -1.2, -0.4, 0.0, 0.3, 0.9, 1.7, 2.8]
}

fn tensor(values: &[f64]) -> Tensor {
    Tensor::from_vec(values.to_vec(), (values.len(), 1), &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64)
        .and_then(|x| x.flatten_all())
        .and_then(|x| x.to_vec1())
        .unwrap()
}

/// The state at (alpha, sigma) of data N(MEAN, DEVIATION^2) that belongs to the noise z: the flow keeps z.
fn state(z: f64, alpha: f64, sigma: f64) -> f64 {
    alpha * MEAN + (alpha * DEVIATION).hypot(sigma) * z
}

/// What a perfect network says, without a division by alpha.
fn perfect(prediction: Prediction, x: f64, alpha: f64, sigma: f64) -> f64 {
    let variance = (alpha * DEVIATION).powi(2) + sigma * sigma;
    let noise = sigma * (x - alpha * MEAN) / variance;
    let x0 = MEAN + alpha * DEVIATION * DEVIATION * (x - alpha * MEAN) / variance;
    match prediction {
        Prediction::Noise => noise,
        Prediction::X0 => x0,
        Prediction::V => alpha * noise - sigma * x0,
        Prediction::Score => -noise / sigma,
    }
}

/// The largest error at the end of a run between `low` and pure noise, against the closed form.
fn error(config: &SolverConfig, encode: bool, low: f64, dtype: DType) -> fndm_solver::Result<f64> {
    let schedule = schedule();
    let (solver, from, to) = if encode {
        (config.encode(&schedule, low..=1.0)?, low, 1.0)
    } else {
        (config.sample(&schedule, low..=1.0)?, 1.0, low)
    };
    let at = |t: f64| -> Vec<f64> {
        let (alpha, sigma) = (schedule.alpha(t), schedule.sigma(t));
        noise().iter().map(|&z| state(z, alpha, sigma)).collect()
    };
    let start = tensor(&at(from)).to_dtype(dtype)?;
    let end = solver.run(
        &start,
        by_time(|x, model_time, _| {
            let t = schedule.time_of_model_time(model_time);
            let (alpha, sigma) = (schedule.alpha(t), schedule.sigma(t));
            let output = values(x)
                .into_iter()
                .map(|x| perfect(config.prediction, x, alpha, sigma));
            Tensor::from_vec(output.collect::<Vec<_>>(), x.dims(), &Device::Cpu)?
                .to_dtype(x.dtype())
        }),
    )?;
    let errors = values(&end)
        .into_iter()
        .zip(at(to))
        .map(|(a, b)| (a - b).abs());
    Ok(errors.fold(0.0, |most, e| if e <= most { most } else { e }))
}

/// Every algorithm, order and method, by the order that a run has over all.
fn every_solver() -> Vec<(SolverConfig, f64)> {
    let mut all = vec![(SolverConfig::ddim(0), 1.0)];
    for algorithm in [Algorithm::DpmSolverPlusPlus, Algorithm::DpmSolver] {
        for order in 1..=3 {
            for method in [
                Method::Multistep,
                Method::Singlestep,
                Method::SinglestepFixed,
            ] {
                let config = SolverConfig {
                    algorithm,
                    method,
                    ..SolverConfig::dpm_solver_pp(order, 0)
                };
                all.push((config, if order == 1 { 1.0 } else { 2.0 }));
            }
        }
    }
    for order in 1..=3 {
        // Of order 2 even with order 1, but for the last step of an encoding, which nothing corrects.
        let over_all = if order == 1 { 1.5 } else { 2.0 };
        all.push((SolverConfig::uni_pc(order, 0), over_all));
    }
    all.push((
        SolverConfig {
            uni_pc_form: UniPcForm::Bh2,
            ..SolverConfig::uni_pc(2, 0)
        },
        2.0,
    ));
    all
}

#[test]
fn the_schedule_is_that_of_algorithm_1() -> AnyResult {
    for (config, betas) in [
        (ScheduleConfig::linear(T), {
            (0..T)
                .map(|i| 1e-4 + (0.02 - 1e-4) * i as f64 / (T - 1) as f64)
                .collect::<Vec<f64>>()
        }),
        (
            ScheduleConfig::Betas {
                betas: vec![0.1, 0.2, 0.5],
            },
            vec![0.1, 0.2, 0.5],
        ),
    ] {
        // The paper's lines.
        let mut product = 1.0;
        let mut roots: Vec<f64> = betas
            .iter()
            .map(|b| {
                product *= 1.0 - b;
                f64::sqrt(product)
            })
            .collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        roots.iter_mut().for_each(|r| *r -= last);
        roots.iter_mut().for_each(|r| *r *= first / (first - last));

        let schedule = config.zero_terminal_snr().build()?;
        let n = roots.len();
        assert_eq!(schedule.steps(), n);
        for (i, want) in roots.iter().enumerate() {
            assert!(
                (schedule.alpha_of_index(i) - want).abs() < 1e-14,
                "alpha {i}"
            );
        }
        assert!(schedule.ends_in_pure_noise());
        assert_eq!((schedule.alpha(1.0), schedule.sigma(1.0)), (0.0, 1.0));
        assert_eq!(schedule.lambda(1.0), f64::NEG_INFINITY);
        assert_eq!(schedule.lambda_inverse(f64::NEG_INFINITY), 1.0);
        // Inside the last training step alpha is a straight line, and lambda goes back to its time.
        let before = schedule.alpha_of_index(n - 2);
        for part in [0.1, 0.5, 0.9, 0.999] {
            let t = (n as f64 - 1.0 + part) / n as f64;
            assert!((schedule.alpha(t) - before * (1.0 - part)).abs() < 1e-14);
            assert!((schedule.lambda_inverse(schedule.lambda(t)) - t).abs() < 1e-12);
        }
        // The same from betas of which the last is 1, and from products of which the last is 0.
        let mut products: Vec<f64> = roots.iter().map(|r| r * r).collect();
        products[n - 1] = 0.0;
        let again = NoiseSchedule::from_alphas_cumprod(&products)?;
        let betas: Vec<f64> = (0..n)
            .map(|i| 1.0 - products[i] / if i == 0 { 1.0 } else { products[i - 1] })
            .collect();
        assert_eq!(betas[n - 1], 1.0);
        let and_again = NoiseSchedule::from_betas(&betas)?;
        for i in 0..n {
            for other in [&again, &and_again] {
                assert!((schedule.alpha_of_index(i) - other.alpha_of_index(i)).abs() < 1e-12);
            }
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_rescaled() -> AnyResult {
    let continuous = ScheduleConfig::ContinuousLinear {
        beta_min: 0.1,
        beta_max: 20.0,
        steps: T,
    };
    for config in [
        continuous,
        ScheduleConfig::cosine(T).clipped(-5.1),
        ScheduleConfig::linear(1),
    ] {
        let error = config.zero_terminal_snr().build();
        assert!(matches!(error, Err(Error::Schedule { .. })), "{error:?}");
    }
    // Rescaled first and then clipped, it is an ordinary schedule again.
    let clipped = ScheduleConfig::linear(T)
        .zero_terminal_snr()
        .clipped(-5.1)
        .build()?;
    assert!(!clipped.ends_in_pure_noise() && clipped.lambda(clipped.t_max()) >= -5.1);
    Ok(())
}

/// With data of a single value x0 is known from the start, and v = alpha noise - sigma x0: any run ends in it exactly.
#[test]
fn a_single_value_is_reached_in_any_number_of_steps() -> AnyResult {
    let schedule = schedule();
    for (config, _) in every_solver() {
        for steps in [3, 4, 7] {
            let config = SolverConfig {
                prediction: Prediction::V,
                steps,
                ..config.clone()
            };
            let solver = config.sample(&schedule, 0.0..=1.0)?;
            let z = noise();
            let end = solver.run(
                &tensor(&z),
                by_time(|x, m, _| {
                    let t = schedule.time_of_model_time(m);
                    let (alpha, sigma) = (schedule.alpha(t), schedule.sigma(t));
                    // The noise in x = alpha MEAN + sigma noise.
                    let noise = ((x - alpha * MEAN)? / sigma)?;
                    (noise * alpha)? - sigma * MEAN
                }),
            )?;
            for value in values(&end) {
                assert!((value - MEAN).abs() < 1e-12, "{value}: {config:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn runs_from_and_to_pure_noise_converge_to_the_closed_form() -> AnyResult {
    for encode in [false, true] {
        for prediction in [Prediction::V, Prediction::X0] {
            for (config, order) in every_solver() {
                let of = |steps: usize| {
                    let config = SolverConfig {
                        prediction,
                        steps,
                        ..config.clone()
                    };
                    // Away from the data, where lambda runs off to the other side.
                    error(&config, encode, 0.1, DType::F64)
                };
                let (coarse, fine) = (of(60)?, of(240)?);
                let seen = (coarse / fine).log2() / 2.0;
                println!(
                    "encode {encode} {prediction:?} {:?} {} {:?}: {coarse:.1e} {fine:.1e}, order {seen:.2}",
                    config.algorithm, config.order, config.method
                );
                assert!(
                    fine < 0.05 && seen > order - 0.35,
                    "encode {encode} {prediction:?}: {coarse:e}, {fine:e}, order {seen} for {config:?}"
                );
            }
        }
    }
    Ok(())
}

/// A last alpha of 1e-7 instead of 0 changes next to nothing: 0 is the limit.
#[test]
fn pure_noise_is_the_limit_of_nearly_pure_noise() -> AnyResult {
    let schedule = schedule();
    let mut products: Vec<f64> = (0..T).map(|i| schedule.alpha_of_index(i).powi(2)).collect();
    products[T - 1] = 1e-14;
    let nearly = NoiseSchedule::from_alphas_cumprod(&products)?;
    for encode in [false, true] {
        for (config, _) in every_solver() {
            // The singlestep methods take the first step apart.
            if config.method != Method::Multistep {
                continue;
            }
            let config = SolverConfig {
                prediction: Prediction::V,
                order: 1,
                steps: 20,
                ..config
            };
            let run = |schedule: &NoiseSchedule| -> fndm_solver::Result<Vec<f64>> {
                let (solver, from) = if encode {
                    (config.encode(schedule, 0.001..=1.0)?, 0.001)
                } else {
                    (config.sample(schedule, 0.0..=1.0)?, 1.0)
                };
                let (alpha, sigma) = (schedule.alpha(from), schedule.sigma(from));
                let start: Vec<f64> = noise().iter().map(|&z| state(z, alpha, sigma)).collect();
                Ok(values(&solver.run(
                    &tensor(&start),
                    by_time(|x, m, _| {
                        let t = schedule.time_of_model_time(m);
                        let (alpha, sigma) = (schedule.alpha(t), schedule.sigma(t));
                        let v = values(x)
                            .into_iter()
                            .map(|x| perfect(Prediction::V, x, alpha, sigma));
                        Tensor::from_vec(v.collect::<Vec<_>>(), x.dims(), &Device::Cpu)
                    }),
                )?))
            };
            // UniPC corrects every step but the one out of pure noise.
            let allowed = if config.algorithm == Algorithm::UniPc {
                0.05
            } else {
                1e-5
            };
            for (a, b) in run(&schedule)?.iter().zip(run(&nearly)?) {
                assert!(
                    (a - b).abs() < allowed,
                    "encode {encode}: {a} and {b} for {config:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn trailing_steps_are_those_of_the_paper() -> AnyResult {
    let schedule = schedule();
    // Lin et al. 2024, table 2, with indices from 0: T = 1000.
    for (steps, want) in [
        (5, vec![999, 799, 599, 399, 199]),
        (10, vec![999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        (3, vec![999, 666, 332]),
    ] {
        let config = SolverConfig {
            grid: Grid::Trailing,
            prediction: Prediction::V,
            ..SolverConfig::ddim(steps)
        };
        let solver = config.sample(&schedule, 0.0..=1.0)?;
        let seen: Vec<i64> = solver
            .model_times()
            .iter()
            .map(|m| {
                assert!((m - m.round()).abs() < 1e-9, "{m} is a training index");
                m.round() as i64
            })
            .collect();
        assert_eq!(seen, want);
        assert_eq!(solver.times().last(), Some(&0.0));
        // Encoding, both ends of the span stay, and only training times lie between.
        let encode = config.encode(&schedule, schedule.span())?;
        assert_eq!(encode.times()[0], schedule.t_min());
        assert_eq!(encode.times().last(), Some(&1.0));
        for t in encode.times() {
            assert!((t * T as f64 - (t * T as f64).round()).abs() < 1e-9);
        }
    }
    // More steps than training steps: those that fall together are taken once.
    let config = SolverConfig {
        grid: Grid::Trailing,
        prediction: Prediction::V,
        ..SolverConfig::ddim(2500)
    };
    assert_eq!(config.sample(&schedule, 0.0..=1.0)?.evaluations(), T);
    Ok(())
}

#[test]
fn single_precision_stays_near() -> AnyResult {
    for encode in [false, true] {
        for (config, _) in every_solver() {
            let config = SolverConfig {
                prediction: Prediction::V,
                grid: Grid::Trailing,
                steps: 20,
                ..config
            };
            let difference = (error(&config, encode, 0.001, DType::F32)?
                - error(&config, encode, 0.001, DType::F64)?)
            .abs();
            assert!(
                difference < 1e-5,
                "encode {encode}: {difference} for {config:?}"
            );
        }
    }
    Ok(())
}

/// DDIM with eta = 1 from pure noise is ancestral sampling: standard normal data stay standard normal.
#[test]
fn ancestral_sampling_starts_in_pure_noise() -> AnyResult {
    let schedule = schedule();
    let x: Vec<f64> = (0..5000).map(|i| f64::from(i) / 2499.5 - 1.0).collect();
    let config = SolverConfig {
        eta: 1.0,
        prediction: Prediction::V,
        grid: Grid::Trailing,
        ..SolverConfig::ddim(500)
    };
    // v of standard normal data is 0: both parts of x are known equally well.
    let end = config
        .sample(&schedule, 0.0..=1.0)?
        .run(&tensor(&x), by_time(|x, _, _| x.zeros_like()))?;
    let end = values(&end);
    let n = end.len() as f64;
    let moment = |k: i32| end.iter().map(|v| v.powi(k)).sum::<f64>() / n;
    assert!(moment(1).abs() < 0.06, "mean {}", moment(1));
    assert!((moment(2) - 1.0).abs() < 0.08, "variance {}", moment(2));
    assert!((moment(4) - 3.0).abs() < 0.6, "fourth moment {}", moment(4));
    Ok(())
}

#[test]
fn what_has_no_meaning_in_pure_noise_is_refused() -> AnyResult {
    let schedule = schedule();
    let base = SolverConfig {
        prediction: Prediction::V,
        ..SolverConfig::dpm_solver_pp(2, 10)
    };
    for prediction in [Prediction::Noise, Prediction::Score] {
        for (config, _) in every_solver() {
            let config = SolverConfig {
                prediction,
                steps: 10,
                ..config
            };
            let error = config.sample(&schedule, 0.0..=1.0);
            assert!(
                matches!(
                    &error,
                    Err(Error::Config {
                        field: "prediction",
                        ..
                    })
                ),
                "{error:?}"
            );
            // Up to there the network is never asked in pure noise, and below it all is as usual.
            config.encode(&schedule, schedule.span())?;
            config.sample(&schedule, 0.0..=0.999)?;
        }
    }
    for grid in [Grid::UniformLambda, Grid::karras()] {
        let config = SolverConfig {
            grid,
            ..base.clone()
        };
        let span = schedule.span();
        assert!(matches!(
            config.sample(&schedule, span.clone()),
            Err(Error::Span { .. })
        ));
        assert!(matches!(
            config.encode(&schedule, span),
            Err(Error::Span { .. })
        ));
        config.sample(&schedule, schedule.t_min()..=0.999)?;
    }
    let adaptive = AdaptiveConfig {
        prediction: Prediction::V,
        ..AdaptiveConfig::default()
    };
    assert!(matches!(
        adaptive.sample(&schedule, schedule.span()),
        Err(Error::Span { .. })
    ));
    let twice = SolverConfig {
        encode_to_noise: true,
        ..base
    };
    assert!(matches!(
        twice.encode(&schedule, schedule.span()),
        Err(Error::Config {
            field: "encode_to_noise",
            ..
        })
    ));

    // The same for single conversions.
    let x = tensor(&[1.0, -2.0]);
    for p in [Prediction::Noise, Prediction::Score] {
        assert!(matches!(
            p.x0(&x, &x, 0.0, 1.0),
            Err(Error::Conversion { .. })
        ));
        assert!(matches!(
            p.v(&x, &x, 0.0, 1.0),
            Err(Error::Conversion { .. })
        ));
    }
    assert_eq!(values(&Prediction::V.x0(&x, &x, 0.0, 1.0)?), [-1.0, 2.0]);
    assert_eq!(values(&Prediction::V.noise(&x, &x, 0.0, 1.0)?), [1.0, -2.0]);
    assert_eq!(
        values(&Prediction::X0.noise(&x, &x, 0.0, 1.0)?),
        [1.0, -2.0]
    );
    assert!(matches!(
        Prediction::X0.noise(&x, &x, 1.0, 0.0),
        Err(Error::Conversion { .. })
    ));
    assert!(matches!(
        Prediction::Score.target(&x, &x, 1.0, 0.0),
        Err(Error::Conversion { .. })
    ));
    let guidance = Guidance { scale: 2.0 };
    for p in [Prediction::X0, Prediction::V] {
        let guided = guidance.apply_to(p, &x, &x, 0.0, 1.0);
        assert!(matches!(guided, Err(Error::Conversion { .. })), "{p:?}");
    }
    Ok(())
}

#[test]
fn the_config_is_a_plain_value() -> AnyResult {
    let config = ScheduleConfig::linear(T).zero_terminal_snr();
    let text = serde_json::to_string(&config)?;
    assert!(
        text.starts_with(r#"{"kind":"zero_terminal_snr","schedule":{"kind":"linear""#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<ScheduleConfig>(&text)?, config);
    Ok(())
}
