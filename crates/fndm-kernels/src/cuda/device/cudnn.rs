//! Convolutions by cuDNN: descriptors and the algorithm are chosen once for each shape, and the workspace is used again.
//!
//! Only algorithms that cuDNN calls deterministic are taken, so that the same seed gives the same bits on one GPU. The choice is
//! cuDNN's estimate, or, where the environment has `FNDM_CUDNN_SEARCH=1`, its measurement at the first use of a shape.

use super::super::machine::{Kind, View, size};
use super::gpu::Gpu;
use crate::config::tf32;
use crate::conv::Shape;
use candle_core::cuda::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::cuda::{DeviceId, WrapErr};
use candle_core::{CudaDevice, Error, Result};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::LazyLock;

/// The largest workspace of an algorithm.
const WORKSPACE_BYTES: usize = 1 << 30;
/// Algorithms that are asked for: more than any pass has.
const ALGORITHMS: usize = 16;

static SEARCH: LazyLock<bool> =
    LazyLock::new(|| std::env::var("FNDM_CUDNN_SEARCH").is_ok_and(|v| v == "1"));

thread_local! {
    /// A handle of cuDNN belongs to one thread.
    static HANDLES: RefCell<HashMap<DeviceId, Handle>> = RefCell::default();
}

/// Which of the three convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    Forward,
    InputGradient,
    WeightGradient,
}

/// x, w and y, or their gradients: one of them is written to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub(super) x: View,
    pub(super) w: View,
    pub(super) y: View,
}

/// Runs one pass of a convolution with same padding.
pub(super) fn run(gpu: &Gpu<'_>, pass: Pass, shape: &Shape, operands: Operands) -> Result<()> {
    gpu.0.cuda_stream().context().bind_to_thread().w()?;
    HANDLES.with_borrow_mut(|handles| {
        let handle = match handles.entry(gpu.0.id()) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Handle::new(gpu.0)?),
        };
        handle.run(pass, shape, operands)
    })
}

/// What a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    pass: Pass,
    kind: Kind,
    math: sys::cudnnMathType_t,
    /// batch, ci, co, h, w, k, stride
    sizes: [usize; 7],
}

struct Handle {
    raw: sys::cudnnHandle_t,
    device: CudaDevice,
    plans: HashMap<Key, Plan>,
    workspace: Option<CudaSlice<u8>>,
}

impl Handle {
    fn new(device: &CudaDevice) -> Result<Self> {
        let raw = result::create_handle().map_err(Error::wrap)?;
        let handle = Self {
            raw,
            device: device.clone(),
            plans: HashMap::new(),
            workspace: None,
        };
        // SAFETY: both were made on this device; the device, kept beside it, keeps the stream.
        unsafe { result::set_stream(raw, device.cuda_stream().cu_stream().cast()) }
            .map_err(Error::wrap)?;
        Ok(handle)
    }

    fn run(&mut self, pass: Pass, s: &Shape, operands: Operands) -> Result<()> {
        let kind = operands.x.kind;
        let key = Key {
            pass,
            kind,
            math: math(kind, tf32()),
            sizes: [s.batch, s.ci, s.co, s.h, s.w, s.k, s.stride],
        };
        if !self.plans.contains_key(&key) {
            let plan = Plan::new(self.raw, &key, s)?;
            self.plans.insert(key, plan);
        }
        let Some(plan) = self.plans.get(&key) else {
            candle_core::bail!("cudnn: the plan is lost")
        };
        let kept = self.workspace.as_ref().map_or(0, CudaSlice::len);
        if plan.workspace > kept {
            // The old one is freed once the convolutions before are done with it.
            self.workspace = None;
            // SAFETY: cuDNN asks for no values in its workspace.
            self.workspace = Some(unsafe { self.device.alloc::<u8>(plan.workspace)? });
        }
        let workspace = match &self.workspace {
            Some(slice) => slice.device_ptr(&self.device.cuda_stream()).0,
            None => 0,
        };
        // SAFETY: the operands have the shapes and the type of the plan, and the workspace its size.
        unsafe { plan.run(self.raw, operands, workspace as *mut c_void) }.map_err(Error::wrap)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: nothing uses the handle any more. At the end of a process the driver may have gone before: then there is nothing
        // to destroy.
        _ = unsafe { result::destroy_handle(self.raw) };
    }
}

/// What cuDNN may round its inputs to.
fn math(kind: Kind, tf32: bool) -> sys::cudnnMathType_t {
    match kind {
        Kind::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        // The default math is TF32 where the GPU has it.
        _ if tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        _ => sys::cudnnMathType_t::CUDNN_FMA_MATH,
    }
}

