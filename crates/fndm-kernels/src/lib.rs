//! Tensor operations that candle lacks or does slowly, forward and backward.
//!
//! Tensors are `(B, C, H, W)`. Every function is differentiable unless it says otherwise. On the CPU, f32 tensors run on
//! this crate's own threaded kernels (AVX-512, AVX2 or portable, chosen at run time); anything else runs on candle.
//! Results don't depend on the number of threads. A gradient that nobody tracks is not computed.

// The one crate of the project with `unsafe`: SIMD intrinsics and threads that write disjoint parts of one output.
#![allow(unsafe_code)]
// Kernels index several arrays by one counter.
#![allow(clippy::needless_range_loop)]

mod alloc;
mod attention;
mod config;
mod conv;
mod elementwise;
mod memory;
mod norm;
mod optim;
mod plain;
mod simd;
mod tape;
mod tensor;
mod tile;

pub use alloc::CachingAlloc;
pub use attention::attention;
pub use config::{Backend, Precision, backend, precision, set_backend, set_precision};
pub use conv::Conv2d;
pub use elementwise::{add, avg_pool_2x, cat_channels, linear_combination, upsample_nearest_2x};
pub use norm::{group_norm, group_norm_silu, silu};

pub use optim::{AdamStep, adam_step, ema_update};
pub use simd::{Isa, set_simd};
pub use tape::Tape;
