//! EfficientNet-Lite0 (Tan and Le 2019, Lite variant): no squeeze-excite, ReLU6, TensorFlow's padding.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use super::norm_conv::{NormConv, Padding, Spec};

const EPS: f64 = 1e-3;
const STEM: usize = 32;
const HEAD: usize = 1280;
const CLASSES: usize = 1000;

/// Name, channels, and how many times smaller than the input.
pub(crate) const MAPS: &[(&str, usize, usize)] = &[
    ("stem", STEM, 2),
    ("blocks.0", 16, 2),
    ("blocks.1", 24, 4),
    ("blocks.2", 40, 8),
    ("blocks.3", 80, 16),
    ("blocks.4", 112, 16),
    ("blocks.5", 192, 32),
    ("blocks.6", 320, 32),
    ("head", HEAD, 32),
];

/// Repeats, kernel, stride of the first, expansion, channels.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

#[derive(Clone, Debug)]
pub(crate) struct EfficientNetLite0 {
    stem: NormConv,
    stages: Vec<Vec<Inverted>>,
    head: NormConv,
    weight: Tensor,
    bias: Tensor,
}

/// Expansion, depthwise, projection; plus the input where shapes allow.
#[derive(Clone, Debug)]
struct Inverted {
    expand: Option<NormConv>,
    depthwise: NormConv,
    project: NormConv,
    residual: bool,
}

fn pointwise<'a>(conv: &'a str, norm: &'a str, channels: (usize, usize)) -> Spec<'a> {
    Spec {
        conv,
        norm,
        channels,
        kernel: 1,
        stride: 1,
        depthwise: false,
        padding: Padding::Same,
        eps: EPS,
    }
}

impl Inverted {
    fn new(
        (i, o): (usize, usize),
        kernel: usize,
        stride: usize,
        expansion: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let middle = i * expansion;
        // A block without expansion has one norm less, and calls its projection otherwise.
        let (depthwise_norm, project) = if expansion == 1 {
            ("bn1", pointwise("conv_pw", "bn2", (middle, o)))
        } else {
            ("bn2", pointwise("conv_pwl", "bn3", (middle, o)))
        };
        Ok(Self {
            expand: if expansion == 1 {
                None
            } else {
                Some(NormConv::new(pointwise("conv_pw", "bn1", (i, middle)), vb)?)
            },
            depthwise: NormConv::new(
                Spec {
                    kernel,
                    stride,
                    depthwise: true,
                    ..pointwise("conv_dw", depthwise_norm, (middle, middle))
                },
                vb,
            )?,
            project: NormConv::new(project, vb)?,
            residual: stride == 1 && i == o,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = match &self.expand {
            Some(expand) => fndm_kernels::relu6(&expand.forward(x)?)?,
            None => x.clone(),
        };
        let h = self
            .project
            .forward(&fndm_kernels::relu6(&self.depthwise.forward(&h)?)?)?;
        if self.residual {
            fndm_kernels::add(x, &h)
        } else {
            Ok(h)
        }
    }
}

impl EfficientNetLite0 {
    pub(crate) fn new(vb: &VarBuilder) -> Result<Self> {
        let stem = Spec {
            kernel: 3,
            stride: 2,
            ..pointwise("conv_stem", "bn1", (3, STEM))
        };
        let mut c = STEM;
        let mut stages = Vec::with_capacity(STAGES.len());
        for (s, &(repeats, kernel, stride, expansion, channels)) in STAGES.iter().enumerate() {
            let mut stage = Vec::with_capacity(repeats);
            for r in 0..repeats {
                let stride = if r == 0 { stride } else { 1 };
                let vb = vb.pp("blocks").pp(s).pp(r);
                stage.push(Inverted::new(
                    (c, channels),
                    kernel,
                    stride,
                    expansion,
                    &vb,
                )?);
                c = channels;
            }
            stages.push(stage);
        }
        Ok(Self {
            stem: NormConv::new(stem, vb)?,
            stages,
            head: NormConv::new(pointwise("conv_head", "bn2", (c, HEAD)), vb)?,
            weight: vb.get((CLASSES, HEAD), "classifier.weight")?,
            bias: vb.get(CLASSES, "classifier.bias")?,
        })
    }

    /// The first `depth` maps.
    pub(crate) fn maps(&self, x: &Tensor, depth: usize) -> Result<Vec<Tensor>> {
        let mut maps = Vec::with_capacity(depth);
        if depth == 0 {
            return Ok(maps);
        }
        let mut h = fndm_kernels::relu6(&self.stem.forward(x)?)?;
        maps.push(h.clone());
        for stage in self.stages.iter().take(depth - 1) {
            for block in stage {
                h = block.forward(&h)?;
            }
            maps.push(h.clone());
        }
        if depth == MAPS.len() {
            maps.push(fndm_kernels::relu6(&self.head.forward(&h)?)?);
        }
        Ok(maps)
    }

    /// From the last map.
    pub(crate) fn logits(&self, head: &Tensor) -> Result<Tensor> {
        head.flatten_from(2)?
            .mean(D::Minus1)?
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)
    }
}
