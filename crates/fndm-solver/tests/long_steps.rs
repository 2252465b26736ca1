//! What a network is to say for one long step: the step of order 1 that it makes is held to the states that it was made from.

use candle_core::{DType, Device, Tensor};
use fndm_solver::{Error, Prediction, Result, ScheduleConfig, SolverConfig};

fn tensor(values: &[f64]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn worst(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a - b).unwrap().abs().unwrap();
    let values = difference.to_vec1::<f64>().unwrap();
    values.into_iter().fold(0., f64::max)
}

#[test]
fn a_step_of_order_1_arrives_where_the_answer_leads() {
    let schedule = ScheduleConfig::default().build().unwrap();
    let (x, next) = (tensor(&[0.3, -0.7, 1.9]), tensor(&[-0.2, 0.5, 0.1]));
    let mut largest: f64 = 0.;
    for prediction in [
        Prediction::Noise,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
    ] {
        for (low, high) in [(schedule.t_min(), 0.6), (0.2, 0.9), (0.5, 0.51)] {
            for encoding in [false, true] {
                let config = SolverConfig {
                    prediction,
                    ..SolverConfig::dpm_solver_pp(1, 1)
                };
                let solver = match encoding {
                    true => config.encode(&schedule, low..=high),
                    false => config.sample(&schedule, low..=high),
                };
                let (from, to) = if encoding { (low, high) } else { (high, low) };
                let at = |t: f64| (schedule.alpha(t), schedule.sigma(t));
                let ((alpha, sigma), (next_alpha, next_sigma)) = (at(from), at(to));
                let answer = prediction
                    .leading_to((&x, alpha, sigma), (&next, next_alpha, next_sigma))
                    .unwrap();
                let answered = |_: fndm_solver::Query<'_>| -> Result<Tensor> { Ok(answer.clone()) };
                let arrived = solver.unwrap().run(&x, answered).unwrap();
                largest = largest.max(worst(&arrived, &next));
            }
        }
    }
    println!("worst error {largest:e}");
    assert!(largest < 1e-11, "{largest:e}");
}

#[test]
fn on_the_line_of_one_image_and_one_noise_it_is_the_target() {
    let (x0, noise) = (tensor(&[0.5, -0.25]), tensor(&[1.5, -0.5]));
    let state =
        |alpha: f64, sigma: f64| ((&x0 * alpha).unwrap() + (&noise * sigma).unwrap()).unwrap();
    let (from, to) = ((0.6, 0.8), (0.8, 0.6));
    for prediction in [
        Prediction::Noise,
        Prediction::X0,
        Prediction::V,
        Prediction::Score,
    ] {
        let said = prediction
            .leading_to(
                (&state(from.0, from.1), from.0, from.1),
                (&state(to.0, to.1), to.0, to.1),
            )
            .unwrap();
        let target = prediction.target(&x0, &noise, from.0, from.1).unwrap();
        assert!(worst(&said, &target) < 1e-12);
    }
}

#[test]
fn two_states_of_one_level_lead_nowhere() {
    let x = tensor(&[0.1]).to_dtype(DType::F64).unwrap();
    let error = Prediction::V
        .leading_to((&x, 0.6, 0.8), (&x, 0.6, 0.8))
        .unwrap_err();
    assert!(matches!(error, Error::Conversion { .. }), "{error}");
}
