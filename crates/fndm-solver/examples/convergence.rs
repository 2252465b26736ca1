//! Draws the error against the number of network evaluations, for all methods and both directions:
//! `cargo run -p fndm-solver --example convergence [out.svg]`. The figure on the crate's page is its output.

use std::fmt::Write as _;

use candle_core::{Device, Tensor};
use fndm_solver::{
    Algorithm, Grid, LowerOrderFinal, Method, NoiseSchedule, Result, ScheduleConfig, SolverConfig,
    ThirdOrder,
};

/// Weights, means and variances of a Gaussian mixture, whose noise prediction is known exactly.
const MIXTURE: [(f64, [f64; 2], f64); 3] = [
    (0.5, [0.8, -0.4], 0.04),
    (0.3, [-0.7, 0.5], 0.09),
    (0.2, [0.1, 0.9], 0.06),
];

const EVALUATIONS: [usize; 9] = [6, 9, 15, 24, 42, 75, 132, 240, 420];

fn noise(x: &Tensor, alpha: f64, sigma: f64) -> candle_core::Result<Tensor> {
    let mut out = Vec::new();
    for x in x.to_vec2::<f64>()? {
        let parts: Vec<(f64, f64, [f64; 2])> = MIXTURE
            .iter()
            .map(|(w, mu, var)| {
                let v = alpha * alpha * var + sigma * sigma;
                let d = [x[0] - alpha * mu[0], x[1] - alpha * mu[1]];
                (
                    w.ln() - (d[0] * d[0] + d[1] * d[1]) / (2.0 * v) - v.ln(),
                    v,
                    d,
                )
            })
            .collect();
        let top = parts.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = parts.iter().map(|p| (p.0 - top).exp()).sum();
        for axis in 0..2 {
            out.push(
                sigma
                    * parts
                        .iter()
                        .map(|(l, v, d)| (l - top).exp() / total * d[axis] / v)
                        .sum::<f64>(),
            );
        }
    }
    Tensor::from_vec(out, x.dims(), &Device::Cpu)
}

fn run(
    schedule: &NoiseSchedule,
    config: &SolverConfig,
    encode: bool,
    start: &Tensor,
) -> Result<(Tensor, usize)> {
    let solver = if encode {
        config.encode(schedule, schedule.span())
    } else {
        config.sample(schedule, schedule.span())
    }?;
    let end = solver.run(start, |x, m, _| {
        let t = schedule.time_of_model_time(m);
        noise(x, schedule.alpha(t), schedule.sigma(t))
    })?;
    Ok((end, solver.evaluations()))
}

struct Curve {
    name: &'static str,
    colour: &'static str,
    dashes: &'static str,
    config: SolverConfig,
}

