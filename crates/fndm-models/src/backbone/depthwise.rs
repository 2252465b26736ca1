//! Depthwise convolution on the CPU: candle does it channel by channel as matrix products of width one.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `(B, C, H, W)` with weights `(C, 1, k, k)` and bias `(C)`; `pads` are the zeros before and after rows and columns.
/// f32 on the CPU; no gradient.
pub(crate) fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    pads: [(usize, usize); 2],
) -> Result<Tensor> {
    let op = Depthwise { stride, pads };
    x.contiguous()?
        .apply_op3_no_bwd(&weight.contiguous()?, &bias.contiguous()?, &op)
}

struct Depthwise {
    stride: usize,
    pads: [(usize, usize); 2],
}

impl CustomOp3 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = x_layout.shape().dims4()?;
        let (_, _, k, _) = weight_layout.shape().dims4()?;
        let x = slice(x, x_layout)?;
        let weight = slice(weight, weight_layout)?;
        let bias = slice(bias, bias_layout)?;
        let side = |n: usize, (before, after): (usize, usize)| {
            ((n + before + after).checked_sub(k)).map(|n| n / self.stride + 1)
        };
        let (Some(oh), Some(ow)) = (side(h, self.pads[0]), side(w, self.pads[1])) else {
            candle_core::bail!("depthwise: a kernel of {k} on images of {h}x{w}");
        };
        let mut out = vec![0f32; b * c * oh * ow];
        let maps = out
            .par_chunks_exact_mut(oh * ow)
            .zip(x.par_chunks_exact(h * w));
        // A map of less than some thousand products isn't worth a task of its own.
        let each = (1 << 14) / (oh * ow * k * k).max(1) + 1;
        maps.enumerate()
            .with_min_len(each)
            .for_each(|(at, (out, x))| {
                let channel = at % c;
                out.fill(bias[channel]);
                let weight = &weight[channel * k * k..][..k * k];
                for (tap, &weight) in weight.iter().enumerate() {
                    let (dy, dx) = (tap / k, tap % k);
                    // The outputs whose tap falls on the image, so that the inner loop has no test.
                    let rows = inside(oh, h, self.stride, dy, self.pads[0].0);
                    let columns = inside(ow, w, self.stride, dx, self.pads[1].0);
                    for oy in rows {
                        let row = &x[(oy * self.stride + dy - self.pads[0].0) * w..][..w];
                        let out = &mut out[oy * ow..][columns.clone()];
                        let first = columns.start * self.stride + dx - self.pads[1].0;
                        let row = row.get(first..).unwrap_or_default();
                        if self.stride == 1 {
                            for (o, v) in out.iter_mut().zip(row) {
                                *o += weight * v;
                            }
                        } else {
                            for (o, v) in out.iter_mut().zip(row.iter().step_by(self.stride)) {
                                *o += weight * v;
                            }
                        }
                    }
                }
            });
        Ok((CpuStorage::F32(out), Shape::from((b, c, oh, ow))))
    }
}

/// The range of outputs `o` below `outputs` for which `0 <= o * stride + tap - before < inputs`.
fn inside(
    outputs: usize,
    inputs: usize,
    stride: usize,
    tap: usize,
    before: usize,
) -> std::ops::Range<usize> {
    let first = before.saturating_sub(tap).div_ceil(stride);
    let end = (inputs + before).saturating_sub(tap).div_ceil(stride);
    let end = end.min(outputs);
    first.min(end)..end
}

fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&values[from..to]),
        None => candle_core::bail!("depthwise: expected contiguous tensors"),
    }
}
