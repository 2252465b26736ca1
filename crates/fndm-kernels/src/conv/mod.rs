//! Convolution as a differentiable candle operation, with the algorithm chosen by shape.

mod direct;
mod pointwise;
mod winograd;

use crate::config::{exact, fast_path};
use crate::elementwise::{add, expanded, reduced, upsample_nearest_2x};
use crate::memory::{Input, filled};
use crate::plain;
use crate::simd::{Isa, kernel};
use crate::tape::{apply2, apply3};
use crate::tensor::{contiguous, floats, from_floats, with_floats};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Tensor};
use fndm_runtime::parallel;
use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use winograd::{Added, Resampling};

/// The sizes of one convolution with same padding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) ci: usize,
    pub(crate) co: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    /// 1 or 3
    pub(crate) k: usize,
    /// 1 or 2
    pub(crate) stride: usize,
}

impl Shape {
    pub(crate) fn oh(&self) -> usize {
        self.h.div_ceil(self.stride)
    }

    pub(crate) fn ow(&self) -> usize {
        self.w.div_ceil(self.stride)
    }

    fn pointwise(&self) -> bool {
        self.k == 1 && self.stride == 1
    }

    /// Whether F(4x4) pays: enough tiles for its products, and not too many pixels past the edge.
    fn winograd(&self) -> bool {
        let tiles = self.batch * self.h.div_ceil(4) * self.w.div_ceil(4);
        self.k == 3
            && self.stride == 1
            && tiles >= 4
            && tiles * 16 <= 2 * self.batch * self.h * self.w
    }
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// By the shape: Winograd F(4x4, 3x3) where there are enough pixels, else as [`Algorithm::Direct`].
    #[default]
    Auto,
    /// Winograd F(4x4, 3x3) whatever the size; 3x3 at stride 1 alone has it.
    Winograd,
    /// Sums as they are defined; a matrix product for 1x1.
    Direct,
}

/// Weights packed once, for each use that has come up.
#[derive(Default)]
struct Packed {
    winograd: [OnceLock<winograd::Weights>; 2],
    direct: [OnceLock<direct::Weights>; 2],
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packed")
    }
}

/// A 3x3 or 1x1 convolution with same padding (`k / 2`), stride 1 or 2, and its packed weights.
///
/// A weight that is a variable (or comes from one) is packed at every call, since training changes it; any other
/// weight is packed once, and clones share the packed form.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// let weight = Tensor::zeros((8, 4, 3, 3), DType::F32, &Device::Cpu)?;
/// let conv = fndm_kernels::Conv2d::new(weight, None, 2)?;
/// let x = Tensor::ones((1, 4, 15, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(conv.forward(&x)?.dims(), [1, 8, 8, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    algorithm: Algorithm,
    packed: Arc<Packed>,
}

