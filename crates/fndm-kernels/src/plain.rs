//! Every operation by candle alone: slow, differentiable, and the reference for the fast ones.

use candle_core::{D, Result, Tensor};

/// Side and step of a window of [`max_pool_3x3`].
pub(crate) const WINDOW: usize = 3;
pub(crate) const STEP: usize = 2;

pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
) -> Result<Tensor> {
    let k = weight.dim(2)?;
    let y = x.conv2d(weight, k / 2, stride, 1, 1)?;
    match bias {
        Some(b) => y.broadcast_add(&b.reshape(((), weight.dim(0)?, 1, 1))?),
        None => Ok(y),
    }
}

/// Each channel by its own kernel: `weight` is `(C, 1, k, k)`.
pub(crate) fn depthwise(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    stride: usize,
    [rows, columns]: [(usize, usize); 2],
) -> Result<Tensor> {
    let c = x.dim(1)?;
    x.pad_with_zeros(2, rows.0, rows.1)?
        .pad_with_zeros(3, columns.0, columns.1)?
        .conv2d(weight, 0, stride, 1, c)?
        .broadcast_add(&bias.reshape((1, c, 1, 1))?)
}

/// The pixels under each place of a kernel as channels.
pub(crate) fn unfold(
    x: &Tensor,
    k: usize,
    stride: usize,
    [rows, columns]: [(usize, usize); 2],
) -> Result<Tensor> {
    let x = x
        .pad_with_zeros(2, rows.0, rows.1)?
        .pad_with_zeros(3, columns.0, columns.1)?;
    let (b, c, h, w) = x.dims4()?;
    let (oh, ow) = ((h - k) / stride + 1, (w - k) / stride + 1);
    // Lines of the same remainder lie side by side, so that a step is a narrowing.
    let up = |n: usize| n.next_multiple_of(stride) - n;
    let phases = x
        .pad_with_zeros(2, 0, up(h))?
        .pad_with_zeros(3, 0, up(w))?
        .reshape(&[b, c, h.div_ceil(stride), stride, w.div_ceil(stride), stride][..])?;
    let mut taps = Vec::with_capacity(k * k);
    for dy in 0..k {
        for dx in 0..k {
            let tap = phases
                .narrow(3, dy % stride, 1)?
                .narrow(5, dx % stride, 1)?
                .narrow(2, dy / stride, oh)?
                .narrow(4, dx / stride, ow)?;
            taps.push(tap.reshape((b, c, oh, ow))?);
        }
    }
    Tensor::cat(&taps, 1)
}

/// Means over the pixels.
pub(crate) fn channel_means(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.mean(D::Minus1)
}

/// Each channel times its factor, `(B, C)`.
pub(crate) fn scale_channels(x: &Tensor, factors: &Tensor) -> Result<Tensor> {
    let (b, c) = factors.dims2()?;
    x.broadcast_mul(&factors.reshape((b, c, 1, 1))?)
}

/// `x W^T + b` on `(B, I)`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

/// x * sigmoid(x), elementwise.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::silu(x)
}

/// Group normalisation of `(B, C, ...)`; `weight` and `bias` are `(C)`.
pub(crate) fn group_norm(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let (b, c) = (x.dim(0)?, x.dim(1)?);
    let y = x.reshape((b, groups, ()))?;
    let y = y.broadcast_sub(&y.mean_keepdim(D::Minus1)?)?;
    let var = y.sqr()?.mean_keepdim(D::Minus1)?;
    // A variance that overflows would divide everything to zero: times zero it is NaN.
    let var = (&var + (&var * 0.)?)?;
    let y = y
        .broadcast_div(&(var + eps)?.sqrt()?)?
        .reshape((b, c, ()))?;
    y.broadcast_mul(&weight.reshape((1, c, 1))?)?
        .broadcast_add(&bias.reshape((1, c, 1))?)?
        .reshape(x.shape())
}

