//! Scratch memory that is used again, pointers that threads share, and outputs that aren't cleared first.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Mutex;

/// Memory kept for later calls, at most this much.
const KEPT_BYTES: usize = 512 << 20;

static POOL: Mutex<Vec<Block>> = Mutex::new(Vec::new());

/// 64-byte aligned memory, content unspecified.
struct Block {
    ptr: NonNull<f32>,
    len: usize,
}

// SAFETY: a block owns its memory; nothing is bound to a thread.
unsafe impl Send for Block {}
// SAFETY: shared blocks are only read; writing goes through raw pointers, whose users answer for it.
unsafe impl Sync for Block {}

impl Block {
    fn layout(len: usize) -> Layout {
        match Layout::array::<f32>(len).and_then(|l| l.align_to(64)) {
            Ok(layout) => layout,
            // More than the address space: as out of memory as it gets.
            Err(_) => handle_alloc_error(Layout::new::<f32>()),
        }
    }

    /// Memory of its own for `len` floats.
    fn new(len: usize) -> Self {
        let layout = Self::layout(len.max(1));
        // SAFETY: the layout isn't empty.
        let ptr = unsafe { alloc(layout) }.cast::<f32>();
        let Some(ptr) = NonNull::new(ptr) else {
            handle_alloc_error(layout)
        };
        // A kernel may read lanes that it never uses, so every float must hold some value.
        // SAFETY: `len` floats were just allocated.
        unsafe { ptr.as_ptr().write_bytes(0, len.max(1)) };
        Self {
            ptr,
            len: len.max(1),
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `Block::new` with this very layout.
        unsafe { dealloc(self.ptr.as_ptr().cast(), Self::layout(self.len)) };
    }
}

/// A scratch buffer from the pool; goes back when dropped. Its content is whatever was there before.
pub(crate) struct Scratch {
    block: Option<Block>,
    /// What was asked for: in debug builds a mark behind it shows a write past the end.
    asked: usize,
}

/// Floats of the mark behind the end in debug builds, and their value.
const GUARD: usize = if cfg!(debug_assertions) { 64 } else { 0 };
#[cfg(debug_assertions)]
const MARK: f32 = -7.062_5e30;

/// Writes the mark.
#[cfg(debug_assertions)]
fn set_mark(p: *mut f32) {
    // SAFETY: the caller has allocated `GUARD` floats from `p` on.
    unsafe { std::slice::from_raw_parts_mut(p, GUARD) }.fill(MARK);
}

/// Panics when the mark has changed.
#[cfg(debug_assertions)]
fn check_mark(p: *const f32) {
    // SAFETY: as for `set_mark`.
    let mark = unsafe { std::slice::from_raw_parts(p, GUARD) };
    let whole = mark.iter().all(|v| v.to_bits() == MARK.to_bits());
    debug_assert!(whole, "a kernel wrote past the end of its buffer");
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        Self::of(Self::find(len + GUARD), len)
    }

    /// A buffer that is meant to stay, of no more than this size.
    pub(crate) fn to_keep(len: usize) -> Self {
        Self::of(Block::new(len + GUARD), len)
    }

    fn of(block: Block, len: usize) -> Self {
        #[cfg(debug_assertions)]
        // SAFETY: the block holds `len + GUARD` floats.
        set_mark(unsafe { block.ptr.as_ptr().add(len) });
        Self {
            block: Some(block),
            asked: len,
        }
    }

    fn find(len: usize) -> Block {
        let len = len.max(1024).next_multiple_of(1024);
        if let Ok(mut pool) = POOL.lock() {
            // The smallest that fits without wasting more than half.
            let best = (0..pool.len())
                .filter(|&i| pool[i].len >= len && pool[i].len <= 2 * len)
                .min_by_key(|&i| pool[i].len);
            if let Some(i) = best {
                return pool.swap_remove(i);
            }
        }
        Block::new(len)
    }

    /// The floats that were asked for.
    pub(crate) fn shared(&self) -> Shared {
        Shared {
            start: match &self.block {
                Some(b) => b.ptr.as_ptr(),
                None => std::ptr::null_mut(),
            },
            len: self.asked,
        }
    }

    /// As a pointer to all of them.
    pub(crate) fn ptr(&self) -> *mut f32 {
        self.shared().all()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        if let Some(block) = &self.block {
            // SAFETY: the block holds `asked + GUARD` floats.
            check_mark(unsafe { block.ptr.as_ptr().add(self.asked) });
        }
        if let (Some(block), Ok(mut pool)) = (self.block.take(), POOL.lock()) {
            let kept: usize = pool.iter().map(|b| b.len * 4).sum();
            if kept + block.len * 4 <= KEPT_BYTES {
                pool.push(block);
            }
        }
    }
}

/// Floats that several threads write, each in its own range. Debug builds check every range that is handed out.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    start: *mut f32,
    len: usize,
}

// SAFETY: every use writes disjoint ranges from different tasks, or only reads.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The floats of a slice that nobody else touches while this is in use.
    pub(crate) fn new(floats: &mut [f32]) -> Self {
        Self {
            start: floats.as_mut_ptr(),
            len: floats.len(),
        }
    }

    /// All of the floats.
    #[inline(always)]
    pub(crate) fn all(self) -> *mut f32 {
        self.start
    }

    /// `len` floats from `offset` on.
    ///
    /// # Safety
    /// They must lie within.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize, len: usize) -> *mut f32 {
        // SAFETY: the caller's contract.
        unsafe { self.part(offset, len).start }
    }

    /// As [`at`](Self::at), still with its length.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(crate) unsafe fn part(self, offset: usize, len: usize) -> Self {
        debug_assert!(offset <= self.len && len <= self.len - offset);
        Self {
            // SAFETY: the caller's contract.
            start: unsafe { self.start.add(offset) },
            len,
        }
    }
}

/// Floats that threads only read. Debug builds check every range that is handed out.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a>(pub(crate) &'a [f32]);

impl Input<'_> {
    /// All of the floats.
    #[inline(always)]
    pub(crate) fn all(&self) -> *const f32 {
        self.0.as_ptr()
    }

    /// `len` floats from `offset` on.
    #[inline(always)]
    pub(crate) fn at(&self, offset: usize, len: usize) -> *const f32 {
        debug_assert!(offset <= self.0.len() && len <= self.0.len() - offset);
        self.0[offset..].as_ptr()
    }
}

/// A vector of `len` floats that `fill` writes in full.
///
/// # Safety
/// `fill` must write each of the `len` floats.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(Shared)) -> Vec<f32> {
    let mut v = Vec::<f32>::with_capacity(len + GUARD);
    #[cfg(debug_assertions)]
    {
        v.spare_capacity_mut()
            .iter_mut()
            .for_each(|x| _ = x.write(f32::NAN));
        // SAFETY: the capacity is `len + GUARD`.
        set_mark(unsafe { v.as_mut_ptr().add(len) });
    }
    fill(Shared {
        start: v.as_mut_ptr(),
        len,
    });
    #[cfg(debug_assertions)]
    // SAFETY: as above.
    check_mark(unsafe { v.as_ptr().add(len) });
    // SAFETY: capacity is `len`, and `fill` wrote every element.
    unsafe { v.set_len(len) };
    v
}