fn curves() -> Vec<Curve> {
    use Algorithm::{Ddim, DpmSolver, DpmSolverPlusPlus as PlusPlus, UniPc};
    let base = SolverConfig {
        grid: Grid::UniformLambda,
        lower_order_final: LowerOrderFinal::Never,
        ..SolverConfig::default()
    };
    let curve = |name, colour, dashes, algorithm, order, method| Curve {
        name,
        colour,
        dashes,
        config: SolverConfig {
            algorithm,
            order,
            method,
            ..base.clone()
        },
    };
    let (multi, single) = (Method::Multistep, Method::SinglestepFixed);
    let mut peers = curve(
        "DPM-Solver++ 3M as the peers",
        "#0072b2",
        "2 3",
        PlusPlus,
        3,
        multi,
    );
    peers.config.third_order = ThirdOrder::Peers;
    vec![
        curve("DDIM", "#777777", "", Ddim, 1, multi),
        curve("DPM-Solver 2M", "#e69f00", "6 3", DpmSolver, 2, multi),
        curve("DPM-Solver 3M", "#e69f00", "", DpmSolver, 3, multi),
        curve("DPM-Solver++ 2S", "#009e73", "6 3", PlusPlus, 2, single),
        curve("DPM-Solver++ 3S", "#009e73", "", PlusPlus, 3, single),
        curve("DPM-Solver++ 2M", "#0072b2", "6 3", PlusPlus, 2, multi),
        peers,
        curve("DPM-Solver++ 3M", "#0072b2", "", PlusPlus, 3, multi),
        curve("UniPC-2", "#cc3377", "6 3", UniPc, 2, multi),
        curve("UniPC-3", "#cc3377", "", UniPc, 3, multi),
    ]
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 300.0;
/// Powers of ten at the bottom and the top of the error axis.
const ERRORS: (f64, f64) = (-9.0, 0.0);

fn place(evaluations: f64, error: f64) -> (f64, f64) {
    let (low, high) = (
        EVALUATIONS[0] as f64,
        EVALUATIONS[EVALUATIONS.len() - 1] as f64,
    );
    let x = (evaluations / low).ln() / (high / low).ln();
    let y = (error.log10().clamp(ERRORS.0, ERRORS.1) - ERRORS.0) / (ERRORS.1 - ERRORS.0);
    (x * WIDTH, (1.0 - y) * HEIGHT)
}

fn panel(svg: &mut String, left: f64, title: &str, lines: &[(Curve, Vec<(usize, f64)>)]) {
    let _ = writeln!(svg, r#"<g transform="translate({left},34)">"#);
    let _ = writeln!(
        svg,
        r#"<text x="{}" y="-12" text-anchor="middle" font-weight="bold">{title}</text>"#,
        WIDTH / 2.0
    );
    for power in (ERRORS.0 as i32)..=(ERRORS.1 as i32) {
        let (_, y) = place(1.0, 10f64.powi(power));
        let _ = writeln!(
            svg,
            r##"<line x1="0" x2="{WIDTH}" y1="{y:.1}" y2="{y:.1}" stroke="#dddddd"/>"##
        );
        if power % 3 == 0 {
            let _ = writeln!(
                svg,
                r#"<text x="-6" y="{:.1}" text-anchor="end">1e{power}</text>"#,
                y + 4.0
            );
        }
    }
    for count in [6, 10, 20, 50, 100, 200, 400] {
        let (x, _) = place(f64::from(count), 1.0);
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="0" y2="{HEIGHT}" stroke="#eeeeee"/>"##
        );
        let _ = writeln!(
            svg,
            r#"<text x="{x:.1}" y="{}" text-anchor="middle">{count}</text>"#,
            HEIGHT + 16.0
        );
    }
    let _ = writeln!(
        svg,
        r#"<text x="{}" y="{}" text-anchor="middle">network evaluations</text>"#,
        WIDTH / 2.0,
        HEIGHT + 34.0
    );
    for (curve, points) in lines {
        let path: Vec<String> = points
            .iter()
            .map(|&(n, e)| {
                let (x, y) = place(n as f64, e);
                format!("{x:.1},{y:.1}")
            })
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{}" stroke-width="1.8" stroke-dasharray="{}"/>"#,
            path.join(" "),
            curve.colour,
            curve.dashes
        );
    }
    let _ = writeln!(svg, "</g>");
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let out = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "convergence.svg".into());
    let schedule = ScheduleConfig::linear(1000).build()?;
    let data = Tensor::from_vec(vec![0.75, -0.3, -0.6, 0.45, 0.2, 0.7], (3, 2), &Device::Cpu)?;
    let fine = SolverConfig {
        grid: Grid::UniformLambda,
        ..SolverConfig::uni_pc(3, 6000)
    };
    let noisy = run(&schedule, &fine, true, &data)?.0;

    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 390" font-family="sans-serif" font-size="12">"#
    )?;
    writeln!(svg, r#"<rect width="940" height="390" fill="white"/>"#)?;
    for (left, title, encode) in [(50.0, "sample", false), (400.0, "encode", true)] {
        let start = if encode { &data } else { &noisy };
        let truth = run(&schedule, &fine, encode, start)?.0;
        let mut lines = Vec::new();
        for curve in curves() {
            let mut points = Vec::new();
            for steps in EVALUATIONS {
                let (end, evaluations) = run(
                    &schedule,
                    &SolverConfig {
                        steps,
                        ..curve.config.clone()
                    },
                    encode,
                    start,
                )?;
                let error = (end - &truth)?.abs()?.max_all()?.to_scalar::<f64>()?;
                points.push((evaluations, error));
            }
            let shown: Vec<String> = points
                .iter()
                .map(|(n, e)| format!("{n}: {e:.1e}"))
                .collect();
            println!("{title:<7} {:<30} {}", curve.name, shown.join("  "));
            lines.push((curve, points));
        }
        panel(&mut svg, left, title, &lines);
    }
    writeln!(svg, r#"<g transform="translate(728,60)">"#)?;
    writeln!(
        svg,
        r#"<text y="-14" font-weight="bold">largest error in x</text>"#
    )?;
    for (i, curve) in curves().iter().enumerate() {
        let y = i as f64 * 22.0 + 8.0;
        writeln!(
            svg,
            r#"<line x1="0" x2="28" y1="{y}" y2="{y}" stroke="{}" stroke-width="1.8" stroke-dasharray="{}"/><text x="36" y="{}">{}</text>"#,
            curve.colour,
            curve.dashes,
            y + 4.0,
            curve.name
        )?;
    }
    writeln!(svg, "</g>\n</svg>")?;
    std::fs::write(&out, svg)?;
    println!("wrote {out}");
    Ok(())
}
