//! Errors against an exact flow fall with the order that each method has, in both directions.

#[path = "common/by_time.rs"]
mod by_time;
mod common;

use by_time::by_time;
use candle_core::{Device, Tensor};
use common::{Mixture, array, distance};
use fndm_solver::{
    Algorithm, Grid, LowerOrderFinal, Method, NoiseSchedule, ScheduleConfig, SecondOrder, Solver,
    SolverConfig, ThirdOrder,
};

type AnyResult = Result<(), Box<dyn std::error::Error>>;

struct Problem {
    schedule: NoiseSchedule,
    mixture: Mixture,
    low: f64,
    high: f64,
    data: Tensor,
    noise: Tensor,
}

impl Problem {
    fn new() -> fndm_solver::Result<Self> {
        let schedule = ScheduleConfig::linear(1000).build()?;
        let mixture = Mixture::example();
        let data = Tensor::from_vec(vec![0.75, -0.3, -0.6, 0.45, 0.2, 0.7], (3, 2), &Device::Cpu)?;
        let mut this = Self {
            low: 0.02,
            high: 0.9,
            schedule,
            mixture,
            noise: data.clone(),
            data,
        };
        this.noise = this.run(&this.fine(true)?, &this.data)?;
        Ok(this)
    }

    fn solver(&self, config: &SolverConfig, encode: bool) -> fndm_solver::Result<Solver> {
        if encode {
            config.encode(&self.schedule, self.low..=self.high)
        } else {
            config.sample(&self.schedule, self.low..=self.high)
        }
    }

    fn fine(&self, encode: bool) -> fndm_solver::Result<Solver> {
        self.solver(
            &SolverConfig {
                grid: Grid::UniformLambda,
                ..SolverConfig::uni_pc(3, 4000)
            },
            encode,
        )
    }

    fn run(&self, solver: &Solver, start: &Tensor) -> fndm_solver::Result<Tensor> {
        solver.run(
            start,
            by_time(|x, m, _| {
                let t = self.schedule.time_of_model_time(m);
                self.mixture
                    .noise(x, self.schedule.alpha(t), self.schedule.sigma(t))
            }),
        )
    }
}

/// All methods, with the order of each.
fn methods() -> Vec<(&'static str, f64, SolverConfig)> {
    let base = SolverConfig {
        grid: Grid::UniformLambda,
        lower_order_final: LowerOrderFinal::Below(15),
        ..SolverConfig::default()
    };
    let multi = |algorithm, order| SolverConfig {
        algorithm,
        order,
        ..base.clone()
    };
    let single = |algorithm, order| SolverConfig {
        algorithm,
        order,
        method: Method::SinglestepFixed,
        ..base.clone()
    };
    let taylor = |c: SolverConfig| SolverConfig {
        second_order: SecondOrder::Taylor,
        ..c
    };
    use Algorithm::{Ddim, DpmSolver, DpmSolverPlusPlus as PlusPlus, UniPc};
    vec![
        ("DDIM", 1.0, multi(Ddim, 1)),
        ("DPM-Solver++ 1", 1.0, multi(PlusPlus, 1)),
        ("DPM-Solver++ 2M", 2.0, multi(PlusPlus, 2)),
        ("DPM-Solver++ 2M Taylor", 2.0, taylor(multi(PlusPlus, 2))),
        ("DPM-Solver++ 3M", 3.0, multi(PlusPlus, 3)),
        (
            "DPM-Solver++ 3M as the peers",
            2.0,
            SolverConfig {
                third_order: ThirdOrder::Peers,
                ..multi(PlusPlus, 3)
            },
        ),
        ("DPM-Solver 2M", 2.0, multi(DpmSolver, 2)),
        ("DPM-Solver 3M", 3.0, multi(DpmSolver, 3)),
        ("DPM-Solver++ 2S", 2.0, single(PlusPlus, 2)),
        ("DPM-Solver++ 3S", 3.0, single(PlusPlus, 3)),
        ("DPM-Solver++ 3S Taylor", 3.0, taylor(single(PlusPlus, 3))),
        ("DPM-Solver 2S", 2.0, single(DpmSolver, 2)),
        ("DPM-Solver 3S", 3.0, single(DpmSolver, 3)),
        ("UniPC-1", 2.0, multi(UniPc, 1)),
        ("UniPC-2", 3.0, multi(UniPc, 2)),
        ("UniPC-3", 4.0, multi(UniPc, 3)),
    ]
}

const COUNTS: [usize; 5] = [120, 240, 480, 960, 1920];

fn slope(errors: &[f64]) -> f64 {
    let n = errors.len();
    (errors[n - 3] / errors[n - 1]).log2() / 2.0
}

fn check(what: &str, order: f64, errors: &[f64], failures: &mut Vec<String>) {
    let slope = slope(errors);
    let shown: Vec<String> = errors.iter().map(|e| format!("{e:.2e}")).collect();
    println!(
        "{what:<44} order {order}: slope {slope:.2}, errors {}",
        shown.join(" ")
    );
    if (slope - order).abs() > 0.25 {
        failures.push(format!("{what}: slope {slope:.2}, order {order}"));
    }
}

