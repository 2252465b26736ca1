//! A global allocator that keeps large blocks for the next call.
//!
//! Candle makes a fresh vector for every output. The system's allocator maps and unmaps each large one, and the page
//! faults cost as much as the arithmetic: 9 ms for 32 MB. Large blocks also ask Linux for huge pages: fewer faults, and
//! fewer addresses to look up.

use crate::huge::{HUGE, HUGE_FROM, advise};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Smaller requests go straight to the system.
const SMALLEST: usize = 64 << 10;
/// Four sizes to each power of two, from 64 KB.
const CLASSES: usize = 4 * 32;
/// What the blocks are aligned to.
const ALIGN: usize = 64;
/// The default for [`CachingAlloc::new`].
const KEEP: usize = 4 << 30;

/// A global allocator that keeps freed blocks of 64 KB and more for later requests of about the same size.
///
/// Training allocates the same tensors at every step, so nearly every request finds a block whose pages are there
/// already. A program opts in by one line; without it, page faults take about a third of a training step at 64 px.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: fndm_runtime::CachingAlloc = fndm_runtime::CachingAlloc::new();
/// # fn main() {
/// let first = vec![1f32; 1 << 20];
/// drop(first);
/// let again = vec![0f32; 1 << 20]; // the same memory, cleared
/// assert!(again.iter().all(|v| *v == 0.));
/// # }
/// ```
#[derive(Debug)]
pub struct CachingAlloc {
    free: [Mutex<Block>; CLASSES],
    kept: AtomicUsize,
    keep: usize,
}

thread_local! {
    /// Whether this thread lets the system have its blocks back.
    static KEEPS_NOTHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, of which [`CachingAlloc`] keeps nothing: what this thread frees meanwhile goes back to the system. For work whose blocks
/// are as large as its input, and so of another size each time: kept, the largest block of every size would add up. A block that was kept
/// before may be handed out, so that nothing piles up where others free what this thread asked for. Threads that `work` hands parts to
/// keep theirs as ever.
pub fn keeping_nothing<T>(work: impl FnOnce() -> T) -> T {
    /// Sets back what was before, also where `work` panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            KEEPS_NOTHING.set(self.0);
        }
    }
    let _before = Before(KEEPS_NOTHING.replace(true));
    let_large_blocks_go();
    work()
}

/// The system's own allocator keeps blocks of up to 32 MB once such a one was freed. From here on those of 1 MB and more go back at once.
fn let_large_blocks_go() {
    #[cfg(all(target_os = "linux", target_env = "gnu", not(miri)))]
    {
        const LARGE: libc::c_int = 1 << 20;
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: the call changes a number that later requests are compared with, and takes the allocator's own locks.
        ONCE.call_once(|| unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        });
    }
}

/// Where a thread ends its own storage may be gone already.
fn keeps_nothing() -> bool {
    KEEPS_NOTHING.try_with(Cell::get).unwrap_or(false)
}

/// A freed block; its first bytes hold the next one.
#[derive(Debug, Clone, Copy)]
struct Block(*mut Block);

// SAFETY: a block in a list belongs to the list alone, which a mutex guards.
unsafe impl Send for Block {}

impl CachingAlloc {
    /// Keeps at most 4 GB.
    #[must_use]
    pub const fn new() -> Self {
        Self::keeping(KEEP)
    }

    /// Keeps at most `bytes`; what is freed beyond that goes back to the system.
    #[must_use]
    pub const fn keeping(bytes: usize) -> Self {
        Self {
            free: [const { Mutex::new(Block(std::ptr::null_mut())) }; CLASSES],
            kept: AtomicUsize::new(0),
            keep: bytes,
        }
    }

