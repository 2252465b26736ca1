//! Updates of parameters in place, in one threaded pass.

use crate::config::fast_path;
use crate::memory::{Input, Shared};
use crate::simd::{Isa, kernel};
use crate::tensor::{contiguous, with_floats};
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, Var};
use fndm_runtime::parallel;
use std::cell::Cell;

/// Floats in a task.
const CHUNK: usize = 1 << 14;

/// The constants of one Adam step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay (`AdamW`); 0 for plain Adam.
    pub weight_decay: f64,
    /// The number of this step, from 1; it sets the bias correction.
    pub step: u64,
}

impl Default for AdamStep {
    /// `PyTorch`'s values for Adam, at the first step.
    fn default() -> Self {
        Self {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.,
            step: 1,
        }
    }
}

/// One step of Adam, or of `AdamW` with decay (Loshchilov and Hutter 2019), in place on the parameter and its two moments.
///
/// # Errors
/// When shapes or types differ, `step` is 0, or two of the variables are one.
pub fn adam_step(param: &Var, m: &Var, v: &Var, grad: &Tensor, s: &AdamStep) -> Result<()> {
    let tensor = AdamTensor { param, m, v, grad };
    adam_step_all(&[tensor], s, 1.)
}

/// What [`adam_step_all`] updates, and by what.
#[derive(Debug, Clone, Copy)]
pub struct AdamTensor<'a> {
    /// The parameter.
    pub param: &'a Var,
    /// Its first moment.
    pub m: &'a Var,
    /// Its second moment.
    pub v: &'a Var,
    /// Its gradient.
    pub grad: &'a Tensor,
}

