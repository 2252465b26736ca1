//! Group normalisation fused with `SiLU`: `silu(factor * (x - mean) / deviation + offset)`.

use super::super::machine::{Arg, Kind, Launch, Machine, View, size};
use super::pack;
use candle_core::Result;

/// `NORM_THREADS` and `NORM_CHUNK` of the kernels.
const THREADS: u32 = 256;
const CHUNK: usize = 4096;

/// A normalisation of `(batch, channels, pixels)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f64,
    pub(crate) activate: bool,
    /// Factor and offset are `(batch, channels)`, else `(channels)`.
    pub(crate) per_image: bool,
}

/// What the backward pass writes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gradients {
    /// Like x.
    pub(crate) x: View,
    /// `(batch, channels)` each, f32, whether factor and offset are per image or not.
    pub(crate) factor: View,
    pub(crate) offset: View,
}

/// What the forward pass read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs {
    /// f32 or bf16
    pub(crate) x: View,
    /// f32
    pub(crate) factor: View,
    /// f32
    pub(crate) offset: View,
}

impl Norm {
    /// Values of one group of one image.
    fn count(&self) -> usize {
        self.channels / self.groups * self.pixels
    }

    fn chunks(&self) -> usize {
        self.count().div_ceil(CHUNK)
    }

    /// Floats that the forward pass leaves for the backward pass.
    pub(crate) fn moments(&self) -> usize {
        2 * self.batch * self.groups * self.chunks()
    }

    fn blocks(&self) -> Result<u32> {
        size(self.batch * self.groups * self.chunks())
    }

    fn name(&self, what: &str, views: &[View]) -> String {
        let kind = views[0].kind.suffix();
        format!("norm_{what}_{kind}_{}", pack(views, &[self.pixels]))
    }

    /// `y` is like x, `moments` f32.
    pub(crate) fn forward<M: Machine>(
        &self,
        machine: &M,
        inputs: &Inputs,
        y: View,
        moments: View,
    ) -> Result<()> {
        let Inputs { x, factor, offset } = *inputs;
        let (count, chunks) = (size(self.count())?, size(self.chunks())?);
        let blocks = self.blocks()?;
        let (pixels, channels) = (size(self.pixels)?, size(self.channels)?);
        let groups = size(self.groups)?;
        let eps = self.eps as f32;
        let (per_image, activate) = (self.per_image.into(), self.activate.into());
        let run = |kernel: &str, args: &[_]| {
            machine.launch(&Launch {
                kernel,
                blocks,
                threads: THREADS,
                args,
            })
        };
        if chunks == 1 {
            return run(
                &self.name("small", &[x, y]),
                &[
                    x.into(),
                    factor.into(),
                    offset.into(),
                    y.into(),
                    moments.into(),
                    count.into(),
                    pixels.into(),
                    channels.into(),
                    groups.into(),
                    per_image,
                    eps.into(),
                    activate,
                ],
            );
        }
        run(
            &self.name("moments", &[x]),
            &[x.into(), moments.into(), count.into(), chunks.into()],
        )?;
        run(
            &self.name("apply", &[x, y]),
            &[
                x.into(),
                moments.into(),
                factor.into(),
                offset.into(),
                y.into(),
                count.into(),
                chunks.into(),
                pixels.into(),
                channels.into(),
                groups.into(),
                per_image,
                eps.into(),
                activate,
            ],
        )
    }

    /// `dy` is like x; `moments` are those of the forward pass.
    pub(crate) fn backward<M: Machine>(
        &self,
        machine: &M,
        inputs: &Inputs,
        moments: View,
        dy: View,
        gradients: &Gradients,
    ) -> Result<()> {
        let Inputs { x, factor, offset } = *inputs;
        let Gradients {
            x: dx,
            factor: dfactor,
            offset: doffset,
        } = *gradients;
        let sizes: [Arg; 8] = [
            size(self.count())?.into(),
            size(self.chunks())?.into(),
            size(self.pixels)?.into(),
            size(self.channels)?.into(),
            size(self.groups)?.into(),
            self.per_image.into(),
            (self.eps as f32).into(),
            self.activate.into(),
        ];
        let mut args: Vec<Arg> = vec![
            x.into(),
            dy.into(),
            moments.into(),
            factor.into(),
            offset.into(),
            doffset.into(),
            dfactor.into(),
        ];
        args.extend(sizes);
        machine.launch(&Launch {
            kernel: &self.name("grad_sums", &[x, dy]),
            blocks: size(self.batch * self.channels)?,
            threads: THREADS,
            args: &args,
        })?;
        args.insert(7, dx.into());
        machine.launch(&Launch {
            kernel: &self.name("grad_input", &[x, dy, dx]),
            blocks: self.blocks()?,
            threads: THREADS,
            args: &args,
        })
    }
}

/// What scale and shift make of weight and bias `(channels)`: `factor = weight * (1 + scale)` and
/// `offset = bias * (1 + scale) + shift`, each `(batch, channels)`, f32.
pub(crate) fn scale_shift<M: Machine>(
    machine: &M,
    (weight, bias): (View, View),
    (scale, shift): (View, View),
    (factor, offset): (View, View),
    (batch, channels): (usize, usize),
) -> Result<()> {
    debug_assert_eq!(weight.kind, Kind::F32);
    let n = size(batch * channels)?;
    machine.launch(&Launch {
        kernel: "norm_scale_shift",
        blocks: n.div_ceil(256),
        threads: 256,
        args: &[
            weight.into(),
            bias.into(),
            scale.into(),
            shift.into(),
            factor.into(),
            offset.into(),
            n.into(),
            size(channels)?.into(),
        ],
    })
}
