//! Products of a few rows with a matrix of weights: time embeddings and heads of networks.
//!
//! With few rows everything is a pass over the weights, forward and backward.

use crate::config::fast_path;
use crate::memory::{Input, filled};
use crate::plain;
use crate::simd::{Isa, kernel};
use crate::tape::apply3;
use crate::tensor::{contiguous, floats, from_floats, with_floats};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use fndm_runtime::parallel;

/// Weights in a task, about.
const CHUNK: usize = 1 << 14;
/// Inputs whose gradients a task sums at a time.
const COLUMNS: usize = 64;

/// `x W^T + b`: `x` is `(B, I)`, `weight` `(O, I)`, `bias` `(O)`.
///
/// # Errors
/// When the shapes don't fit.
///
/// ```
/// use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
/// let weight = Tensor::new(&[[3f32, 4.], [5., 6.], [0., 1.]], &Device::Cpu)?;
/// let bias = Tensor::new(&[0f32, 0., 10.], &Device::Cpu)?;
/// let y = fndm_kernels::linear(&x, &weight, &bias)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[11., 17., 12.]]);
/// # Ok(())
/// # }
/// ```
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let ((batch, inputs), (outputs, width)) = (x.dims2()?, weight.dims2()?);
    if inputs != width || bias.dims() != [outputs] {
        candle_core::bail!(
            "linear: expected x (B, I), a weight (O, I) and a bias (O), got {:?}, {:?} and {:?}",
            x.dims(),
            weight.dims(),
            bias.dims()
        );
    }
    if !fast_path(&[x, weight, bias]) || batch * inputs * outputs == 0 {
        return plain::linear(x, weight, bias);
    }
    let op = Linear {
        batch,
        inputs,
        outputs,
    };
    apply3(
        &contiguous(x)?,
        &contiguous(weight)?,
        &contiguous(bias)?,
        op,
    )
}

#[derive(Debug, Clone, Copy)]
struct Linear {
    batch: usize,
    inputs: usize,
    outputs: usize,
}

kernel! {
    /// Outputs `first..last` of all rows.
    unsafe fn forward_chunk[S](
        x: *const f32, w: *const f32, bias: *const f32, s: &Linear, first: usize, last: usize, y: *mut f32,
    ) {
        const STEP: usize = 64;
        let whole = s.inputs / STEP * STEP;
        for o in first..last {
            let w = w.add(o * s.inputs);
            for b in 0..s.batch {
                let x = x.add(b * s.inputs);
                let mut acc = [S::zero(); 4];
                let mut i = 0;
                while i < whole {
                    for (k, acc) in acc.iter_mut().enumerate() {
                        *acc = S::fma(S::load(w.add(i + 16 * k)), S::load(x.add(i + 16 * k)), *acc);
                    }
                    i += STEP;
                }
                while i < s.inputs {
                    let n = (s.inputs - i).min(16);
                    acc[0] = S::fma(S::load_first(w.add(i), n), S::load_first(x.add(i), n), acc[0]);
                    i += 16;
                }
                let sum = S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3]));
                *y.add(b * s.outputs + o) = S::sum(sum) + *bias.add(o);
            }
        }
    }
}

kernel! {
    /// Gradients of inputs `first..first + n` (up to [`COLUMNS`]) of all rows.
    unsafe fn input_chunk[S](dy: *const f32, w: *const f32, s: &Linear, first: usize, n: usize, dx: *mut f32) {
        for b in 0..s.batch {
            let (dy, dx) = (dy.add(b * s.outputs), dx.add(b * s.inputs + first));
            let mut acc = [S::zero(); COLUMNS / 16];
            for o in 0..s.outputs {
                let (d, w) = (S::splat(*dy.add(o)), w.add(o * s.inputs + first));
                if n == COLUMNS {
                    for (k, acc) in acc.iter_mut().enumerate() {
                        *acc = S::fma(d, S::load(w.add(16 * k)), *acc);
                    }
                } else {
                    for (k, acc) in acc.iter_mut().enumerate() {
                        let lanes = n.saturating_sub(16 * k).min(16);
                        *acc = S::fma(d, S::load_first(w.wrapping_add(16 * k), lanes), *acc);
                    }
                }
            }
            for (k, acc) in acc.iter().enumerate() {
                let lanes = n.saturating_sub(16 * k).min(16);
                S::store_first(dx.wrapping_add(16 * k), *acc, lanes);
            }
        }
    }
}

