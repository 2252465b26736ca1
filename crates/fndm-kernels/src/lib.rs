#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! | | |
//! | --- | --- |
//! | [`Conv2d`], [`Algorithm`] | 3x3 and 1x1, stride 1 and 2, also fused with upsampling or the sum that ends a residual block: Winograd F(4x4, 3x3), direct, or a product, by shape |
//! | [`group_norm`], [`group_norm_silu`], [`silu`] | fused, with scale and shift |
//! | [`depthwise`], [`channel_means`], [`scale_channels`] | a channel by itself, forward |
//! | [`unfold`] | an image as columns, for kernels of any size |
//! | [`linear`] | a few rows by a matrix of weights |
//! | [`attention`], [`attention_qkv`] | any number of tokens, a strip of weights at a time |
//! | [`add`], [`cat_channels`], [`linear_combination`], [`upsample_nearest_2x`], [`avg_pool_2x`] | one threaded pass |
//! | [`relu`], [`relu6`], [`max_pool_3x3`] | which keep what isn't a number |
//! | [`adam_step`], [`ema_update`] | in place on variables, one pass |
//! | [`adam_step_all`], [`ema_update_all`] | the same for all parameters: on a GPU in one launch |
//! | [`device`] | a device by its name |
//! | [`first_non_finite`] | whether a result is one, and where it isn't |
//! | [`Tape`] | a backward pass without candle's bookkeeping |
//! | [`joint_bilateral`] | smoothing of maps that an image guides |
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
mod bilateral;
mod channels;
mod columns;
mod combination;
mod config;
mod conv;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod depthwise;
mod device;
mod elementwise;
mod finite;
mod linear;
mod mapped;
mod memory;
mod norm;
mod optim;
mod pads;
mod plain;
mod products;
mod rectify;
mod simd;
mod sum;
mod tape;
mod tensor;
mod tile;

pub use attention::{QkvOrder, attention, attention_qkv};
pub use bilateral::{JointBilateral, joint_bilateral};
pub use channels::{channel_means, scale_channels};
pub use columns::unfold;
pub use config::{
    Backend, MatrixMath, Precision, backend, matrix_math, precision, set_backend, set_matrix_math,
    set_precision,
};
pub use conv::{Algorithm, Conv2d};
pub use depthwise::depthwise;
pub use device::device;
pub use elementwise::{add, avg_pool_2x, cat_channels, linear_combination, upsample_nearest_2x};
pub use finite::first_non_finite;
pub use fndm_runtime::{CachingAlloc, keeping_nothing};
pub use linear::linear;
pub use mapped::MappedFile;
pub use norm::{group_norm, group_norm_silu, silu};
pub use optim::{AdamStep, AdamTensor, adam_step, adam_step_all, ema_update, ema_update_all};
pub use pads::Pads;
pub use products::{PANEL_ROWS, pack_panel, panel_products};
pub use rectify::{max_pool_3x3, relu, relu6};
pub use simd::{Isa, set_simd};
pub use tape::Tape;
