//! Attention that keeps its gradients and never holds more than a strip of the weights.
//!
//! Tokens are processed in strips of queries; the backward pass computes the weights again.

use crate::config::fast_path;
use crate::memory::{Input, Scratch, Shared, filled};
use crate::plain;
use crate::simd::{Isa, Simd, kernel};
use crate::tape::{apply1, apply3};
use crate::tensor::{contiguous, floats, from_floats, with_floats};
use crate::tile::{Onto, clear, from_lanes, outer_rows, product_rows, to_lanes};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, DType, Layout, Result, Shape, Tensor};
use fndm_runtime::parallel;

/// Queries in a strip.
const STRIP: usize = 64;
/// Products of a sum at a time: what they are multiplied with stays in the nearest cache for all rows.
const DEPTH: usize = 256;
/// Tasks of a backward pass, at least, where there are enough queries.
const PARTS: usize = 8;

/// Attention of guided-diffusion: q, k, v are `(B, heads, C, T)`; q and k are each scaled by `C^(-1/4)`.
/// Gives `(B, heads, C, T)`, of the type of q. Logits and softmax are f32 for narrower types.
///
/// # Errors
/// When the three shapes differ.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (b, heads, c, t) = q.dims4()?;
    if k.dims() != q.dims() || v.dims() != q.dims() {
        candle_core::bail!(
            "attention: expected q, k and v of one shape, got {:?}, {:?} and {:?}",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::takes(&[q, k, v]) {
        return crate::cuda::attention(q, k, v);
    }
    if matches!(q.dtype(), DType::F16 | DType::BF16) {
        let wide = |t: &Tensor| t.to_dtype(DType::F32);
        return attention(&wide(q)?, &wide(k)?, &wide(v)?)?.to_dtype(q.dtype());
    }
    if !fast_path(&[q, k, v]) || q.elem_count() == 0 {
        return plain::attention(q, k, v);
    }
    let op = Attention {
        batch: b,
        heads,
        joint: None,
        s: Sizes::new(c, t),
    };
    apply3(&contiguous(q)?, &contiguous(k)?, &contiguous(v)?, op)
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Channels and tokens, and both rounded up to whole vectors.
    c: usize,
    t: usize,
    cp: usize,
    tp: usize,
    /// From one row of tokens to the next: rows a power of two apart would all lie in the same few places of the nearest cache.
    lt: usize,
}

impl Sizes {
    fn new(c: usize, t: usize) -> Self {
        Self {
            c,
            t,
            cp: c.next_multiple_of(16),
            tp: t.next_multiple_of(16),
            lt: t.next_multiple_of(16) + 16,
        }
    }
}

/// How the channels of queries, keys and values lie in one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// Heads, then q, k and v of each: guided-diffusion's old order.
    HeadsFirst,
    /// q, k and v, then the heads of each: its new order.
    PartsFirst,
}

/// [`attention`] of queries, keys and values in one tensor, `(B, 3 heads C, ...)`, where tokens are what comes behind the
/// channels. Gives `(B, heads C, ...)`.
///
/// # Errors
/// When the second axis isn't three times a multiple of `heads`.
pub fn attention_qkv(qkv: &Tensor, heads: usize, order: QkvOrder) -> Result<Tensor> {
    let (b, width) = match qkv.dims() {
        [b, width, ..] if heads > 0 && divides(heads, *width) => (*b, *width),
        d => candle_core::bail!("attention: expected (B, 3 * {heads} * C, ...), got {d:?}"),
    };
    let c = width / (3 * heads);
    let mut shape = qkv.dims().to_vec();
    shape[1] = width / 3;
    if fast_path(&[qkv]) && qkv.elem_count() > 0 {
        let t = qkv.elem_count() / (b * width);
        let op = Attention {
            batch: b,
            heads,
            joint: Some(order),
            s: Sizes::new(c, t),
        };
        return apply1(&contiguous(qkv)?, op);
    }
    let t = qkv.dims()[2..].iter().product::<usize>();
    let (parts, axis) = match order {
        QkvOrder::HeadsFirst => (qkv.reshape((b, heads, 3, c, t))?, 2),
        QkvOrder::PartsFirst => (qkv.reshape((b, 3, heads, c, t))?, 1),
    };
    let part = |i: usize| parts.narrow(axis, i, 1)?.squeeze(axis);
    attention(&part(0)?, &part(1)?, &part(2)?)?.reshape(shape)
}

