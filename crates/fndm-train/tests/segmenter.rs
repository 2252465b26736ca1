//! The two trainings of a segmenter: they learn, repeat to the bit, resume to the bit, and say what doesn't fit.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use common::{CHANNELS, SIDE, bits, slices, slices_of};
use fndm_data::corrupt::{PseudoLesion, Shift};
use fndm_data::{SliceSet, with_neighbours};
use fndm_models::SegmenterConfig;
use fndm_train::{
    EmaConfig, Error, ImageLoss, OptimizerConfig, PixelAugmentation, PixelTargets, RemoverBatches,
    RemoverConfig, SegmenterTask, SegmenterTrainer, ShownLesions, StudentBatches, StudentConfig,
};
use ndarray::{Array3, Array4, Axis, s};

fn model(context: usize, outputs: usize) -> SegmenterConfig {
    SegmenterConfig {
        image_size: SIDE,
        sequences: CHANNELS,
        context,
        out_channels: outputs,
        channel_mult: vec![1., 2.],
        residual: outputs == CHANNELS,
        dropout: if outputs == 1 { 0.2 } else { 0. },
        ..SegmenterConfig::default()
    }
}

/// The bright square of the diseased slices, as a teacher would find it.
fn targets(set: &SliceSet) -> Arc<PixelTargets> {
    let maps = set.images.index_axis(Axis(1), 0).mapv(|v| v.max(0.));
    let inside = Array3::from_elem(maps.dim(), true);
    let thresholds = vec![0.7; set.len()];
    Arc::new(PixelTargets::from_teacher(set, &maps, &inside, &thresholds, 0.1).unwrap())
}

fn quick() -> OptimizerConfig {
    OptimizerConfig {
        lr: 3e-3,
        clip: Some(1.0),
        ema: EmaConfig {
            decays: vec![0.9],
            warm_up: true,
        },
        ..OptimizerConfig::default()
    }
}

fn remover(n: usize) -> SegmenterTrainer {
    let config = RemoverConfig {
        batch: 4,
        accumulation: 2,
        ..RemoverConfig::default()
    };
    SegmenterTrainer::remover(&config, &model(0, CHANNELS), slices(n), 3, &Device::Cpu).unwrap()
}

fn student(n: usize) -> SegmenterTrainer {
    let config = StudentConfig {
        batch: 4,
        ..StudentConfig::default()
    };
    let set = slices(n);
    let targets = targets(&set);
    SegmenterTrainer::student(&config, &model(1, 1), set, targets, 3, &Device::Cpu).unwrap()
}

fn steps(trainer: &mut SegmenterTrainer, n: usize) -> Vec<u64> {
    (0..n)
        .map(|_| trainer.step().unwrap().loss.to_bits())
        .collect()
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for new in [remover, student] {
        let folder = tempfile::tempdir().unwrap();
        let mut whole = new(6);
        let losses = steps(&mut whole, 6);
        let mut first = new(6);
        assert_eq!(steps(&mut first, 3), losses[..3]);
        first.checkpoint(folder.path(), 1).unwrap();
        drop(first);
        let mut second = new(6);
        steps(&mut second, 1);
        second.resume(folder.path()).unwrap();
        assert_eq!(second.iteration(), 3);
        assert_eq!(steps(&mut second, 3), losses[3..]);
        assert_eq!(
            bits(&second.weights().unwrap()),
            bits(&whole.weights().unwrap())
        );
        assert_eq!(
            bits(&second.ema_tensors().unwrap()),
            bits(&whole.ema_tensors().unwrap())
        );
    }
}

#[test]
fn the_bits_do_not_depend_on_the_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            [remover, student].map(|new| {
                let mut trainer = new(6);
                steps(&mut trainer, 3);
                bits(&trainer.ema_tensors().unwrap())
            })
        })
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn another_run_or_other_targets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    student(6).checkpoint(folder.path(), 1).unwrap();
    let error = remover(6).resume(folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Changed { field, .. } if field == "kind"),
        "{error}"
    );

    let set = slices(6);
    let mut other = targets(&set).target().clone();
    other[[1, 0, 0]] = 1.0;
    let other = PixelTargets::new(&set, other, Array3::ones((6, SIDE, SIDE))).unwrap();
    let config = StudentConfig {
        batch: 4,
        ..StudentConfig::default()
    };
    let mut changed =
        SegmenterTrainer::student(&config, &model(1, 1), set, other.into(), 3, &Device::Cpu)
            .unwrap();
    let error = changed.resume(folder.path()).unwrap_err();
    assert!(
        matches!(&error, Error::Changed { field, .. } if field == "data.hash"),
        "{error}"
    );
}