/// `silu(group_norm(x) * (1 + scale) + shift)`; scale and shift are `(B, C)`, or absent.
pub(crate) fn group_norm_silu(
    x: &Tensor,
    groups: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    scale_shift: Option<(&Tensor, &Tensor)>,
) -> Result<Tensor> {
    let mut y = group_norm(x, groups, weight, bias, eps)?;
    if let Some((scale, shift)) = scale_shift {
        let (b, c) = scale.dims2()?;
        y = y
            .broadcast_mul(&(scale + 1.)?.reshape((b, c, 1, 1))?)?
            .broadcast_add(&shift.reshape((b, c, 1, 1))?)?;
    }
    silu(&y)
}

/// Attention of guided-diffusion: q, k, v are `(B, heads, C, T)`; q and k are each scaled by `C^(-1/4)`.
/// Gives `(B, heads, C, T)`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let c = q.dim(2)?;
    let scale = 1. / (c as f64).sqrt().sqrt();
    let logits = (q * scale)?
        .transpose(2, 3)?
        .contiguous()?
        .matmul(&(k * scale)?.contiguous()?)?;
    let weights = candle_nn::ops::softmax(&logits, D::Minus1)?;
    v.contiguous()?
        .matmul(&weights.transpose(2, 3)?.contiguous()?)
}

/// Nearest-neighbour upsampling of `(B, C, H, W)` to `(B, C, 2H, 2W)`.
pub(crate) fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    x.reshape((b, c, h, 1, w, 1))?
        .broadcast_as((b, c, h, 2, w, 2))?
        .reshape((b, c, 2 * h, 2 * w))
}

/// Mean of 2x2 blocks: `(B, C, H, W)` with even H and W to `(B, C, H/2, W/2)`.
pub(crate) fn avg_pool_2x(x: &Tensor) -> Result<Tensor> {
    x.avg_pool2d(2)
}

/// The sum of `coefficient * tensor` over all terms; at least one term, all of one shape and type.
pub(crate) fn linear_combination(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let Some(((c, x), rest)) = terms.split_first() else {
        candle_core::bail!("linear_combination: expected at least one term, got none");
    };
    let mut sum = (*x * *c)?;
    for (c, x) in rest {
        sum = (sum + (*x * *c)?)?;
    }
    Ok(sum)
}

/// min(max(x, 0), cap); candle's own would make a zero of NaN.
pub(crate) fn rectify(x: &Tensor, cap: f32) -> Result<Tensor> {
    // Comparisons with NaN are false.
    let y = x.le(0.)?.where_cond(&x.zeros_like()?, x)?;
    if cap.is_finite() {
        let cap = (y.ones_like()? * f64::from(cap))?;
        return y.ge(&cap)?.where_cond(&cap, &y);
    }
    Ok(y)
}

/// The largest of each window of three along an axis, at a step of two.
fn largest_of_three(x: &Tensor, axis: usize) -> Result<Tensor> {
    let count = ((x.dim(axis)? - WINDOW) / STEP + 1) as u32;
    let at = |tap: u32| -> Result<Tensor> {
        let places: Vec<u32> = (0..count).map(|i| STEP as u32 * i + tap).collect();
        x.contiguous()?
            .index_select(&Tensor::new(places, x.device())?, axis)
    };
    at(0)?.maximum(&at(1)?)?.maximum(&at(2)?)
}

/// The largest of each window of 3x3 pixels at stride 2; candle's own passes over NaN.
pub(crate) fn max_pool_3x3(x: &Tensor) -> Result<Tensor> {
    let y = if x.track_op() {
        // Candle has no gradient of windows that overlap.
        largest_of_three(&largest_of_three(x, 2)?, 3)?
    } else {
        x.max_pool2d_with_stride(WINDOW, STEP)?
    };
    let x = &x.detach();
    // One where a window has a NaN.
    let lost = x.ne(x)?.to_dtype(x.dtype())?;
    let lost = lost.max_pool2d_with_stride(WINDOW, STEP)?;
    let nan = (y.ones_like()? * f64::NAN)?;
    lost.gt(0.)?.where_cond(&nan, &y)
}