/// Whether a third of the width is a multiple of the heads.
fn divides(heads: usize, width: usize) -> bool {
    let parts = heads.checked_mul(3);
    parts.is_some_and(|parts| width.is_multiple_of(parts))
}

#[derive(Debug, Clone, Copy)]
struct Attention {
    batch: usize,
    /// Of one image.
    heads: usize,
    /// Queries, keys and values are parts of one tensor.
    joint: Option<QkvOrder>,
    s: Sizes,
}

/// `dst[token][cp]` from tokens `first..first + n` of `src[c][t]`.
#[inline(always)]
unsafe fn tokens_first<S: Simd>(src: *const f32, s: Sizes, first: usize, n: usize, dst: *mut f32) {
    unsafe {
        let mut c = 0;
        while c < s.c {
            let rows = (s.c - c).min(16);
            to_lanes::<S>(src.add(c * s.t + first), s.t, rows, n, dst.add(c), s.cp);
            c += 16;
        }
    }
}

/// `dst[c][lt]` from `src[c][t]`, zero past the last token.
#[inline(always)]
unsafe fn padded<S: Simd>(src: *const f32, s: Sizes, dst: *mut f32) {
    unsafe {
        for c in 0..s.c {
            let mut i = 0;
            while i < s.tp {
                let n = s.t.saturating_sub(i).min(16);
                S::store(
                    dst.add(c * s.lt + i),
                    S::load_first(src.add(c * s.t + i), n),
                );
                i += 16;
            }
        }
    }
}

/// `out[rows][ldo, first n]` (n a multiple of 16) = `a[rows][lda, first k]` times `b[k][ldb, first n]`.
#[inline(always)]
unsafe fn matmul<S: Simd>(
    a: *const f32,
    lda: usize,
    rows: usize,
    k: usize,
    (b, ldb): (*const f32, usize),
    n: usize,
    (out, ldo): (*mut f32, usize),
) {
    unsafe {
        let mut first = 0;
        while first < k {
            let sums = (k - first).min(DEPTH);
            let onto = if first > 0 {
                Onto::Output
            } else {
                Onto::Nothing
            };
            let mut l = 0;
            while l < n {
                let lanes = (n - l).min(32);
                product_rows::<S>(
                    rows,
                    lanes,
                    |r| a.add(r * lda + first),
                    &[(0, 0)],
                    sums,
                    b.add(first * ldb + l),
                    ldb,
                    |r| out.add(r * ldo + l),
                    onto,
                );
                l += lanes;
            }
            first += sums;
        }
    }
}

/// Softmax of `scale * row` over the first `t` of `tp` lanes; zero in the rest.
#[inline(always)]
unsafe fn softmax<S: Simd>(row: *mut f32, s: Sizes, scale: f32) {
    unsafe {
        let mut top = f32::NEG_INFINITY;
        let whole = s.t / 16 * 16;
        let mut mv = S::splat(top);
        let mut i = 0;
        while i < whole {
            mv = S::max(mv, S::load(row.add(i)));
            i += 16;
        }
        for j in whole..s.t {
            top = top.max(*row.add(j));
        }
        top = top.max(S::largest(mv));
        let (sv, shift) = (S::splat(scale), S::splat(-top * scale));
        let mut sum = S::zero();
        let mut i = 0;
        while i < s.tp {
            let mut e = S::exp(S::fma(S::load(row.add(i)), sv, shift));
            if i + 16 > s.t {
                S::store(row.add(i), e);
                e = S::load_first(row.add(i), s.t - i);
            }
            sum = S::add(sum, e);
            S::store(row.add(i), e);
            i += 16;
        }
        let r = S::splat(1. / S::sum(sum));
        let mut i = 0;
        while i < s.tp {
            S::store(row.add(i), S::mul(S::load(row.add(i)), r));
            i += 16;
        }
    }
}