/// [`adam_step`] of all parameters by their gradients times `scale`: on a GPU in one launch.
///
/// # Errors
/// When shapes or types differ, `step` is 0, or two of a tensor's variables are one: then nothing is changed.
pub fn adam_step_all(tensors: &[AdamTensor<'_>], s: &AdamStep, scale: f64) -> Result<()> {
    for tensor in tensors {
        tensor.check()?;
    }
    if s.step == 0 {
        candle_core::bail!("adam_step: steps count from 1, got 0");
    }
    #[cfg(feature = "cuda")]
    if let Some(result) = on_gpu(tensors, s, scale) {
        return result;
    }
    tensors.iter().try_for_each(|t| t.step(s, scale))
}

/// The step where all tensors are f32 and contiguous on one CUDA device.
#[cfg(feature = "cuda")]
fn on_gpu(tensors: &[AdamTensor<'_>], s: &AdamStep, scale: f64) -> Option<Result<()>> {
    let grads = tensors.iter().map(|t| contiguous(t.grad));
    let grads = match grads.collect::<Result<Vec<_>>>() {
        Ok(grads) => grads,
        Err(e) => return Some(Err(e)),
    };
    let all: Vec<[&Tensor; 4]> = tensors
        .iter()
        .zip(&grads)
        .map(|(t, g)| [t.param.as_tensor(), t.m.as_tensor(), t.v.as_tensor(), g])
        .collect();
    takes_all(all.as_flattened()).then(|| crate::cuda::adam(&all, &constants(s, scale as f32)))
}

/// Whether there are tensors, all f32 and contiguous on one CUDA device.
#[cfg(feature = "cuda")]
fn takes_all(tensors: &[&Tensor]) -> bool {
    crate::cuda::takes(tensors)
        && tensors
            .iter()
            .all(|t| t.dtype() == candle_core::DType::F32 && t.is_contiguous())
}

impl AdamTensor<'_> {
    fn check(&self) -> Result<()> {
        let Self { param, m, v, grad } = *self;
        for t in [m.as_tensor(), v.as_tensor(), grad] {
            if t.dims() != param.dims() || t.dtype() != param.dtype() {
                candle_core::bail!(
                    "adam_step: expected moments and a gradient like the parameter, {:?} {:?}, got {:?} {:?}",
                    param.dims(),
                    param.dtype(),
                    t.dims(),
                    t.dtype()
                );
            }
        }
        if param.id() == m.id() || param.id() == v.id() || m.id() == v.id() {
            candle_core::bail!("adam_step: the parameter and its moments must be three variables");
        }
        Ok(())
    }

    fn step(&self, s: &AdamStep, scale: f64) -> Result<()> {
        let Self { param, m, v, grad } = *self;
        let all = [param.as_tensor(), m.as_tensor(), v.as_tensor(), grad];
        if !fast_path(&all) || !all[..3].iter().all(|t| t.is_contiguous()) {
            // With g detached nothing here joins a graph that outlives the step.
            let (correction1, correction2) = corrections(s);
            let (p, g) = (param.as_tensor().detach(), grad.detach());
            let g = if scale == 1. { g } else { (g * scale)? };
            let m1 = ((m.as_tensor().detach() * s.beta1)? + (&g * (1. - s.beta1))?)?;
            let v1 = ((v.as_tensor().detach() * s.beta2)? + (g.sqr()? * (1. - s.beta2))?)?;
            let denominator = ((&v1 / correction2)?.sqrt()? + s.eps)?;
            let change = ((&m1 / correction1)? / denominator)?;
            let p = ((p * (1. - s.lr * s.weight_decay))? - (change * s.lr)?)?;
            m.set(&m1)?;
            v.set(&v1)?;
            return param.set(&p);
        }
        let c = constants(s, scale as f32);
        let grad = contiguous(grad)?;
        with_floats([&grad], |[g]| {
            with_mut(param, |p| {
                with_mut(m, |m| {
                    with_mut(v, |v| {
                        let n = p.len();
                        if m.len() != n || v.len() != n || g.len() != n {
                            candle_core::bail!("adam_step: shapes don't fit");
                        }
                        let isa = Isa::current();
                        let (p, m, v) = (Shared::new(p), Shared::new(m), Shared::new(v));
                        let g = Input(g);
                        parallel(n.div_ceil(CHUNK), |i| {
                            let at = i * CHUNK;
                            let len = CHUNK.min(n - at);
                            // SAFETY: the chunks are disjoint and within the `n` floats of each.
                            unsafe {
                                let (p, m, v) = (p.at(at, len), m.at(at, len), v.at(at, len));
                                adam_chunk(isa, &c, p, m, v, g.at(at, len), len);
                            }
                        });
                        Ok(())
                    })
                })
            })
        })
    }
}

/// What the moments are divided by.
fn corrections(s: &AdamStep) -> (f64, f64) {
    let exponent = s.step.min(i32::MAX as u64) as i32;
    (1. - s.beta1.powi(exponent), 1. - s.beta2.powi(exponent))
}

/// The constants of a step with gradients times `scale`.
pub(crate) fn constants(s: &AdamStep, scale: f32) -> AdamConstants {
    let (correction1, correction2) = corrections(s);
    AdamConstants {
        beta1: s.beta1 as f32,
        keep1: (1. - s.beta1) as f32,
        beta2: s.beta2 as f32,
        keep2: (1. - s.beta2) as f32,
        shrink: (1. - s.lr * s.weight_decay) as f32,
        rate: (s.lr / correction1) as f32,
        root: (1. / correction2.sqrt()) as f32,
        eps: s.eps as f32,
        scale,
    }
}

/// A step as the kernels take it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamConstants {
    pub(crate) beta1: f32,
    pub(crate) keep1: f32,
    pub(crate) beta2: f32,
    pub(crate) keep2: f32,
    pub(crate) shrink: f32,
    pub(crate) rate: f32,
    pub(crate) root: f32,
    pub(crate) eps: f32,
    /// Times the gradient.
    pub(crate) scale: f32,
}

kernel! {
    unsafe fn adam_chunk[S](
        c: &AdamConstants, p: *mut f32, m: *mut f32, v: *mut f32, g: *const f32, n: usize,
    ) {
        let mut i = 0;
        while i < n {
            let k = (n - i).min(16);
            let gv = S::mul(S::splat(c.scale), S::load_first(g.add(i), k));
            let m1 = S::mul(S::splat(c.beta1), S::load_first(m.add(i), k));
            let m1 = S::fma(S::splat(c.keep1), gv, m1);
            let v1 = S::mul(S::splat(c.beta2), S::load_first(v.add(i), k));
            let v1 = S::fma(S::mul(S::splat(c.keep2), gv), gv, v1);
            let denominator = S::fma(S::sqrt(v1), S::splat(c.root), S::splat(c.eps));
            let change = S::div(S::mul(S::splat(c.rate), m1), denominator);
            let p1 = S::mul(S::splat(c.shrink), S::load_first(p.add(i), k));
            S::store_first(p.add(i), S::sub(p1, change), k);
            S::store_first(m.add(i), m1, k);
            S::store_first(v.add(i), v1, k);
            i += 16;
        }
    }
}

