//! What has no meaning is refused, and every kind of error is reached.

#[path = "common/by_time.rs"]
mod by_time;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use fndm_solver::{
    AdaptiveConfig, Algorithm, Clip, Error, Grid, Method, NoiseSchedule, ScheduleConfig, Solver,
    SolverConfig,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

fn schedule() -> NoiseSchedule {
    ScheduleConfig::linear(1000).build().unwrap()
}

fn state() -> Tensor {
    Tensor::ones((3, 2), DType::F64, &Device::Cpu).unwrap()
}

fn solver() -> Solver {
    let schedule = schedule();
    let config = SolverConfig::dpm_solver_pp(2, 10);
    config.sample(&schedule, schedule.span()).unwrap()
}

#[test]
fn what_only_sampling_has_while_encoding() -> AnyResult {
    let schedule = schedule();
    let base = SolverConfig::dpm_solver_pp(2, 10);
    let encode_refused = [
        SolverConfig {
            denoise_to_zero: true,
            ..base.clone()
        },
        SolverConfig {
            eta: 0.5,
            ..SolverConfig::ddim(10)
        },
        SolverConfig {
            clip: Clip::Dynamic {
                ratio: 0.995,
                least: 1.0,
                most: None,
            },
            ..base.clone()
        },
    ];
    for config in encode_refused {
        let error = config.encode(&schedule, schedule.span());
        assert!(
            matches!(error, Err(Error::EncodingOnlySampling { .. })),
            "{error:?}"
        );
        config.sample(&schedule, schedule.span())?;
    }
    let back = SolverConfig {
        encode_to_noise: true,
        ..base
    };
    assert!(matches!(
        back.sample(&schedule, schedule.span()),
        Err(Error::Config { .. })
    ));
    Ok(())
}

#[test]
fn unsound_configs() {
    let schedule = schedule();
    let base = SolverConfig::dpm_solver_pp(2, 10);
    let unsound = [
        SolverConfig {
            order: 0,
            ..base.clone()
        },
        SolverConfig {
            order: 4,
            ..base.clone()
        },
        SolverConfig {
            steps: 0,
            ..base.clone()
        },
        SolverConfig {
            algorithm: Algorithm::Ddim,
            ..base.clone()
        },
        SolverConfig {
            method: Method::Singlestep,
            ..SolverConfig::uni_pc(2, 10)
        },
        SolverConfig {
            method: Method::SinglestepFixed,
            steps: 1,
            ..base.clone()
        },
        SolverConfig {
            eta: 1.5,
            ..SolverConfig::ddim(10)
        },
        SolverConfig {
            eta: f64::NAN,
            ..SolverConfig::ddim(10)
        },
        SolverConfig {
            eta: 0.5,
            ..base.clone()
        },
        SolverConfig {
            clip: Clip::Static { max: 0.0 },
            ..base.clone()
        },
        SolverConfig {
            clip: Clip::Dynamic {
                ratio: 1.1,
                least: 1.0,
                most: None,
            },
            ..base.clone()
        },
        SolverConfig {
            clip: Clip::Dynamic {
                ratio: 0.9,
                least: 1.0,
                most: Some(0.5),
            },
            ..base.clone()
        },
        SolverConfig {
            grid: Grid::Karras { rho: 0.0 },
            ..base.clone()
        },
        SolverConfig {
            grid: Grid::Explicit(vec![]),
            ..base.clone()
        },
        SolverConfig {
            grid: Grid::Explicit(vec![1.0, 0.5]),
            ..base.clone()
        },
        SolverConfig {
            grid: Grid::Explicit(vec![1.0, 0.2, 0.5]),
            steps: 2,
            ..base.clone()
        },
        SolverConfig {
            grid: Grid::Explicit(vec![1.0, f64::NAN, 0.001]),
            steps: 2,
            ..base.clone()
        },
    ];
    for config in unsound {
        for made in [
            config.encode(&schedule, schedule.span()),
            config.sample(&schedule, schedule.span()),
        ] {
            assert!(matches!(made, Err(Error::Config { .. })), "{config:?}");
        }
    }
    let adaptive = AdaptiveConfig::default();
    for config in [
        AdaptiveConfig {
            algorithm: Algorithm::UniPc,
            ..adaptive.clone()
        },
        AdaptiveConfig {
            order: 1,
            ..adaptive.clone()
        },
        AdaptiveConfig {
            atol: 0.0,
            ..adaptive.clone()
        },
        AdaptiveConfig {
            rtol: f64::NAN,
            ..adaptive.clone()
        },
        AdaptiveConfig {
            first_step: -1.0,
            ..adaptive.clone()
        },
        AdaptiveConfig {
            safety: 1.0,
            ..adaptive.clone()
        },
        AdaptiveConfig {
            max_evaluations: 0,
            ..adaptive.clone()
        },
    ] {
        let made = config.encode(&schedule, schedule.span());
        assert!(matches!(made, Err(Error::Config { .. })), "{config:?}");
    }
}

#[test]
fn times_outside_the_schedule() -> AnyResult {
    let schedule = schedule();
    let base = SolverConfig::dpm_solver_pp(2, 10);
    for span in [
        0.0..=1.0,
        -0.1..=1.0,
        0.5..=1.1,
        0.1..=f64::NAN,
        f64::NAN..=0.5,
    ] {
        assert!(matches!(
            base.encode(&schedule, span),
            Err(Error::Span { .. })
        ));
    }
    let clipped = ScheduleConfig::cosine(1000).clipped(-5.1).build()?;
    assert!(matches!(
        base.sample(&clipped, 0.001..=1.0),
        Err(Error::Span { .. })
    ));
    let lambda = SolverConfig {
        grid: Grid::UniformLambda,
        ..base.clone()
    };
    assert!(matches!(
        lambda.sample(&schedule, 0.0..=1.0),
        Err(Error::Span { .. })
    ));
    let explicit = SolverConfig {
        grid: Grid::Explicit(vec![0.9, 0.5, 0.1]),
        steps: 2,
        ..base.clone()
    };
    assert!(matches!(
        explicit.sample(&schedule, schedule.span()),
        Err(Error::Span { .. })
    ));

    let adaptive = AdaptiveConfig::default().sample(&schedule, 0.0..=1.0);
    assert!(matches!(adaptive, Err(Error::Span { .. })));
    Ok(())
}

#[test]
fn unusable_schedules() {
    for betas in [
        vec![],
        vec![1.0, 0.1],
        vec![0.1, 1.1],
        vec![0.1, -0.1],
        vec![f64::NAN],
        vec![0.999; 9],
        vec![0.5, 1e-30],
        // Pure noise after what is no longer told from it.
        [vec![0.999; 9], vec![1.0]].concat(),
    ] {
        assert!(matches!(
            ScheduleConfig::Betas { betas }.build(),
            Err(Error::Schedule { .. })
        ));
    }
    assert!(ScheduleConfig::linear(0).build().is_err());
    assert!(ScheduleConfig::cosine(usize::MAX).build().is_err());
    assert!(ScheduleConfig::linear(1000).clipped(10.0).build().is_err());
    assert!(
        ScheduleConfig::linear(1000)
            .clipped(f64::NAN)
            .build()
            .is_err()
    );
    assert!(NoiseSchedule::from_alphas_cumprod(&[0.9, 0.95]).is_err());
    assert!(NoiseSchedule::from_alphas_cumprod(&[0.9, 0.0, 0.0]).is_err());
    assert!(NoiseSchedule::from_alphas_cumprod(&[0.9, -0.1]).is_err());
    for (low, high) in [(0.0, 20.0), (20.0, 0.1), (0.1, 121.0), (f64::NAN, 20.0)] {
        assert!(NoiseSchedule::continuous_linear(low, high, 1000).is_err());
    }
    assert!(NoiseSchedule::continuous_linear(0.1, 20.0, 0).is_err());
}

#[test]
fn tensors_that_do_not_fit() -> AnyResult {
    let solver = solver();
    let wrong = solver.run(
        &state(),
        by_time(|_, _, _| Tensor::zeros((3, 3), DType::F64, &Device::Cpu)),
    );
    assert!(matches!(wrong, Err(Error::Tensor { .. })));
    let wrong = solver.run(&state(), by_time(|x, _, _| x.to_dtype(DType::F32)));
    assert!(matches!(wrong, Err(Error::Tensor { .. })));
    assert!(matches!(
        solver.stepper(&Tensor::zeros(3, DType::U32, &Device::Cpu)?),
        Err(Error::Tensor { .. })
    ));
    let scalar = solver.stepper(&Tensor::new(1f64, &Device::Cpu)?);
    assert!(matches!(scalar, Err(Error::Tensor { .. })));

    let schedule = schedule();
    let adaptive = AdaptiveConfig::default().sample(&schedule, schedule.span())?;
    for x in [
        Tensor::new(1f64, &Device::Cpu)?,
        Tensor::zeros((0, 2), DType::F64, &Device::Cpu)?,
        Tensor::zeros((2, 2), DType::U32, &Device::Cpu)?,
    ] {
        assert!(matches!(
            adaptive.run(&x, |q| Ok(q.x.clone())),
            Err(Error::Tensor { .. })
        ));
    }
    let wrong = adaptive.run(&state(), |q| q.x.narrow(0, 0, 1));
    assert!(matches!(wrong, Err(Error::Tensor { .. })));
    Ok(())
}

#[test]
fn a_model_that_fails() -> AnyResult {
    let failing = |_: &Tensor, _: f64, evaluation: usize| {
        if evaluation == 3 {
            candle_core::bail!("out of order");
        }
        Ok(state())
    };
    let error = solver().run(&state(), by_time(failing));
    assert!(matches!(&error, Err(Error::Candle(e)) if e.to_string().contains("out of order")));
    // The chain says each part once.
    let error = error.unwrap_err();
    let mut chain = vec![error.to_string()];
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        chain.push(source.to_string());
        next = source.source();
    }
    let told = chain.iter().filter(|part| part.contains("out of order"));
    assert_eq!(
        (told.count(), chain[0].contains("out of order")),
        (1, false),
        "{chain:?}"
    );
    // The iterator gives what came before, the error, and then nothing more.
    let items: Vec<bool> = solver()
        .trajectory(&state(), by_time(failing))?
        .map(|s| s.is_ok())
        .collect();
    assert_eq!(items, [true, true, true, false]);
    Ok(())
}

