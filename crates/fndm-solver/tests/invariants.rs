//! What has to hold for every solver, whatever the model.

#[path = "common/by_time.rs"]
mod by_time;

use std::collections::HashMap;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use fndm_solver::{
    Algorithm, Clip, Grid, LowerOrderFinal, Method, NoiseSchedule, Prediction, ScheduleConfig,
    SecondOrder, Solver, SolverConfig, ThirdOrder,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// A smooth, nonlinear model without a meaning; bounded, so that any state stays finite.
fn model(x: &Tensor, model_time: f64, _: usize) -> candle_core::Result<Tensor> {
    ((x * 1.3)?.sin()? + (0.001 * model_time).cos() * 0.3)? * 0.8
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn bits(t: &Tensor) -> Vec<u64> {
    values(t).into_iter().map(f64::to_bits).collect()
}

fn any_config() -> impl Strategy<Value = SolverConfig> {
    let method = prop_oneof![
        Just(Method::Multistep),
        Just(Method::Singlestep),
        Just(Method::SinglestepFixed)
    ];
    let algorithm = prop_oneof![
        Just(Algorithm::DpmSolverPlusPlus),
        Just(Algorithm::DpmSolver),
        Just(Algorithm::Ddim),
        Just(Algorithm::UniPc)
    ];
    let grid = prop_oneof![
        Just(Grid::UniformTime),
        Just(Grid::UniformLambda),
        Just(Grid::QuadraticTime),
        Just(Grid::karras())
    ];
    let lower = prop_oneof![
        Just(LowerOrderFinal::Never),
        Just(LowerOrderFinal::Below(15)),
        Just(LowerOrderFinal::Always),
        Just(LowerOrderFinal::LastStep)
    ];
    let prediction = prop_oneof![
        Just(Prediction::Noise),
        Just(Prediction::X0),
        Just(Prediction::V),
        Just(Prediction::Score)
    ];
    let clip = prop_oneof![3 => Just(Clip::None), 1 => Just(Clip::Static { max: 1.0 })];
    (
        (algorithm, method, grid, lower, prediction, clip),
        1usize..=3,
        1usize..=24,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(
                (algorithm, method, grid, lower_order_final, prediction, clip),
                order,
                steps,
                taylor,
                peers,
            )| {
                let order = if algorithm == Algorithm::Ddim {
                    1
                } else {
                    order
                };
                let method = if algorithm == Algorithm::UniPc {
                    Method::Multistep
                } else {
                    method
                };
                SolverConfig {
                    algorithm,
                    order,
                    method,
                    grid,
                    lower_order_final,
                    prediction,
                    clip,
                    steps: if method == Method::SinglestepFixed {
                        steps.max(order)
                    } else {
                        steps
                    },
                    second_order: if taylor {
                        SecondOrder::Taylor
                    } else {
                        SecondOrder::Midpoint
                    },
                    third_order: if peers {
                        ThirdOrder::Peers
                    } else {
                        ThirdOrder::Exact
                    },
                    ..SolverConfig::default()
                }
            },
        )
}

fn build(config: &SolverConfig, schedule: &NoiseSchedule, encode: bool) -> Solver {
    let made = if encode {
        config.encode(schedule, schedule.span())
    } else {
        config.sample(schedule, schedule.span())
    };
    made.unwrap_or_else(|e| panic!("{e}: {config:?}"))
}

fn start(seed: u64, samples: usize) -> Tensor {
    let v: Vec<f64> = (0..samples * 6)
        .map(|i| ((i as f64 + 1.0) * (seed as f64 * 0.37 + 1.7)).sin() * 1.2)
        .collect();
    Tensor::from_vec(v, (samples, 1, 2, 3), &Device::Cpu).unwrap()
}

fn any_type() -> impl Strategy<Value = DType> {
    prop_oneof![
        Just(DType::F64),
        Just(DType::F32),
        Just(DType::F16),
        Just(DType::BF16)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitting_a_run_anywhere_gives_the_same_bits(
        config in any_config(), encode: bool, seed in 0u64..1000, at in 0.0f64..1.0, dtype in any_type(), eta in 0.0f64..1.0,
    ) {
        // Fresh noise, where the solver has it.
        let eta = if config.algorithm == Algorithm::Ddim && !encode { eta } else { 0.0 };
        let config = SolverConfig { eta, seed, ..config };
        let schedule = ScheduleConfig::cosine(200).clipped(-5.1).build().unwrap();
        let solver = build(&config, &schedule, encode);
        let x = start(seed, 2).to_dtype(dtype).unwrap();
        let whole = solver.run(&x, by_time(model)).unwrap();

        let stop = (at * (solver.evaluations() + 1) as f64) as usize;
        let mut stepper = solver.stepper(&x).unwrap();
        for _ in 0..stop {
            let q = stepper.query().unwrap();
            let out = model(q.x, q.model_time, q.evaluation).unwrap();
            stepper.advance(&out).unwrap();
        }
        // Through storage: copies without any shared identity.
        let stored: HashMap<String, Tensor> =
            stepper.tensors().unwrap().into_iter().map(|(k, v)| (k, v.copy().unwrap())).collect();
        let mut resumed = solver.resume(&stored).unwrap();
        while let Some(q) = resumed.query() {
            let out = model(q.x, q.model_time, q.evaluation).unwrap();
            resumed.advance(&out).unwrap();
        }
        prop_assert_eq!(bits(&resumed.finish().unwrap()), bits(&whole));
    }

    #[test]
    fn a_batch_equals_its_members(config in any_config(), encode: bool, seed in 0u64..1000, dtype in any_type()) {
        let schedule = ScheduleConfig::linear(1000).build().unwrap();
        let solver = build(&config, &schedule, encode);
        let x = start(seed, 3).to_dtype(dtype).unwrap();
        let batch = solver.run(&x, by_time(model)).unwrap();
        for i in 0..3 {
            let alone = solver.run(&x.narrow(0, i, 1).unwrap().contiguous().unwrap(), by_time(model)).unwrap();
            prop_assert_eq!(bits(&alone), bits(&batch.narrow(0, i, 1).unwrap().contiguous().unwrap()));
        }
    }

    #[test]
    fn the_network_is_asked_as_often_as_promised_and_inside_its_times(config in any_config(), encode: bool) {
        let schedule = ScheduleConfig::linear(1000).build().unwrap();
        let solver = build(&config, &schedule, encode);
        let mut asked = 0;
        solver.run(&start(1, 1), by_time(|x, m, i| {
            assert_eq!(i, asked);
            assert!((-1e-9..=999.0 + 1e-9).contains(&m), "model time {m}");
            asked += 1;
            model(x, m, i)
        })).unwrap();
        prop_assert_eq!(asked, solver.evaluations());
        let extra = usize::from(
            config.algorithm == Algorithm::UniPc && config.order == 3 && config.third_order == ThirdOrder::Exact,
        );
        prop_assert!(asked <= config.steps + extra);
        let times = solver.times();
        prop_assert!(times.windows(2).all(|w| if encode { w[0] < w[1] } else { w[0] > w[1] }), "{times:?}");
    }

    #[test]
    fn repeated_times_do_nothing(
        config in any_config(), encode: bool, seed in 0u64..1000, copies in prop::collection::vec(1usize..4, 9),
    ) {
        let schedule = ScheduleConfig::linear(1000).build().unwrap();
        let base = SolverConfig { steps: 8, order: 1, algorithm: Algorithm::Ddim, method: Method::Multistep, ..config.clone() };
        let times = build(&base, &schedule, encode).times().to_vec();
        let repeated: Vec<f64> =
            times.iter().zip(&copies).flat_map(|(&t, &n)| std::iter::repeat_n(t, n)).collect();
        let run = |times: &[f64]| {
            let config = SolverConfig { steps: times.len() - 1, grid: Grid::Explicit(times.to_vec()), ..config.clone() };
            // Fixed singlestep orders need as many steps as they are.
            let solver = build(&config, &schedule, encode);
            bits(&solver.run(&start(seed, 1), by_time(model)).unwrap())
        };
        prop_assert_eq!(run(&times), run(&repeated));
    }

    #[test]
    fn an_empty_span_does_nothing(config in any_config(), encode: bool, t in 0.001f64..1.0) {
        let schedule = ScheduleConfig::linear(1000).build().unwrap();
        let solver = if encode { config.encode(&schedule, t..=t) } else { config.sample(&schedule, t..=t) }.unwrap();
        let x = start(3, 1);
        prop_assert_eq!(solver.evaluations(), 0);
        prop_assert_eq!(bits(&solver.run(&x, by_time(model)).unwrap()), bits(&x));
    }

    #[test]
    fn the_reversed_grid_undoes_order_1_as_steps_grow(seed in 0u64..1000, data_side: bool) {
        let schedule = ScheduleConfig::linear(1000).build().unwrap();
        let algorithm = if data_side { Algorithm::DpmSolverPlusPlus } else { Algorithm::DpmSolver };
        let x = start(seed, 1);
        let error = |steps: usize| {
            let config = SolverConfig { algorithm, grid: Grid::UniformLambda, ..SolverConfig::dpm_solver_pp(1, steps) };
            let span = 0.05..=0.8;
            let noisy = config.encode(&schedule, span.clone()).unwrap().run(&x, by_time(model)).unwrap();
            let back = config.sample(&schedule, span).unwrap().run(&noisy, by_time(model)).unwrap();
            values(&(back - &x).unwrap()).into_iter().map(f64::abs).fold(0.0, f64::max)
        };
        let (few, many) = (error(200), error(1600));
        prop_assert!(many < few / 5.0 + 1e-6, "{few} with 200 steps, {many} with 1600");
    }

    #[test]
    fn configs_survive_json(config in any_config()) {
        let text = serde_json::to_string(&config).unwrap();
        let back: SolverConfig = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(back, config);
    }

    #[test]
    fn lambda_inverse_undoes_lambda(steps in 10usize..4000, part in 0.0f64..1.0, kind in 0usize..4) {
        let schedule = match kind {
            0 => ScheduleConfig::linear(steps),
            1 => ScheduleConfig::cosine(steps),
            2 => ScheduleConfig::ScaledLinear { steps, beta_start: 0.00085, beta_end: 0.012 },
            _ => ScheduleConfig::ContinuousLinear { beta_min: 0.1, beta_max: 20.0, steps },
        }.build().unwrap();
        let t = schedule.t_min() + part * (schedule.t_max() - schedule.t_min());
        let back = schedule.lambda_inverse(schedule.lambda(t));
        prop_assert!((back - t).abs() < 1e-9, "{t} came back as {back}");
        let (a, s) = (schedule.alpha(t), schedule.sigma(t));
        prop_assert!((a * a + s * s - 1.0).abs() < 1e-12);
        prop_assert!((schedule.lambda(t) - (a / s).ln()).abs() < 1e-9);
    }
}

/// Schedules of 10 to 4000 training steps, to both ends.
fn schedules() -> Vec<NoiseSchedule> {
    let configs = [10, 37, 1000, 4000].into_iter().flat_map(|steps| {
        [
            ScheduleConfig::linear(steps),
            ScheduleConfig::cosine(steps),
            ScheduleConfig::cosine(steps).clipped(-5.1),
            ScheduleConfig::ScaledLinear {
                steps,
                beta_start: 0.00085,
                beta_end: 0.012,
            },
            ScheduleConfig::ContinuousLinear {
                beta_min: 0.1,
                beta_max: 20.0,
                steps,
            },
        ]
    });
    configs.map(|c| c.build().unwrap()).collect()
}

/// Every algorithm with its orders and methods on every grid, in 1 to 1000 steps.
fn configs() -> Vec<SolverConfig> {
    use Algorithm::{Ddim, DpmSolver, DpmSolverPlusPlus, UniPc};
    use Method::{Multistep, Singlestep, SinglestepFixed};
    let mut all = Vec::new();
    for algorithm in [DpmSolverPlusPlus, DpmSolver, Ddim, UniPc] {
        for order in 1..=3 {
            for method in [Multistep, Singlestep, SinglestepFixed] {
                for grid in [
                    Grid::UniformTime,
                    Grid::UniformLambda,
                    Grid::QuadraticTime,
                    Grid::karras(),
                ] {
                    for steps in [1, 2, 3, 4, 7, 15, 20, 1000] {
                        let steps = if method == SinglestepFixed {
                            steps.max(order)
                        } else {
                            steps
                        };
                        let config = SolverConfig {
                            algorithm,
                            order,
                            method,
                            grid: grid.clone(),
                            steps,
                            ..SolverConfig::default()
                        };
                        // Long runs on one grid, to keep the test short.
                        let long = steps > 20 && grid != Grid::UniformTime;
                        if config.check().is_ok() && !long {
                            all.push(config);
                        }
                    }
                }
            }
        }
    }
    all
}

/// All runs that a config has on a schedule: over the whole span, and past both its ends.
fn runs(config: &SolverConfig, schedule: &NoiseSchedule) -> Vec<Solver> {
    let in_lambda = matches!(config.grid, Grid::UniformLambda | Grid::Karras { .. });
    let low = if in_lambda { schedule.t_min() } else { 0.0 };
    let to_zero = SolverConfig {
        denoise_to_zero: true,
        ..config.clone()
    };
    let to_noise = SolverConfig {
        encode_to_noise: true,
        ..config.clone()
    };
    let all = [
        config.encode(schedule, schedule.span()),
        config.sample(schedule, low..=schedule.t_max()),
        to_zero.sample(schedule, schedule.span()),
        to_noise.encode(schedule, schedule.span()),
    ];
    all.into_iter().map(Result::unwrap).collect()
}

/// The exact output of a network for standard normal data, on which the flow stands still.
fn exact_output(
    prediction: Prediction,
    schedule: &NoiseSchedule,
    x: &Tensor,
    model_time: f64,
) -> candle_core::Result<Tensor> {
    let t = schedule.time_of_model_time(model_time);
    match prediction {
        Prediction::Noise => x * schedule.sigma(t),
        Prediction::X0 => x * schedule.alpha(t),
        Prediction::V => x.zeros_like(),
        Prediction::Score => x.neg(),
    }
}

/// 1 to 1000 steps, 10 to 4000 training steps, both ends of the schedule, every method: no NaN, nothing infinite.
#[test]
fn no_nan_for_any_valid_config() {
    let x = start(5, 1);
    let mut count = 0;
    for schedule in schedules() {
        for config in configs() {
            for solver in runs(&config, &schedule) {
                let end = solver
                    .run(
                        &x,
                        by_time(|x, m, _| exact_output(config.prediction, &schedule, x, m)),
                    )
                    .unwrap();
                count += 1;
                assert!(
                    values(&end).iter().all(|v| v.is_finite()),
                    "{config:?} on {} steps",
                    schedule.steps()
                );
            }
        }
    }
    println!("{count} runs");
}

/// The same for what else a config holds, drawn: types of state, predictions, clipping, forms.
#[test]
fn no_nan_in_any_type() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut count = 0;
    for schedule in schedules() {
        for _ in 0..60 {
            let drawn = (any_config(), any_type()).new_tree(&mut runner).unwrap();
            let (config, dtype) = drawn.current();
            let x = start(5, 1).to_dtype(dtype).unwrap();
            for solver in runs(&config, &schedule) {
                let end = solver
                    .run(
                        &x,
                        by_time(|x, m, _| exact_output(config.prediction, &schedule, x, m)),
                    )
                    .unwrap();
                count += 1;
                assert!(
                    values(&end).iter().all(|v| v.is_finite()),
                    "{dtype:?}, {config:?} on {} steps",
                    schedule.steps()
                );
            }
        }
    }
    println!("{count} runs");
}

/// The noisiest schedules that there may be keep every coefficient finite, in f32 too.
#[test]
fn no_nan_on_the_noisiest_schedules() {
    let schedules = [
        ScheduleConfig::Betas {
            betas: vec![0.99; 13],
        },
        ScheduleConfig::ContinuousLinear {
            beta_min: 0.1,
            beta_max: 119.0,
            steps: 100,
        },
    ];
    for schedule in schedules.map(|s| s.build().unwrap()) {
        for config in configs() {
            for prediction in [
                Prediction::Noise,
                Prediction::X0,
                Prediction::V,
                Prediction::Score,
            ] {
                let config = SolverConfig {
                    prediction,
                    ..config.clone()
                };
                if config.steps > 20 {
                    continue;
                }
                for solver in runs(&config, &schedule) {
                    let x = start(5, 1).to_dtype(DType::F32).unwrap();
                    let end = solver
                        .run(
                            &x,
                            by_time(|x, m, _| exact_output(prediction, &schedule, x, m)),
                        )
                        .unwrap();
                    assert!(values(&end).iter().all(|v| v.is_finite()), "{config:?}");
                }
            }
        }
    }
}
