//! Normalising flows: coupling blocks, permutations, log-determinants, inverses.
//!
//! A flow maps features x to z of the same shape and knows the logarithm of the absolute determinant of its Jacobian matrix, so that
//! log p(x) = log p(z) + log |det dz/dx|. Every block here has its inverse.

mod affine;
mod cross;
mod mersenne;
mod pcg;
mod permutation;
mod source;

pub(crate) use mersenne::Mersenne;

pub use affine::{AffineBlock, AffineConfig, Subnet};
pub use cross::{CrossBlock, CrossConfig, CrossConvolutions, SCALES};
pub use permutation::{
    numpy_default_permutation, numpy_permutations, random_permutation, random_rotation,
};
pub use source::Source;

use candle_core::Tensor;

use crate::Result;

/// What a flow gives.
#[derive(Debug, Clone)]
pub struct Flowed {
    /// Like the input.
    pub z: Tensor,
    /// The log-determinant of each sample, `(B)`.
    pub log_det: Tensor,
}

/// One block after the other, with the sum of their log-determinants.
pub(crate) fn chain<'a, B: 'a>(
    x: &Tensor,
    blocks: impl Iterator<Item = &'a B>,
    step: impl Fn(&B, &Tensor) -> Result<Flowed>,
) -> Result<Flowed> {
    let mut z = x.clone();
    let mut log_det: Option<Tensor> = None;
    for block in blocks {
        let flowed = step(block, &z)?;
        z = flowed.z;
        log_det = Some(match log_det {
            Some(before) => (before + flowed.log_det)?,
            None => flowed.log_det,
        });
    }
    let log_det = match log_det {
        Some(sum) => sum,
        None => Tensor::zeros(x.dim(0)?, x.dtype(), x.device())?,
    };
    Ok(Flowed { z, log_det })
}
