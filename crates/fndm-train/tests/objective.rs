//! Objective (5) against its definition, and the statistics of what it draws.

mod common;

use candle_core::{Device, Tensor};
use common::{CHANNELS, diffusion_config, slices, slices_of, unet};
use fndm_data::corrupt::PseudoLesion;
use fndm_models::{HybridInput, UNet};
use fndm_solver::Prediction;
use fndm_train::{
    Augmentation, CoarseJitter, ConditionDropout, DiffusionBatches, DiffusionConfig,
    DiffusionTrainer, LossWeight, TimeSampling,
};
use ndarray::Axis;

fn plain() -> DiffusionConfig {
    DiffusionConfig {
        augmentation: Augmentation::NONE,
        condition_dropout: ConditionDropout::NONE,
        empty_mask: 0.0,
        ..diffusion_config()
    }
}

/// alpha and sigma of every timestep from the betas, by their definition in DESIGN section 3.
fn levels() -> Vec<(f64, f64)> {
    let mut product = 1.0;
    (0..1000)
        .map(|i| {
            product *= 1.0 - (1e-4 + (0.02 - 1e-4) * f64::from(i) / 999.0);
            (product.sqrt(), (1.0 - product).sqrt())
        })
        .collect()
}

#[test]
fn states_and_targets_are_the_definition() {
    let set = slices(6);
    let levels = levels();
    let mut epsilons: Vec<Vec<f64>> = Vec::new();
    for prediction in [Prediction::Noise, Prediction::X0, Prediction::V] {
        let config = DiffusionConfig {
            prediction,
            ..plain()
        };
        let mut batches = DiffusionBatches::new(&config, set.clone(), 4).unwrap();
        let mut all = Vec::new();
        for index in 0..20 {
            let batch = batches.draw(index).unwrap();
            let size = batch.state.len() / batch.slices.len();
            for (i, &slice) in batch.slices.iter().enumerate() {
                let (alpha, sigma) = levels[batch.timesteps[i]];
                assert_eq!(batch.model_times[i], batch.timesteps[i] as f32);
                assert_eq!(batch.labels[i], u32::from(set.labels[slice]));
                let image = set.images.index_axis(Axis(0), slice);
                for (k, &x0) in image.iter().enumerate() {
                    let x0 = f64::from(x0);
                    let state = f64::from(batch.state[i * size + k]);
                    let target = f64::from(batch.target[i * size + k]);
                    let epsilon = (state - alpha * x0) / sigma;
                    let expected = match prediction {
                        Prediction::Noise => epsilon,
                        Prediction::X0 => x0,
                        _ => alpha * epsilon - sigma * x0,
                    };
                    // f32 states divided by a sigma as low as 0.01.
                    assert!(
                        (target - expected).abs() < 1e-6 / sigma + 1e-6,
                        "{prediction:?}"
                    );
                    all.push(epsilon);
                }
            }
        }
        epsilons.push(all);
    }
    // The same noise whatever the prediction, and standard normal.
    for other in &epsilons[1..] {
        assert!(
            other
                .iter()
                .zip(&epsilons[0])
                .all(|(a, b)| (a - b).abs() < 1e-4)
        );
    }
    let n = epsilons[0].len() as f64;
    let mean = epsilons[0].iter().sum::<f64>() / n;
    let variance = epsilons[0].iter().map(|e| (e - mean).powi(2)).sum::<f64>() / n;
    assert!(mean.abs() < 4.0 / n.sqrt(), "mean {mean}");
    assert!(
        (variance - 1.0).abs() < 4.0 * (2.0 / n).sqrt(),
        "variance {variance}"
    );
}

