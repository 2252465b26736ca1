//! A model of one's own with the solver: any closure that tells the noise in a state.
//!
//! `cargo run --release --example own_model`
//!
//! The data here are numbers about -1 and about 1. Their noise is known exactly, so the only error is the solver's. Points are encoded to
//! noise and sampled back again; the table says how far they are off, for the orders of DPM-Solver++ and numbers of steps.

use fndm::candle_core::{DType, Device, Tensor};
use fndm::solver::{Query, ScheduleConfig, SolverConfig};

/// Deviation of each of the two clusters.
const BLUR: f64 = 0.3;

/// The noise in a state: what a trained network would estimate. `E[noise | x]` of a mixture of two Gaussians has this formula.
fn noise(query: Query<'_>) -> fndm::solver::Result<Tensor> {
    let Query {
        x, alpha, sigma, ..
    } = query;
    let variance = (alpha * BLUR).powi(2) + sigma * sigma;
    // Which cluster x belongs to, from -1 to 1.
    let side = (x * (alpha / variance))?.tanh()?;
    Ok(((x - (side * alpha)?)? * (sigma / variance))?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schedule = ScheduleConfig::linear(1000).build()?;
    let points = [-1.4, -1., -0.7, 0.5, 1., 1.2];
    let data = Tensor::new(&points, &Device::Cpu)?.reshape((6, 1))?;

    println!("| steps | order 1 (DDIM) | order 2 |\n| --- | --- | --- |");
    for steps in [5, 10, 20, 40, 80] {
        let mut row = format!("| {steps} |");
        for order in [1, 2] {
            let config = SolverConfig::dpm_solver_pp(order, steps);
            // Half of the way to pure noise, and back.
            let span = schedule.t_min()..=0.5;
            let noisy = config.encode(&schedule, span.clone())?.run(&data, noise)?;
            let again = config.sample(&schedule, span)?.run(&noisy, noise)?;
            let error = (again - &data)?.abs()?.max_all()?.to_scalar::<f64>()?;
            row += &format!(" {error:.6} |");
        }
        println!("{row}");
    }

    // Sampling alone: fresh noise becomes data, half of it on either side.
    let fresh = Tensor::randn(0., 1., (1000, 1), &Device::Cpu)?;
    let solver = SolverConfig::dpm_solver_pp(2, 20).sample(&schedule, schedule.t_min()..=1.)?;
    let samples = solver.run(&fresh, noise)?;
    let right = samples.gt(0.)?.to_dtype(DType::F64)?.mean_all()?;
    let blur = (samples.abs()? - 1.)?.sqr()?.mean_all()?.sqrt()?;
    println!(
        "\n1000 samples by {} evaluations: {:.1} % at 1, deviation {:.3} (of the data: {BLUR})",
        solver.evaluations(),
        100. * right.to_scalar::<f64>()?,
        blur.to_scalar::<f64>()?
    );
    Ok(())
}
