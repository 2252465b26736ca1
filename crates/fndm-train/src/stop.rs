use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that asks a training loop to save and end; clones share it.
///
/// A program sets it from its handler of Ctrl-C and SIGTERM.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that isn't set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. Safe to call from any thread, any number of times.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
