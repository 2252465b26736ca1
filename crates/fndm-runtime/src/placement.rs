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
    use std::sync::Mutex;

    /// With more processors than this, some other is found awake.
    const FEW: i32 = 8;

    /// The threads that [`apart`] places.
    static THREADS: Mutex<Vec<pid_t>> = Mutex::new(Vec::new());

    /// Has this thread placed from now on, whenever it is woken.
    pub(crate) fn enter() {
        thread_local!(static ENTERED: Cell<bool> = const { Cell::new(false) });
        if !ENTERED.replace(true)
            && let Ok(mut threads) = THREADS.lock()
        {
            // SAFETY: nothing is asked of the caller.
            threads.push(unsafe { libc::gettid() });
        }
    }

    /// Calls `wake`, which wakes one of the threads, none of which may start on this processor meanwhile.
    pub(crate) fn apart(wake: impl FnOnce()) {
        let Ok(threads) = THREADS.lock() else {
            return wake();
        };
        let restricted: Vec<_> = threads.iter().filter_map(|t| leave_here(*t)).collect();
        wake();
        for (thread, allowed) in restricted {
            set(thread, &allowed);
        }
    }

    /// Takes this processor from those that `thread` may run on, if there is another; gives what it had.
    fn leave_here(thread: pid_t) -> Option<(pid_t, cpu_set_t)> {
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
        set(thread, &others).then_some((thread, allowed))
    }

    fn set(thread: pid_t, allowed: &cpu_set_t) -> bool {
        // SAFETY: the set is as large as the call is told.
        unsafe { sched_setaffinity(thread, size_of::<cpu_set_t>(), allowed) == 0 }
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    pub(crate) fn enter() {}

    pub(crate) fn apart(wake: impl FnOnce()) {
        wake();
    }
}
