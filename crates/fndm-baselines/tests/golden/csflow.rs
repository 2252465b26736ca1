//! CS-Flow: cross convolutions, blocks, losses, a training, maps.

use std::collections::BTreeSet;

use candle_core::Tensor;
use fndm_baselines::csflow::{
    CrossFlow, CrossFlowConfig, MapKind, loss, scale_map, score, score_map,
};
use fndm_baselines::flows::{Flowed, numpy_default_permutation, numpy_permutations};
use fndm_kernels::Tape;
use fndm_train::Optimizer;
use serde::Deserialize;

use crate::cases::{Case, Tensors, builder, cases, values};
use crate::optimisers;
use crate::training::{Trained, norm};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    n_feat: usize,
    map_size: (usize, usize),
    n_coupling_blocks: usize,
    fc_internal: usize,
    kernel_sizes: Vec<usize>,
    clamp: f64,
    use_gamma: bool,
    batch: usize,
    image_size: (usize, usize),
    gamma: String,
}

/// The permutations of every block, which the weights hold as integers.
fn orders(case: &Case, weights: &Tensors, blocks: usize) -> Vec<Vec<Vec<usize>>> {
    let read = |name: String| -> Vec<usize> {
        let order = weights[&name].to_vec1::<i64>().unwrap();
        order.into_iter().map(|v| v as usize).collect()
    };
    let mut names: BTreeSet<String> = BTreeSet::new();
    let all = (0..blocks)
        .map(|k| {
            let list = format!("module_list.{}", 2 * k + 3);
            (0..3)
                .map(|scale| {
                    let (name, back) = (
                        format!("{list}.perm.{scale}"),
                        format!("{list}.perm_inv.{scale}"),
                    );
                    names.extend([name.clone(), back.clone()]);
                    let order = read(name);
                    for (at, place) in read(back).into_iter().enumerate() {
                        assert_eq!(order[place], at, "{}", case.id);
                    }
                    order
                })
                .collect()
        })
        .collect();
    for (name, tensor) in weights {
        let integer = tensor.dtype() == candle_core::DType::I64;
        assert_eq!(integer, names.contains(name), "{}: {name}", case.id);
    }
    all
}

fn maps(flowed: &[Flowed]) -> Vec<Tensor> {
    flowed.iter().map(|f| f.z.clone()).collect()
}

