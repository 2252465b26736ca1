//! The operations as launches of kernels and matrix products, for any [`Machine`](super::machine::Machine).

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod norm;
pub(crate) mod optim;

use super::machine::View;

/// Values in a pack: 4 where every place and length allows it, else 1.
fn pack(views: &[View], lengths: &[usize]) -> usize {
    let whole = lengths.iter().all(|n| n.is_multiple_of(4)) && views.iter().all(|v| v.aligned());
    if whole { 4 } else { 1 }
}