kernel! {
    /// Keys and values of one head as [`forward_strip`] takes them.
    unsafe fn prepare[S](k: *const f32, v: *const f32, s: Sizes, kp: *mut f32, vt: *mut f32) {
        padded::<S>(k, s, kp);
        tokens_first::<S>(v, s, 0, s.t, vt);
    }
}

kernel! {
    /// Queries `first..first + n` of one head. `kp`: keys `[c][lt]`, `vt`: values `[t][cp]`; `qt`, `ot`: `STRIP * cp`,
    /// `p`: `STRIP * lt` floats.
    unsafe fn forward_strip[S](
        q: *const f32, kp: *const f32, vt: *const f32, s: Sizes, first: usize, n: usize,
        qt: *mut f32, ot: *mut f32, p: *mut f32, out: *mut f32,
    ) {
        tokens_first::<S>(q, s, first, n, qt);
        matmul::<S>(qt, s.cp, n, s.c, (kp, s.lt), s.tp, (p, s.lt));
        let scale = 1. / (s.c as f32).sqrt();
        for r in 0..n {
            softmax::<S>(p.add(r * s.lt), s, scale);
        }
        matmul::<S>(p, s.lt, n, s.t, (vt, s.cp), s.cp, (ot, s.cp));
        let mut c = 0;
        while c < s.c {
            from_lanes::<S>(ot.add(c), s.cp, out.add(c * s.t + first), s.t, (s.c - c).min(16), n);
            c += 16;
        }
    }
}

/// Scratch of the backward pass.
#[derive(Clone, Copy)]
struct Work {
    /// Keys and values `[c][lt]`, keys `[t][cp]`.
    kp: *mut f32,
    vp: *mut f32,
    kt: *mut f32,
    /// Queries, output gradient and query gradient of a strip, `[STRIP][cp]`.
    qt: *mut f32,
    ot: *mut f32,
    gt: *mut f32,
    /// Weights and their gradient, `[STRIP][lt]`.
    p: *mut f32,
    dp: *mut f32,
    /// Sums `[c][lt]`.
    dk: *mut f32,
    dv: *mut f32,
}

kernel! {
    /// What queries `first..last` of one head give to its gradients: all of dq there; sums of dk and dv, in `w`.
    unsafe fn backward_part[S](
        q: *const f32, k: *const f32, v: *const f32, dy: *const f32, s: Sizes, first: usize, last: usize, w: &Work,
        dq: *mut f32,
    ) {
        let scale = 1. / (s.c as f32).sqrt();
        padded::<S>(k, s, w.kp);
        padded::<S>(v, s, w.vp);
        tokens_first::<S>(k, s, 0, s.t, w.kt);
        clear::<S>(w.dk, s.c * s.lt / 16);
        clear::<S>(w.dv, s.c * s.lt / 16);
        let mut first = first;
        while first < last {
            let n = (last - first).min(STRIP);
            tokens_first::<S>(q, s, first, n, w.qt);
            tokens_first::<S>(dy, s, first, n, w.ot);
            matmul::<S>(w.qt, s.cp, n, s.c, (w.kp, s.lt), s.tp, (w.p, s.lt));
            matmul::<S>(w.ot, s.cp, n, s.c, (w.vp, s.lt), s.tp, (w.dp, s.lt));
            for r in 0..n {
                let (p, dp) = (w.p.add(r * s.lt), w.dp.add(r * s.lt));
                softmax::<S>(p, s, scale);
                let mut dot = S::zero();
                let mut i = 0;
                while i < s.tp {
                    dot = S::fma(S::load(p.add(i)), S::load(dp.add(i)), dot);
                    i += 16;
                }
                let dot = S::splat(S::sum(dot));
                let sv = S::splat(scale);
                let mut i = 0;
                while i < s.tp {
                    let d = S::mul(S::load(p.add(i)), S::sub(S::load(dp.add(i)), dot));
                    S::store(dp.add(i), S::mul(d, sv));
                    i += 16;
                }
            }
            // dV[c][key] = sum over queries of dy P; dK likewise of q dS.
            outer_rows::<S>(s.c, s.tp, (1, n), w.ot, (0, s.cp), w.p, (0, s.lt), w.dv, s.lt, true);
            outer_rows::<S>(s.c, s.tp, (1, n), w.qt, (0, s.cp), w.dp, (0, s.lt), w.dk, s.lt, true);
            matmul::<S>(w.dp, s.lt, n, s.t, (w.kt, s.cp), s.cp, (w.gt, s.cp));
            let mut c = 0;
            while c < s.c {
                from_lanes::<S>(w.gt.add(c), s.cp, dq.add(c * s.t + first), s.t, (s.c - c).min(16), n);
                c += 16;
            }
            first += n;
        }
    }
}