impl Conv2d {
    /// `weight` is `(O, I, k, k)` with k of 1 or 3, or `(O, I, 1)` or `(O, I)`; `bias` is `(O)`.
    ///
    /// # Errors
    /// When the shapes don't fit, k is neither 1 nor 3, or the stride is neither 1 nor 2.
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize) -> Result<Self> {
        let (o, _, kh, kw) = sizes(&weight)?;
        if kh != kw || !(kh == 1 || kh == 3) || !(stride == 1 || stride == 2) {
            candle_core::bail!(
                "conv2d: expected a 1x1 or 3x3 kernel and stride 1 or 2, got {kh}x{kw} and {stride}"
            );
        }
        if let Some(b) = &bias
            && b.dims1()? != o
        {
            candle_core::bail!("conv2d: expected a bias of {o} values, got {:?}", b.dims());
        }
        Ok(Self {
            weight,
            bias,
            stride,
            algorithm: Algorithm::Auto,
            packed: Arc::default(),
        })
    }

    /// The same convolution by this algorithm. [`Precision::Exact`](crate::Precision::Exact) still rules Winograd out.
    ///
    /// # Errors
    /// When the kernel or the stride has no such algorithm.
    pub fn with_algorithm(mut self, algorithm: Algorithm) -> Result<Self> {
        let (_, _, k, _) = sizes(&self.weight)?;
        if algorithm == Algorithm::Winograd && (k != 3 || self.stride != 1) {
            candle_core::bail!(
                "conv2d: expected a 3x3 kernel at stride 1 for Winograd, got {k}x{k} and {}",
                self.stride
            );
        }
        self.algorithm = algorithm;
        Ok(self)
    }

    /// The weight, in the shape that it came in.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `(O)`.
    #[must_use]
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// `(B, I, H, W)` to `(B, O, ceil(H / stride), ceil(W / stride))`.
    ///
    /// # Errors
    /// When the channels of `x` aren't the weight's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, self.bias.as_ref(), false, None)
    }

    /// As [`forward`](Self::forward), plus `base`, a tensor of the result's shape: the sum that ends a residual block, in the same
    /// pass over memory where no gradient is asked for.
    ///
    /// # Errors
    /// When the channels of `x` aren't the weight's, or `base` is not of the result's shape.
    pub fn forward_onto(&self, x: &Tensor, base: &Tensor) -> Result<Tensor> {
        let (b, _, h, w) = x.dims4()?;
        let (o, s) = (self.weight.dim(0)?, self.stride);
        let expected = [b, o, h.div_ceil(s), w.div_ceil(s)];
        if base.dims() != expected {
            candle_core::bail!(
                "conv2d: expected a base of shape {expected:?}, got {:?}",
                base.dims()
            );
        }
        self.run(x, self.bias.as_ref(), false, Some(base))
    }

    /// As [`forward`](Self::forward), plus `shift` `(B, O)` on every pixel, at no cost: a time embedding, for one.
    ///
    /// # Errors
    /// When the channels of `x` aren't the weight's, or the shape of `shift` doesn't fit.
    pub fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        let (b, o) = (x.dim(0)?, self.weight.dim(0)?);
        if shift.dims() != [b, o] {
            candle_core::bail!(
                "conv2d: expected a shift of shape ({b}, {o}), got {:?}",
                shift.dims()
            );
        }
        match &self.bias {
            Some(bias) => self.run(x, Some(&shift.broadcast_add(bias)?), false, None),
            None => self.run(x, Some(shift), false, None),
        }
    }

    /// The convolution of `x` upsampled to twice its size (each pixel to 2x2), without the larger image in between:
    /// `(B, I, H, W)` to `(B, O, 2H, 2W)` at stride 1.
    ///
    /// # Errors
    /// When the channels of `x` aren't the weight's.
    ///
    /// ```
    /// use candle_core::{DType, Device, Tensor};
    /// # fn main() -> candle_core::Result<()> {
    /// let weight = Tensor::zeros((8, 4, 3, 3), DType::F32, &Device::Cpu)?;
    /// let conv = fndm_kernels::Conv2d::new(weight, None, 1)?;
    /// let x = Tensor::ones((1, 4, 16, 16), DType::F32, &Device::Cpu)?;
    /// assert_eq!(conv.forward_upsampled(&x)?.dims(), [1, 8, 32, 32]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        let fused = self.stride == 1 && sizes(&self.weight)?.2 == 3;
        if fused {
            self.run(x, self.bias.as_ref(), true, None)
        } else {
            self.forward(&upsample_nearest_2x(x)?)
        }
    }

    /// `bias` is `(O)` or `(B, O)`; with `up`, `x` is upsampled first; `base` is added to the result.
    fn run(
        &self,
        x: &Tensor,
        bias: Option<&Tensor>,
        up: bool,
        base: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (batch, c, h, w) = x.dims4()?;
        let (h, w) = if up { (2 * h, 2 * w) } else { (h, w) };
        let (co, ci, k, _) = sizes(&self.weight)?;
        if c != ci {
            candle_core::bail!("conv2d: expected {ci} input channels, got {:?}", x.dims());
        }
        let mut all = vec![x, &self.weight];
        all.extend(bias);
        #[cfg(feature = "cuda")]
        if crate::cuda::takes(&all) {
            let weight = self.weight.reshape((co, ci, k, k))?;
            let y = crate::cuda::conv2d(x, &weight, bias, self.stride, up)?;
            return onto(base, y);
        }
        if !fast_path(&all) || batch * h * w * ci * co == 0 {
            let x = if up {
                upsample_nearest_2x(x)?
            } else {
                x.clone()
            };
            let weight = self.weight.reshape((co, ci, k, k))?;
            return onto(base, plain::conv2d(&x, &weight, bias, self.stride)?);
        }
        let shape = Shape {
            batch,
            ci,
            co,
            h,
            w,
            k,
            stride: self.stride,
        };
        let op = ConvOp {
            shape,
            winograd: !exact()
                && match self.algorithm {
                    Algorithm::Auto => shape.winograd(),
                    Algorithm::Winograd => true,
                    Algorithm::Direct => false,
                },
            up,
            packed: (!self.weight.track_op()).then(|| self.packed.clone()),
        };
        let (x, weight) = (contiguous(x)?, contiguous(&self.weight)?);
        if let (true, Some(base), Some(bias)) = (op.winograd, base, bias)
            && fast_path(&[base])
            && ![&x, &weight, bias, base].iter().any(|t| t.track_op())
        {
            let (bias, base) = (contiguous(bias)?, contiguous(base)?);
            let to = base.shape();
            return with_floats([&x, &weight, &bias, &base], |[x, w, bias, base]| {
                let (bias, base) = (Some(bias), Some(base));
                from_floats(op.by_winograd(x, w, Added { bias, base }), to)
            });
        }
        let y = match bias {
            Some(b) => apply3(&x, &weight, &contiguous(b)?, op),
            None => apply2(&x, &weight, op),
        }?;
        onto(base, y)
    }
}