#[test]
fn the_image_is_corrupted_in_the_region_and_nowhere_else() {
    let set = slices_of(6, 32);
    let config = DiffusionConfig {
        jitter: CoarseJitter::NONE,
        ..plain()
    };
    let mut batches = DiffusionBatches::new(&config, set.clone(), 8).unwrap();
    let (mut changed, mut inside) = (0, 0);
    for index in 0..50 {
        let batch = batches.draw(index).unwrap();
        assert_eq!(batch.coarse, batch.region);
        let pixels = 32 * 32;
        for (i, &slice) in batch.slices.iter().enumerate() {
            let region = &batch.region[i * pixels..][..pixels];
            assert!(region.iter().any(|&r| r > 0.0));
            let head = set.head.index_axis(Axis(0), slice);
            assert!(region.iter().zip(&head).all(|(&r, &h)| h || r == 0.0));
            for c in 0..CHANNELS {
                let image = &batch.image[(i * CHANNELS + c) * pixels..][..pixels];
                let x0 = set.images.index_axis(Axis(0), slice);
                for ((&now, &before), &r) in image.iter().zip(x0.index_axis(Axis(0), c)).zip(region)
                {
                    if r == 0.0 {
                        assert_eq!(now, before);
                    } else {
                        inside += 1;
                        changed += usize::from(now.to_bits() != before.to_bits());
                    }
                }
            }
        }
    }
    assert!(changed * 2 > inside, "{changed} of {inside} pixels changed");
}

/// Where lesions are to be removed, state and condition are of one corrupted slice, and the target is the clean one.
#[test]
fn what_is_to_be_removed_is_in_all_that_the_network_sees() {
    let set = slices(6);
    let levels = levels();
    let base = DiffusionConfig::removing(PseudoLesion::default());
    let config = DiffusionConfig {
        batch: 4,
        iterations: Some(1),
        augmentation: Augmentation::NONE,
        ..base.clone()
    };
    let mut batches = DiffusionBatches::new(&config, set.clone(), 4).unwrap();
    let (mut corrupted, mut deviations) = (0, Vec::new());
    for index in 0..20 {
        let batch = batches.draw(index).unwrap();
        let size = batch.state.len() / batch.slices.len();
        for (i, &slice) in batch.slices.iter().enumerate() {
            assert_eq!((set.labels[slice], batch.labels[i]), (0, 0));
            let (alpha, sigma) = levels[batch.timesteps[i]];
            let own = i * size..(i + 1) * size;
            let clean = set.images.index_axis(Axis(0), slice);
            let image = &batch.image[own.clone()];
            let target = &batch.target[own.clone()];
            for ((&change, &seen), &x0) in target.iter().zip(image).zip(&clean) {
                assert!((seen + change - x0).abs() < 1e-6);
            }
            corrupted += usize::from(target.iter().any(|&change| change != 0.0));
            let noise = batch.state[own].iter().zip(image);
            let noise = noise.map(|(&x, &seen)| (f64::from(x) - alpha * f64::from(seen)) / sigma);
            deviations.push((noise.map(|e| e * e).sum::<f64>() / size as f64).sqrt());
        }
    }
    assert_eq!(corrupted, deviations.len());
    // Of the clean slice it would be wider wherever the lesion is strong and the noise weak.
    for deviation in deviations {
        assert!((deviation - 1.0).abs() < 0.2, "{deviation}");
    }
    let unfit = DiffusionConfig {
        prediction: Prediction::V,
        ..base.clone()
    };
    let error = unfit.check().unwrap_err().to_string();
    assert!(error.contains("x0 where the state is corrupted"), "{error}");
    let mut blind = unet();
    blind.in_channels = CHANNELS;
    let error = base.check_model(&blind, CHANNELS).unwrap_err().to_string();
    assert!(error.contains("from_image"), "{error}");
}