kernel! {
    /// The total of `parts` sums `[c][lt]`, `part` floats apart, to `[c][t]`.
    unsafe fn total[S](sums: *const f32, parts: usize, part: usize, s: Sizes, out: *mut f32) {
        for c in 0..s.c {
            let mut i = 0;
            while i < s.t {
                let src = sums.add(c * s.lt + i);
                let mut sum = S::load(src);
                for p in 1..parts {
                    sum = S::add(sum, S::load(src.add(p * part)));
                }
                S::store_first(out.add(c * s.t + i), sum, (s.t - i).min(16));
                i += 16;
            }
        }
    }
}

impl Attention {
    /// Floats of the output.
    fn len(&self) -> usize {
        self.batch * self.heads * self.s.c * self.s.t
    }

    /// Where part `which` of a head (counted over all images) starts in the tensor that holds it.
    fn place(&self, which: usize, head: usize) -> usize {
        let at = match self.joint {
            None => head,
            Some(QkvOrder::HeadsFirst) => 3 * head + which,
            Some(QkvOrder::PartsFirst) => {
                let (image, head) = (head / self.heads, head % self.heads);
                (3 * image + which) * self.heads + head
            }
        };
        at * self.s.c * self.s.t
    }

    fn check(&self, parts: [&[f32]; 3]) -> Result<()> {
        let n = self.len() * if self.joint.is_some() { 3 } else { 1 };
        if parts.iter().any(|a| a.len() != n) {
            candle_core::bail!("attention: shapes don't fit");
        }
        Ok(())
    }

    fn forward(&self, parts: [&[f32]; 3]) -> Result<Vec<f32>> {
        self.check(parts)?;
        let (isa, s) = (Isa::current(), self.s);
        let parts = parts.map(Input);
        let (heads, strips) = (self.batch * self.heads, s.t.div_ceil(STRIP));
        let n = s.c * s.t;
        let part = |which: usize, head: usize| parts[which].at(self.place(which, head), n);
        let big = s.cp * s.lt;
        let packed = Scratch::new(2 * heads * big);
        // SAFETY: `which` is 0 or 1.
        let packed = |which: usize, head: usize| unsafe {
            packed.shared().at((2 * head + which) * big, big)
        };
        parallel(heads, |head| {
            let (k, v) = (part(1, head), part(2, head));
            // SAFETY: each head has room of its own, as the kernel asks.
            unsafe { prepare(isa, k, v, s, packed(0, head), packed(1, head)) };
        });
        // SAFETY: head and strip name a range of the output that one task writes; scratch as the kernel asks.
        Ok(unsafe {
            filled(self.len(), |out| {
                parallel(heads * strips, |task| {
                    let (head, first) = (task / strips, task % strips * STRIP);
                    let strip = Scratch::new(2 * STRIP * s.cp);
                    let p = Scratch::new(STRIP * s.lt);
                    forward_strip(
                        isa,
                        part(0, head),
                        packed(0, head),
                        packed(1, head),
                        s,
                        first,
                        STRIP.min(s.t - first),
                        strip.ptr(),
                        strip.shared().at(STRIP * s.cp, STRIP * s.cp),
                        p.ptr(),
                        out.at(head * n, n),
                    );
                });
            })
        })
    }

