//! Waking threads on other processors than the caller's.
//!
//! On a virtual machine, Linux takes an idle processor for one that the host has taken away, and so puts a thread that is woken on
//! the processor of the thread that wakes it, which goes on computing: the one that was to help waits for milliseconds.

pub(crate) use system::{apart, enter};

#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use libc::{
        CPU_CLR, CPU_COUNT, CPU_ISSET, CPU_SETSIZE, cpu_set_t, pid_t, sched_getaffinity,
        sched_getcpu, sched_setaffinity,
    };
    use std::cell::Cell;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// With more processors than this, some other is found awake.
    const FEW: i32 = 8;

    /// The threads that [`apart`] places.
    static THREADS: Mutex<Vec<pid_t>> = Mutex::new(Vec::new());

    fn threads() -> MutexGuard<'static, Vec<pid_t>> {
        // A panic while it is held leaves the list as it was.
        THREADS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this thread placed from now on, whenever it is woken.
    pub(crate) fn enter() {
        thread_local!(static ENTERED: Cell<bool> = const { Cell::new(false) });
        if !ENTERED.replace(true) {
            // SAFETY: nothing is asked of the caller.
            threads().push(unsafe { libc::gettid() });
        }
    }

    /// A thread that may not run on some processor, until this is dropped: whatever happens, it gets back what it had.
    struct Away {
        thread: pid_t,
        allowed: cpu_set_t,
    }

    impl Drop for Away {
        fn drop(&mut self) {
            set(self.thread, &self.allowed);
        }
    }

    /// Calls `wake`, which wakes one of the threads, none of which may start on this processor meanwhile.
    pub(crate) fn apart(wake: impl FnOnce()) {
        // Held until all have back what they had: another caller would take the rest for all that there is.
        let threads = threads();
        let _away: Vec<Away> = threads.iter().filter_map(|t| leave_here(*t)).collect();
        wake();
    }

    /// Takes this processor from those that `thread` may run on, if there is another.
    fn leave_here(thread: pid_t) -> Option<Away> {
        // SAFETY: a set of bits, all of them 0.
        let mut allowed: cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is as large as the call is told.
        let failed = unsafe { sched_getaffinity(thread, size_of::<cpu_set_t>(), &raw mut allowed) };
        // SAFETY: nothing is asked of the caller.
        let here = usize::try_from(unsafe { sched_getcpu() }).ok()?;
        // SAFETY: `here` is checked to be in the set.
        let few = unsafe {
            failed == 0
                && here < CPU_SETSIZE as usize
                && CPU_ISSET(here, &allowed)
                && (2..=FEW).contains(&CPU_COUNT(&allowed))
        };
        if !few {
            return None;
        }
        let mut others = allowed;
        // SAFETY: as above.
        unsafe { CPU_CLR(here, &mut others) };
        set(thread, &others).then_some(Away { thread, allowed })
    }

    fn set(thread: pid_t, allowed: &cpu_set_t) -> bool {
        // SAFETY: the set is as large as the call is told.
        unsafe { sched_setaffinity(thread, size_of::<cpu_set_t>(), allowed) == 0 }
    }

    #[cfg(test)]
    mod tests {
        use std::panic::{AssertUnwindSafe, catch_unwind};

        use super::*;

        /// How many processors this thread may run on.
        fn allowed() -> i32 {
            // SAFETY: a set of bits, all of them 0.
            let mut set: cpu_set_t = unsafe { std::mem::zeroed() };
            // SAFETY: the set is as large as the call is told; 0 is the calling thread.
            unsafe {
                assert_eq!(
                    sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut set),
                    0
                );
                CPU_COUNT(&set)
            }
        }

        #[test]
        fn a_thread_gets_its_processors_back_also_after_a_panic() {
            enter();
            let settled = || {
                let _nobody_places = threads();
                allowed()
            };
            let before = settled();
            let mut meanwhile = before;
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                apart(|| {
                    meanwhile = allowed();
                    panic!("a test");
                });
            }));
            assert!(panicked.is_err());
            assert_eq!(settled(), before);
            // Where there is only one, or very many, nothing is taken.
            let expected = if (2..=FEW).contains(&before) {
                before - 1
            } else {
                before
            };
            assert_eq!(meanwhile, expected);
        }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    pub(crate) fn enter() {}

    pub(crate) fn apart(wake: impl FnOnce()) {
        wake();
    }
}