#[test]
fn errors_fall_with_the_order_of_each_method() -> AnyResult {
    let problem = Problem::new()?;
    let mut failures = Vec::new();
    for encode in [false, true] {
        let start = if encode {
            &problem.data
        } else {
            &problem.noise
        };
        let truth = array(&problem.run(&problem.fine(encode)?, start)?);
        for (name, order, config) in methods() {
            let errors = COUNTS
                .iter()
                .map(|&steps| {
                    let solver = problem.solver(
                        &SolverConfig {
                            steps,
                            ..config.clone()
                        },
                        encode,
                    )?;
                    Ok(distance(&problem.run(&solver, start)?, &truth))
                })
                .collect::<fndm_solver::Result<Vec<f64>>>()?;
            check(
                &format!("{name}, {}", if encode { "encode" } else { "sample" }),
                order,
                &errors,
                &mut failures,
            );
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

#[test]
fn encoding_then_sampling_returns_the_start_at_the_order_of_the_method() -> AnyResult {
    let problem = Problem::new()?;
    let mut failures = Vec::new();
    for (name, order, config) in methods() {
        let errors = COUNTS
            .iter()
            .map(|&steps| {
                let config = SolverConfig {
                    steps,
                    ..config.clone()
                };
                let noisy = problem.run(&problem.solver(&config, true)?, &problem.data)?;
                let back = problem.run(&problem.solver(&config, false)?, &noisy)?;
                Ok(distance(&back, &array(&problem.data)))
            })
            .collect::<fndm_solver::Result<Vec<f64>>>()?;
        // The two directions' leading errors may partly cancel, so a round trip can only be better than its order.
        check(
            &format!("{name}, round trip"),
            slope(&errors).max(order),
            &errors,
            &mut failures,
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

/// One Gaussian: (x - alpha mu) / sqrt(alpha^2 var + sigma^2) is constant along the exact flow.
#[test]
fn a_gaussian_is_followed_to_its_closed_form() -> AnyResult {
    let (mu, var) = (0.4, 0.09);
    let gaussian = Mixture {
        w: vec![1.0],
        mu: vec![vec![mu]],
        var: vec![var],
    };
    let schedule = ScheduleConfig::cosine(1000).clipped(-5.1).build()?;
    let x = Tensor::from_vec(vec![0.1, 0.5, 1.1], (3, 1), &Device::Cpu)?;
    let spread = |t: f64| (schedule.alpha(t).powi(2) * var + schedule.sigma(t).powi(2)).sqrt();
    let flow = |x: &Tensor, from: f64, to: f64| -> candle_core::Result<Tensor> {
        ((x - schedule.alpha(from) * mu)? * (spread(to) / spread(from)))? + schedule.alpha(to) * mu
    };
    let mut failures = Vec::new();
    for (name, order, config) in methods() {
        for encode in [false, true] {
            let span = 0.02..=0.95;
            let (from, to) = if encode { (0.02, 0.95) } else { (0.95, 0.02) };
            let truth = array(&flow(&x, from, to)?);
            let errors = COUNTS
                .iter()
                .map(|&steps| {
                    let config = SolverConfig {
                        steps,
                        ..config.clone()
                    };
                    let solver = if encode {
                        config.encode(&schedule, span.clone())?
                    } else {
                        config.sample(&schedule, span.clone())?
                    };
                    let end = solver.run(
                        &x,
                        by_time(|x, m, _| {
                            let t = schedule.time_of_model_time(m);
                            gaussian.noise(x, schedule.alpha(t), schedule.sigma(t))
                        }),
                    )?;
                    Ok(distance(&end, &truth))
                })
                .collect::<fndm_solver::Result<Vec<f64>>>()?;
            check(
                &format!(
                    "{name}, Gaussian, {}",
                    if encode { "encode" } else { "sample" }
                ),
                order,
                &errors,
                &mut failures,
            );
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

/// A round trip asks for ten steps or so from next to no noise on, and the first of them is three units of lambda
/// long. What makes up for a missing history must not spoil it there.
#[test]
fn short_encodings_are_no_worse_for_a_higher_order() -> AnyResult {
    let mut problem = Problem::new()?;
    (problem.low, problem.high) = (problem.schedule.t_min(), 0.9);
    let mut failures = Vec::new();
    let truth = array(&problem.run(&problem.fine(true)?, &problem.data)?);
    for steps in [5, 10, 20, 50] {
        let error = |config: SolverConfig| -> fndm_solver::Result<f64> {
            let config = SolverConfig {
                steps,
                grid: Grid::UniformTime,
                ..config
            };
            let end = problem.run(&problem.solver(&config, true)?, &problem.data)?;
            Ok(distance(&end, &truth))
        };
        let first = error(SolverConfig::dpm_solver_pp(1, steps))?;
        for (name, _, config) in methods() {
            let x0 = config.algorithm == Algorithm::DpmSolverPlusPlus;
            if x0 && config.method != Method::Multistep {
                // By their definition they extrapolate x0 within the long step.
                continue;
            }
            let error = error(config.clone())?;
            println!("{name}, {steps} steps: {error:.2e}, order 1 {first:.2e}");
            // UniPC corrects, and singlestep methods span, steps that are too long for either.
            let multistep = config.method == Method::Multistep;
            let limit = match config.algorithm {
                Algorithm::UniPc if steps <= 10 => 1.5,
                Algorithm::DpmSolver if !multistep && steps <= 10 => 1.5,
                _ => 1.0 + 1e-9,
            };
            if error > limit * first {
                failures.push(format!(
                    "{name}, {steps} steps: {error:.2e}, order 1 {first:.2e}"
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}
