//! Many steps of every method's optimiser on given gradients.

use std::collections::BTreeMap;

use candle_core::Var;
use fndm_train::{Optimizer, OptimizerConfig, UpdateRule};
use serde::Deserialize;

use crate::cases::{Optimiser, cases, values};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    method: String,
    steps: usize,
    name: String,
    lr: f64,
    betas: Option<(f64, f64)>,
    eps: Option<f64>,
    weight_decay: f64,
    amsgrad: Option<bool>,
    momentum: Option<f64>,
    dampening: Option<f64>,
    nesterov: Option<bool>,
}

impl Args {
    fn optimiser(&self) -> Optimiser {
        Optimiser {
            name: self.name.clone(),
            lr: self.lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            amsgrad: self.amsgrad,
            momentum: self.momentum,
            dampening: self.dampening,
            nesterov: self.nesterov,
        }
    }
}

/// An optimiser of the manifest as a config of ours.
pub(crate) fn config(optimiser: &Optimiser) -> OptimizerConfig {
    let o = optimiser;
    assert_eq!(
        (o.dampening.unwrap_or(0.0), o.nesterov.unwrap_or(false)),
        (0.0, false)
    );
    let mut config = OptimizerConfig {
        lr: o.lr,
        l2: o.weight_decay,
        absent_gradients: true,
        ..OptimizerConfig::default()
    };
    match &*o.name {
        "SGD" => {
            assert!(o.betas.is_none() && o.eps.is_none() && o.amsgrad.is_none());
            config.rule = UpdateRule::Sgd {
                momentum: o.momentum.unwrap_or(0.0),
            };
        }
        "Adam" => {
            assert!(o.momentum.is_none());
            (config.beta1, config.beta2) = o.betas.unwrap();
            config.eps = o.eps.unwrap();
            if o.amsgrad == Some(true) {
                config.rule = UpdateRule::AmsGrad;
            }
        }
        other => panic!("no optimiser {other}"),
    }
    config.check().unwrap();
    config
}

#[test]
fn sequences() {
    for case in cases("optimisers", "sequence") {
        let args: Args = case.args();
        assert!(!args.method.is_empty());
        let config = config(&args.optimiser());
        let start = case.io("start");
        case.check("start", &start);
        let gradients = case.io("gradients");
        case.check("gradients", &gradients);
        let present = case.io("has_gradient").to_vec1::<i64>().unwrap();
        let expected = case.io("parameters");
        assert_eq!(
            (gradients.dims()[0], present.len()),
            (args.steps, args.steps)
        );
        let var = Var::from_tensor(&start).unwrap();
        let parameters = vec![("w".to_owned(), var.clone())];
        let mut optimizer = Optimizer::new(&config);
        let begin = values(&start);
        let mut got = Vec::new();
        let mut wanted = Vec::new();
        for (n, present) in present.iter().enumerate() {
            let mut given = BTreeMap::new();
            if *present != 0 {
                given.insert("w".to_owned(), gradients.get(n).unwrap());
            }
            optimizer.step(&parameters, &given, config.lr, 1.0).unwrap();
            let moved = |after: Vec<f64>| {
                after
                    .into_iter()
                    .zip(&begin)
                    .map(|(a, b)| a - b)
                    .collect::<Vec<_>>()
            };
            got.extend(moved(values(var.as_tensor())));
            wanted.extend(moved(values(&expected.get(n).unwrap())));
        }
        case.check_against("parameters", &got, &wanted);
        case.finish();
    }
}