#[test]
fn full() {
    for case in cases("csflow", "full") {
        let args: Args = case.args();
        assert_eq!(args.kernel_sizes.len(), args.n_coupling_blocks);
        let weights = case.weights();
        let gammas = weights.iter().filter(|(name, _)| name.contains(".gamma"));
        let zero = gammas.flat_map(|(_, t)| values(t)).all(|v| v == 0.0);
        match &*args.gamma {
            "random" => assert!(!zero),
            "zero as at the start" => assert!(zero),
            other => panic!("{}: no gamma {other}", case.id),
        }
        let config = CrossFlowConfig {
            channels: args.n_feat,
            hidden: args.fc_internal,
            kernels: args.kernel_sizes.clone(),
            clamp: args.clamp,
            gamma: args.use_gamma,
        };
        let orders = orders(&case, &weights, args.n_coupling_blocks);
        let x: Vec<Tensor> = (0..3).map(|s| case.io(&format!("x{s}"))).collect();
        let (h, w) = args.map_size;
        assert_eq!(x[0].dims(), [args.batch, args.n_feat, h, w]);

        let flow = CrossFlow::new(&config, &orders, &builder(&weights)).unwrap();
        let seen: Vec<Tensor> = (0..3)
            .map(|s| case.io(&format!("cross_s2_in{s}")))
            .collect();
        let crossed = flow.blocks()[0].seeing_the_rest().forward(&seen).unwrap();
        for (s, out) in crossed.iter().enumerate() {
            case.check(&format!("cross_s2_out{s}"), out);
        }
        let mut features = x.clone();
        for (k, block) in flow.blocks().iter().enumerate() {
            let permuted = block.permute(&features).unwrap();
            let flowed = block.forward(&features).unwrap();
            for (s, (permuted, flowed)) in permuted.iter().zip(&flowed).enumerate() {
                case.check(&format!("block{k}_permuted{s}"), permuted);
                case.check(&format!("block{k}_output{s}"), &flowed.z);
                case.check(&format!("block{k}_logdet{s}"), &flowed.log_det);
            }
            if k == 0 {
                // anomalib's sum over the batch.
                let batch: f64 = flowed.iter().flat_map(|f| values(&f.log_det)).sum();
                case.check_values("anomalib_block0_logdet_over_batch", &[batch]);
            }
            features = maps(&flowed);
            let drawn = numpy_permutations(args.n_feat, k as u32, 3);
            assert_eq!(drawn, orders[k], "{}: block {k}", case.id);
            let shared = numpy_default_permutation(args.n_feat, k as u32);
            case.check_integers(&format!("anomalib_perm_block{k}"), &shared);
        }
        let flowed = flow.forward(&x).unwrap();
        let mut sum: Option<Tensor> = None;
        for (s, f) in flowed.iter().enumerate() {
            case.check(&format!("z{s}"), &f.z);
            case.check(&format!("logdet{s}"), &f.log_det);
            sum = Some(match sum {
                Some(sum) => (sum + &f.log_det).unwrap(),
                None => f.log_det.clone(),
            });
        }
        let sum = sum.unwrap();
        case.check("logdet", &sum);
        case.check("loss", &loss(&flowed).unwrap().mean_all().unwrap());
        // anomalib's loss takes every sample's log-determinant from each.
        let over_batch: f64 = values(&sum).iter().sum();
        let dimensions: usize = x.iter().map(|x| x.elem_count() / args.batch).sum();
        let squares: f64 = flowed
            .iter()
            .flat_map(|f| values(&f.z))
            .map(|v| v * v / 2.0)
            .sum();
        let anomalib = (squares / args.batch as f64 - over_batch) / dimensions as f64;
        case.check_values("anomalib_loss", &[anomalib]);
        let scores: Vec<f64> = score(&flowed).unwrap().iter().map(|&v| v.into()).collect();
        case.check_values("image_score", &scores);
        case.check("map_official_scale0", &scale_map(&flowed[0].z).unwrap());
        case.check("map_scale1", &scale_map(&flowed[1].z).unwrap());
        case.check("map_scale2", &scale_map(&flowed[2].z).unwrap());
        for (name, kind) in [
            ("map_official_upsampled", MapKind::Finest),
            ("map_sum_of_scales", MapKind::Sum),
            ("anomalib_map_ALL", MapKind::Product),
            ("anomalib_map_MAX", MapKind::Finest),
        ] {
            case.check(name, &score_map(&flowed, kind, args.image_size).unwrap());
        }
        let back = flow.inverse(&maps(&flowed)).unwrap();
        for (back, x) in back.iter().zip(&x) {
            let (back, x) = (values(&back.z), values(x));
            let scale = x.iter().fold(0f64, |a, v| a.max(v.abs()));
            let off = back.iter().zip(&x).map(|(a, b)| (a - b).abs() / scale);
            case.note("ours: inverse of forward", off.fold(0.0, f64::max), 2e-4);
        }

        let trained = Trained::new(&weights, |_| false);
        let flow = CrossFlow::new(&config, &orders, &trained.builder()).unwrap();
        let mut settings = optimisers::config(&case.optimiser());
        settings.clip = case.extra("clip_grad_norm");
        settings.clip_eps = 1e-6;
        let mut optimizer = Optimizer::new(&settings);
        let mut losses = Vec::new();
        let parts = case.train_parts();
        let steps = case.train("losses_before_each_step").elem_count();
        for step in 1..=steps {
            let tape = Tape::start().unwrap();
            let flowed = flow.forward(&x).unwrap();
            let loss = loss(&flowed).unwrap().mean_all().unwrap();
            losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
            let found = trained.gradients(&tape.backward(&loss).unwrap());
            if step == 1 {
                case.check_train("gradient_norm", &[norm(&found)]);
                case.check_all("grad", &found);
            }
            trained.step(&mut optimizer, &settings, settings.lr, &found);
            let part = format!("step{step}");
            if parts.contains(&part) {
                case.check_state(&part, &weights, &trained.state());
            }
        }
        case.check_train("losses_before_each_step", &losses);
        let after = CrossFlow::new(&config, &orders, &builder(&trained.state())).unwrap();
        let scores = score(&after.forward(&x).unwrap()).unwrap();
        let scores: Vec<f64> = scores.iter().map(|&v| v.into()).collect();
        case.check_values(&format!("image_score_after{steps}"), &scores);
        case.finish();
    }
}
