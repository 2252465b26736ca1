//! The denoising autoencoder: network, noise, training, score, pieces and figures.

use candle_core::{DType, Tensor};
use fndm_baselines::dae::{
    DaeNorm, LEAST_VOXELS, UNet, UNetConfig, Upsampling, by_99th_percentile, enlarged, eroded,
    evaluate, foreground, loss, median_5x5, resized, score_map, unfiltered, with_noise,
    without_small,
};
use fndm_kernels::Tape;
use fndm_models::{BatchNorms, Mode};
use fndm_train::Optimizer;
use ndarray::{Array3, ArrayD, Axis, IxDyn, s};
use serde::Deserialize;

use crate::cases::{Case, Tensors, builder, cases, values};
use crate::cflow::with_input;
use crate::optimisers;
use crate::training::{Trained, norm};

fn config(
    channels: (usize, usize),
    (depth, wf): (usize, usize),
    norm: &str,
    up_mode: &str,
    padding: bool,
) -> UNetConfig {
    assert!(padding, "the authors' block mirrors its edge");
    UNetConfig {
        in_channels: channels.0,
        out_channels: channels.1,
        depth,
        width_log2: wf,
        norm: match norm {
            "group" => DaeNorm::Group,
            "batch" => DaeNorm::Batch,
            other => panic!("norm {other}"),
        },
        up: match up_mode {
            "upconv" => Upsampling::Transposed,
            "upsample" => Upsampling::Bilinear,
            other => panic!("up_mode {other}"),
        },
    }
}

fn array(tensor: &Tensor) -> ArrayD<f32> {
    let values = values(tensor).into_iter().map(|v| v as f32).collect();
    ArrayD::from_shape_vec(IxDyn(tensor.dims()), values).unwrap()
}

fn volume(tensor: &Tensor) -> Array3<f32> {
    array(tensor).into_dimensionality().unwrap()
}

fn is_running(name: &str) -> bool {
    name.contains("running")
}