#[derive(Debug, Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// One algorithm as cuDNN rates it, the best first.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    algorithm: Algorithm,
    memory: usize,
    math: sys::cudnnMathType_t,
    usable: bool,
}

struct Plan {
    x: TensorDescriptor,
    w: FilterDescriptor,
    y: TensorDescriptor,
    conv: ConvDescriptor,
    algorithm: Option<Algorithm>,
    workspace: usize,
}

/// A descriptor of cuDNN, destroyed when dropped.
macro_rules! descriptor {
    ($name:ident, $raw:ty, $create:path, $destroy:path) => {
        struct $name($raw);

        impl $name {
            fn new() -> Result<Self> {
                $create().map(Self).map_err(Error::wrap)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by `new`, and destroyed here alone.
                _ = unsafe { $destroy(self.0) };
            }
        }
    };
}

descriptor!(
    TensorDescriptor,
    sys::cudnnTensorDescriptor_t,
    result::create_tensor_descriptor,
    result::destroy_tensor_descriptor
);
descriptor!(
    FilterDescriptor,
    sys::cudnnFilterDescriptor_t,
    result::create_filter_descriptor,
    result::destroy_filter_descriptor
);
descriptor!(
    ConvDescriptor,
    sys::cudnnConvolutionDescriptor_t,
    result::create_convolution_descriptor,
    result::destroy_convolution_descriptor
);

fn ints(dims: [usize; 4]) -> Result<[c_int; 4]> {
    let mut out = [0; 4];
    for (out, n) in out.iter_mut().zip(dims) {
        *out = size(n)? as c_int;
    }
    Ok(out)
}

impl Plan {
    fn new(handle: sys::cudnnHandle_t, key: &Key, s: &Shape) -> Result<Self> {
        let format = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
        let dtype = match key.kind {
            Kind::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            _ => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        };
        let mut plan = Self {
            x: TensorDescriptor::new()?,
            w: FilterDescriptor::new()?,
            y: TensorDescriptor::new()?,
            conv: ConvDescriptor::new()?,
            algorithm: None,
            workspace: 0,
        };
        let (pad, stride) = ((s.k / 2) as c_int, s.stride as c_int);
        // SAFETY: the descriptors were just made.
        unsafe {
            let x = ints([s.batch, s.ci, s.h, s.w])?;
            let w = ints([s.co, s.ci, s.k, s.k])?;
            let y = ints([s.batch, s.co, s.oh(), s.ow()])?;
            result::set_tensor4d_descriptor(plan.x.0, format, dtype, x).map_err(Error::wrap)?;
            result::set_filter4d_descriptor(plan.w.0, dtype, format, w).map_err(Error::wrap)?;
            result::set_tensor4d_descriptor(plan.y.0, format, dtype, y).map_err(Error::wrap)?;
            result::set_convolution2d_descriptor(
                plan.conv.0,
                pad,
                pad,
                stride,
                stride,
                1,
                1,
                sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                // Sums are f32 whatever the inputs are.
                sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            )
            .map_err(Error::wrap)?;
            result::set_convolution_math_type(plan.conv.0, key.math).map_err(Error::wrap)?;
        }
        // SAFETY: the descriptors are complete.
        let candidates = unsafe { plan.candidates(handle, key.pass) }.map_err(Error::wrap)?;
        let Some(best) = candidates
            .iter()
            .find(|c| c.usable && c.memory <= WORKSPACE_BYTES)
        else {
            candle_core::bail!(
                "cudnn: no deterministic algorithm for {:?} of {s:?} in {:?}",
                key.pass,
                key.kind
            )
        };
        // Full f32 was asked for, and stays; else the algorithm comes with the math that it was rated by.
        if key.math != sys::cudnnMathType_t::CUDNN_FMA_MATH {
            // SAFETY: the descriptor is complete.
            unsafe { result::set_convolution_math_type(plan.conv.0, best.math) }
                .map_err(Error::wrap)?;
        }
        plan.algorithm = Some(best.algorithm);
        // SAFETY: the descriptors are complete.
        plan.workspace =
            unsafe { plan.workspace_of(handle, best.algorithm) }.map_err(Error::wrap)?;
        Ok(plan)
    }

