//! Reverse Distillation: losses, gradients, states and maps, on given features and by its networks.

use std::io::Write as _;

use candle_core::Tensor;
use fndm_baselines::reverse_distillation::{
    Bottleneck, Decoder, DistillationLoss, Joined, NetworkConfig, SIGMA, layer_maps, loss,
    score_map, smoothed,
};
use fndm_kernels::{Precision, Tape, set_precision};
use fndm_memory::Edge;
use fndm_models::{BatchNorms, Mode, ResNet, ResNetConfig};
use fndm_train::Optimizer;
use serde::Deserialize;

use crate::backbone::kind;
use crate::cases::{Case, Tensors, builder, cases, values};
use crate::optimisers;
use crate::training::Trained;

const LAYERS: usize = 3;
const LOSSES: [(&str, DistillationLoss); 3] = [
    ("flattened", DistillationLoss::Flattened),
    ("per_pixel", DistillationLoss::PerPixel),
    ("concat", DistillationLoss::Concatenated),
];

fn mean(encoder: &[Tensor], decoder: &[Tensor], kind: DistillationLoss) -> Tensor {
    let each = loss(encoder, decoder, kind).unwrap();
    each.mean_all().unwrap()
}

fn largest(map: &Tensor) -> Vec<f64> {
    let most = map.flatten_from(1).unwrap().max(1).unwrap();
    values(&most)
}