fn output(trainer: &SegmenterTrainer, images: Array4<f32>) -> Array4<f32> {
    let shape = images.dim();
    let x = Tensor::from_vec(images.into_raw_vec_and_offset().0, shape, &Device::Cpu).unwrap();
    let y = trainer.ema_network().unwrap().forward(&x).unwrap();
    let values = y.flatten_all().unwrap().to_vec1().unwrap();
    Array4::from_shape_vec((shape.0, y.dims()[1], shape.2, shape.3), values).unwrap()
}

#[test]
fn a_student_learns_its_teachers_masks() {
    let config = StudentConfig {
        batch: 8,
        optimizer: quick(),
        augmentation: PixelAugmentation::FLIP,
        ..StudentConfig::default()
    };
    let set = slices_of(8, 16);
    let targets = targets(&set);
    let model = SegmenterConfig {
        image_size: 16,
        ..model(1, 1)
    };
    let mut trainer = SegmenterTrainer::student(
        &config,
        &model,
        set.clone(),
        targets.clone(),
        1,
        &Device::Cpu,
    )
    .unwrap();
    steps(&mut trainer, 120);
    let images = with_neighbours(set.images.view(), &set.patient, &set.z, 1).unwrap();
    let found = output(&trainer, images)
        .index_axis(Axis(1), 0)
        .mapv(|v| v > 0.);
    let wanted = targets.target().mapv(|t| t > 0.5);
    let count = |mask: &Array3<bool>| mask.iter().filter(|&&m| m).count();
    let both = count(&(&found & &wanted));
    let dice = 2. * both as f64 / (count(&found) + count(&wanted)) as f64;
    assert!(count(&wanted) > 0);
    assert!(dice > 0.9, "{dice}");
    // Healthy slices stay empty.
    for i in (0..8).step_by(2) {
        assert!(
            !found.index_axis(Axis(0), i).iter().any(|&m| m),
            "slice {i}"
        );
    }
}

#[test]
fn a_remover_learns_to_take_out_what_was_put_in() {
    let lesion = PseudoLesion {
        radius: (8., 16.),
        severity: (1., 1.),
        shift: vec![Shift {
            mean: 0.8,
            deviation: 0.,
        }],
        texture: 0.,
        flatten: 0.,
        ..PseudoLesion::default()
    };
    for loss in [ImageLoss::L1, ImageLoss::L2] {
        let config = RemoverConfig {
            batch: 8,
            optimizer: quick(),
            lesion: lesion.clone(),
            loss,
            augmentation: PixelAugmentation::NONE,
            ..RemoverConfig::default()
        };
        let set = slices_of(4, 16);
        let model = SegmenterConfig {
            image_size: 16,
            ..model(0, CHANNELS)
        };
        let mut trainer =
            SegmenterTrainer::remover(&config, &model, set.clone(), 1, &Device::Cpu).unwrap();
        steps(&mut trainer, 150);
        // A batch of another seed: what is left of the change.
        let mut batches = RemoverBatches::new(&config, set, 99).unwrap();
        let batch = batches.draw(0).unwrap();
        let [n, c, h, w] = batch.shape;
        let seen = Array4::from_shape_vec((n, c, h, w), batch.input.clone()).unwrap();
        let given = output(&trainer, seen);
        let change = |a: &[f32]| -> f32 {
            a.iter()
                .zip(&batch.target)
                .map(|(a, b)| (a - b).abs())
                .sum()
        };
        let (before, after) = (change(&batch.input), change(given.as_slice().unwrap()));
        assert!(
            before > 10.0 && after < 0.4 * before,
            "{loss:?}: {before} to {after}"
        );
    }
}

