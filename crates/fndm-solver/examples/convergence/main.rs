//! Draws the error against the number of network evaluations, for all methods and both directions:
//! `cargo run --release -p fndm-solver --example convergence [out.svg]`. The figure on the crate's page is its output.

mod figure;
mod mixture;

use candle_core::Tensor;
use figure::{Line, Panel, figure};
use fndm_solver::{
    AdaptiveConfig, Algorithm, Grid, LowerOrderFinal, Method, NoiseSchedule, Result,
    ScheduleConfig, SolverConfig, ThirdOrder,
};

const STEPS: [usize; 9] = [6, 9, 15, 24, 42, 75, 132, 240, 396];
const TOLERANCES: [f64; 9] = [3e-1, 1e-1, 3e-2, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7];

const GREY: &str = "#777777";
const ORANGE: &str = "#d55e00";
const BLUE: &str = "#0072b2";
const PINK: &str = "#cc3377";
const SOLID: &str = "";
const DASHED: &str = "6 3";
const DOTTED: &str = "2 3";

/// How a line's points come about.
enum Kind {
    Fixed(SolverConfig),
    Adaptive(AdaptiveConfig),
}

type Curve = (&'static str, &'static str, &'static str, Kind);

fn fixed(algorithm: Algorithm, order: usize, method: Method) -> Kind {
    Kind::Fixed(SolverConfig {
        algorithm,
        order,
        method,
        grid: Grid::UniformLambda,
        lower_order_final: LowerOrderFinal::Never,
        ..SolverConfig::default()
    })
}

fn adaptive(algorithm: Algorithm, order: usize) -> Kind {
    Kind::Adaptive(AdaptiveConfig {
        algorithm,
        order,
        ..AdaptiveConfig::default()
    })
}

/// The panels of one direction.
fn curves() -> [(&'static str, Vec<Curve>); 3] {
    use Algorithm::{Ddim, DpmSolver, DpmSolverPlusPlus as PlusPlus, UniPc};
    let ddim = || ("DDIM", GREY, SOLID, fixed(Ddim, 1, Method::Multistep));
    let (multi, single) = (Method::Multistep, Method::SinglestepFixed);
    let peers = Kind::Fixed(SolverConfig {
        grid: Grid::UniformLambda,
        lower_order_final: LowerOrderFinal::Never,
        third_order: ThirdOrder::Peers,
        ..SolverConfig::dpm_solver_pp(3, 50)
    });
    [
        (
            "multistep",
            vec![
                ddim(),
                ("DPM-Solver 2M", ORANGE, DASHED, fixed(DpmSolver, 2, multi)),
                ("DPM-Solver 3M", ORANGE, SOLID, fixed(DpmSolver, 3, multi)),
                ("DPM-Solver++ 2M", BLUE, DASHED, fixed(PlusPlus, 2, multi)),
                ("3M as the peers", BLUE, DOTTED, peers),
                ("DPM-Solver++ 3M", BLUE, SOLID, fixed(PlusPlus, 3, multi)),
            ],
        ),
        (
            "singlestep",
            vec![
                ddim(),
                ("DPM-Solver 2S", ORANGE, DASHED, fixed(DpmSolver, 2, single)),
                ("DPM-Solver 3S", ORANGE, SOLID, fixed(DpmSolver, 3, single)),
                ("DPM-Solver++ 2S", BLUE, DASHED, fixed(PlusPlus, 2, single)),
                ("DPM-Solver++ 3S", BLUE, SOLID, fixed(PlusPlus, 3, single)),
            ],
        ),
        (
            "UniPC and adaptive",
            vec![
                ddim(),
                ("adaptive 12", ORANGE, DASHED, adaptive(DpmSolver, 2)),
                ("adaptive 23", ORANGE, SOLID, adaptive(DpmSolver, 3)),
                ("adaptive ++12", BLUE, DASHED, adaptive(PlusPlus, 2)),
                ("adaptive ++23", BLUE, SOLID, adaptive(PlusPlus, 3)),
                ("UniPC-1", PINK, DOTTED, fixed(UniPc, 1, multi)),
                ("UniPC-2", PINK, DASHED, fixed(UniPc, 2, multi)),
                ("UniPC-3", PINK, SOLID, fixed(UniPc, 3, multi)),
            ],
        ),
    ]
}

/// A direction over the whole schedule.
struct Problem {
    schedule: NoiseSchedule,
    encode: bool,
    start: Tensor,
}

impl Problem {
    fn levels(&self, model_time: f64) -> (f64, f64) {
        let t = self.schedule.time_of_model_time(model_time);
        (self.schedule.alpha(t), self.schedule.sigma(t))
    }

    /// The end of the run, and its network evaluations.
    fn fixed(&self, config: &SolverConfig) -> Result<(Tensor, f64)> {
        let (schedule, span) = (&self.schedule, self.schedule.span());
        let solver = if self.encode {
            config.encode(schedule, span)
        } else {
            config.sample(schedule, span)
        }?;
        let end = solver.run(&self.start, |query| -> fndm_solver::Result<Tensor> {
            let levels = vec![(query.alpha, query.sigma); query.x.dim(0)?];
            Ok(mixture::noise(query.x, &levels)?)
        })?;
        Ok((end, solver.evaluations() as f64))
    }

    /// The same, with the mean of the samples' evaluations.
    fn adaptive(&self, config: &AdaptiveConfig) -> Result<(Tensor, f64)> {
        let (schedule, span) = (&self.schedule, self.schedule.span());
        let solver = if self.encode {
            config.encode(schedule, span)
        } else {
            config.sample(schedule, span)
        }?;
        let run = solver.run(&self.start, |q| {
            let levels: Vec<_> = q.model_times.iter().map(|&m| self.levels(m)).collect();
            mixture::noise(q.x, &levels)
        })?;
        let sum: usize = run.evaluations.iter().sum();
        Ok((run.x, sum as f64 / run.evaluations.len() as f64))
    }

    fn fine(&self) -> Result<Tensor> {
        let config = SolverConfig {
            grid: Grid::UniformLambda,
            ..SolverConfig::uni_pc(3, 6000)
        };
        Ok(self.fixed(&config)?.0)
    }

    fn ends(&self, kind: &Kind) -> Result<Vec<(Tensor, f64)>> {
        match kind {
            Kind::Fixed(config) => STEPS
                .iter()
                .map(|&steps| {
                    self.fixed(&SolverConfig {
                        steps,
                        ..config.clone()
                    })
                })
                .collect(),
            Kind::Adaptive(config) => TOLERANCES
                .iter()
                .map(|&tolerance| {
                    self.adaptive(&AdaptiveConfig {
                        atol: tolerance,
                        rtol: tolerance,
                        ..config.clone()
                    })
                })
                .collect(),
        }
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "convergence.svg".into());
    let encode = Problem {
        schedule: ScheduleConfig::linear(1000).build()?,
        encode: true,
        start: mixture::data()?,
    };
    let sample = Problem {
        schedule: encode.schedule.clone(),
        encode: false,
        start: encode.fine()?,
    };
    let mut panels = Vec::new();
    for (direction, problem) in [("sample", &sample), ("encode", &encode)] {
        let truth = problem.fine()?;
        for (family, curves) in curves() {
            let title = format!("{direction}, {family}");
            println!("{title}");
            let mut lines = Vec::new();
            for (name, colour, dashes, kind) in curves {
                let mut points = Vec::new();
                for (end, evaluations) in problem.ends(&kind)? {
                    let error = (end - &truth)?.abs()?.max_all()?.to_scalar::<f64>()?;
                    points.push((evaluations, error));
                }
                let shown: Vec<String> = points
                    .iter()
                    .map(|(n, e)| format!("{n:.0}: {e:.1e}"))
                    .collect();
                println!("  {name:<16} {}", shown.join("  "));
                lines.push(Line {
                    name,
                    colour,
                    dashes,
                    points,
                });
            }
            panels.push(Panel { title, lines });
        }
    }
    std::fs::write(&out, figure(&panels, 3)?)?;
    println!("wrote {out}");
    Ok(())
}
