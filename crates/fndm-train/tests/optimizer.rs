//! Adam, `AdamW`, averages and rates against slow references in f64.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use fndm_train::{Adam, Ema, EmaConfig, Error, OptimizerConfig, RateSchedule};
use proptest::prelude::*;

fn vector(values: &[f64]) -> Tensor {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    Tensor::from_slice(&values, values.len(), &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn adamw_is_its_definition(
        start in prop::collection::vec(-2.0..2.0_f64, 1..20),
        seed in 0.0..100.0_f64,
        lr in 1e-4..0.1_f64,
        weight_decay in prop_oneof![Just(0.0), 0.0..0.5_f64],
        beta1 in 0.0..0.99_f64,
        beta2 in 0.5..0.9999_f64,
        scale in 0.1..1.0_f64,
    ) {
        let config = OptimizerConfig { beta1, beta2, weight_decay, eps: 1e-6, ..OptimizerConfig::default() };
        let parameters = vec![("w".to_owned(), Var::from_tensor(&vector(&start)).unwrap())];
        let mut adam = Adam::new(&config);
        let (mut w, mut m, mut v) = (start.clone(), vec![0.0; start.len()], vec![0.0; start.len()]);
        for n in 1..=8 {
            let g: Vec<f64> = (0..w.len()).map(|i| (seed + 3.7 * i as f64 + f64::from(n)).sin()).collect();
            adam.step(&parameters, &BTreeMap::from([("w".to_owned(), vector(&g))]), lr, scale).unwrap();
            for i in 0..w.len() {
                let g = g[i] * scale;
                m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                let (m, v) = (m[i] / (1.0 - beta1.powi(n)), v[i] / (1.0 - beta2.powi(n)));
                w[i] = w[i] * (1.0 - lr * weight_decay) - lr * m / (v.sqrt() + 1e-6);
            }
        }
        prop_assert_eq!(adam.steps(), 8);
        let got = parameters[0].1.to_vec1::<f32>().unwrap();
        for (got, wanted) in got.iter().zip(&w) {
            prop_assert!((f64::from(*got) - wanted).abs() < 2e-5, "{} {}", got, wanted);
        }
    }
}

#[test]
fn averages_start_as_a_copy_and_forget_it_soon_with_warm_up() {
    for warm_up in [false, true] {
        let config = EmaConfig {
            decays: vec![0.99],
            warm_up,
        };
        let parameters = vec![("w".to_owned(), Var::from_tensor(&vector(&[100.0])).unwrap())];
        let mut ema = Ema::new(0.99, &parameters).unwrap();
        let mut wanted = 100.0;
        for n in 0..50 {
            parameters[0].1.set(&vector(&[n as f64])).unwrap();
            ema.update(&config, n, &parameters).unwrap();
            let decay = if warm_up {
                0.99_f64.min((1 + n) as f64 / (10 + n) as f64)
            } else {
                0.99
            };
            wanted = decay * wanted + (1.0 - decay) * n as f64;
            let got = f64::from(ema.tensors()["w"].to_vec1::<f32>().unwrap()[0]);
            assert!((got - wanted).abs() < 1e-4, "{got} {wanted}");
        }
    }
}

#[test]
fn rates_rise_then_fall() {
    let config = OptimizerConfig {
        lr: 2.0,
        warm_up: 4,
        rate: RateSchedule::Cosine { final_share: 0.1 },
        ..OptimizerConfig::default()
    };
    let rate = |i| config.rate_at(i, Some(104));
    assert_eq!([rate(0), rate(1), rate(2), rate(3)], [0.5, 1.0, 1.5, 2.0]);
    assert!((rate(4) - 2.0).abs() < 1e-12);
    assert!((rate(54) - 1.1).abs() < 1e-12);
    assert!((rate(104) - 0.2).abs() < 1e-12);
    assert!((rate(500) - 0.2).abs() < 1e-12);
    let constant = OptimizerConfig::default();
    assert_eq!(constant.rate_at(7, None), constant.lr);
}

#[test]
fn a_missing_gradient_is_named_and_nothing_changes() {
    let var = |value: f64| Var::from_tensor(&vector(&[value])).unwrap();
    let parameters = vec![("a".to_owned(), var(1.0)), ("b".to_owned(), var(2.0))];
    let mut adam = Adam::new(&OptimizerConfig::default());
    let gradients = BTreeMap::from([("a".to_owned(), vector(&[1.0]))]);
    let error = adam.step(&parameters, &gradients, 0.1, 1.0).unwrap_err();
    assert!(matches!(error, Error::NoGradient { name } if name == "b"));
    assert_eq!(parameters[0].1.to_vec1::<f32>().unwrap(), [1.0]);
    assert_eq!(adam.steps(), 0);
}