#[test]
fn runs_out_of_step() -> AnyResult {
    let solver = solver();
    let mut stepper = solver.stepper(&state())?;
    assert!(matches!(
        stepper.clone().finish(),
        Err(Error::Stepper { .. })
    ));
    while stepper.query().is_some() {
        stepper.advance(state())?;
    }
    assert!(matches!(
        stepper.advance(state()),
        Err(Error::Stepper { .. })
    ));
    // What was stored by another solver, or isn't whole.
    let mut stored = stepper.tensors()?;
    solver.resume(&stored)?;
    let schedule = schedule();
    for other in [
        SolverConfig::dpm_solver_pp(2, 9).sample(&schedule, schedule.span())?,
        SolverConfig::dpm_solver_pp(2, 10).encode(&schedule, schedule.span())?,
    ] {
        assert!(matches!(other.resume(&stored), Err(Error::Stepper { .. })));
    }
    for run in [
        [11.0, 10.0, 0.001],
        [-1.0, 10.0, 0.001],
        [f64::NAN, 10.0, 0.001],
    ] {
        stored.insert("run".into(), Tensor::new(&run, &Device::Cpu)?);
        assert!(matches!(solver.resume(&stored), Err(Error::Stepper { .. })));
    }
    stored.insert("run".into(), state());
    assert!(matches!(solver.resume(&stored), Err(Error::Tensor { .. })));
    let mut stored = stepper.tensors()?;
    stored.insert("history.0.output".into(), state().to_dtype(DType::F32)?);
    assert!(matches!(solver.resume(&stored), Err(Error::Tensor { .. })));
    for name in stepper.tensors()?.into_keys() {
        let mut stored = stepper.tensors()?;
        stored.remove(&name);
        assert!(
            matches!(solver.resume(&stored), Err(Error::Tensor { .. })),
            "{name}"
        );
    }
    Ok(())
}

