//! Runs with every optimiser, of a network of which a batch trains a part: resumed, they end in the same bits.

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use fndm_train::{
    Batch, Draw, Error, Fingerprint, LoopConfig, Loss, Result, Setup, Task, Trainer, UpdateRule,
    part_of,
};

/// Two lines; batch n trains the first, and every third one the second.
struct Lines(LoopConfig);

struct Points(Vec<usize>, bool);

impl Batch for Points {
    fn samples(&self) -> &[usize] {
        &self.0
    }

    fn part(self, rank: usize, size: usize) -> Self {
        Self(part_of(self.0, rank, size), self.1)
    }
}

impl Task for Lines {
    type Network = [Linear; 2];
    type Config = LoopConfig;
    type Model = ();
    type Batch = Points;

    fn setup(&self) -> Setup<LoopConfig, ()> {
        let data = Fingerprint::of(0, [1, 1, 1], []);
        Setup::new("lines", self.0.clone(), (), self.0.clone(), data)
    }

    fn network(&self, vb: VarBuilder<'_>) -> Result<[Linear; 2]> {
        Ok([linear(1, 1, vb.pp("a"))?, linear(1, 1, vb.pp("b"))?])
    }

    fn batches(&self, seed: u64) -> Result<Draw<Points>> {
        let count = self.0.batch as u64;
        Ok(Box::new(move |n| {
            let at = (0..count).map(|i| ((seed + 7 * n + 3 * i) % 11) as usize);
            Ok(Points(at.collect(), n % 3 == 2))
        }))
    }

    fn loss(
        &self,
        lines: &[Linear; 2],
        batch: Points,
        device: &Device,
        _: Option<u64>,
    ) -> Result<Loss> {
        let x: Vec<f32> = batch.0.iter().map(|&i| i as f32 / 5.0 - 1.0).collect();
        let x = Tensor::from_vec(x, ((), 1), device)?;
        let line = &lines[usize::from(batch.1)];
        Loss::mean(
            &(line.forward(&x)? - x.affine(2.0, 1.0)?)?
                .sqr()?
                .squeeze(1)?,
        )
    }
}

fn config(rule: UpdateRule) -> LoopConfig {
    let mut config = LoopConfig {
        batch: 4,
        iterations: Some(20),
        ..LoopConfig::default()
    };
    config.optimizer.lr = 0.02;
    config.optimizer.l2 = 1e-3;
    config.optimizer.rule = rule;
    config.optimizer.absent_gradients = true;
    config
}

fn weights(trainer: &Trainer<Lines>) -> Vec<f32> {
    let all = trainer.weights().unwrap();
    all.values()
        .flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        .collect()
}

fn go(trainer: &mut Trainer<Lines>, iterations: usize) {
    for _ in 0..iterations {
        trainer.step().unwrap();
    }
}

const RULES: [UpdateRule; 3] = [
    UpdateRule::Adam,
    UpdateRule::AmsGrad,
    UpdateRule::Sgd { momentum: 0.9 },
];

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    for rule in RULES {
        let start = |rule| Trainer::with_task(Lines(config(rule)), 3, &Device::Cpu).unwrap();
        let mut whole = start(rule);
        // Before the second line has had a gradient, and after.
        for stop in [2, 11] {
            let folder = tempfile::tempdir().unwrap();
            let mut first = start(rule);
            go(&mut first, stop);
            let path = first.checkpoint(folder.path(), 1).unwrap();
            let mut second = start(rule);
            second.resume(&path).unwrap();
            go(&mut first, 20 - stop);
            go(&mut second, 20 - stop);
            assert_eq!(weights(&first), weights(&second), "{rule:?} at {stop}");
            if whole.iteration() == 0 {
                go(&mut whole, 20);
            }
            assert_eq!(weights(&whole), weights(&second), "{rule:?} at {stop}");
            let other = RULES.into_iter().find(|&other| other != rule).unwrap();
            let error = start(other).resume(&path).unwrap_err();
            assert!(matches!(error, Error::Changed { .. }), "{error}");
        }
    }
}

#[test]
fn a_parameter_without_a_gradient_is_an_error_unless_that_is_allowed() {
    let mut config = config(UpdateRule::Adam);
    config.optimizer.absent_gradients = false;
    let mut trainer = Trainer::with_task(Lines(config), 3, &Device::Cpu).unwrap();
    let before = weights(&trainer);
    let error = trainer.step().unwrap_err();
    assert!(matches!(error, Error::NoGradient { .. }), "{error}");
    assert_eq!(before, weights(&trainer));
}

#[test]
fn clipping_divides_by_the_norm_and_what_is_added_to_it() {
    // Plain descent moves by the rate times the clipped gradient, whose norm is then known.
    let of = |clip, clip_eps| {
        let mut config = config(UpdateRule::Sgd { momentum: 0.0 });
        config.optimizer.l2 = 0.0;
        config.optimizer.clip = clip;
        config.optimizer.clip_eps = clip_eps;
        let mut trainer = Trainer::with_task(Lines(config), 3, &Device::Cpu).unwrap();
        let before = weights(&trainer);
        let norm = trainer.step().unwrap().gradient_norm;
        let after = weights(&trainer);
        let moved = before
            .iter()
            .zip(&after)
            .map(|(a, b)| f64::from(a - b).powi(2));
        (moved.sum::<f64>().sqrt() / 0.02, norm)
    };
    let (free, norm) = of(None, 0.0);
    assert!((free - norm).abs() < 1e-4 * norm);
    let clip = norm / 2.0;
    assert!((of(Some(clip), 0.0).0 - clip).abs() < 1e-4 * norm);
    let eased = of(Some(clip), norm).0;
    assert!((eased - clip / 2.0).abs() < 1e-4 * norm);
    // Where the sum is beyond the limit, the norm alone need not be.
    let near = of(Some(1.5 * norm), norm).0;
    assert!((near - 0.75 * norm).abs() < 1e-4 * norm);
}