#[test]
fn batches_are_what_they_say() {
    let set = slices(6);
    let config = RemoverConfig {
        batch: 9,
        ..RemoverConfig::default()
    };
    let mut batches = RemoverBatches::new(&config, set.clone(), 5).unwrap();
    let later = batches.draw(7).unwrap();
    let batch = batches.draw(0).unwrap();
    assert_eq!(batch.shape, [9, CHANNELS, SIDE, SIDE]);
    assert!(batch.slices.iter().all(|&i| set.labels[i] == 0));
    assert!(batch.input.iter().zip(&batch.target).any(|(a, b)| a != b));
    assert!(batch.weight.iter().all(|&w| w == 1.0 || w == 0.05));
    let again = RemoverBatches::new(&config, set.clone(), 5)
        .unwrap()
        .draw(7)
        .unwrap();
    assert_eq!(again.input, later.input);
    assert_ne!(again.input, batch.input);

    let config = StudentConfig {
        batch: 8,
        augmentation: PixelAugmentation::NONE,
        ..StudentConfig::default()
    };
    let targets = targets(&set);
    let mut batches = StudentBatches::new(&config, 1, set.clone(), targets.clone(), 5).unwrap();
    let batch = batches.draw(3).unwrap();
    assert_eq!(batch.shape, [8, 3 * CHANNELS, SIDE, SIDE]);
    let diseased = batch.slices.iter().filter(|&&i| set.labels[i] == 1).count();
    assert_eq!(diseased, 5);
    let images = with_neighbours(set.images.view(), &set.patient, &set.z, 1).unwrap();
    let pixels = SIDE * SIDE;
    for (k, &i) in batch.slices.iter().enumerate() {
        let values = |a: &[f32], n: usize| a[k * n..(k + 1) * n].to_vec();
        let flat = |a: ndarray::ArrayViewD<'_, f32>| a.iter().copied().collect::<Vec<f32>>();
        let image = images.index_axis(Axis(0), i).into_dyn();
        assert_eq!(values(&batch.input, 3 * CHANNELS * pixels), flat(image));
        let target = targets.target().index_axis(Axis(0), i).into_dyn();
        assert_eq!(values(&batch.target, pixels), flat(target));
        let weight = targets.weight().index_axis(Axis(0), i).into_dyn();
        assert_eq!(values(&batch.weight, pixels), flat(weight));
    }
}

/// Every patch is a window of its slice, target and weights of the same, and half of the diseased ones are around what is to be found.
#[test]
fn patches_are_windows_of_slices_and_find_small_targets() {
    const PATCH: usize = 4;
    let set = slices(6);
    let config = StudentConfig {
        batch: 8,
        augmentation: PixelAugmentation::NONE,
        patch: Some(PATCH),
        ..StudentConfig::default()
    };
    // One pixel a slice, near a corner: a window has it once in thirty times by chance.
    let (n, _, h, w) = set.images.dim();
    let mut target = Array3::zeros((n, h, w));
    target.slice_mut(s![.., 1, SIDE - 1]).fill(1.0);
    let weight = Array3::from_shape_fn((n, h, w), |(_, y, x)| 1.0 + (y * w + x) as f32);
    let targets = Arc::new(PixelTargets::new(&set, target, weight).unwrap());
    let mut batches = StudentBatches::new(&config, 1, set.clone(), targets.clone(), 5).unwrap();
    let images = with_neighbours(set.images.view(), &set.patient, &set.z, 1).unwrap();
    let pixels = PATCH * PATCH;
    let (mut diseased, mut found, mut places) = (0, 0, BTreeSet::new());
    for index in 0..40 {
        let batch = batches.draw(index).unwrap();
        assert_eq!(batch.shape, [8, 3 * CHANNELS, PATCH, PATCH]);
        for (k, &i) in batch.slices.iter().enumerate() {
            let input = &batch.input[k * 3 * CHANNELS * pixels..][..3 * CHANNELS * pixels];
            let windows = (0..=SIDE - PATCH).flat_map(|y| (0..=SIDE - PATCH).map(move |x| (y, x)));
            let fits = |&(y, x): &(usize, usize)| {
                let rows = (y..y + PATCH, x..x + PATCH);
                let image = images.slice(s![i, .., rows.0.clone(), rows.1.clone()]);
                let of = |a: &Array3<f32>, got: &[f32]| {
                    let cut = a.slice(s![i, rows.0.clone(), rows.1.clone()]);
                    cut.iter().eq(&got[k * pixels..][..pixels])
                };
                image.iter().eq(input)
                    && of(targets.target(), &batch.target)
                    && of(targets.weight(), &batch.weight)
            };
            let place = windows.clone().find(fits);
            places.insert(place.unwrap());
            if set.labels[i] == 1 {
                diseased += 1;
                found += usize::from(batch.target[k * pixels..][..pixels].contains(&1.0));
            }
        }
    }
    let share = f64::from(found as u32) / f64::from(diseased as u32);
    assert!((0.4..0.7).contains(&share), "{found} of {diseased}");
    assert_eq!(places.len(), (SIDE - PATCH + 1).pow(2));

    let model = model(1, 1);
    for (patch, good) in [(4, true), (5, false), (SIDE, true), (SIDE + 2, false)] {
        let config = StudentConfig {
            patch: Some(patch),
            ..config.clone()
        };
        let task = SegmenterTask::student(&config, &model, set.clone(), targets.clone());
        assert_eq!(task.is_ok(), good, "{patch}");
    }
}

