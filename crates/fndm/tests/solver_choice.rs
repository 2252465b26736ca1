//! Every solver and grid of fndm-solver takes a slice through noise and back.

use std::path::Path;

use fndm::candle_core::Device;
use fndm::data::PatientSlices;
use fndm::data::phantom::PhantomConfig;
use fndm::solver::{Algorithm, Grid, Method, ThirdOrder};
use fndm::{DetectConfig, Detector, SliceMaps, SolverChoice};

fn detector() -> Detector {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/phantom");
    Detector::load(folder, &Device::Cpu).unwrap()
}

fn slices(detector: &Detector) -> PatientSlices {
    let phantom = PhantomConfig {
        slices: 1,
        ..PhantomConfig::default()
    };
    detector.slices(&phantom.patient(31).unwrap()).unwrap()
}

/// The mean difference of two reconstructions, in units of the images' range of 2.
fn apart(a: &SliceMaps, b: &SliceMaps) -> f64 {
    let (a, b) = (a.healthy.as_ref().unwrap(), b.healthy.as_ref().unwrap());
    assert!(a.iter().all(|v| v.is_finite()));
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum();
    sum / a.len() as f64 / 2.
}

#[test]
fn every_solver_and_grid_leads_to_nearly_the_same_reconstruction() {
    let detector = detector();
    let slices = slices(&detector);
    let base = DetectConfig {
        steps: 8,
        // The models' own is strong, and few steps of any solver then differ.
        guidance_scale: 1.,
        ..detector.config().detect_config(fndm::Method::Fndm)
    };
    let run = |order: usize, solver: SolverChoice| {
        let config = DetectConfig {
            order,
            solver,
            ..base.clone()
        };
        detector.examine(&slices, &config, &mut |_| {}).unwrap()
    };
    let default = run(2, SolverChoice::default());
    let of = |algorithm: Algorithm| SolverChoice {
        algorithm,
        ..SolverChoice::default()
    };
    let on = |grid: Grid| SolverChoice {
        grid,
        ..SolverChoice::default()
    };
    let mut worst = 0.0_f64;
    for (order, choice, evaluations) in [
        (1, of(Algorithm::Ddim), 16),
        (2, of(Algorithm::DpmSolver), 16),
        (2, of(Algorithm::UniPc), 16),
        // One more where the sampling starts; the first step of this encoding is too long for it.
        (3, of(Algorithm::UniPc), 17),
        (
            3,
            SolverChoice {
                third_order: ThirdOrder::Peers,
                ..of(Algorithm::UniPc)
            },
            16,
        ),
        (
            2,
            SolverChoice {
                method: Method::Singlestep,
                // Four steps: even in time, the first one of the encoding would be far too long.
                ..on(Grid::UniformLambda)
            },
            16,
        ),
        (2, on(Grid::Trailing), 16),
        (2, on(Grid::UniformLambda), 16),
        (2, on(Grid::QuadraticTime), 16),
        (2, on(Grid::karras()), 16),
    ] {
        let found = run(order, choice.clone());
        assert_eq!(found.evaluations, evaluations, "{choice:?}");
        let apart = apart(&found, &default);
        println!("{apart:.4} of order {order} by {choice:?}");
        assert!(apart > 0., "{choice:?} has no effect");
        worst = worst.max(apart);
    }
    // Eight steps, on grids that spread them quite differently; predictions that are cut to [-1, 1] keep them from coming together
    // with more. The solvers' exactness is fndm-solver's to test: here none goes astray.
    assert!(worst < 0.05, "{worst}");
}
