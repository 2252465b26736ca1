//! Tensor operations that candle lacks or does slowly, forward and backward.
//!
//! Tensors are `(B, C, H, W)`. Every operation is differentiable. On the CPU, f32 tensors run on this crate's own threaded
//! kernels; with the feature `cuda`, f32 and bf16 tensors on a GPU run on its kernels, and with `cudnn` its convolutions on
//! cuDNN; other devices and types run on candle. A gradient that nobody tracks is not computed, and results don't
//! depend on the number of threads.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use fndm_kernels::{Conv2d, Tape, add, group_norm_silu};
//!
//! // Without this line, page faults take about a third of a training step.
//! #[global_allocator]
//! static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();
//!
//! # fn main() -> candle_core::Result<()> {
//! let device = Device::Cpu;
//! let weight = Var::rand(-0.1f32, 0.1, (32, 32, 3, 3), &device)?;
//! let (gain, bias) = (Var::ones(32, candle_core::DType::F32, &device)?, Var::rand(0f32, 1., 32, &device)?);
//! let x = Tensor::rand(-1f32, 1., (2, 32, 16, 16), &device)?;
//!
//! let tape = Tape::start()?; // optional: `loss.backward()` works as well, and is slower
//! let h = group_norm_silu(&x, 8, &gain, &bias, 1e-5, None)?;
//! let conv = Conv2d::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()), 1)?;
//! let y = add(&x, &conv.forward(&h)?)?;
//! let grads = tape.backward(&y.sqr()?.mean_all()?)?;
//! assert_eq!(grads.get(&weight).map(|g| g.dims().to_vec()), Some(vec![32, 32, 3, 3]));
//! # Ok(())
//! # }
//! ```
//!
//! # Parts
//!
//! | | |
//! | --- | --- |
//! | [`Conv2d`], [`Algorithm`] | 3x3 and 1x1, stride 1 and 2, also fused with upsampling or the sum that ends a residual block: Winograd F(4x4, 3x3), direct, or a product, by shape |
//! | [`group_norm`], [`group_norm_silu`], [`silu`] | fused, with scale and shift |
//! | [`linear`] | a few rows by a matrix of weights |
//! | [`attention`], [`attention_qkv`] | any number of tokens, a strip of weights at a time |
//! | [`add`], [`cat_channels`], [`linear_combination`], [`upsample_nearest_2x`], [`avg_pool_2x`] | one threaded pass |
//! | [`relu`], [`relu6`], [`max_pool_3x3`] | which keep what isn't a number |
//! | [`adam_step`], [`ema_update`] | in place on variables, one pass |
//! | [`adam_step_all`], [`ema_update_all`] | the same for all parameters: on a GPU in one launch |
//! | [`device`] | a device by its name |
//! | [`nearest_rows`] | nearest neighbours on a GPU |
//! | [`first_non_finite`] | whether a result is one, and where it isn't |
//! | [`Tape`] | a backward pass without candle's bookkeeping |
//! | [`panel_products`], [`pack_panel`] | rows times rows, a panel at a time |
//! | [`CachingAlloc`] | a global allocator that keeps large blocks |
//! | [`MappedFile`] | a file's bytes without reading them first |
//!
//! # What isn't finite
//!
//! A NaN or an infinity that goes into an operation comes out of it, forward and backward, on every device and instruction set,
//! wherever the exact result depends on it: no maximum and no clamp loses it. Winograd and group normalisation may spread it
//! further than direct sums would.
//!
//! # Switches
//!
//! | for the process | in the environment | |
//! | --- | --- | --- |
//! | [`set_backend`] | `FNDM_KERNELS=candle` | everything on plain candle, the reference |
//! | [`set_precision`] | `FNDM_EXACT=1` | no Winograd, for parity tests |
//! | [`set_simd`] | `FNDM_SIMD=avx512`, `avx2`, `portable` | the instruction set |
//! | [`set_matrix_math`] | `FNDM_TF32=1` | TF32 in products and convolutions of f32 on a GPU |
//! | | `FNDM_CUDNN_SEARCH=1` | cuDNN measures its algorithms at the first use of a shape |
//! | | `RAYON_NUM_THREADS` | the number of threads |

// With fndm-runtime the one crate of the project with `unsafe`: SIMD intrinsics and threads that write disjoint parts of one output.
#![allow(unsafe_code)]
// Kernels index several arrays by one counter.
#![allow(clippy::needless_range_loop)]

mod attention;
mod combination;
mod config;
mod conv;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod device;
mod elementwise;
mod finite;
mod linear;
mod mapped;
mod memory;
mod nearest;
mod norm;
mod optim;
mod plain;
mod products;
mod rectify;
mod simd;
mod tape;
mod tensor;
mod tile;

pub use attention::{QkvOrder, attention, attention_qkv};
pub use config::{
    Backend, MatrixMath, Precision, backend, matrix_math, precision, set_backend, set_matrix_math,
    set_precision,
};
pub use conv::{Algorithm, Conv2d};
pub use device::device;
pub use elementwise::{add, avg_pool_2x, cat_channels, linear_combination, upsample_nearest_2x};
pub use finite::first_non_finite;
pub use fndm_runtime::CachingAlloc;
pub use linear::linear;
pub use mapped::MappedFile;
pub use nearest::{NEAREST_ROWS, nearest_rows};
pub use norm::{group_norm, group_norm_silu, silu};
pub use optim::{AdamStep, AdamTensor, adam_step, adam_step_all, ema_update, ema_update_all};
pub use products::{PANEL_ROWS, pack_panel, panel_products};
pub use rectify::{max_pool_3x3, relu, relu6};
pub use simd::{Isa, set_simd};
pub use tape::Tape;
