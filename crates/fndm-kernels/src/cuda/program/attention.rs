//! Attention as matrix products with a fused softmax between them.
//!
//! q, k, v and the output are `(heads, channels, tokens)`: to cuBLAS, which goes by columns, `(tokens, channels)`. The
//! weights `(heads, queries, keys)` have a softmax over the keys; to cuBLAS they are `(keys, queries)`. Logits are f32
//! whatever the inputs are. A strip of heads at a time keeps the weights within [`STRIP_BYTES`].
//!
//! Products on tensor cores beside one pass over the weights for the softmax were preferred to one fused kernel: at the sizes
//! of guided-diffusion (up to 1024 tokens, 64 channels a head) the weights' traffic is the smaller part, and the products run
//! at the library's rate in every precision.

use super::super::machine::{Kind, Launch, Machine, Matrix, Product, View, size};
use candle_core::Result;

/// Bytes of the logits of one strip of heads.
const STRIP_BYTES: usize = 256 << 20;

/// `heads` counts those of all images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) channels: usize,
    pub(crate) tokens: usize,
}

impl Attention {
    fn values(&self) -> usize {
        self.channels * self.tokens
    }

    fn weights(&self) -> usize {
        self.tokens * self.tokens
    }

    fn heads_at_once(&self) -> usize {
        (STRIP_BYTES / (4 * self.weights().max(1))).clamp(1, self.heads)
    }

    fn scale(&self) -> f32 {
        (1. / (self.channels as f64).sqrt()) as f32
    }

    /// `(tokens, channels)` by columns.
    fn matrix(&self, at: View, transposed: bool) -> Matrix {
        Matrix {
            at,
            column: self.tokens,
            step: self.values(),
            transposed,
        }
    }

    /// `(keys, queries)` by columns.
    fn square(&self, at: View, transposed: bool) -> Matrix {
        Matrix {
            at,
            column: self.tokens,
            step: self.weights(),
            transposed,
        }
    }

    /// `c (keys, queries) = alpha * a b'` of two `(tokens, channels)`.
    fn outer<M: Machine>(
        &self,
        machine: &M,
        alpha: f32,
        (a, b): (View, View),
        c: View,
        batch: usize,
    ) -> Result<()> {
        machine.product(&Product {
            m: self.tokens,
            n: self.tokens,
            k: self.channels,
            batch,
            alpha,
            a: self.matrix(a, false),
            b: self.matrix(b, true),
            c: self.square(c, false),
        })
    }

    /// `c (tokens, channels) = alpha * w b`, or `w' b` with `transposed`, of weights `w` `(keys, queries)`.
    fn mix<M: Machine>(
        &self,
        machine: &M,
        alpha: f32,
        (w, transposed): (View, bool),
        b: View,
        c: View,
        batch: usize,
    ) -> Result<()> {
        machine.product(&Product {
            m: self.tokens,
            n: self.channels,
            k: self.tokens,
            batch,
            alpha,
            a: self.square(w, transposed),
            b: self.matrix(b, false),
            c: self.matrix(c, false),
        })
    }

    /// Threads per row: a power of two of whole warps.
    fn threads(&self) -> u32 {
        (self.tokens.div_ceil(4) as u32)
            .next_power_of_two()
            .clamp(32, 256)
    }

    /// The weights of `batch` heads in the type of `q`, from f32 logits that may be overwritten.
    fn softmax<M: Machine>(&self, machine: &M, x: View, y: View, batch: usize) -> Result<()> {
        machine.launch(&Launch {
            kernel: &format!("softmax_{}", y.kind.suffix()),
            blocks: size(batch * self.tokens)?,
            threads: self.threads(),
            args: &[x.into(), y.into(), size(self.tokens)?.into()],
        })
    }

    /// Memory for the weights beside the logits: the same where the types agree.
    fn room<M: Machine>(&self, machine: &M, kind: Kind, batch: usize) -> Result<Room<M>> {
        let n = batch * self.weights();
        let logits = machine.alloc(Kind::F32, n)?;
        let weights = match kind {
            Kind::F32 => None,
            other => Some(machine.alloc(other, n)?),
        };
        Ok(Room { logits, weights })
    }

    /// `out = softmax(q k / sqrt(channels)) v`; q, k, v and out are of one kind.
    pub(crate) fn forward<M: Machine>(
        &self,
        machine: &M,
        [q, k, v]: [View; 3],
        out: View,
    ) -> Result<()> {
        let at_once = self.heads_at_once();
        let room = self.room(machine, q.kind, at_once)?;
        let (logits, weights) = room.views(machine);
        for first in (0..self.heads).step_by(at_once) {
            let n = at_once.min(self.heads - first);
            let at = |x: View| x.offset(first * self.values());
            self.outer(machine, self.scale(), (at(k), at(q)), logits, n)?;
            self.softmax(machine, logits, weights, n)?;
            self.mix(machine, 1., (weights, true), at(v), at(out), n)?;
        }
        Ok(())
    }

    /// The gradients of q, k and v from that of the output.
    pub(crate) fn backward<M: Machine>(
        &self,
        machine: &M,
        [q, k, v]: [View; 3],
        dout: View,
        [dq, dk, dv]: [View; 3],
    ) -> Result<()> {
        let at_once = self.heads_at_once();
        let (forward, backward) = (
            self.room(machine, q.kind, at_once)?,
            self.room(machine, q.kind, at_once)?,
        );
        let (logits, weights) = forward.views(machine);
        let (dweights, dlogits) = backward.views(machine);
        for first in (0..self.heads).step_by(at_once) {
            let n = at_once.min(self.heads - first);
            let at = |x: View| x.offset(first * self.values());
            self.outer(machine, self.scale(), (at(k), at(q)), logits, n)?;
            self.softmax(machine, logits, weights, n)?;
            self.mix(machine, 1., (weights, false), at(dout), at(dv), n)?;
            self.outer(machine, 1., (at(v), at(dout)), dweights, n)?;
            machine.launch(&Launch {
                kernel: &format!("softmax_grad_{}", q.kind.suffix()),
                blocks: size(n * self.tokens)?,
                threads: self.threads(),
                args: &[
                    weights.into(),
                    dweights.into(),
                    dlogits.into(),
                    size(self.tokens)?.into(),
                ],
            })?;
            let scale = self.scale();
            self.mix(machine, scale, (dlogits, true), at(k), at(dq), n)?;
            self.mix(machine, scale, (dlogits, false), at(q), at(dk), n)?;
        }
        Ok(())
    }
}

/// Logits in f32, and weights in the type of the inputs.
struct Room<M: Machine> {
    logits: M::Memory,
    weights: Option<M::Memory>,
}

impl<M: Machine> Room<M> {
    fn views(&self, machine: &M) -> (View, View) {
        let logits = machine.view(&self.logits);
        let weights = self.weights.as_ref().map_or(logits, |w| machine.view(w));
        (logits, weights)
    }
}