/// `ema = decay * ema + (1 - decay) * param`, in place.
///
/// # Errors
/// When shapes or types differ, or both are one variable.
pub fn ema_update(ema: &Var, param: &Tensor, decay: f64) -> Result<()> {
    ema_update_all(&[(ema, param)], decay)
}

/// [`ema_update`] of all averages by their parameters: on a GPU in one launch.
///
/// # Errors
/// When shapes or types differ, or an average and its parameter are one variable: then nothing is changed.
pub fn ema_update_all(pairs: &[(&Var, &Tensor)], decay: f64) -> Result<()> {
    for (ema, param) in pairs {
        check_average(ema, param)?;
    }
    #[cfg(feature = "cuda")]
    {
        let all: Vec<[&Tensor; 2]> = pairs.iter().map(|(e, p)| [e.as_tensor(), *p]).collect();
        if takes_all(all.as_flattened()) {
            return crate::cuda::ema(&all, decay);
        }
    }
    pairs
        .iter()
        .try_for_each(|(ema, param)| average(ema, param, decay))
}

fn check_average(ema: &Var, param: &Tensor) -> Result<()> {
    if ema.dims() != param.dims() || ema.dtype() != param.dtype() {
        candle_core::bail!(
            "ema_update: expected a parameter of {:?} {:?}, got {:?} {:?}",
            ema.dims(),
            ema.dtype(),
            param.dims(),
            param.dtype()
        );
    }
    if ema.id() == param.id() {
        candle_core::bail!("ema_update: the average and the parameter must be two tensors");
    }
    Ok(())
}

fn average(ema: &Var, param: &Tensor, decay: f64) -> Result<()> {
    if !fast_path(&[ema.as_tensor(), param]) || !ema.is_contiguous() {
        let e = ((ema.as_tensor().detach() * decay)? + (param.detach() * (1. - decay))?)?;
        return ema.set(&e);
    }
    let param = contiguous(param)?;
    with_floats([&param], |[p]| {
        with_mut(ema, |e| {
            let n = e.len();
            if p.len() != n {
                candle_core::bail!("ema_update: shapes don't fit");
            }
            let (isa, e, p) = (Isa::current(), Shared::new(e), Input(p));
            let decay = decay as f32;
            parallel(n.div_ceil(CHUNK), |i| {
                let at = i * CHUNK;
                let len = CHUNK.min(n - at);
                // SAFETY: the chunks are disjoint and within the `n` floats of each.
                unsafe { ema_chunk(isa, decay, e.at(at, len), p.at(at, len), len) };
            });
            Ok(())
        })
    })
}

kernel! {
    unsafe fn ema_chunk[S](decay: f32, e: *mut f32, p: *const f32, n: usize) {
        let rest = S::splat(1. - decay);
        let mut i = 0;
        while i < n {
            let k = (n - i).min(16);
            let old = S::load_first(e.add(i), k);
            // e + (1 - decay) (p - e): an average of equal values stays exactly that value.
            let change = S::sub(S::load_first(p.add(i), k), old);
            S::store_first(e.add(i), S::fma(rest, change, old), k);
            i += 16;
        }
    }
}

/// Calls `f` with the floats of a contiguous f32 variable on the CPU.
fn with_mut<R>(var: &Var, f: impl FnOnce(&mut [f32]) -> Result<R>) -> Result<R> {
    struct Access<F, R>(Cell<Option<F>>, Cell<Option<R>>);
    impl<R, F: FnOnce(&mut [f32]) -> Result<R>> InplaceOp1 for Access<F, R> {
        fn name(&self) -> &'static str {
            "fndm-update"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let (Some((start, end)), CpuStorage::F32(data), Some(f)) =
                (layout.contiguous_offsets(), storage, self.0.take())
            else {
                candle_core::bail!("expected a contiguous f32 variable")
            };
            self.1.set(Some(f(&mut data[start..end])?));
            Ok(())
        }
    }
    let access = Access(Cell::new(Some(f)), Cell::new(None));
    var.as_tensor().inplace_op1(&access)?;
    match access.1.into_inner() {
        Some(r) => Ok(r),
        None => candle_core::bail!("the variable wasn't visited"),
    }
}
