//! Intermediate maps of the feature backbones, as they are and with their norms folded.

use candle_core::Tensor;
use fndm_models::{
    BatchNorms, Border, EfficientNet, EfficientNetConfig, Mode, ResNet, ResNetConfig, Residual,
};
use serde::Deserialize;

use crate::cases::{Case, Tensors, builder, cases};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResNetArgs {
    torchvision: Option<String>,
    peer: Option<String>,
    padding_mode: Option<String>,
    block: Option<String>,
    planes: Vec<usize>,
    blocks: Vec<usize>,
    base_width: Option<usize>,
    batch: usize,
    image: (usize, usize),
    bn_eps: Option<f64>,
}

impl ResNetArgs {
    fn config(&self, weights: &Tensors) -> ResNetConfig {
        let base_width = self.base_width.unwrap_or(64);
        ResNetConfig {
            block: kind(self.block.as_deref().unwrap_or("basic"), base_width),
            planes: self.planes.clone(),
            blocks: self.blocks.clone(),
            in_channels: 3,
            border: match self.padding_mode.as_deref() {
                None | Some("zeros") => Border::Zeros,
                Some("reflect") => Border::Reflect,
                Some(other) => panic!("padding_mode {other}"),
            },
            norm_eps: self.bn_eps.unwrap_or(1e-5),
            classes: weights.get("fc.bias").map(Tensor::elem_count),
        }
    }
}

/// A kind of block by one of its names.
pub(crate) fn kind(name: &str, base_width: usize) -> Residual {
    match name {
        "basic" | "BasicBlock" => {
            assert_eq!(base_width, 64, "basic blocks have one width");
            Residual::Basic
        }
        "bottleneck" | "Bottleneck" => Residual::Bottleneck { base_width },
        other => panic!("block {other}"),
    }
}

fn check_images(case: &Case, batch: usize, image: (usize, usize)) -> Tensor {
    let images = case.io("images");
    assert_eq!(images.dims(), [batch, 3, image.0, image.1]);
    case.check("images", &images);
    images
}

fn residual(method: &str, kind: &str) {
    for case in cases(method, kind) {
        let args: ResNetArgs = case.args();
        assert!(args.torchvision.is_some() != args.peer.is_some());
        let weights = case.weights();
        let net = ResNet::new(
            &args.config(&weights),
            builder(&weights),
            &BatchNorms::from_weights(),
        );
        let net = net.unwrap();
        let images = check_images(&case, args.batch, args.image);
        for net in [net.folded().unwrap(), net] {
            if let Some(first) = net.first_convolution(&images).unwrap() {
                case.check("conv1", &first);
            }
            let maps = net.forward(&images, Mode::Evaluate).unwrap();
            if case.has("bn1") {
                case.check("bn1", &maps.stem);
            }
            case.check("maxpool", &maps.pooled);
            for (l, map) in (1..).zip(&maps.layers) {
                case.check(&format!("layer{l}"), map);
            }
            let last = maps.layers.last().unwrap();
            if case.has("avgpool") {
                let mean = last.flatten_from(2).unwrap().mean(2).unwrap();
                case.check("avgpool", &mean);
            }
            if case.has("fc") {
                case.check("fc", &net.logits(last).unwrap());
            }
        }
        case.finish();
    }
}

#[test]
fn resnets() {
    residual("backbone", "resnet");
}

#[test]
fn mirroring_resnets() {
    residual("backbone", "cflow_resnet");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EfficientNetArgs {
    torchvision: String,
    width_mult: f64,
    depth_mult: f64,
    last_channel: Option<usize>,
    bn_eps: f64,
    batch: usize,
    image: (usize, usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    expand_ratio: usize,
    kernel: usize,
    stride: usize,
    in_channels: usize,
    out_channels: usize,
    layers: usize,
}

#[test]
fn efficientnets() {
    for case in cases("backbone", "efficientnet") {
        let args: EfficientNetArgs = case.args();
        assert!(!args.torchvision.is_empty());
        let config = EfficientNetConfig {
            width_mult: args.width_mult,
            depth_mult: args.depth_mult,
            last_channels: args.last_channel,
            norm_eps: args.bn_eps,
            same_padding: false,
            classes: None,
        };
        let stages: Option<Vec<Stage>> = case.extra("stages");
        if let Some(stages) = &stages {
            let expected: Vec<[usize; 5]> = stages
                .iter()
                .map(|s| [s.layers, s.kernel, s.stride, s.expand_ratio, s.out_channels])
                .collect();
            assert_eq!(config.stages(), expected);
            for pair in stages.windows(2) {
                assert_eq!(pair[0].out_channels, pair[1].in_channels);
            }
        }
        let net = EfficientNet::new(&config, &builder(&case.weights())).unwrap();
        let images = check_images(&case, args.batch, args.image);
        let maps = net.forward(&images).unwrap();
        for name in case.names() {
            let Some(place) = name.strip_prefix("features.") else {
                continue;
            };
            match place.split_once('.') {
                Some((stage, block)) => {
                    let (stage, block): (usize, usize) =
                        (stage.parse().unwrap(), block.parse().unwrap());
                    case.check(&name, &maps.blocks[stage - 1][block]);
                }
                None => case.check(&name, &maps.stages[place.parse::<usize>().unwrap()]),
            }
        }
        case.finish();
    }
}