    /// The class of a request and the size of its blocks, for the requests that are kept.
    fn class(layout: &Layout) -> Option<(usize, Layout)> {
        let size = layout.size();
        if size < SMALLEST || layout.align() > ALIGN {
            return None;
        }
        // 4, 5, 6 or 7 quarters of a power of two.
        let power = usize::BITS - 1 - (size - 1).leading_zeros();
        let quarter = (1usize << power) / 4;
        let steps = size.div_ceil(quarter);
        let class = 4 * (power as usize - 15) + steps - 5;
        let size = steps * quarter;
        let align = if size >= HUGE_FROM { HUGE } else { ALIGN };
        let rounded = Layout::from_size_align(size, align).ok()?;
        (class < CLASSES).then_some((class, rounded))
    }

    /// A block from the system for a request of `size` bytes. Huge pages lie within the request: one that reached into what it
    /// was rounded up by would take memory that nobody uses.
    ///
    /// # Safety
    /// The layout is the one of [`Self::class`] for a request of this size.
    unsafe fn fresh(rounded: Layout, size: usize) -> *mut u8 {
        // SAFETY: the layout isn't empty.
        let p = unsafe { System.alloc(rounded) };
        if !p.is_null() && rounded.size() >= HUGE_FROM {
            // SAFETY: the block is aligned to huge pages and holds this many bytes.
            unsafe { advise(p, size / HUGE * HUGE) };
        }
        p
    }

    fn take(&self, class: usize, size: usize) -> *mut u8 {
        let Ok(mut head) = self.free[class].lock() else {
            return std::ptr::null_mut();
        };
        let block = head.0;
        if !block.is_null() {
            // SAFETY: a block in the list is ours, and `dealloc` wrote its first bytes.
            *head = unsafe { block.read() };
            self.kept.fetch_sub(size, Ordering::Relaxed);
        }
        block.cast()
    }
}

