//! The operations on CUDA devices.
//!
//! [`program`] has the operations as launches of kernels and matrix products on a [`machine`]: a GPU ([`device`]), or the emulator
//! that the tests run the same programs and the same kernel text on.

// Without a GPU the tests alone launch these; without cuDNN nothing launches the bias of its convolutions.
#![cfg_attr(not(feature = "cudnn"), allow(dead_code))]

pub(crate) mod machine;
pub(crate) mod program;
pub(crate) mod source;

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod emulator;

#[cfg(feature = "cuda")]
pub(crate) use device::*;
