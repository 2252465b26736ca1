//! STFPM: loss, gradients, descent and maps, on given features and by two networks.

use candle_core::Tensor;
use fndm_baselines::stfpm::{LossScale, MapStyle, layer_differences, loss, score_map, scores};
use fndm_kernels::{Precision, Tape, set_precision};
use fndm_models::{BatchNorms, Mode, ResNet, ResNetConfig};
use fndm_train::Optimizer;
use serde::Deserialize;

use crate::backbone::kind;
use crate::cases::{Case, Tensors, builder, cases};
use crate::optimisers;
use crate::training::Trained;

const LAYERS: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FeatureArgs {
    batch: usize,
    shapes: Vec<(usize, usize, usize)>,
    anomalib_sizes: Vec<(usize, usize)>,
    zero_teacher_vectors: bool,
    official_map_size: (usize, usize),
}

fn mean(each: &Tensor) -> Tensor {
    each.mean_all().unwrap()
}

fn scalar(loss: &Tensor) -> f64 {
    f64::from(loss.to_scalar::<f32>().unwrap())
}

/// Whether some vector over the channels is zero.
fn has_zero_vector(map: &Tensor) -> bool {
    let norms = map.sqr().unwrap().sum(1).unwrap();
    let norms = norms.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    norms.contains(&0.0)
}

fn check_anomalib(case: &Case, teacher: &[Tensor], student: &[Tensor], sizes: &[(usize, usize)]) {
    let each = loss(teacher, student, LossScale::Anomalib).unwrap();
    case.check("anomalib_loss", &mean(&each));
    for &size in sizes {
        let map = score_map(teacher, student, size, MapStyle::Anomalib).unwrap();
        case.check(&format!("anomalib_map_{}x{}", size.0, size.1), &map);
    }
}

#[test]
fn features() {
    for case in cases("stfpm", "features") {
        let args: FeatureArgs = case.args();
        let layers = 1..=args.shapes.len();
        let named = |who: &str| -> Vec<Tensor> {
            let maps = layers.clone().map(|l| case.io(&format!("{who}{l}")));
            maps.collect()
        };
        let (teacher, student) = (named("teacher"), named("student"));
        for (maps, who) in [(&teacher, "teacher"), (&student, "student")] {
            for ((l, map), &(c, h, w)) in (1..).zip(maps).zip(&args.shapes) {
                assert_eq!(map.dims(), [args.batch, c, h, w]);
                case.check(&format!("{who}{l}"), map);
            }
        }
        let zero = teacher.iter().any(has_zero_vector);
        assert!(zero || !args.zero_teacher_vectors);
        let official = |student: &[Tensor]| loss(&teacher, student, LossScale::Official).unwrap();
        case.check("loss", &mean(&official(&student)));
        check_anomalib(&case, &teacher, &student, &args.anomalib_sizes);
        let size = args.official_map_size;
        let name = format!("{}x{}", size.0, size.1);
        let map = score_map(&teacher, &student, size, MapStyle::Official).unwrap();
        case.check(&format!("product_map_{name}"), &map);
        for (l, difference) in (1..).zip(layer_differences(&teacher, &student).unwrap()) {
            let large = difference
                .upsample_bilinear2d(size.0, size.1, false)
                .unwrap();
            case.check(&format!("layer_map{l}_{name}"), &large);
        }

        let start: Tensors = layers
            .clone()
            .zip(&student)
            .map(|(l, map)| (format!("student{l}"), map.clone()))
            .collect();
        let trained = Trained::new(&start, |_| false);
        let student = || -> Vec<Tensor> {
            let shapes = student.iter().map(Tensor::shape);
            let maps = layers.clone().zip(shapes);
            maps.map(|(l, shape)| {
                trained
                    .builder()
                    .get(shape, &format!("student{l}"))
                    .unwrap()
            })
            .collect()
        };
        train(&case, &trained, None, || official(&student()));
        case.finish();
    }
}

/// The training of a case: losses, gradients, states.
fn train(case: &Case, trained: &Trained, norms: Option<&BatchNorms>, each: impl Fn() -> Tensor) {
    let settings = optimisers::config(&case.optimiser());
    let mut optimizer = Optimizer::new(&settings);
    let mut losses = Vec::new();
    let parts = case.train_parts();
    let steps = case.train("losses_before_each_step").elem_count();
    for step in 1..=steps {
        let tape = Tape::start().unwrap();
        let loss = mean(&each());
        losses.push(scalar(&loss));
        let found = trained.gradients(&tape.backward(&loss).unwrap());
        if step == 1 {
            let plain = found.iter().map(|(k, g)| (official_name(k), g.clone()));
            case.check_all("grad", &plain.collect());
        }
        trained.step(&mut optimizer, &settings, settings.lr, &found);
        let part = format!("step{step}");
        if parts.contains(&part) {
            check_state(case, &part, trained, norms);
        }
    }
    case.check_train("losses_before_each_step", &losses);
}

/// The student's state beside the manifest's. What isn't there must not have changed.
fn check_state(case: &Case, part: &str, trained: &Trained, norms: Option<&BatchNorms>) {
    let start = trained.start();
    let mut got = trained.state();
    let student = norms.is_some();
    if let Some(norms) = norms {
        got.extend(norms.tensors().unwrap());
    }
    let named = |all: Tensors| -> Tensors {
        let name = |k: &str| match student {
            true => format!("student.{}", official_name(k)),
            false => k.to_owned(),
        };
        all.into_iter().map(|(k, t)| (name(&k), t)).collect()
    };
    case.check_changed(part, &named(start.clone()), &named(got));
}