/// Maps of a batch, with the authors' smoothing; names end in `suffix`.
fn check_maps(
    case: &Case,
    encoder: &[Tensor],
    decoder: &[Tensor],
    size: (usize, usize),
    suffix: &str,
) {
    for (l, map) in (1..).zip(layer_maps(encoder, decoder, size).unwrap()) {
        // The peer's function looks at the first slice alone.
        let first = map.get(0).unwrap();
        case.check(&format!("layer_map{l}_image0{suffix}"), &first);
    }
    let sum = score_map(encoder, decoder, size, Joined::Sum).unwrap();
    case.check(&format!("sum_map_unsmoothed{suffix}"), &sum);
    let smooth = smoothed(&sum, SIGMA, Edge::Symmetric).unwrap();
    case.check(&format!("sum_map{suffix}"), &smooth);
    case.check_values(&format!("image_score{suffix}"), &largest(&smooth));
    let product = score_map(encoder, decoder, size, Joined::Product).unwrap();
    case.check(&format!("product_map_unsmoothed{suffix}"), &product);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeatureArgs {
    batch: usize,
    shapes: Vec<(usize, usize, usize)>,
    map_size: usize,
    zero_vectors: Option<String>,
}

#[test]
fn features() {
    for case in cases("reverse_distillation", "features") {
        let args: FeatureArgs = case.args();
        let layers = 1..=args.shapes.len();
        let named = |who: &str| -> Vec<Tensor> {
            let maps = layers.clone().map(|l| case.io(&format!("{who}{l}")));
            maps.collect()
        };
        let (encoder, decoder) = (named("encoder"), named("decoder"));
        let mut zero = false;
        for (maps, who) in [(&encoder, "encoder"), (&decoder, "decoder")] {
            for ((l, map), &(c, h, w)) in (1..).zip(maps).zip(&args.shapes) {
                assert_eq!(map.dims(), [args.batch, c, h, w]);
                case.check(&format!("{who}{l}"), map);
                let squares = map.sqr().unwrap().sum(1).unwrap();
                zero |= values(&squares).contains(&0.0);
            }
        }
        assert_eq!(zero, args.zero_vectors.is_some());
        for (name, kind) in LOSSES {
            case.check(&format!("loss_{name}"), &mean(&encoder, &decoder, kind));
        }
        let flattened = mean(&encoder, &decoder, DistillationLoss::Flattened);
        case.check("anomalib_loss", &flattened);
        let size = (args.map_size, args.map_size);
        check_maps(&case, &encoder, &decoder, size, "");
        for (name, how) in [("add", Joined::Sum), ("multiply", Joined::Product)] {
            let map = score_map(&encoder, &decoder, size, how).unwrap();
            let map = smoothed(&map, SIGMA, Edge::Reflect).unwrap();
            case.check(&format!("anomalib_{name}_map"), &map);
        }

        let start: Tensors = layers
            .clone()
            .zip(&decoder)
            .map(|(l, map)| (format!("decoder{l}"), map.clone()))
            .collect();
        let trained = Trained::new(&start, |_| false);
        for (name, kind) in LOSSES {
            let tape = Tape::start().unwrap();
            let shapes = decoder.iter().map(Tensor::shape);
            let decoder: Vec<Tensor> = layers
                .clone()
                .zip(shapes)
                .map(|(l, shape)| {
                    trained
                        .builder()
                        .get(shape, &format!("decoder{l}"))
                        .unwrap()
                })
                .collect();
            let store = tape.backward(&mean(&encoder, &decoder, kind)).unwrap();
            let mut found = trained.gradients(&store);
            let part = format!("grad_{name}");
            // At a zero vector the peer's gradient is 1e8 times too large to be compared, so it leaves such a layer out.
            let expected = case.train_of(&part);
            let absent: Vec<String> = found
                .keys()
                .filter(|key| !expected.contains_key(*key))
                .cloned()
                .collect();
            for key in absent {
                assert!(args.zero_vectors.is_some(), "{part}/{key} is missing");
                println!("{}: {part}/{key} isn't in the reference", case.id);
                found.remove(&key);
            }
            case.check_all(&part, &found);
        }
        case.finish();
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkArgs {
    batch: usize,
    image: (usize, usize),
    widths_divided_by: usize,
    block: String,
    encoder_blocks: Vec<usize>,
    decoder_blocks: [usize; LAYERS],
    bottleneck_blocks: usize,
    width_per_group: usize,
}

/// The two trained networks.
struct Networks {
    bottleneck: Bottleneck,
    decoder: Decoder,
}

impl Networks {
    fn new(config: &NetworkConfig, vb: &candle_nn::VarBuilder<'_>, norms: &BatchNorms) -> Self {
        Self {
            bottleneck: Bottleneck::new(config, &vb.pp("bn"), norms).unwrap(),
            decoder: Decoder::new(config, &vb.pp("decoder"), norms).unwrap(),
        }
    }

    fn maps(&self, encoder: &[Tensor], mode: Mode) -> Vec<Tensor> {
        let code = self.bottleneck.forward(encoder, mode).unwrap().code;
        self.decoder.forward(&code, mode).unwrap()
    }

    fn folded(&self) -> Self {
        Self {
            bottleneck: self.bottleneck.folded().unwrap(),
            decoder: self.decoder.folded().unwrap(),
        }
    }
}

/// Units that lie so near to 0 that the order of sums decides whether they pass their gradient: case, bias before the unit, channel, and
/// a shift of that bias that decides it. In `rd_wide50` one unit of the output of `decoder.layer2.0` is 9.0e-6 in f64, where values are
/// about 1.7 and the peer itself is off by up to 1.1e-5; taking it for negative changes gradients before it by up to 1.4e-2. By
/// PyTorch in f64 the shift changes no gradient by more than 1.9e-5, a thirtieth of the tolerance.
const TIES: [(&str, &str, usize, f32); 1] = [("rd_wide50", "decoder.layer2.0.bn3.bias", 11, 4e-5)];

/// The weights with ties of this case decided.
fn untied(case: &Case, weights: &Tensors) -> Tensors {
    let mut all = weights.clone();
    for (_, key, channel, shift) in TIES.iter().filter(|tie| tie.0 == case.id) {
        let mut values = all[*key].to_vec1::<f32>().unwrap();
        values[*channel] += shift;
        aloud!("{}: trained from {key}[{channel}] + {shift}", case.id);
        let values = Tensor::new(values, all[*key].device()).unwrap();
        all.insert((*key).to_owned(), values);
    }
    all
}

#[test]
fn network() {
    // Steps of the optimiser amplify what Winograd's algorithm rounds.
    set_precision(Precision::Exact);
    for case in cases("reverse_distillation", "network") {
        let args: NetworkArgs = case.args();
        let block = kind(&args.block, args.width_per_group);
        let planes = [64, 128, 256].map(|p| p / args.widths_divided_by);
        let shape = ResNetConfig {
            block,
            planes: planes.to_vec(),
            blocks: args.encoder_blocks.clone(),
            ..ResNetConfig::resnet18()
        };
        let config = NetworkConfig {
            channels: planes.map(|p| p * block.expansion()),
            block,
            bottleneck_blocks: args.bottleneck_blocks,
            decoder_blocks: args.decoder_blocks,
        };
        let images = case.io("images");
        assert_eq!(images.dims(), [args.batch, 3, args.image.0, args.image.1]);
        case.check("images", &images);
        let weights = case.weights_of("encoder.");
        let encoder = ResNet::new(&shape, builder(&weights), &BatchNorms::from_weights()).unwrap();
        let encoder = encoder.folded().unwrap();
        let encoder = encoder.forward(&images, Mode::Evaluate).unwrap().layers;
        for (l, map) in (1..).zip(&encoder) {
            case.check(&format!("encoder{l}"), map);
        }

        // The authors' file also has a convolution and a norm that take no part.
        let idle: Vec<String> = case.extra("not_changed_by_training").unwrap_or_default();
        let mut weights = Tensors::new();
        for prefix in ["bn.", "decoder."] {
            let all = case.weights_of(prefix).into_iter();
            weights.extend(all.map(|(k, t)| (format!("{prefix}{k}"), t)));
        }
        for name in &idle {
            assert!(
                name.starts_with("bn.conv4.") || name.starts_with("bn.bn4."),
                "{name}"
            );
        }
        weights.retain(|k, _| !k.starts_with("bn.conv4.") && !k.starts_with("bn.bn4."));
        let trained = Trained::new(&weights, |name| name.contains("running"));
        let norms = BatchNorms::fresh();
        let networks = Networks::new(&config, &trained.builder(), &norms);
        norms.set(&weights).unwrap();

        for net in [&networks.folded(), &networks] {
            let code = net.bottleneck.forward(&encoder, Mode::Evaluate).unwrap();
            case.check("mff_branch1_eval", &code.branch1);
            case.check("mff_branch2_eval", &code.branch2);
            case.check("bottleneck_eval", &code.code);
            let decoder = net.decoder.forward(&code.code, Mode::Evaluate).unwrap();
            for (l, map) in (1..).zip(&decoder) {
                case.check(&format!("decoder{l}_eval"), map);
            }
            check_maps(&case, &encoder, &decoder, args.image, "_eval");
        }

        let code = networks.bottleneck.forward(&encoder, Mode::Train).unwrap();
        case.check("bottleneck_train", &code.code);
        let decoder = networks.decoder.forward(&code.code, Mode::Train).unwrap();
        for (l, map) in (1..).zip(&decoder) {
            case.check(&format!("decoder{l}_train"), map);
        }
        for (name, kind) in LOSSES {
            case.check(&format!("loss_{name}"), &mean(&encoder, &decoder, kind));
        }
        // Looking at the batch has moved the running statistics.
        let start = untied(&case, &weights);
        let trained = Trained::new(&start, |name| name.contains("running"));
        let norms = BatchNorms::fresh();
        let networks = Networks::new(&config, &trained.builder(), &norms);
        norms.set(&start).unwrap();

        let settings = optimisers::config(&case.optimiser());
        let mut optimizer = Optimizer::new(&settings);
        let mut losses = Vec::new();
        let parts = case.train_parts();
        let steps = case.train("losses_before_each_step").elem_count();
        for step in 1..=steps {
            let tape = Tape::start().unwrap();
            let decoder = networks.maps(&encoder, Mode::Train);
            let loss = mean(&encoder, &decoder, DistillationLoss::Flattened);
            losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
            let found = trained.gradients(&tape.backward(&loss).unwrap());
            if step == 1 {
                case.check_all("grad", &found);
            }
            trained.step(&mut optimizer, &settings, settings.lr, &found);
            let part = format!("step{step}");
            if parts.contains(&part) {
                let mut state = trained.state();
                state.extend(norms.tensors().unwrap());
                case.check_state(&part, &weights, &state);
            }
            if step == 1 {
                let decoder = networks.folded().maps(&encoder, Mode::Evaluate);
                let map = score_map(&encoder, &decoder, args.image, Joined::Sum).unwrap();
                let map = smoothed(&map, SIGMA, Edge::Symmetric).unwrap();
                case.check("sum_map_after1", &map);
                case.check_values("image_score_after1", &largest(&map));
            }
        }
        case.check_train("losses_before_each_step", &losses);
        case.finish();
    }
}
