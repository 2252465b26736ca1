//! CFlow-AD: blocks, and a training by fibres of several layers.

use candle_core::{DType, Device, Tensor};
use fndm_baselines::cflow::{
    Decoder, DecoderConfig, log_likelihood, loss, per_dimension, position_encoding, score_map,
};
use fndm_baselines::flows::{Flowed, Source};
use fndm_kernels::Tape;
use fndm_train::{Optimizer, RateSchedule};
use serde::Deserialize;

use crate::cases::{Case, Tensors, builder, cases, values};
use crate::optimisers;
use crate::training::Trained;

fn is_fixed(name: &str) -> bool {
    name.contains("w_perm")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockArgs {
    dec_arch: String,
    n_feat: usize,
    condition_vec: Option<usize>,
    coupling_blocks: usize,
    clamp_alpha: f64,
    rows: usize,
    permute_soft: bool,
    global_affine_type: String,
}

#[test]
fn block() {
    for case in cases("cflow", "block") {
        let args: BlockArgs = case.args();
        assert_eq!(
            args.global_affine_type, "SOFTPLUS",
            "the only one of this crate"
        );
        let conditional = match &*args.dec_arch {
            "freia-cflow" => true,
            "freia-flow" => false,
            other => panic!("{}: no architecture {other}", case.id),
        };
        assert_eq!(conditional, args.condition_vec.is_some());
        let config = DecoderConfig {
            channels: args.n_feat,
            condition: args.condition_vec.unwrap_or(0),
            blocks: args.coupling_blocks,
            clamp: args.clamp_alpha,
        };
        let weights = case.weights();
        let x = case.io("x");
        assert_eq!(x.dims(), [args.rows, args.n_feat]);
        let soft = |name: &String| {
            let w = values(&weights[name]);
            name.ends_with("w_perm") && w.iter().any(|v| *v != 0.0 && *v != 1.0)
        };
        assert_eq!(weights.keys().any(soft), args.permute_soft);
        let condition = case.find("condition");
        assert_eq!(condition.is_some(), conditional);
        let condition = condition.as_ref();

        let decoder = Decoder::new(&config, &Source::of(builder(&weights))).unwrap();
        let mut h = x.clone();
        for (k, block) in decoder.blocks().iter().enumerate() {
            let subnet = block.subnet(&h, condition).unwrap();
            case.check(&format!("block{k}_subnet_output"), &subnet);
            let flowed = block.forward(&h, condition).unwrap();
            case.check(&format!("block{k}_output"), &flowed.z);
            case.check(&format!("block{k}_logdet"), &flowed.log_det);
            h = flowed.z;
        }
        let flowed = decoder.forward(&x, condition).unwrap();
        case.check("z", &flowed.z);
        case.check("logdet", &flowed.log_det);
        // The peer's inverse begins at its own z.
        let back = decoder.inverse(&case.io("z"), condition).unwrap();
        case.check("inverse", &back.z);
        case.check("inverse_logdet", &back.log_det);
        case.check("log_likelihood", &log_likelihood(&flowed).unwrap());
        let per = per_dimension(&flowed).unwrap();
        case.check("log_likelihood_per_dim", &per);
        if case.has("anomalib_log_likelihood_per_dim") {
            case.check("anomalib_log_likelihood_per_dim", &per);
        }
        case.check("loss", &loss(&flowed).unwrap().mean_all().unwrap());

        let trained = Trained::new(&with_input(&weights, &x), is_fixed);
        let decoder = Decoder::new(&config, &trained.source()).unwrap();
        let tape = Tape::start().unwrap();
        let x = trained.builder().get(x.shape(), "x").unwrap();
        let flowed = decoder.forward(&x, condition).unwrap();
        let store = tape
            .backward(&loss(&flowed).unwrap().mean_all().unwrap())
            .unwrap();
        case.check_all("grad", &trained.gradients(&store));
        case.finish();
    }
}

/// A state with the input among it, for its gradient.
pub(crate) fn with_input(weights: &Tensors, x: &Tensor) -> Tensors {
    let mut all = weights.clone();
    all.insert("x".to_owned(), x.clone());
    all
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FullArgs {
    n_feat: Vec<usize>,
    sizes: Vec<(usize, usize)>,
    batch: usize,
    condition_vec: usize,
    coupling_blocks: usize,
    clamp_alpha: f64,
    fibre: usize,
    crp_size: (usize, usize),
    test_batch_size: usize,
    lr: f64,
    epoch: u64,
    meta_epochs: u64,
    sub_epochs: u64,
    lr_warm_epochs: u64,
    lr_decay_rate: f64,
}

/// One layer of a case.
struct Layer {
    decoder: Decoder,
    position: Tensor,
}

/// Maps `(B, C, h, w)` as rows: image, row, column.
fn rows(maps: &Tensor) -> Tensor {
    let c = maps.dims()[1];
    let last = maps.permute((0, 2, 3, 1)).unwrap();
    last.contiguous().unwrap().reshape(((), c)).unwrap()
}

impl Layer {
    fn conditions(&self, images: usize) -> Tensor {
        let (d, h, w) = self.position.dims3().unwrap();
        let all = self.position.broadcast_as((images, d, h, w)).unwrap();
        rows(&all)
    }

    fn forward(&self, maps: &Tensor) -> Flowed {
        let conditions = self.conditions(maps.dims()[0]);
        self.decoder
            .forward(&rows(maps), Some(&conditions))
            .unwrap()
    }
}

fn build(args: &FullArgs, source: &Source<'_>) -> Vec<Layer> {
    let layers = args.n_feat.iter().zip(&args.sizes).enumerate();
    layers
        .map(|(l, (&channels, &size))| {
            let config = DecoderConfig {
                channels,
                condition: args.condition_vec,
                blocks: args.coupling_blocks,
                clamp: args.clamp_alpha,
            };
            Layer {
                decoder: Decoder::new(&config, &source.pp(format!("decoder{l}"))).unwrap(),
                position: position_encoding(args.condition_vec, size, &Device::Cpu).unwrap(),
            }
        })
        .collect()
}

/// Likelihoods and maps of the test features.
fn check_maps(case: &Case, args: &FullArgs, layers: &[Layer], suffix: &str) {
    let mut all = Vec::new();
    for (l, layer) in layers.iter().enumerate() {
        let maps = case.io(&format!("test_features{l}"));
        let per = per_dimension(&layer.forward(&maps)).unwrap();
        let (h, w) = args.sizes[l];
        let per = per.reshape(((), h, w)).unwrap();
        case.check(&format!("log_likelihood_per_dim{l}{suffix}"), &per);
        all.push(per);
    }
    let official = score_map(&all, None, args.crp_size).unwrap();
    case.check(&format!("score_map{suffix}"), &official.map);
    case.check_values(&format!("image_score{suffix}"), &official.scores);
    let mut anomalib = Vec::new();
    let images = all[0].dims()[0];
    for start in (0..images).step_by(args.test_batch_size) {
        let count = args.test_batch_size.min(images - start);
        let part: Vec<Tensor> = all
            .iter()
            .map(|l| l.narrow(0, start, count).unwrap())
            .collect();
        let map = score_map(&part, None, args.crp_size).unwrap().map;
        anomalib.extend(values(&map));
    }
    case.check_values(&format!("anomalib_map{suffix}"), &anomalib);
}

#[test]
fn full() {
    for case in cases("cflow", "full") {
        let args: FullArgs = case.args();
        let weights = case.weights();
        let layers = build(&args, &Source::of(builder(&weights)));
        for (l, layer) in layers.iter().enumerate() {
            case.check(&format!("position{l}"), &layer.position);
        }
        check_maps(&case, &args, &layers, "");

        let trained = Trained::new(&weights, is_fixed);
        let layers = build(&args, &trained.source());
        let mut config = optimisers::config(&case.optimiser());
        assert_eq!(config.lr, args.lr);
        let per_layer: Vec<usize> = case.extra("steps_per_layer").unwrap();
        let total: usize = per_layer.iter().sum();
        assert_eq!(case.extra::<usize>("optimiser_steps"), Some(total));
        config.rate = RateSchedule::EpochCosine {
            epochs: args.meta_epochs,
            warm_epochs: args.lr_warm_epochs,
            warm_from: 0.1,
            final_share: args.lr_decay_rate.powi(3),
            // One batch, seen by every epoch within an epoch.
            batches: args.sub_epochs,
            steps: total as u64 / args.sub_epochs,
        };
        config.check().unwrap();
        let first = args.epoch * total as u64;
        let mut optimizer = Optimizer::new(&config);
        let (mut losses, mut rates, mut gradients) = (Vec::new(), Vec::new(), None);
        let parts = case.train_parts();
        let passes = args.sub_epochs as usize;
        for (pass, (l, layer)) in
            (0..passes).flat_map(|pass| layers.iter().enumerate().map(move |layer| (pass, layer)))
        {
            let maps = case.io(&format!("train_features{l}"));
            assert_eq!(maps.dims()[0], args.batch);
            let order = case.io(&format!("permutation{l}"));
            let order = order.to_dtype(DType::U32).unwrap();
            let (all, conditions) = (rows(&maps), layer.conditions(args.batch));
            let count = all.dims()[0];
            let fibres = count / args.fibre;
            assert_eq!(per_layer[l], fibres * passes);
            assert_eq!(order.dims(), [count * passes]);
            for fibre in 0..fibres {
                let start = pass * count + fibre * args.fibre;
                let at = order.narrow(0, start, args.fibre).unwrap();
                let x = all.index_select(&at, 0).unwrap();
                let c = conditions.index_select(&at, 0).unwrap();
                let tape = Tape::start().unwrap();
                let flowed = layer.decoder.forward(&x, Some(&c)).unwrap();
                let loss = loss(&flowed).unwrap().mean_all().unwrap();
                losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
                let found = trained.gradients(&tape.backward(&loss).unwrap());
                let rate = config.rate_at(first + losses.len() as u64 - 1, None);
                rates.push(rate);
                trained.step(&mut optimizer, &config, rate, &found);
                gradients.get_or_insert(found);
                let part = format!("step{}", losses.len());
                if parts.contains(&part) {
                    case.check_state(&part, &weights, &trained.state());
                }
            }
        }
        case.check_all("grad", &gradients.unwrap());
        case.check_train("losses_before_each_step", &losses);
        case.check_train("learning_rates", &rates);
        let after = build(&args, &Source::of(builder(&trained.state())));
        check_maps(&case, &args, &after, "_after_training");
        let most = values(&case.io("score_map")).len() / args.batch;
        assert_eq!(most, args.crp_size.0 * args.crp_size.1);
        case.finish();
    }
}
