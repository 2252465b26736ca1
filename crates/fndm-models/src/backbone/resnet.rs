//! ResNet (He et al. 2016) as torchvision has it: the stride of a bottleneck is in its 3x3 convolution. WideResNet
//! (Zagoruyko and Komodakis 2016) widens that convolution.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use super::norm_conv::{NormConv, Padding, Spec};

const EPS: f64 = 1e-5;
const CLASSES: usize = 1000;

/// The kind of block.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Residual {
    Basic,
    Bottleneck { width: usize },
}

impl Residual {
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck { .. } => 4,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ResNet {
    stem: NormConv,
    layers: Vec<Vec<Block>>,
    weight: Tensor,
    bias: Tensor,
}

/// Convolutions with ReLU between them; plus the input; ReLU.
#[derive(Clone, Debug)]
struct Block {
    convs: Vec<NormConv>,
    shortcut: Option<NormConv>,
}

fn spec<'a>(
    conv: &'a str,
    norm: &'a str,
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
) -> Spec<'a> {
    Spec {
        conv,
        norm,
        channels,
        kernel,
        stride,
        depthwise: false,
        padding: Padding::Half,
        eps: EPS,
    }
}

impl Block {
    fn new(
        kind: Residual,
        (i, planes): (usize, usize),
        stride: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let o = planes * kind.expansion();
        let specs = match kind {
            Residual::Basic => vec![
                spec("conv1", "bn1", (i, planes), 3, stride),
                spec("conv2", "bn2", (planes, o), 3, 1),
            ],
            Residual::Bottleneck { width } => {
                let middle = planes * width;
                vec![
                    spec("conv1", "bn1", (i, middle), 1, 1),
                    spec("conv2", "bn2", (middle, middle), 3, stride),
                    spec("conv3", "bn3", (middle, o), 1, 1),
                ]
            }
        };
        let shortcut = spec("downsample.0", "downsample.1", (i, o), 1, stride);
        Ok(Self {
            convs: specs
                .into_iter()
                .map(|spec| NormConv::new(spec, vb))
                .collect::<Result<_>>()?,
            shortcut: if stride != 1 || i != o {
                Some(NormConv::new(shortcut, vb)?)
            } else {
                None
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = x.clone();
        for (n, conv) in self.convs.iter().enumerate() {
            h = conv.forward(&h)?;
            if n + 1 < self.convs.len() {
                h = fndm_kernels::relu(&h)?;
            }
        }
        match &self.shortcut {
            Some(shortcut) => fndm_kernels::relu(&(shortcut.forward(x)? + h)?),
            None => fndm_kernels::relu(&(x + h)?),
        }
    }
}

impl ResNet {
    pub(crate) fn new(vb: &VarBuilder, repeats: [usize; 4], kind: Residual) -> Result<Self> {
        let mut c = 64;
        let mut layers = Vec::with_capacity(repeats.len());
        for (l, repeats) in repeats.into_iter().enumerate() {
            let planes = 64 << l;
            let mut layer = Vec::with_capacity(repeats);
            for r in 0..repeats {
                let stride = if l > 0 && r == 0 { 2 } else { 1 };
                let vb = vb.pp(format!("layer{}", l + 1)).pp(r);
                layer.push(Block::new(kind, (c, planes), stride, &vb)?);
                c = planes * kind.expansion();
            }
            layers.push(layer);
        }
        Ok(Self {
            stem: NormConv::new(spec("conv1", "bn1", (3, 64), 7, 2), vb)?,
            layers,
            weight: vb.get((CLASSES, c), "fc.weight")?,
            bias: vb.get(CLASSES, "fc.bias")?,
        })
    }

    /// The first `depth` maps: the stem after its pooling, then the layers.
    pub(crate) fn maps(&self, x: &Tensor, depth: usize) -> Result<Vec<Tensor>> {
        let mut maps = Vec::with_capacity(depth);
        if depth == 0 {
            return Ok(maps);
        }
        // After ReLU nothing is below the zeros that pad.
        let h = fndm_kernels::relu(&self.stem.forward(x)?)?;
        let h = h.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
        let mut h = fndm_kernels::max_pool_3x3(&h)?;
        maps.push(h.clone());
        for layer in self.layers.iter().take(depth - 1) {
            for block in layer {
                h = block.forward(&h)?;
            }
            maps.push(h.clone());
        }
        Ok(maps)
    }

    /// From the last map.
    pub(crate) fn logits(&self, last: &Tensor) -> Result<Tensor> {
        last.flatten_from(2)?
            .mean(D::Minus1)?
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)
    }
}