/// Healthy slices get a lesion whose place is the target, diseased ones stay as they are, and nothing but the lesion changes.
#[test]
fn lesions_that_a_student_is_shown_lie_where_its_target_says() {
    let set = slices(6);
    let lesion = PseudoLesion {
        severity: (1.0, 1.0),
        shift: vec![Shift {
            mean: 0.5,
            deviation: 0.0,
        }],
        ..PseudoLesion::default()
    };
    let config = StudentConfig {
        batch: 8,
        augmentation: PixelAugmentation::NONE,
        shown: Some(ShownLesions {
            lesion,
            share: 1.0,
            neighbours: 1.0,
        }),
        ..StudentConfig::default()
    };
    let targets = targets(&set);
    let mut batches = StudentBatches::new(&config, 1, set.clone(), targets.clone(), 5).unwrap();
    let images = with_neighbours(set.images.view(), &set.patient, &set.z, 1).unwrap();
    let pixels = SIDE * SIDE;
    let (mut marked, mut beside) = (0, 0);
    for index in 0..4 {
        let batch = batches.draw(index).unwrap();
        for (k, &i) in batch.slices.iter().enumerate() {
            let seen = &batch.input[k * 3 * CHANNELS * pixels..][..3 * CHANNELS * pixels];
            let target = &batch.target[k * pixels..][..pixels];
            let before: Vec<f32> = images.index_axis(Axis(0), i).iter().copied().collect();
            if set.labels[i] == 1 {
                assert_eq!(seen, before);
                let taught = targets.target().index_axis(Axis(0), i);
                assert!(target.iter().eq(taught.iter()));
                continue;
            }
            for (at, &target) in target.iter().enumerate() {
                let changed = |slice: usize| {
                    let at = slice * CHANNELS * pixels + at;
                    (seen[at] - before[at]).abs() > 1e-3
                };
                assert!(
                    target == 0. || set.head.index_axis(Axis(0), i).iter().nth(at) == Some(&true)
                );
                if target == 1. {
                    marked += 1;
                    // Clamped at 1, or out of luck with the texture, a pixel may stay.
                    beside += usize::from(changed(1));
                }
            }
        }
    }
    assert!(marked > 0);
    assert!(
        beside * 10 >= marked * 8,
        "{beside} of {marked} marked pixels changed"
    );
    // None are shown: the same batch as without.
    let none = StudentConfig {
        shown: config
            .shown
            .clone()
            .map(|shown| ShownLesions { share: 0., ..shown }),
        ..config.clone()
    };
    let without = StudentConfig {
        shown: None,
        ..config
    };
    let draw = |config: &StudentConfig| {
        let set = set.clone();
        let mut batches = StudentBatches::new(config, 1, set, targets.clone(), 5).unwrap();
        batches.draw(0).unwrap()
    };
    let (none, without) = (draw(&none), draw(&without));
    assert_eq!((none.input, none.target), (without.input, without.target));
}

