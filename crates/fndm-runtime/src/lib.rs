#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! | | |
//! | --- | --- |
//! | [`streamed`] | a large vector, made by all threads a chunk at a time and written past the caches |
//! | [`ask_for_huge_pages`] | fewer page faults in memory that is about to be filled |
//! | [`parallel`] | tasks on rayon's threads and the caller's own |
//! | [`side_by_side`] | long tasks at the same time, each of which has parallel work of its own |
//! | [`CachingAlloc`], [`keeping_nothing`] | a global allocator that keeps large blocks for the next call; and work that it keeps nothing of |
//!
//! The interface is safe. `unsafe` is inside: raw memory that threads fill in turns, and stores past the caches.

#![allow(unsafe_code)]

mod alloc;
mod huge;
mod parallel;
mod placement;
mod side_by_side;
mod stream;

pub use alloc::{CachingAlloc, keeping_nothing};
pub use huge::ask_for_huge_pages;
pub use parallel::parallel;
pub use side_by_side::side_by_side;
pub use stream::{Number, streamed};