/// The authors' student is a list: `model.0`, `model.1`, `model.4` to `model.7`.
fn official_name(name: &str) -> String {
    for (torchvision, place) in [("conv1.", 0), ("bn1.", 1)] {
        if let Some(rest) = name.strip_prefix(torchvision) {
            return format!("model.{place}.{rest}");
        }
    }
    match name.strip_prefix("layer").and_then(|n| n.split_once('.')) {
        Some((layer, rest)) => format!("model.{}.{rest}", layer.parse::<usize>().unwrap() + 3),
        None => name.to_owned(),
    }
}

/// The other way round.
fn torchvision_names(all: Tensors) -> Tensors {
    let name = |k: &str| -> String {
        let rest = k.strip_prefix("model.").unwrap();
        let (place, rest) = rest.split_once('.').unwrap();
        match place.parse().unwrap() {
            0 => format!("conv1.{rest}"),
            1 => format!("bn1.{rest}"),
            n @ 4.. => format!("layer{}.{rest}", n - 3),
            n => panic!("model.{n} has no weights"),
        }
    };
    all.into_iter().map(|(k, t)| (name(&k), t)).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkArgs {
    batch: usize,
    image: (usize, usize),
    planes: Vec<usize>,
    blocks: Vec<usize>,
    block: String,
    anomalib_sizes: Vec<(usize, usize)>,
}

#[test]
fn network() {
    // Steps of the optimiser amplify what Winograd's algorithm rounds.
    set_precision(Precision::Exact);
    for case in cases("stfpm", "network") {
        let args: NetworkArgs = case.args();
        let config = ResNetConfig {
            block: kind(&args.block, 64),
            planes: args.planes.clone(),
            blocks: args.blocks.clone(),
            ..ResNetConfig::resnet18()
        };
        let images = case.io("images");
        assert_eq!(images.dims(), [args.batch, 3, args.image.0, args.image.1]);
        case.check("images", &images);
        let teacher = torchvision_names(case.weights_of("teacher."));
        let teacher = ResNet::new(&config, builder(&teacher), &BatchNorms::from_weights()).unwrap();
        let teacher = teacher.folded().unwrap();
        let maps = teacher.forward(&images, Mode::Evaluate).unwrap().layers;
        let teacher = &maps[..LAYERS];

        let weights = torchvision_names(case.weights_of("student."));
        let trained = Trained::new(&weights, |name| name.contains("running"));
        let norms = BatchNorms::fresh();
        let student = ResNet::new(&config, trained.builder(), &norms).unwrap();
        norms.set(&weights).unwrap();
        let run = |mode: Mode| student.forward(&images, mode).unwrap().layers[..LAYERS].to_vec();
        let evaluated = run(Mode::Evaluate);
        let seen = run(Mode::Train);
        // Looking at the batch has moved the running statistics.
        norms.set(&weights).unwrap();
        for l in 1..=LAYERS {
            case.check(&format!("teacher{l}"), &teacher[l - 1]);
            case.check(&format!("student{l}_eval"), &evaluated[l - 1]);
            case.check(&format!("student{l}_train"), &seen[l - 1]);
        }
        case.check(
            "loss",
            &mean(&loss(teacher, &seen, LossScale::Official).unwrap()),
        );
        check_anomalib(&case, teacher, &seen, &args.anomalib_sizes);
        let official = |student: &[Tensor], name: &str| {
            let names = case.names();
            let start = "product_map_";
            let size = names.iter().find_map(|n| {
                let size = n.strip_prefix(start)?.strip_suffix(name)?;
                let (h, w) = size.split_once('x')?;
                Some((h.parse().ok()?, w.parse().ok()?))
            });
            let size: (usize, usize) = size.unwrap();
            let map = score_map(teacher, student, size, MapStyle::Official).unwrap();
            case.check(&format!("{start}{}x{}{name}", size.0, size.1), &map);
            map
        };
        official(&evaluated, "");

        // The first step alone, for what the network gives after it.
        let once = Trained::new(&weights, |name| name.contains("running"));
        let once_norms = BatchNorms::fresh();
        let net = ResNet::new(&config, once.builder(), &once_norms).unwrap();
        once_norms.set(&weights).unwrap();
        let settings = optimisers::config(&case.optimiser());
        let tape = Tape::start().unwrap();
        let maps = net.forward(&images, Mode::Train).unwrap().layers;
        let each = loss(teacher, &maps[..LAYERS], LossScale::Official).unwrap();
        let found = once.gradients(&tape.backward(&mean(&each)).unwrap());
        once.step(
            &mut Optimizer::new(&settings),
            &settings,
            settings.lr,
            &found,
        );
        let after = net.folded().unwrap().forward(&images, Mode::Evaluate);
        let map = official(&after.unwrap().layers[..LAYERS], "_after1");
        let best = scores(&map, (256, 256)).unwrap();
        let best: Vec<f64> = best.into_iter().map(f64::from).collect();
        case.check_values("image_score_after1", &best);

        let fixed: Vec<String> = case.extra("not_changed_by_training").unwrap_or_default();
        train(&case, &trained, Some(&norms), || {
            let maps = student.forward(&images, Mode::Train).unwrap().layers;
            loss(teacher, &maps[..LAYERS], LossScale::Official).unwrap()
        });
        let after = trained.state();
        for (name, tensor) in &weights {
            let official = format!("student.{}", official_name(name));
            if !name.contains("running") && fixed.iter().any(|f| official.starts_with(f.as_str())) {
                let same = crate::cases::values(tensor) == crate::cases::values(&after[name]);
                assert!(same, "{name} has changed");
            }
        }
        case.finish();
    }
}