/// A network whose weights are variables, with the statistics of the file.
fn trainable(config: &UNetConfig, trained: &Trained, weights: &Tensors) -> (UNet, BatchNorms) {
    let norms = BatchNorms::fresh();
    let net = UNet::new(config, &trained.builder(), &norms).unwrap();
    norms.set(weights).unwrap();
    (net, norms)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UNetArgs {
    in_channels: usize,
    n_classes: usize,
    depth: usize,
    wf: usize,
    batch: usize,
    image: (usize, usize),
    norm: String,
    up_mode: String,
    padding: bool,
}

#[test]
fn unet() {
    for case in cases("dae", "unet") {
        let args: UNetArgs = case.args();
        let channels = (args.in_channels, args.n_classes);
        let size = (args.depth, args.wf);
        let config = config(channels, size, &args.norm, &args.up_mode, args.padding);
        let weights = case.weights();
        let x = case.io("x");
        assert_eq!(
            x.dims(),
            [args.batch, args.in_channels, args.image.0, args.image.1]
        );
        case.check("x", &x);
        let target = case.io("target");
        case.check("target", &target);
        let net = UNet::new(&config, &builder(&weights), &BatchNorms::from_weights()).unwrap();
        let maps = net.maps(&x, Mode::Evaluate).unwrap();
        case.check("output_eval", &maps.output);
        for (names, maps) in [("down", &maps.down), ("up", &maps.up)] {
            for (n, map) in maps.iter().enumerate() {
                case.check(&format!("{names}{n}"), map);
            }
        }
        // The gradient of the input is asked for too.
        let trained = Trained::new(&with_input(&weights, &x), is_running);
        let (net, _) = trainable(&config, &trained, &weights);
        let tape = Tape::start().unwrap();
        let x = trained.builder().get(x.shape(), "x").unwrap();
        let output = net.forward(&x, Mode::Train).unwrap();
        let mse = (&output - &target).unwrap().sqr().unwrap();
        let mse = mse.mean_all().unwrap();
        let found = trained.gradients(&tape.backward(&mse).unwrap());
        case.check("output_train", &output);
        case.check("mse", &mse);
        case.check_all("grad", &found);
        case.finish();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoopArgs {
    n_input: usize,
    depth: usize,
    wf: usize,
    batch: usize,
    noise_std: f64,
    noise_res: usize,
    size: usize,
    lr: f64,
    norm: String,
    up_mode: String,
    padding: bool,
}

/// Integers of 0 and 1 beside a mask of ours.
fn check_mask(case: &Case, name: &str, mask: &Tensor) {
    let got: Vec<usize> = values(mask).into_iter().map(|v| v as usize).collect();
    case.check_integers(name, &got);
}

#[test]
fn whole_loop() {
    for case in cases("dae", "loop") {
        let args: LoopArgs = case.args();
        let channels = (args.n_input, args.n_input);
        let size = (args.depth, args.wf);
        let config = config(channels, size, &args.norm, &args.up_mode, args.padding);
        let weights = case.weights();
        let clean = case.io("clean");
        assert_eq!(
            clean.dims(),
            [args.batch, args.n_input, args.size, args.size]
        );
        case.check("clean", &clean);
        let low = case.io("low_res_noise");
        let cells = [args.batch, args.n_input, args.noise_res, args.noise_res];
        assert_eq!(low.dims()[1..], cells);
        case.check("low_res_noise", &low);
        let all = values(&low);
        let std = (all.iter().map(|v| v * v).sum::<f64>() / all.len() as f64).sqrt();
        assert!((std / args.noise_std - 1.0).abs() < 0.2, "noise of {std}");
        let rolls = case.io("rolls").to_vec2::<i64>().unwrap();
        let noisy = |step: usize| {
            let rolls = (rolls[step][0], rolls[step][1]);
            with_noise(&clean, &low.get(step).unwrap(), rolls).unwrap()
        };
        case.check("noisy0", &noisy(0));
        let tissue = foreground(&clean).unwrap();
        check_mask(&case, "foreground", &tissue);
        check_mask(&case, "eroded_foreground", &eroded(&tissue).unwrap());

        let evaluated = |state: &Tensors| {
            UNet::new(&config, &builder(state), &BatchNorms::from_weights()).unwrap()
        };
        let net = evaluated(&weights);
        case.check("score_unfiltered", &unfiltered(&net, &clean).unwrap());
        case.check("score", &score_map(&net, &clean).unwrap());

        let trained = Trained::new(&weights, is_running);
        let (net, norms) = trainable(&config, &trained, &weights);
        let mut settings = optimisers::config(&case.optimiser());
        assert!((settings.lr - args.lr).abs() < 1e-12);
        settings.clip = case.extra("clip_grad_norm");
        settings.clip_eps = 1e-6;
        let mut optimizer = Optimizer::new(&settings);
        let (mut losses, mut lengths) = (Vec::new(), Vec::new());
        let parts = case.train_parts();
        let steps = case.train("losses_before_each_step").elem_count();
        for step in 1..=steps {
            let tape = Tape::start().unwrap();
            let output = net.forward(&noisy(step - 1), Mode::Train).unwrap();
            let loss = loss(&output, &clean).unwrap().mean_all().unwrap();
            losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
            let found = trained.gradients(&tape.backward(&loss).unwrap());
            lengths.push(norm(&found));
            if step == 1 {
                case.check("output0", &output);
                case.check("loss", &loss);
                case.check_all("grad", &found);
            }
            trained.step(&mut optimizer, &settings, settings.lr, &found);
            let part = format!("step{step}");
            if parts.contains(&part) {
                let mut state = trained.state();
                state.extend(norms.tensors().unwrap());
                case.check_state(&part, &weights, &state);
            }
        }
        case.check_train("losses_before_each_step", &losses);
        let counted = case.train("gradient_norm").elem_count();
        case.check_train("gradient_norm", &lengths[..counted]);
        let mut state = trained.state();
        state.extend(norms.tensors().unwrap());
        let after = score_map(&evaluated(&state), &clean).unwrap();
        case.check(&format!("score_after{steps}"), &after);
        case.finish();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PiecesArgs {
    median_shapes: Vec<Vec<usize>>,
    volumes: Vec<Vec<usize>>,
}

/// How many of `NAME0`, `NAME1`, ... there are.
fn count(case: &Case, name: &str) -> usize {
    (0..)
        .take_while(|n| case.has(&format!("{name}{n}")))
        .count()
}

#[test]
fn pieces() {
    for case in cases("dae", "pieces") {
        let args: PiecesArgs = case.args();
        assert_eq!(args.median_shapes.len(), count(&case, "median_in"));
        for (n, shape) in args.median_shapes.iter().enumerate() {
            let name = format!("median_in{n}");
            let images = case.io(&name);
            assert_eq!(images.dims(), &shape[..]);
            case.check(&name, &images);
            case.check(&format!("median5_{n}"), &median_5x5(&images).unwrap());
        }
        for n in 0..count(&case, "enlarge_in") {
            let (input, output) = (format!("enlarge_in{n}"), format!("enlarge_out{n}"));
            let noise = case.io(&input);
            case.check(&input, &noise);
            let (_, _, h, w) = case.io(&output).dims4().unwrap();
            case.check(&output, &enlarged(&noise, (h, w)).unwrap());
        }
        assert_eq!(args.volumes.len(), count(&case, "components_in"));
        for (n, shape) in args.volumes.iter().enumerate() {
            let input = case.io(&format!("components_in{n}"));
            assert_eq!(input.dims(), &shape[..]);
            let mask = volume(&input).mapv(|v| v > 0.0);
            let kept = without_small(mask.view(), LEAST_VOXELS).unwrap();
            let kept: Vec<usize> = kept.iter().map(|&v| usize::from(v)).collect();
            case.check_integers(&format!("components_out{n}"), &kept);
        }
        for n in 0..count(&case, "normalise_in") {
            let name = format!("normalise_in{n}");
            case.check(&name, &case.io(&name));
            // (1, sequences, H, W, slices).
            let mut all = array(&case.io(&name));
            for mut sequence in all.index_axis_mut(Axis(0), 0).outer_iter_mut() {
                let before = sequence.view().into_dimensionality().unwrap();
                let after = by_99th_percentile(before).unwrap();
                sequence.assign(&after);
            }
            let values: Vec<f64> = all.iter().map(|&v| f64::from(v)).collect();
            case.check_values(&format!("normalise_out{n}"), &values);
            // The first slice of it.
            let first = all.slice(s![.., .., .., .., 0]);
            let shape = first.shape().to_vec();
            let first: Vec<f32> = first.iter().copied().collect();
            let first = Tensor::from_vec(first, shape, &candle_core::Device::Cpu).unwrap();
            let name = format!("resized{n}");
            let (_, _, h, w) = case.io(&name).dims4().unwrap();
            case.check(&name, &resized(&first, (h, w)).unwrap());
        }
        case.finish();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvaluateArgs {
    slices_per_patient: Vec<usize>,
    size: usize,
    thresholds: String,
}

#[test]
fn figures() {
    for case in cases("dae", "evaluate") {
        let args: EvaluateArgs = case.args();
        assert_eq!(args.thresholds, "x/1000, x = 0..999, strictly above");
        let (scores, masks) = (case.io("scores"), case.io("masks"));
        assert_eq!(scores.dtype(), DType::F32);
        assert_eq!(scores.dims()[1..], [args.size, args.size]);
        let masks = volume(&masks).mapv(|v| v > 0.5);
        let got = evaluate(
            volume(&scores).view(),
            masks.view(),
            &args.slices_per_patient,
        );
        let got = got.unwrap();
        case.check_values("average_precision", &[got.average_precision]);
        case.check_values("best_dice", &[got.best_dice]);
        case.check_values("best_threshold", &[f64::from(got.best_threshold)]);
        case.check_values("dice_after_components", &[got.dice_after_components]);
        let left = got.mask.iter().filter(|&&found| found).count();
        case.check_integers("voxels_left", &[left]);
        case.finish();
    }
}