impl Default for CachingAlloc {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: blocks come from the system's allocator by one layout per class, are handed out once at a time, and are at
// least as large and as aligned as the request.
unsafe impl GlobalAlloc for CachingAlloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Self::class(&layout) {
            // SAFETY: the caller's contract.
            None => unsafe { System.alloc(layout) },
            Some((class, rounded)) => {
                let p = self.take(class, rounded.size());
                if p.is_null() {
                    // SAFETY: the layout is the class's.
                    unsafe { Self::fresh(rounded, layout.size()) }
                } else {
                    p
                }
            }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Self::class(&layout) {
            // SAFETY: the caller's contract.
            None => unsafe { System.alloc_zeroed(layout) },
            Some((class, rounded)) => {
                let mut p = self.take(class, rounded.size());
                if p.is_null() && rounded.align() == ALIGN {
                    // SAFETY: the layout isn't empty.
                    return unsafe { System.alloc_zeroed(rounded) };
                }
                if p.is_null() {
                    // SAFETY: the layout is the class's.
                    p = unsafe { Self::fresh(rounded, layout.size()) };
                }
                if !p.is_null() {
                    // SAFETY: the block holds at least this many bytes.
                    unsafe { p.write_bytes(0, layout.size()) };
                }
                p
            }
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match Self::class(&layout) {
            // SAFETY: it came from the system with this layout.
            None => unsafe { System.dealloc(ptr, layout) },
            Some((class, rounded)) => {
                let size = rounded.size();
                if keeps_nothing() {
                    // SAFETY: it came from the system with the class's layout.
                    return unsafe { System.dealloc(ptr, rounded) };
                }
                if self.kept.fetch_add(size, Ordering::Relaxed) + size <= self.keep
                    && let Ok(mut head) = self.free[class].lock()
                {
                    let block = ptr.cast::<Block>();
                    // SAFETY: the block is free, aligned to 64 and large enough for a pointer.
                    unsafe { block.write(*head) };
                    head.0 = block;
                    return;
                }
                self.kept.fetch_sub(size, Ordering::Relaxed);
                // SAFETY: it came from the system with the class's layout.
                unsafe { System.dealloc(ptr, rounded) };
            }
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_size, layout.align()) else {
            return std::ptr::null_mut();
        };
        match (Self::class(&layout), Self::class(&new)) {
            // SAFETY: it came from the system with this layout, and stays there.
            (None, None) => unsafe { System.realloc(ptr, layout, new_size) },
            (Some((a, _)), Some((b, _))) if a == b => ptr,
            _ => {
                // SAFETY: the caller's contract; the copy stays within both.
                unsafe {
                    let to = self.alloc(new);
                    if !to.is_null() {
                        to.copy_from_nonoverlapping(ptr, layout.size().min(new_size));
                        self.dealloc(ptr, layout);
                    }
                    to
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_with_the_size_and_hold_it() {
        let mut last = (0, 0);
        let mut size = SMALLEST;
        while size < 1 << 40 {
            let layout = Layout::from_size_align(size, 4);
            let (class, block) = layout
                .ok()
                .and_then(|l| CachingAlloc::class(&l))
                .unwrap_or((usize::MAX, Layout::new::<u8>()));
            assert!(class < CLASSES && block.size() >= size && block.size() <= size / 4 * 5 + 4);
            if last.0 == class {
                assert_eq!(last.1, block.size());
            }
            assert!(class >= last.0);
            last = (class, block.size());
            size += size / 7 + 1;
        }
    }

    #[test]
    fn where_nothing_is_kept_blocks_come_and_go() {
        let a = CachingAlloc::keeping(1 << 20);
        let kept = || a.kept.load(Ordering::Relaxed);
        let layout = Layout::from_size_align(300_000, 8).unwrap_or(Layout::new::<u8>());
        // SAFETY: every block is used within its layout and freed once.
        unsafe {
            let first = a.alloc(layout);
            a.dealloc(first, layout);
            let before = kept();
            assert!(before >= 300_000);
            keeping_nothing(|| {
                // The one that was kept, and a fresh one.
                let (p, q) = (a.alloc(layout), a.alloc_zeroed(layout));
                assert!(p == first && q != first);
                a.dealloc(p, layout);
                a.dealloc(q, layout);
                assert_eq!(kept(), 0);
            });
            // One that was asked for inside is kept when it is freed outside, and handed out inside again.
            let p = keeping_nothing(|| a.alloc(layout));
            a.dealloc(p, layout);
            assert_eq!(kept(), before);
            assert_eq!(keeping_nothing(|| a.alloc(layout)), p);
            a.dealloc(p, layout);
            assert_eq!(kept(), before);
            keeping_nothing(|| a.dealloc(a.alloc(layout), layout));
            assert_eq!(kept(), 0);
        }
        let caught = std::panic::catch_unwind(|| keeping_nothing(|| panic!("on the way out")));
        assert!(caught.is_err() && !keeps_nothing());
    }

    #[test]
    fn blocks_come_back_and_are_cleared() {
        let a = CachingAlloc::keeping(1 << 20);
        let layout = Layout::from_size_align(300_000, 8).unwrap_or(Layout::new::<u8>());
        // SAFETY: every block is used within its layout and freed once.
        unsafe {
            let p = a.alloc(layout);
            p.write_bytes(7, 300_000);
            let p = a.realloc(p, layout, 310_000);
            assert_eq!(*p.add(299_999), 7);
            let larger = Layout::from_size_align(310_000, 8).unwrap_or(layout);
            a.dealloc(p, larger);
            let q = a.alloc_zeroed(layout);
            assert_eq!(p, q);
            assert!((0..300_000).all(|i| *q.add(i) == 0));
            let r = a.realloc(q, layout, 10);
            assert_eq!(*r, 0);
            let small = Layout::from_size_align(10, 8).unwrap_or(layout);
            a.dealloc(r, small);
            // More than it may keep goes back to the system.
            let big = Layout::from_size_align(2 << 20, 8).unwrap_or(layout);
            let p = a.alloc(big);
            a.dealloc(p, big);
            assert!(a.kept.load(Ordering::Relaxed) <= 1 << 20);
        }
    }
}