#[test]
fn a_teachers_masks_have_a_band_and_healthy_slices_none() {
    let set = slices(2);
    let mut maps = Array3::zeros((2, SIDE, SIDE));
    for i in 0..2 {
        for (k, score) in [0.2, 0.75, 0.95, 1.05, 1.3].into_iter().enumerate() {
            maps[[i, 3, k]] = score;
        }
        maps[[i, 4, 0]] = 5.0;
    }
    let mut inside = Array3::from_elem((2, SIDE, SIDE), true);
    inside[[1, 4, 0]] = false;
    let made = PixelTargets::from_teacher(&set, &maps, &inside, &[1.0; 2], 0.2).unwrap();
    let row = |a: &Array3<f32>, i: usize| (0..5).map(|k| a[[i, 3, k]]).collect::<Vec<f32>>();
    assert_eq!(row(made.target(), 1), [0., 0., 0., 1., 1.]);
    assert_eq!(row(made.weight(), 1), [1., 1., 0., 0., 1.]);
    assert_eq!(made.target()[[1, 4, 0]], 0.0);
    // Slice 0 is healthy.
    assert!(
        made.target()
            .index_axis(Axis(0), 0)
            .iter()
            .all(|&t| t == 0.0)
    );
    assert!(
        made.weight()
            .index_axis(Axis(0), 0)
            .iter()
            .all(|&w| w == 1.0)
    );

    let refused = |result: fndm_train::Result<PixelTargets>, text: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let ones = || Array3::ones((2, SIDE, SIDE));
    refused(
        PixelTargets::new(&set, ones(), Array3::ones((1, SIDE, SIDE))),
        "shape",
    );
    refused(
        PixelTargets::new(&set, ones() * 1.5, ones()),
        "targets from 0 to 1",
    );
    refused(
        PixelTargets::new(&set, ones(), ones() * f32::NAN),
        "weights",
    );
    refused(
        PixelTargets::from_teacher(&set, &(ones() * f32::NAN), &inside, &[1.0; 2], 0.),
        "finite",
    );
    refused(
        PixelTargets::from_teacher(&set, &ones(), &inside, &[1.0; 2], 1.),
        "band",
    );
}

#[test]
fn what_does_not_fit_is_said() {
    let set = slices(4);
    let config = RemoverConfig::default();
    let new = |config: &RemoverConfig, model: &SegmenterConfig| {
        let result = SegmenterTrainer::remover(config, model, slices(4), 1, &Device::Cpu);
        result.unwrap_err().to_string()
    };
    assert!(new(&config, &model(0, 1)).contains("2 sequences and 2 outputs"));
    assert!(new(&config, &model(1, CHANNELS)).contains("context 1"));
    let bad = RemoverConfig {
        batch: 0,
        ..config.clone()
    };
    assert!(new(&bad, &model(0, CHANNELS)).contains("batch"));
    let mut diseased = (*slices(4)).clone();
    diseased.labels.fill(1);
    let result = SegmenterTrainer::remover(
        &config,
        &model(0, CHANNELS),
        diseased.into(),
        1,
        &Device::Cpu,
    );
    assert!(result.unwrap_err().to_string().contains("healthy"));

    let config = StudentConfig::default();
    let other = targets(&slices(6));
    let result = SegmenterTrainer::student(&config, &model(1, 1), set, other, 1, &Device::Cpu);
    assert!(result.unwrap_err().to_string().contains("targets"));

    for text in [r#"{"dice": 1}"#, r#"{"augmentation": {"flips": 1}}"#] {
        assert!(serde_json::from_str::<StudentConfig>(text).is_err());
    }
    assert!(serde_json::from_str::<RemoverConfig>(r#"{"lesion": {"size": 1}}"#).is_err());
    for config in [RemoverConfig::default(), RemoverConfig::of(1200)] {
        config.check().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(
            serde_json::from_str::<RemoverConfig>(&text).unwrap(),
            config
        );
    }
    StudentConfig::of(1200).check().unwrap();
}