/// What is kept, packed where nothing is yet. Two threads may both pack, and one result stays: a thread that packs waits for others and does
/// rayon's other work meanwhile, which may come here again. Nothing may be locked then.
fn packed_once<W>(kept: &OnceLock<W>, pack: impl FnOnce() -> W) -> &W {
    match kept.get() {
        Some(weights) => weights,
        None => {
            let weights = pack();
            kept.get_or_init(|| weights)
        }
    }
}

/// `base + y`
fn onto(base: Option<&Tensor>, y: Tensor) -> Result<Tensor> {
    match base {
        Some(base) => add(base, &y),
        None => Ok(y),
    }
}

/// The four sizes of a weight; those that it lacks are 1.
fn sizes(weight: &Tensor) -> Result<(usize, usize, usize, usize)> {
    match *weight.dims() {
        [o, i] | [o, i, 1] => Ok((o, i, 1, 1)),
        [o, i, kh, kw] => Ok((o, i, kh, kw)),
        ref d => candle_core::bail!(
            "conv2d: expected a weight of shape (O, I, k, k), (O, I, 1) or (O, I), got {d:?}"
        ),
    }
}

#[derive(Debug, Clone)]
struct ConvOp {
    shape: Shape,
    winograd: bool,
    /// The input is upsampled first; `shape` is that of the larger image.
    up: bool,
    /// Absent for weights that may change.
    packed: Option<Arc<Packed>>,
}

impl ConvOp {
    fn winograd_weights<R>(
        &self,
        isa: Isa,
        w: &[f32],
        transposed: bool,
        f: impl FnOnce(&winograd::Weights) -> R,
    ) -> R {
        let s = &self.shape;
        let keep = self.packed.is_some();
        let pack = || winograd::Weights::pack(isa, w, (s.co, s.ci), transposed, keep);
        match &self.packed {
            Some(p) => f(packed_once(&p.winograd[usize::from(transposed)], pack)),
            None => f(&pack()),
        }
    }

    fn direct_weights<R>(
        &self,
        isa: Isa,
        w: &[f32],
        transposed: bool,
        f: impl FnOnce(&direct::Weights) -> R,
    ) -> R {
        let s = &self.shape;
        let keep = self.packed.is_some();
        let pack = || direct::Weights::pack(isa, w, (s.co, s.ci, s.k), transposed, keep);
        match &self.packed {
            Some(p) => f(packed_once(&p.direct[usize::from(transposed)], pack)),
            None => f(&pack()),
        }
    }