#[test]
fn the_loss_is_the_slow_one() {
    for (prediction, region_weight, loss_weight) in [
        (Prediction::Noise, 1.0, LossWeight::Uniform),
        (Prediction::V, 3.0, LossWeight::MinSnr { gamma: 5.0 }),
        (Prediction::X0, 1.0, LossWeight::MinSnr { gamma: 2.0 }),
    ] {
        let config = DiffusionConfig {
            prediction,
            region_weight,
            loss_weight,
            batch: 3,
            accumulation: 2,
            ..plain()
        };
        let mut trainer =
            DiffusionTrainer::new(&config, &unet(), slices(6), 5, &Device::Cpu).unwrap();
        let network = UNet::new(&unet(), trainer.parameters().frozen().unwrap()).unwrap();
        let report = trainer.step().unwrap();

        let mut batches = DiffusionBatches::new(&config, slices(6), 5).unwrap();
        let levels = levels();
        let (mut expected, mut samples) = (0.0, Vec::new());
        for index in 0..2 {
            let batch = batches.draw(index).unwrap();
            let [b, c, h, w] = batch.shape;
            let of =
                |values: &[f32], c| Tensor::from_slice(values, (b, c, h, w), &Device::Cpu).unwrap();
            let input = HybridInput {
                state: of(&batch.state, c),
                image: Some(of(&batch.image, c)),
                coarse: Some(of(&batch.coarse, 1)),
            };
            let t = Tensor::from_slice(&batch.model_times, b, &Device::Cpu).unwrap();
            let y = Tensor::from_slice(&batch.labels, b, &Device::Cpu).unwrap();
            let output = network
                .forward(&input.concat().unwrap(), &t, Some(&y))
                .unwrap();
            let output = output.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for i in 0..b {
                let (alpha, sigma) = levels[batch.timesteps[i]];
                let snr = (alpha / sigma).powi(2);
                let weight = match (loss_weight, prediction) {
                    (LossWeight::MinSnr { gamma }, Prediction::X0) => snr.min(gamma),
                    (LossWeight::MinSnr { gamma }, _) => snr.min(gamma) / (snr + 1.0),
                    _ => 1.0,
                };
                let (mut sum, mut weighted) = (0.0, 0.0);
                for k in 0..c * h * w {
                    let at = i * c * h * w + k;
                    let square = (f64::from(output[at]) - f64::from(batch.target[at])).powi(2);
                    let inside = f64::from(batch.region[i * h * w + k % (h * w)]);
                    sum += square;
                    weighted += square * (1.0 + (region_weight - 1.0) * inside);
                }
                let n = (c * h * w) as f64;
                samples.push(sum / n);
                expected += weight * weighted / n / (2 * b) as f64;
            }
        }
        assert!(
            (report.loss - expected).abs() < 1e-5 * expected,
            "{} {expected}",
            report.loss
        );
        for (got, wanted) in report.losses.iter().zip(&samples) {
            assert!((f64::from(*got) - wanted).abs() < 1e-5 * wanted);
        }
    }
}

/// Whether `count` of `n` is within five standard deviations of the share `p`.
fn likely(count: usize, n: usize, p: f64) -> bool {
    let (count, n) = (count as f64, n as f64);
    (count - n * p).abs() <= 5.0 * (n * p * (1.0 - p)).sqrt()
}

