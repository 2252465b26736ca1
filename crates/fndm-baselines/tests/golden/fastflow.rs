//! `FastFlow`: norms and flows on given features, and one flow alone.

use candle_core::Tensor;
use fndm_baselines::fastflow::{FastFlow, FastFlowConfig, LayerConfig, LayerFlow, loss, score_map};
use fndm_baselines::flows::Source;
use fndm_kernels::Tape;
use fndm_train::Optimizer;
use serde::Deserialize;

use crate::cases::{builder, cases};
use crate::cflow::with_input;
use crate::optimisers;
use crate::training::Trained;

fn is_fixed(name: &str) -> bool {
    name.contains("w_perm")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelArgs {
    channels: Vec<usize>,
    reductions: Vec<usize>,
    input_size: usize,
    flow_steps: usize,
    conv3x3_only: bool,
    hidden_ratio: f64,
    clamp: f64,
    batch: usize,
    layer_norm: bool,
}

#[test]
fn model() {
    for case in cases("fastflow", "model") {
        let args: ModelArgs = case.args();
        let layers = args.channels.iter().zip(&args.reductions);
        let config = FastFlowConfig {
            layers: layers
                .map(|(&channels, &reduction)| LayerConfig {
                    channels,
                    height: args.input_size / reduction,
                    width: args.input_size / reduction,
                })
                .collect(),
            steps: args.flow_steps,
            conv3x3_only: args.conv3x3_only,
            hidden_ratio: args.hidden_ratio,
            clamp: args.clamp,
            layer_norm: args.layer_norm,
        };
        let size = (args.input_size, args.input_size);
        let weights = case.weights();
        let count = config.layers.len();
        let features: Vec<Tensor> = (0..count)
            .map(|l| case.io(&format!("features{l}")))
            .collect();
        assert_eq!(features[0].dims()[0], args.batch);
        let model = FastFlow::new(&config, &Source::of(builder(&weights))).unwrap();
        let normed = model.normalised(&features).unwrap();
        for (l, normed) in normed.iter().enumerate() {
            if args.layer_norm || case.has(&format!("normed{l}")) {
                case.check(&format!("normed{l}"), normed);
            }
            let mut h = normed.clone();
            for (k, block) in model.flows()[l].blocks().iter().enumerate() {
                let flowed = block.forward(&h, None).unwrap();
                // The peer wrote some of the blocks down.
                for (name, value) in [("output", &flowed.z), ("logdet", &flowed.log_det)] {
                    let name = format!("flow{l}_block{k}_{name}");
                    if case.has(&name) {
                        case.check(&name, value);
                    }
                }
                h = flowed.z;
            }
        }
        let flowed = model.forward(&features).unwrap();
        for (l, flowed) in flowed.iter().enumerate() {
            case.check(&format!("z{l}"), &flowed.z);
            case.check(&format!("logdet{l}"), &flowed.log_det);
        }
        case.check("loss", &loss(&flowed).unwrap().mean_all().unwrap());
        case.check("anomaly_map", &score_map(&flowed, size).unwrap());

        let trained = Trained::new(&weights, is_fixed);
        let model = FastFlow::new(&config, &trained.source()).unwrap();
        let settings = optimisers::config(&case.optimiser());
        let mut optimizer = Optimizer::new(&settings);
        let mut losses = Vec::new();
        let parts = case.train_parts();
        let steps = case.train("losses_before_each_step").elem_count();
        for step in 1..=steps {
            let tape = Tape::start().unwrap();
            let flowed = model.forward(&features).unwrap();
            let loss = loss(&flowed).unwrap().mean_all().unwrap();
            losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
            let found = trained.gradients(&tape.backward(&loss).unwrap());
            if step == 1 {
                case.check_all("grad", &found);
            }
            trained.step(&mut optimizer, &settings, settings.lr, &found);
            let part = format!("step{step}");
            if parts.contains(&part) {
                case.check_state(&part, &weights, &trained.state());
            }
        }
        case.check_train("losses_before_each_step", &losses);
        let after = FastFlow::new(&config, &Source::of(builder(&trained.state()))).unwrap();
        let map = score_map(&after.forward(&features).unwrap(), size).unwrap();
        case.check(&format!("anomaly_map_after{steps}"), &map);
        case.finish();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowArgs {
    chw: (usize, usize, usize),
    flow_steps: usize,
    conv3x3_only: bool,
    hidden_ratio: f64,
    clamp: f64,
    batch: usize,
    layer_norm: bool,
}

#[test]
fn flow() {
    for case in cases("fastflow", "flow") {
        let args: FlowArgs = case.args();
        assert!(!args.layer_norm, "a flow alone has no norm");
        let (channels, height, width) = args.chw;
        let layer = LayerConfig {
            channels,
            height,
            width,
        };
        let config = FastFlowConfig {
            layers: vec![layer],
            steps: args.flow_steps,
            conv3x3_only: args.conv3x3_only,
            hidden_ratio: args.hidden_ratio,
            clamp: args.clamp,
            layer_norm: args.layer_norm,
        };
        let weights = case.weights();
        let x = case.io("x");
        assert_eq!(x.dims(), [args.batch, channels, height, width]);
        let flow = LayerFlow::new(&config, &layer, &Source::of(builder(&weights))).unwrap();
        let mut h = x.clone();
        for (k, block) in flow.blocks().iter().enumerate() {
            let subnet = block.subnet(&h, None).unwrap();
            case.check(&format!("block{k}_subnet_output"), &subnet);
            let flowed = block.forward(&h, None).unwrap();
            case.check(&format!("block{k}_output"), &flowed.z);
            case.check(&format!("block{k}_logdet"), &flowed.log_det);
            h = flowed.z;
        }
        let flowed = flow.forward(&x).unwrap();
        case.check("z", &flowed.z);
        case.check("logdet", &flowed.log_det);
        let first = flowed.log_det.get(0).unwrap();
        case.check("logdet_dense_jacobian_sample0", &first);
        let each = loss(std::slice::from_ref(&flowed)).unwrap();
        case.check("loss", &each.mean_all().unwrap());

        let trained = Trained::new(&with_input(&weights, &x), is_fixed);
        let flow = LayerFlow::new(&config, &layer, &trained.source()).unwrap();
        let tape = Tape::start().unwrap();
        let x = trained.builder().get(x.shape(), "x").unwrap();
        let flowed = flow.forward(&x).unwrap();
        let loss = loss(&[flowed]).unwrap().mean_all().unwrap();
        let store = tape.backward(&loss).unwrap();
        case.check_all("grad", &trained.gradients(&store));
        case.finish();
    }
}
