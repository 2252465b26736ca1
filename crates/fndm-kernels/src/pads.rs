//! Zeros around an image.

/// Zeros before and after an axis.
pub type Pads = (usize, usize);

/// Places of a kernel of `k` pixels on an axis of `n`, from one to the next `stride`; none where the padded axis is shorter than the kernel,
/// or the stride is 0.
pub(crate) fn places(n: usize, (before, after): Pads, k: usize, stride: usize) -> Option<usize> {
    let padded = n.checked_add(before)?.checked_add(after)?;
    Some(padded.checked_sub(k)?.checked_div(stride)? + 1)
}