#[test]
fn ten_thousand_draws_have_the_right_shares() {
    let config = DiffusionConfig {
        batch: 100,
        condition_dropout: ConditionDropout {
            image_and_coarse: 0.2,
            coarse: 0.1,
            corrupt_without_coarse: true,
        },
        empty_mask: 0.25,
        label_dropout: 0.3,
        diseased_share: Some(0.4),
        ..diffusion_config()
    };
    let set = slices(10);
    let mut batches = DiffusionBatches::new(&config, set.clone(), 77).unwrap();
    let n = 10_000;
    let mut deciles = [0; 10];
    let (mut extremes, mut withheld, mut no_coarse, mut diseased, mut unlabelled, mut clean) =
        ((1000, 0), 0, 0, 0, 0, 0);
    for index in 0..100 {
        let batch = batches.draw(index).unwrap();
        let pixels = common::SIDE * common::SIDE;
        for i in 0..100 {
            let t = batch.timesteps[i];
            deciles[t / 100] += 1;
            extremes = (extremes.0.min(t), extremes.1.max(t));
            let empty =
                |values: &[f32], size: usize| values[i * size..][..size].iter().all(|&v| v == 0.0);
            let no_image = empty(&batch.image, CHANNELS * pixels);
            let no_map = empty(&batch.coarse, pixels);
            withheld += usize::from(no_image);
            no_coarse += usize::from(no_map && !no_image);
            clean += usize::from(empty(&batch.region, pixels) && !no_image);
            let label = set.labels[batch.slices[i]];
            diseased += usize::from(label == 1);
            if batch.labels[i] == 2 {
                unlabelled += 1;
            } else {
                assert_eq!(batch.labels[i], u32::from(label));
            }
        }
    }
    assert!(
        deciles.iter().all(|&count| likely(count, n, 0.1)),
        "{deciles:?}"
    );
    assert!(extremes.0 < 5 && extremes.1 >= 995, "{extremes:?}");
    assert!(likely(withheld, n, 0.2), "{withheld}");
    assert!(likely(no_coarse, n, 0.1 + 0.7 * 0.25), "{no_coarse}");
    assert!(likely(clean, n, 0.8 * 0.25), "{clean}");
    assert!(likely(unlabelled, n, 0.3), "{unlabelled}");
    assert_eq!(diseased, 4_000);
}

/// The sizes of regions in training against those of masks drawn one by one.
#[test]
fn regions_are_as_large_as_the_masks() {
    let side = 32;
    let set = slices_of(4, side);
    let head = set.head.index_axis(Axis(0), 0);
    let config = DiffusionConfig {
        batch: 100,
        ..plain()
    };
    let mut batches = DiffusionBatches::new(&config, set.clone(), 5).unwrap();
    let mut got = Vec::new();
    for index in 0..100 {
        let region = batches.draw(index).unwrap().region;
        got.extend(
            region
                .chunks(side * side)
                .map(|r| f64::from(r.iter().sum::<f32>())),
        );
    }
    let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(3);
    let expected: Vec<f64> = (0..10_000)
        .map(|_| {
            let mask = config.masks.draw_in(&mut rng, head);
            mask.iter().zip(&head).filter(|&(&m, &h)| m && h).count() as f64
        })
        .collect();
    let moments = |all: &[f64]| {
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        (mean, variance)
    };
    let ((a, va), (b, vb)) = (moments(&got), moments(&expected));
    println!("mean area {a:.1} px in training, {b:.1} px of masks alone");
    assert!((a - b).abs() < 5.0 * ((va + vb) / 10_000.0).sqrt());
    assert!((va / vb - 1.0).abs() < 0.2, "{va} {vb}");
}

#[test]
fn timesteps_follow_their_power() {
    let times = TimeSampling::Power { exponent: 0.5 };
    let config = DiffusionConfig {
        times,
        batch: 100,
        ..diffusion_config()
    };
    let mut batches = DiffusionBatches::new(&config, slices(10), 1).unwrap();
    let mut below = 0;
    for index in 0..100 {
        below += batches
            .draw(index)
            .unwrap()
            .timesteps
            .iter()
            .filter(|&&t| t < 500)
            .count();
    }
    // P(T sqrt(u) < T / 2) = 1/4.
    assert!(likely(below, 10_000, 0.25), "{below}");
}

#[test]
fn a_batch_depends_on_seed_and_number_alone() {
    let new = |seed| DiffusionBatches::new(&diffusion_config(), slices(6), seed).unwrap();
    let (mut a, mut b, mut c) = (new(1), new(1), new(2));
    for index in 0..5 {
        a.draw(index).unwrap();
    }
    let (x, y, z) = (a.draw(7).unwrap(), b.draw(7).unwrap(), c.draw(7).unwrap());
    assert_eq!(
        (&x.state, &x.image, &x.coarse, &x.slices),
        (&y.state, &y.image, &y.coarse, &y.slices)
    );
    assert_ne!(x.state, z.state);
    assert_ne!(x.state, b.draw(8).unwrap().state);
}