kernel! {
    /// Gradients of the weights of outputs `first..last`.
    unsafe fn weight_chunk[S](x: *const f32, dy: *const f32, s: &Linear, first: usize, last: usize, dw: *mut f32) {
        for o in first..last {
            let dw = dw.add(o * s.inputs);
            let mut i = 0;
            while i < s.inputs {
                let n = (s.inputs - i).min(16);
                let mut sum = S::zero();
                for b in 0..s.batch {
                    let d = S::splat(*dy.add(b * s.outputs + o));
                    sum = S::fma(d, S::load_first(x.add(b * s.inputs + i), n), sum);
                }
                S::store_first(dw.add(i), sum, n);
                i += 16;
            }
        }
    }
}

impl Linear {
    /// Tasks over the outputs, and outputs of each.
    fn tasks(&self) -> (usize, usize) {
        let each = (CHUNK / self.inputs).clamp(1, self.outputs);
        (self.outputs.div_ceil(each), each)
    }

    fn check(&self, x: &[f32], w: &[f32]) {
        assert_eq!(x.len(), self.batch * self.inputs);
        assert_eq!(w.len(), self.outputs * self.inputs);
    }

    fn forward(&self, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
        self.check(x, w);
        assert_eq!(bias.len(), self.outputs);
        let (isa, (tasks, each)) = (Isa::current(), self.tasks());
        let (x, w, bias) = (Input(x), Input(w), Input(bias));
        // SAFETY: a task writes its outputs of every row; the lengths were checked.
        unsafe {
            filled(self.batch * self.outputs, |y| {
                parallel(tasks, |task| {
                    let (first, last) = (task * each, ((task + 1) * each).min(self.outputs));
                    forward_chunk(
                        isa,
                        x.all(),
                        w.all(),
                        bias.all(),
                        self,
                        first,
                        last,
                        y.all(),
                    );
                });
            })
        }
    }

    fn input_gradient(&self, w: &[f32], dy: &[f32]) -> Vec<f32> {
        let isa = Isa::current();
        let (w, dy) = (Input(w), Input(dy));
        // SAFETY: a task writes its columns of every row; the caller has checked the lengths.
        unsafe {
            filled(self.batch * self.inputs, |dx| {
                parallel(self.inputs.div_ceil(COLUMNS), |task| {
                    let first = task * COLUMNS;
                    let n = COLUMNS.min(self.inputs - first);
                    input_chunk(isa, dy.all(), w.all(), self, first, n, dx.all());
                });
            })
        }
    }

    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let (isa, (tasks, each)) = (Isa::current(), self.tasks());
        let (x, dy) = (Input(x), Input(dy));
        // SAFETY: a task writes the rows of its outputs; the caller has checked the lengths.
        unsafe {
            filled(self.outputs * self.inputs, |dw| {
                parallel(tasks, |task| {
                    let (first, last) = (task * each, ((task + 1) * each).min(self.outputs));
                    weight_chunk(isa, x.all(), dy.all(), self, first, last, dw.all());
                });
            })
        }
    }

    fn bias_gradient(&self, dy: &[f32]) -> Vec<f32> {
        let sum = |o: usize| dy.iter().skip(o).step_by(self.outputs).sum();
        (0..self.outputs).map(sum).collect()
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "fndm-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(floats(x, xl)?, floats(w, wl)?, floats(b, bl)?);
        Ok((CpuStorage::F32(y), (self.batch, self.outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = contiguous(dy)?;
        with_floats([x, w, &dy], |[xs, ws, dys]| {
            self.check(xs, ws);
            assert_eq!(dys.len(), self.batch * self.outputs);
            let dx = x
                .track_op()
                .then(|| from_floats(self.input_gradient(ws, dys), x.shape()));
            let dw = w
                .track_op()
                .then(|| from_floats(self.weight_gradient(xs, dys), w.shape()));
            let db = b
                .track_op()
                .then(|| from_floats(self.bias_gradient(dys), b.shape()));
            Ok((dx.transpose()?, dw.transpose()?, db.transpose()?))
        })
    }
}