    /// Fills the gradients of the three parts, which are one and the same memory where the parts are joint.
    ///
    /// # Safety
    /// Each of `grads` is as large as its part.
    unsafe fn backward(&self, parts: [&[f32]; 3], dy: &[f32], grads: [Shared; 3]) {
        assert_eq!(dy.len(), self.len());
        let (isa, s, heads) = (Isa::current(), self.s, self.batch * self.heads);
        let n = s.c * s.t;
        let (inputs, dy) = (parts.map(Input), Input(dy));
        let (big, small, wide) = (s.cp * s.lt, STRIP * s.cp, STRIP * s.lt);
        // Few heads: the queries are split as well, and each part sums the gradients of all keys and values. The
        // parts depend on the shape alone.
        let strips = s.t.div_ceil(STRIP);
        let per_part = strips.div_ceil(PARTS.div_ceil(heads).min(strips));
        let parts = strips.div_ceil(per_part);
        let sums = Scratch::new(2 * heads * parts * big);
        let sum_of = |task: usize, which: usize| {
            // SAFETY: `which` is 0 or 1, and there are heads * parts tasks.
            unsafe { sums.shared().at((2 * task + which) * big, big) }
        };
        parallel(heads * parts, |task| {
            let (head, part) = (task / parts, task % parts);
            let input = |which: usize| inputs[which].at(self.place(which, head), n);
            let first = part * per_part * STRIP;
            let last = (first + per_part * STRIP).min(s.t);
            let all = Scratch::new(3 * big + 3 * small + 2 * wide);
            // SAFETY: the parts are those that the scratch was sized for.
            let part = |i: usize, n: usize| unsafe { all.shared().at(i, n) };
            let behind = 3 * big + 3 * small;
            let work = Work {
                kp: part(0, big),
                vp: part(big, big),
                kt: part(2 * big, big),
                dk: sum_of(task, 0),
                dv: sum_of(task, 1),
                qt: part(3 * big, small),
                ot: part(3 * big + small, small),
                gt: part(3 * big + 2 * small, small),
                p: part(behind, wide),
                dp: part(behind + wide, wide),
            };
            // SAFETY: each task writes its queries of one head, and its own sums; scratch as `Work` says.
            unsafe {
                backward_part(
                    isa,
                    input(0),
                    input(1),
                    input(2),
                    dy.at(head * n, n),
                    s,
                    first,
                    last,
                    &work,
                    grads[0].at(self.place(0, head), n),
                );
            }
        });
        parallel(2 * heads, |task| {
            let (head, which) = (task / 2, task % 2);
            // SAFETY: each task writes keys or values of one head.
            unsafe {
                let out = grads[1 + which].at(self.place(1 + which, head), n);
                total(isa, sum_of(head * parts, which), parts, 2 * big, s, out);
            }
        });
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "fndm-attention-qkv"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, l)?;
        let mut shape = l.dims().to_vec();
        shape[1] /= 3;
        Ok((CpuStorage::F32(self.forward([x; 3])?), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = contiguous(dy)?;
        let dx = with_floats([x, &dy], |[x, dy]| {
            self.check([x; 3])?;
            // SAFETY: every part of every head is written.
            Ok(unsafe { filled(x.len(), |dx| self.backward([x; 3], dy, [dx; 3])) })
        })?;
        from_floats(dx, x.shape()).map(Some)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "fndm-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward([floats(q, ql)?, floats(k, kl)?, floats(v, vl)?])?;
        Ok((CpuStorage::F32(y), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = contiguous(dy)?;
        let [gq, gk, gv] = with_floats([q, k, v, &dy], |[q, k, v, dy]| {
            self.check([q, k, v])?;
            let (mut gk, mut gv) = (Vec::new(), Vec::new());
            let n = self.len();
            // SAFETY: each of the three is written in full.
            let gq = unsafe {
                filled(n, |gq| {
                    gk = filled(n, |gk| {
                        gv = filled(n, |gv| self.backward([q, k, v], dy, [gq, gk, gv]));
                    });
                })
            };
            Ok([gq, gk, gv])
        })?;
        let tracked =
            |t: &Tensor, g: Vec<f32>| t.track_op().then(|| from_floats(g, t.shape())).transpose();
        Ok((tracked(q, gq)?, tracked(k, gk)?, tracked(v, gv)?))
    }
}
