//! A network that takes a teacher's long steps: it begins as the teacher, learns, resumes to the bit, and says what doesn't fit.

mod common;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use common::{CHANNELS, SIDE, bits, unet};
use fndm_models::{Parameters, StateDict, UNet};
use fndm_train::{DistillTask, DistillTrainer, Error, Lessons, LoopConfig};
use ndarray::Array4;

const N: usize = 6;

/// A network with weights of its own: no layer begins at zero.
fn teacher(seed: u64) -> StateDict {
    let parameters = Parameters::new(seed, DType::F32, &Device::Cpu);
    UNet::new(&unet(), parameters.builder()).unwrap();
    for (i, (_, var)) in parameters.iter().enumerate() {
        let shift = Tensor::full(
            0.01 * (1 + (i as u64 * seed) % 7) as f32,
            var.shape(),
            &Device::Cpu,
        )
        .unwrap();
        var.set(&(var.as_tensor() + shift).unwrap()).unwrap();
    }
    parameters.state_dict().unwrap()
}

fn inputs() -> Array4<f32> {
    Array4::from_shape_fn((N, 2 * CHANNELS + 1, SIDE, SIDE), |(i, c, y, x)| {
        (0.3 * (i + c) as f32 + 0.2 * y as f32 - 0.1 * x as f32).sin()
    })
}

/// What a network says of the inputs, as lessons.
fn lessons(of: &StateDict) -> Lessons {
    let network = UNet::from_state_dict(&unet(), of, DType::F32, &Device::Cpu).unwrap();
    let inputs = inputs();
    let x = Tensor::from_vec(inputs.iter().copied().collect(), inputs.dim(), &Device::Cpu).unwrap();
    let model_times: Vec<f32> = (0..N).map(|i| 100.0 * i as f32).collect();
    let labels: Vec<u32> = (0..N).map(|i| (i % 2) as u32).collect();
    let t = Tensor::new(&model_times[..], &Device::Cpu).unwrap();
    let y = Tensor::new(&labels[..], &Device::Cpu).unwrap();
    let said = network.forward(&x, &t, Some(&y)).unwrap();
    let said = said.flatten_all().unwrap().to_vec1().unwrap();
    Lessons {
        inputs,
        model_times,
        labels,
        targets: Array4::from_shape_vec((N, CHANNELS, SIDE, SIDE), said).unwrap(),
        names: (0..N).map(|i| format!("p z={i}")).collect(),
    }
}

fn config() -> LoopConfig {
    let mut config = LoopConfig {
        batch: 3,
        ..LoopConfig::default()
    };
    config.optimizer.lr = 3e-3;
    config
}

fn trainer(lessons: Lessons, begin: &StateDict) -> DistillTrainer {
    let task = DistillTask::new(&config(), &unet(), Arc::new(lessons), begin.clone()).unwrap();
    DistillTrainer::with_task(task, 5, &Device::Cpu).unwrap()
}

#[test]
fn who_begins_as_the_teacher_has_nothing_to_learn_from_it() {
    let own = teacher(1);
    let mut trainer = trainer(lessons(&own), &own);
    let loss = trainer.step().unwrap().loss;
    // The two forward passes differ in the size of their batches alone.
    assert!(loss < 1e-10, "{loss:e}");
}

#[test]
fn another_network_comes_closer() {
    let mut trainer = trainer(lessons(&teacher(1)), &teacher(2));
    let first: f64 = (0..2).map(|_| trainer.step().unwrap().loss).sum();
    for _ in 0..40 {
        trainer.step().unwrap();
    }
    let last: f64 = (0..2).map(|_| trainer.step().unwrap().loss).sum();
    assert!(last < 0.2 * first, "{first} to {last}");
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (lessons, begin) = (lessons(&teacher(1)), teacher(2));
    let mut whole = trainer(lessons.clone(), &begin);
    for _ in 0..3 {
        whole.step().unwrap();
    }
    whole.checkpoint(folder.path(), 1).unwrap();
    let mut resumed = trainer(lessons, &begin);
    resumed.resume(folder.path()).unwrap();
    for _ in 0..3 {
        whole.step().unwrap();
        resumed.step().unwrap();
    }
    let weights = |trainer: &DistillTrainer| bits(&trainer.weights().unwrap());
    assert_eq!(weights(&whole), weights(&resumed));

    let other = trainer(self::lessons(&teacher(3)), &begin);
    let mut other = other;
    let refused = other.resume(folder.path()).unwrap_err();
    assert!(matches!(refused, Error::Changed { .. }), "{refused}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let own = teacher(1);
    let good = lessons(&own);
    type Spoil = fn(&mut Lessons);
    let wrong: [(&str, Spoil); 6] = [
        ("times", |l| l.model_times.truncate(2)),
        ("labels", |l| l.labels.clear()),
        ("names", |l| l.names.clear()),
        ("targets", |l| l.targets = Array4::zeros((N, 1, SIDE, SIDE))),
        ("inputs", |l| l.inputs = Array4::zeros((0, 5, SIDE, SIDE))),
        ("finite", |l| l.targets[[0, 0, 0, 0]] = f32::NAN),
    ];
    for (name, spoil) in wrong {
        let mut lessons = good.clone();
        spoil(&mut lessons);
        let refused = DistillTask::new(&config(), &unet(), Arc::new(lessons), own.clone());
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
    let dropout = fndm_models::UNetConfig {
        dropout: 0.1,
        ..unet()
    };
    assert!(DistillTask::new(&config(), &dropout, Arc::new(good.clone()), own.clone()).is_err());
    // Weights of another network.
    let wide = fndm_models::UNetConfig {
        model_channels: 64,
        ..unet()
    };
    let task = DistillTask::new(&config(), &wide, Arc::new(good), own).unwrap();
    assert!(DistillTrainer::with_task(task, 5, &Device::Cpu).is_err());
}
