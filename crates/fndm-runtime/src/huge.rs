//! Huge pages, where the system gives them to those who ask.

use std::mem::MaybeUninit;

/// The size of a huge page.
pub(crate) const HUGE: usize = 2 << 20;
/// The size of the blocks from which on they are asked for.
pub(crate) const HUGE_FROM: usize = 2 * HUGE;

/// Asks Linux for huge pages in memory of 4 MB and more that is about to be filled; elsewhere, and where the system refuses,
/// nothing happens. A vector of 36 MB then has 18 page faults instead of 9000.
///
/// ```
/// let mut values: Vec<f32> = Vec::with_capacity(9 << 20);
/// fndm_runtime::ask_for_huge_pages(values.spare_capacity_mut());
/// values.resize(9 << 20, 1.);
/// ```
pub fn ask_for_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let bytes = size_of_val(memory);
    if bytes < HUGE_FROM {
        return;
    }
    let start = memory.as_mut_ptr().addr();
    let skip = start.next_multiple_of(HUGE) - start;
    let whole = bytes.saturating_sub(skip) / HUGE * HUGE;
    if whole > 0 {
        // SAFETY: these bytes are inside of `memory`, and start at a huge page.
        unsafe { advise(memory.as_mut_ptr().cast::<u8>().add(skip), whole) };
    }
}

/// Asks for huge pages in `bytes` bytes from `start` on.
///
/// # Safety
/// They are the caller's memory, and both are multiples of [`HUGE`].
pub(crate) unsafe fn advise(start: *mut u8, bytes: usize) {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: the caller's contract; the advice leaves the content as it is.
    unsafe {
        libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = (start, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_stays_whatever_the_place() {
        let sizes = [0, 1, 1000, HUGE_FROM - 1, HUGE_FROM + 12345];
        // An interpreter would take minutes for the last two.
        let sizes = if cfg!(miri) { &sizes[..3] } else { &sizes };
        for &size in sizes {
            let mut values = vec![7u8; size];
            values.truncate(size / 3);
            ask_for_huge_pages(values.spare_capacity_mut());
            values.resize(size, 8);
            assert!(values[..size / 3].iter().all(|v| *v == 7));
            assert!(values[size / 3..].iter().all(|v| *v == 8));
        }
    }
}