/// A misspelt field is told, and never taken for its default.
#[test]
fn unknown_fields_of_every_config() -> AnyResult {
    fn refused<T: serde::de::DeserializeOwned + serde::Serialize>(value: &T) -> AnyResult {
        let good = serde_json::to_value(value)?;
        serde_json::from_value::<T>(good.clone())?;
        // Wherever there is an object, inside others too.
        let mut paths = vec![String::new()];
        let mut at = 0;
        let mut objects = 0;
        while at < paths.len() {
            let path = paths[at].clone();
            at += 1;
            let Some(serde_json::Value::Object(fields)) = good.pointer(&path) else {
                continue;
            };
            paths.extend(fields.keys().map(|k| format!("{path}/{k}")));
            let mut bad = good.clone();
            if let Some(serde_json::Value::Object(fields)) = bad.pointer_mut(&path) {
                fields.insert("etta".into(), 0.5.into());
            }
            let read = serde_json::from_value::<T>(bad.clone());
            assert!(read.is_err(), "{bad}");
            objects += 1;
        }
        assert!(objects > 0, "{good}");
        Ok(())
    }
    refused(&SolverConfig::default())?;
    for clip in [
        Clip::Static { max: 1.0 },
        Clip::Dynamic {
            ratio: 0.9,
            least: 1.0,
            most: None,
        },
    ] {
        refused(&SolverConfig {
            clip,
            grid: Grid::karras(),
            lower_order_final: fndm_solver::LowerOrderFinal::Below(3),
            ..SolverConfig::default()
        })?;
    }
    refused(&AdaptiveConfig::default())?;
    refused(&fndm_solver::Guidance::default())?;
    refused(&fndm_solver::Respacing::Ddim(50))?;
    let continuous = ScheduleConfig::ContinuousLinear {
        beta_min: 0.1,
        beta_max: 20.0,
        steps: 10,
    };
    for schedule in [
        ScheduleConfig::linear(10),
        ScheduleConfig::cosine(10),
        ScheduleConfig::cosine(10).clipped(-5.1),
        ScheduleConfig::linear(10).zero_terminal_snr(),
        ScheduleConfig::Betas { betas: vec![0.1] },
        continuous,
    ] {
        refused(&schedule)?;
    }
    Ok(())
}
