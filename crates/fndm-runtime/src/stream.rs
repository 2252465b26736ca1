//! Large vectors that all threads make, written past the caches.

use crate::huge::ask_for_huge_pages;
use crate::parallel::parallel;
use std::collections::TryReserveError;
use std::mem::MaybeUninit;

/// Vectors of this many bytes and more are written past the caches, which they would not stay in: an ordinary store first reads
/// the line that it writes.
const PAST_CACHES: usize = 16 << 20;

/// Tasks for each thread: few, since each has a state of its own, and more than one, for threads that come late.
const TASKS: usize = 4;

/// The elements of [`streamed`]: numbers, which have no padding.
pub trait Number: Copy + Default + Send + private::Sealed {}

mod private {
    pub trait Sealed {}
}

macro_rules! number {
    ($($t:ty),*) => {$(
        impl Number for $t {}
        impl private::Sealed for $t {}
    )*};
}

number!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// A vector of `len` values that all threads make, `chunk` at a time.
///
/// `make(state, start, values)` writes the values from `start` on; `values` holds anything before. Its state comes from `init`,
/// which is called once for each of the tasks; a task goes through a range of the chunks in order. Chunks of about 100 KB
/// stay in a near cache until they are copied to the vector.
///
/// # Errors
/// When there is no memory for so many values.
///
/// ```
/// let squares = fndm_runtime::streamed(1000, 64, || (), |(), start, values: &mut [f32]| {
///     for (i, value) in values.iter_mut().enumerate() {
///         *value = ((start + i) * (start + i)) as f32;
///     }
/// })?;
/// assert_eq!(squares[999], 998_001.);
/// # Ok::<(), std::collections::TryReserveError>(())
/// ```
pub fn streamed<T: Number, S>(
    len: usize,
    chunk: usize,
    init: impl Fn() -> S + Sync + Send,
    make: impl Fn(&mut S, usize, &mut [T]) + Sync + Send,
) -> Result<Vec<T>, TryReserveError> {
    let mut out = Vec::new();
    out.try_reserve_exact(len)?;
    ask_for_huge_pages(out.spare_capacity_mut());
    let chunk = chunk.clamp(1, len.max(1));
    let chunks = len.div_ceil(chunk);
    let tasks = chunks.min(TASKS * rayon::current_num_threads());
    let past_caches = len * size_of::<T>() >= PAST_CACHES;
    let target = Target(out.spare_capacity_mut().as_mut_ptr());
    parallel(tasks, |task| {
        let mut state = init();
        let mut values = vec![T::default(); chunk];
        for i in task * chunks / tasks..(task + 1) * chunks / tasks {
            let start = i * chunk;
            let values = &mut values[..chunk.min(len - start)];
            make(&mut state, start, values);
            // SAFETY: the capacity is `len`, and no other chunk has these values.
            unsafe { target.write(start, values, past_caches) };
        }
        fence();
    });
    // SAFETY: the chunks cover the first `len` values, and each was written in full.
    unsafe { out.set_len(len) };
    Ok(out)
}

/// Where the chunks go.
struct Target<T>(*mut MaybeUninit<T>);

// SAFETY: each task writes values of its own.
unsafe impl<T: Send> Sync for Target<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Target<T> {}

impl<T: Number> Target<T> {
    /// # Safety
    /// As many values as there are in `values` are in range from `start` on, and nobody else has them.
    unsafe fn write(&self, start: usize, values: &[T], past_caches: bool) {
        // SAFETY: the caller's contract; a number is as many bytes as its size says.
        unsafe {
            let to = self.0.add(start).cast::<u8>();
            let bytes = size_of_val(values);
            let from = values.as_ptr().cast::<u8>();
            if past_caches {
                copy_past_caches(from, to, bytes);
            } else {
                to.copy_from_nonoverlapping(from, bytes);
            }
        }
    }
}

/// # Safety
/// `bytes` bytes can be read and written, and don't overlap. [`fence`] comes before another thread reads them.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy_past_caches(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};
    // SAFETY: SSE2 is in every x86-64; the ranges are within the caller's, and stores are aligned to 16 bytes.
    unsafe {
        let head = (to.addr().next_multiple_of(16) - to.addr()).min(bytes);
        to.copy_from_nonoverlapping(from, head);
        let (from, to, bytes) = (from.add(head), to.add(head), bytes - head);
        let whole = bytes / 64 * 64;
        for at in (0..whole).step_by(64) {
            for part in (at..at + 64).step_by(16) {
                _mm_stream_si128(to.add(part).cast(), _mm_loadu_si128(from.add(part).cast()));
            }
        }
        to.add(whole)
            .copy_from_nonoverlapping(from.add(whole), bytes - whole);
    }
}

/// # Safety
/// `bytes` bytes can be read and written, and don't overlap.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn copy_past_caches(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe { to.copy_from_nonoverlapping(from, bytes) };
}

/// Makes what [`copy_past_caches`] wrote visible to other threads.
fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: SSE is in every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count<T: Number + PartialEq + std::fmt::Debug>(
        len: usize,
        chunk: usize,
        of: fn(usize) -> T,
    ) {
        let made = streamed(
            len,
            chunk,
            || 0usize,
            |next, start, values: &mut [T]| {
                // A task's chunks come in order.
                assert!(*next == 0 || *next == start);
                for (i, value) in values.iter_mut().enumerate() {
                    *value = of(start + i);
                }
                *next = start + values.len();
            },
        );
        let made = made.unwrap_or_default();
        assert_eq!(made.len(), len);
        assert!(made.iter().enumerate().all(|(i, v)| *v == of(i)));
    }

    #[test]
    fn every_value_is_made_once() {
        for len in [0, 1, 2, 63, 64, 65, 1000] {
            for chunk in [0, 1, 7, 64, 5000] {
                count(len, chunk, |i| i as f32);
            }
        }
    }

    #[cfg(not(miri))]
    #[test]
    fn also_past_the_caches() {
        let extra = [0, 1, 3, 17];
        for extra in extra {
            count(PAST_CACHES / 4 + extra, 30_001, |i| i as f32);
            count(PAST_CACHES + extra, 100_003, |i| i as u8);
        }
    }

    #[test]
    fn copies_from_and_to_any_place() {
        let from: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
        // An interpreter has no stores past the caches, and takes long.
        let starts = if cfg!(miri) { 2 } else { 70 };
        for start in 0..starts {
            for bytes in [0, 1, 15, 16, 63, 64, 65, 200] {
                let mut to = vec![255u8; 300];
                // SAFETY: both vectors are long enough.
                unsafe {
                    copy_past_caches(
                        from.as_ptr().add(start % 7),
                        to.as_mut_ptr().add(start),
                        bytes,
                    );
                }
                fence();
                assert_eq!(to[start..start + bytes], from[start % 7..start % 7 + bytes]);
                let around = to[..start].iter().chain(&to[start + bytes..]);
                assert!(around.into_iter().all(|v| *v == 255));
            }
        }
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(streamed(usize::MAX, 1 << 16, || (), |(), _, _: &mut [f32]| ()).is_err());
    }

    #[test]
    fn a_panic_comes_back() {
        let result = std::panic::catch_unwind(|| {
            streamed(
                100,
                10,
                || (),
                |(), start, _: &mut [f32]| {
                    assert!(start != 50);
                },
            )
        });
        assert!(result.is_err());
    }
}