    /// The algorithms for this pass, the fastest first, as estimated or measured.
    unsafe fn candidates(
        &self,
        handle: sys::cudnnHandle_t,
        pass: Pass,
    ) -> std::result::Result<Vec<Candidate>, CudnnError> {
        /// Asks one function of cuDNN, whose arguments differ in order and type only.
        macro_rules! ask {
            ($perf:ty, $wrap:path, $estimate:path, $measure:path, $a:expr, $b:expr, $c:expr, $d:expr) => {{
                let mut found: c_int = 0;
                let mut all: [std::mem::MaybeUninit<$perf>; ALGORITHMS] =
                    [const { std::mem::MaybeUninit::zeroed() }; ALGORITHMS];
                let ask = if *SEARCH { $measure } else { $estimate };
                let n = ALGORITHMS as c_int;
                unsafe {
                    ask(
                        handle,
                        $a,
                        $b,
                        $c,
                        $d,
                        n,
                        &raw mut found,
                        all.as_mut_ptr().cast(),
                    )
                    .result()?;
                }
                all[..(found.max(0) as usize).min(ALGORITHMS)]
                    .iter()
                    .map(|perf| {
                        // SAFETY: cuDNN has filled the first `found`.
                        let perf = unsafe { perf.assume_init_ref() };
                        Candidate {
                            algorithm: $wrap(perf.algo),
                            memory: perf.memory,
                            math: perf.mathType,
                            usable: perf.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS
                                && perf.determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
                        }
                    })
                    .collect()
            }};
        }
        let (x, w, y, conv) = (self.x.0, self.w.0, self.y.0, self.conv.0);
        Ok(match pass {
            Pass::Forward => ask!(
                sys::cudnnConvolutionFwdAlgoPerf_t,
                Algorithm::Forward,
                sys::cudnnGetConvolutionForwardAlgorithm_v7,
                sys::cudnnFindConvolutionForwardAlgorithm,
                x,
                w,
                conv,
                y
            ),
            Pass::InputGradient => ask!(
                sys::cudnnConvolutionBwdDataAlgoPerf_t,
                Algorithm::Input,
                sys::cudnnGetConvolutionBackwardDataAlgorithm_v7,
                sys::cudnnFindConvolutionBackwardDataAlgorithm,
                w,
                y,
                conv,
                x
            ),
            Pass::WeightGradient => ask!(
                sys::cudnnConvolutionBwdFilterAlgoPerf_t,
                Algorithm::Weight,
                sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7,
                sys::cudnnFindConvolutionBackwardFilterAlgorithm,
                x,
                y,
                conv,
                w
            ),
        })
    }

    unsafe fn workspace_of(
        &self,
        handle: sys::cudnnHandle_t,
        algorithm: Algorithm,
    ) -> std::result::Result<usize, CudnnError> {
        let (x, w, y, conv) = (self.x.0, self.w.0, self.y.0, self.conv.0);
        // SAFETY: the caller's.
        unsafe {
            match algorithm {
                Algorithm::Forward(a) => {
                    result::get_convolution_forward_workspace_size(handle, x, w, conv, y, a)
                }
                Algorithm::Input(a) => {
                    result::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, a)
                }
                Algorithm::Weight(a) => {
                    result::get_convolution_backward_filter_workspace_size(handle, x, y, conv, w, a)
                }
            }
        }
    }

    /// # Safety
    /// The operands lie where their addresses say, with the shapes and type of this plan; the workspace has its size.
    unsafe fn run(
        &self,
        handle: sys::cudnnHandle_t,
        operands: Operands,
        workspace: *mut c_void,
    ) -> std::result::Result<(), CudnnError> {
        let (one, zero) = (1f32, 0f32);
        let (one, zero): (*const c_void, *const c_void) = (
            std::ptr::from_ref(&one).cast(),
            std::ptr::from_ref(&zero).cast(),
        );
        let at = |v: View| v.address as *mut c_void;
        let (x, w, y) = (at(operands.x), at(operands.w), at(operands.y));
        let (xd, wd, yd, conv) = (self.x.0, self.w.0, self.y.0, self.conv.0);
        let bytes = self.workspace;
        // SAFETY: the caller's.
        unsafe {
            match self.algorithm {
                Some(Algorithm::Forward(a)) => result::convolution_forward(
                    handle, one, xd, x, wd, w, conv, a, workspace, bytes, zero, yd, y,
                ),
                Some(Algorithm::Input(a)) => result::convolution_backward_data(
                    handle, one, wd, w, yd, y, conv, a, workspace, bytes, zero, xd, x,
                ),
                Some(Algorithm::Weight(a)) => result::convolution_backward_filter(
                    handle, one, xd, x, yd, y, conv, a, workspace, bytes, zero, wd, w,
                ),
                None => Ok(()),
            }
        }
    }
}