    /// The input as the convolution sees it.
    fn at_full_size<'a>(&self, x: &'a [f32]) -> Cow<'a, [f32]> {
        if self.up {
            Cow::Owned(expanded(x, self.shape.h / 2, self.shape.w / 2, 1.))
        } else {
            Cow::Borrowed(x)
        }
    }

    fn forward(
        &self,
        x: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
    ) -> (CpuStorage, candle_core::Shape) {
        let (isa, s) = (Isa::current(), &self.shape);
        let y = if self.winograd {
            self.by_winograd(x, w, Added { bias, base: None })
        } else if s.pointwise() {
            pointwise::forward(isa, s, x, w, bias)
        } else {
            let x = self.at_full_size(x);
            self.direct_weights(isa, w, false, |u| direct::forward(isa, s, &x, u, bias))
        };
        (CpuStorage::F32(y), (s.batch, s.co, s.oh(), s.ow()).into())
    }

    /// The forward pass by Winograd's algorithm.
    fn by_winograd(&self, x: &[f32], w: &[f32], added: Added) -> Vec<f32> {
        let (isa, s) = (Isa::current(), &self.shape);
        let resampling = if self.up {
            Resampling::UpBefore
        } else {
            Resampling::None
        };
        if winograd::few(s, self.packed.is_some()) {
            winograd::forward_few(isa, s, x, w, false, added, resampling)
        } else {
            self.winograd_weights(isa, w, false, |u| {
                winograd::forward(isa, s, x, u, added, resampling)
            })
        }
    }

    fn input_gradient(&self, w: &[f32], dy: &[f32]) -> Vec<f32> {
        let (isa, s) = (Isa::current(), &self.shape);
        if self.winograd {
            let turned = Shape {
                ci: s.co,
                co: s.ci,
                ..*s
            };
            let resampling = if self.up {
                Resampling::SumAfter
            } else {
                Resampling::None
            };
            if winograd::few(s, self.packed.is_some()) {
                winograd::forward_few(isa, &turned, dy, w, true, Added::default(), resampling)
            } else {
                self.winograd_weights(isa, w, true, |u| {
                    winograd::forward(isa, &turned, dy, u, Added::default(), resampling)
                })
            }
        } else if s.pointwise() {
            pointwise::input_gradient(isa, s, dy, w)
        } else {
            let dx = self.direct_weights(isa, w, true, |u| direct::input_gradient(isa, s, dy, u));
            if self.up {
                reduced(&dx, s.h / 2, s.w / 2, 1.)
            } else {
                dx
            }
        }
    }

    fn weight_gradient(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let (isa, s) = (Isa::current(), &self.shape);
        if self.winograd {
            winograd::weight_gradient(isa, s, x, dy, self.up)
        } else {
            direct::weight_gradient(isa, s, &self.at_full_size(x), dy)
        }
    }

    /// The gradients that someone tracks.
    fn gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        with_floats([x, w, dy], |[xs, ws, dys]| {
            let gx = x
                .track_op()
                .then(|| from_floats(self.input_gradient(ws, dys), x.shape()));
            let gw = w
                .track_op()
                .then(|| from_floats(self.weight_gradient(xs, dys), w.shape()));
            Ok((gx.transpose()?, gw.transpose()?))
        })
    }
}

impl CustomOp2 for ConvOp {
    fn name(&self) -> &'static str {
        "fndm-conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        Ok(self.forward(floats(x, xl)?, floats(w, wl)?, None))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, w, &contiguous(dy)?)
    }
}

impl CustomOp3 for ConvOp {
    fn name(&self) -> &'static str {
        "fndm-conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        Ok(self.forward(floats(x, xl)?, floats(w, wl)?, Some(floats(b, bl)?)))
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
        let (gx, gw) = self.gradients(x, w, &dy)?;
        let gb = if b.track_op() {
            let s = &self.shape;
            let sums = with_floats([&dy], |[dy]| {
                let pixels = s.oh() * s.ow();
                let (batch, channels) = match b.rank() {
                    1 => (s.batch, s.co),
                    _ => (1, s.batch * s.co),
                };
                Ok(channel_sums(Isa::current(), dy, batch, channels, pixels))
            })?;
            Some(from_floats(sums, b.shape())?)
        } else {
            None
        };
        Ok((gx, gw, gb))
    }
}

kernel! {
    unsafe fn channel_sum[S](x: *const f32, batch: usize, step: usize, n: usize, out: *mut f32) {
        let mut total = 0f64;
        for b in 0..batch {
            let p = x.add(b * step);
            let mut acc = [S::zero(); 4];
            let mut i = 0;
            while i + 64 <= n {
                for (j, a) in acc.iter_mut().enumerate() {
                    *a = S::add(*a, S::load(p.add(i + 16 * j)));
                }
                i += 64;
            }
            while i < n {
                acc[0] = S::add(acc[0], S::load_first(p.add(i), (n - i).min(16)));
                i += 16;
            }
            total += f64::from(S::sum(S::add(S::add(acc[0], acc[1]), S::add(acc[2], acc[3]))));
        }
        *out = total as f32;
    }
}

/// Sums over batch and pixels: the gradient of a bias.
fn channel_sums(isa: Isa, x: &[f32], batch: usize, c: usize, n: usize) -> Vec<f32> {
    assert_eq!(x.len(), batch * c * n);
    let x = Input(x);
    // SAFETY: each task writes its own channel.
    unsafe {
        filled(c, |out| {
            parallel(c, |i| {
                let x = x.at(i * n, ((batch - 1) * c + 1) * n);
                channel_sum(isa, x, batch, c * n, n, out.at(i, 1));
            });
        })
    }
}
