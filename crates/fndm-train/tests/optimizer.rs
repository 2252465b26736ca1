//! Optimisers, averages and rates against slow references in f64.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use fndm_train::{Ema, EmaConfig, Error, Optimizer, OptimizerConfig, RateSchedule, UpdateRule};
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
        let mut adam = Optimizer::new(&config);
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
    let mut adam = Optimizer::new(&OptimizerConfig::default());
    let gradients = BTreeMap::from([("a".to_owned(), vector(&[1.0]))]);
    let error = adam.step(&parameters, &gradients, 0.1, 1.0).unwrap_err();
    assert!(matches!(error, Error::NoGradient { name } if name == "b"));
    assert_eq!(parameters[0].1.to_vec1::<f32>().unwrap(), [1.0]);
    assert_eq!(adam.steps(), 0);
}

/// `PyTorch`'s optimisers, parameter by parameter, in f64.
struct Slow {
    config: OptimizerConfig,
    value: f64,
    steps: i32,
    running: [f64; 3],
}

impl Slow {
    fn step(&mut self, gradient: f64, lr: f64) {
        let c = &self.config;
        self.steps += 1;
        let g = gradient + c.l2 * self.value;
        let [m, v, most] = &mut self.running;
        if let UpdateRule::Sgd { momentum } = c.rule {
            *m = momentum * *m + g;
            self.value -= lr * *m;
            return;
        }
        *m = c.beta1 * *m + (1.0 - c.beta1) * g;
        *v = c.beta2 * *v + (1.0 - c.beta2) * g * g;
        *most = most.max(*v);
        let second = match c.rule {
            UpdateRule::AmsGrad => *most,
            _ => *v,
        };
        let root = (second / (1.0 - c.beta2.powi(self.steps))).sqrt() + c.eps;
        self.value -= lr * *m / (1.0 - c.beta1.powi(self.steps)) / root;
    }
}

#[test]
fn every_rule_is_its_definition_also_without_some_gradients() {
    let rules = [
        UpdateRule::Adam,
        UpdateRule::AmsGrad,
        UpdateRule::Sgd { momentum: 0.9 },
        UpdateRule::Sgd { momentum: 0.0 },
    ];
    for (rule, l2) in rules
        .into_iter()
        .flat_map(|rule| [(rule, 0.0), (rule, 0.1)])
    {
        let config = OptimizerConfig {
            rule,
            l2,
            beta2: 0.9,
            absent_gradients: true,
            ..OptimizerConfig::default()
        };
        config.check().unwrap();
        let names = ["a", "b", "c"];
        let start = [1.5, -0.5, 0.25];
        let parameters: Vec<(String, Var)> = names
            .iter()
            .zip(start)
            .map(|(name, v)| (name.to_string(), Var::from_tensor(&vector(&[v])).unwrap()))
            .collect();
        let mut slow = start.map(|value| Slow {
            config: config.clone(),
            value,
            steps: 0,
            running: [0.0; 3],
        });
        let mut optimizer = Optimizer::new(&config);
        for n in 0..60usize {
            let mut gradients = BTreeMap::new();
            for (i, name) in names.iter().enumerate() {
                // The first always, the second at times, the third late.
                if i == 1 && n % 3 == 0 || i == 2 && n < 10 {
                    continue;
                }
                let g = ((3 * n + i) as f64).sin() * if n < 20 { 3.0 } else { 0.1 };
                gradients.insert(name.to_string(), vector(&[g]));
                slow[i].step(0.5 * g, 0.01);
            }
            optimizer.step(&parameters, &gradients, 0.01, 0.5).unwrap();
        }
        for ((_, var), slow) in parameters.iter().zip(&slow) {
            let got = f64::from(var.to_vec1::<f32>().unwrap()[0]);
            assert!(
                (got - slow.value).abs() < 2e-6,
                "{rule:?} {l2}: {got} {}",
                slow.value
            );
        }
    }
}

#[test]
fn a_cosine_by_epochs_has_a_warm_up_by_batches() {
    let config = OptimizerConfig {
        lr: 2.0,
        rate: RateSchedule::EpochCosine {
            epochs: 8,
            warm_epochs: 2,
            warm_from: 0.1,
            final_share: 0.001,
            batches: 5,
            steps: 3,
        },
        ..OptimizerConfig::default()
    };
    config.check().unwrap();
    let rate = |i| config.rate_at(i, None);
    let cosine = |epoch: f64| {
        let (low, high) = (0.002, 2.0);
        low + (high - low) * (1.0 + (std::f64::consts::PI * epoch / 8.0).cos()) / 2.0
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    // A batch is three iterations, an epoch fifteen.
    close(rate(0), 0.2);
    close(rate(2), 0.2);
    close(rate(3), 0.2 + 0.1 * (cosine(2.0) - 0.2));
    close(rate(29), 0.2 + 0.9 * (cosine(2.0) - 0.2));
    close(rate(30), cosine(2.0));
    close(rate(44), cosine(2.0));
    close(rate(45), cosine(3.0));
    close(rate(119), cosine(7.0));
    close(rate(1000), 0.002);
    let with_two = OptimizerConfig {
        warm_up: 1,
        ..config
    };
    assert!(with_two.check().is_err());
}

#[test]
fn settings_that_an_older_version_did_not_know_are_left_out_of_the_record() {
    let record = serde_json::to_value(OptimizerConfig::default()).unwrap();
    for new in ["l2", "rule", "absent_gradients", "clip_eps"] {
        assert!(record.get(new).is_none(), "{new}");
    }
    let config = OptimizerConfig {
        l2: 1e-5,
        rule: UpdateRule::Sgd { momentum: 0.9 },
        absent_gradients: true,
        clip_eps: 1e-6,
        ..OptimizerConfig::default()
    };
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<OptimizerConfig>(&text).unwrap(),
        config
    );
}
