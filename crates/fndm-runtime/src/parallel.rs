//! Tasks on rayon's threads and on the caller's own.
//!
//! Rayon has a caller from outside its pool sleep until the pool is done. That is two wake-ups a call, a third of the time
//! of a pass over a few megabytes. Here the caller works too, and threads that come when all is done are not waited for.
//!
//! A network is hundreds of short calls in a row. Rayon's threads fall asleep within about 20 us of the last task, and
//! waking one takes as long again, or, where the system puts it on the caller's processor, longer than the call. So a thread
//! that has helped stays awake for a moment, and does rayon's other work meanwhile.

use crate::placement::{apart, enter};
use rayon::prelude::*;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// `task(i)` for each i below `tasks`, in any order, on rayon's threads and the caller's own.
///
/// # Panics
/// When a task does, once all threads are done.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// let sum = AtomicUsize::new(0);
/// fndm_runtime::parallel(10, |i| _ = sum.fetch_add(i, Ordering::Relaxed));
/// assert_eq!(sum.into_inner(), 45);
/// ```
pub fn parallel(tasks: usize, task: impl Fn(usize) + Sync + Send) {
    let threads = rayon::current_num_threads().min(tasks);
    if threads <= 1 {
        (0..tasks).for_each(task);
    } else if rayon::current_thread_index().is_some() {
        (0..tasks).into_par_iter().for_each(task);
    } else {
        with_helpers(tasks, threads, &task);
    }
}

/// Set in [`Job::inside`] once the caller is about to return.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// Looks at a helper's last task before the caller lets other threads have the processor.
const SPINS: usize = 10_000;
/// How long a helper stays awake without work.
const STAY: Duration = Duration::from_micros(500);

/// The jobs that callers are at work on.
static JOBS: Mutex<Vec<Arc<Job>>> = Mutex::new(Vec::new());
/// How many these are, for a look without the lock.
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// Threads that stay, or are on their way.
static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// Tasks of one thread, until others take some of them.
#[repr(align(128))]
struct Share {
    next: AtomicUsize,
    end: usize,
}

struct Job {
    /// The caller's task: alive as long as the job isn't closed.
    task: *const (dyn Fn(usize) + Sync),
    shares: Box<[Share]>,
    /// Shares that have a thread.
    joined: AtomicUsize,
    /// Helpers that may call the task, and [`CLOSED`].
    inside: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: the task is `Sync`, and `help` calls it only while the caller waits.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl Job {
    /// Works through this thread's share, then through what is left of the others'.
    ///
    /// # Safety
    /// The task must be alive.
    unsafe fn work(&self) {
        // SAFETY: the caller's contract.
        let task = unsafe { &*self.task };
        let own = self.joined.fetch_add(1, Ordering::Relaxed);
        let run = AssertUnwindSafe(|| {
            for i in 0..self.shares.len() {
                let share = &self.shares[(own + i) % self.shares.len()];
                loop {
                    let at = share.next.fetch_add(1, Ordering::Relaxed);
                    if at >= share.end {
                        break;
                    }
                    task(at);
                }
            }
        });
        if let Err(payload) = catch_unwind(run)
            && let Ok(mut panic) = self.panic.lock()
        {
            panic.get_or_insert(payload);
        }
    }

    fn help(&self) {
        let before = self.inside.fetch_add(1, Ordering::Acquire);
        if before & CLOSED == 0 {
            // SAFETY: not closed when this thread came in, so the caller waits until it has left.
            unsafe { self.work() };
        }
        self.inside.fetch_sub(1, Ordering::Release);
    }

    /// Waits for the helpers that came in.
    fn close(&self) {
        self.inside.fetch_or(CLOSED, Ordering::Relaxed);
        let mut looks = 0;
        while self.inside.load(Ordering::Acquire) != CLOSED {
            looks += 1;
            if looks < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

fn with_helpers(tasks: usize, threads: usize, task: &(dyn Fn(usize) + Sync)) {
    let share = |i: usize| Share {
        next: AtomicUsize::new(i * tasks / threads),
        end: (i + 1) * tasks / threads,
    };
    let task = std::ptr::from_ref(task);
    let job = Arc::new(Job {
        // SAFETY: the types differ in the lifetime alone, and nobody calls the task once `close` has returned.
        task: unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize) + Sync + '_),
                *const (dyn Fn(usize) + Sync + 'static),
            >(task)
        },
        shares: (0..threads).map(share).collect(),
        joined: AtomicUsize::new(0),
        inside: AtomicUsize::new(0),
        panic: Mutex::new(None),
    });
    publish(&job, threads - 1);
    // SAFETY: the task is borrowed for this call.
    unsafe { job.work() };
    withdraw(&job);
    job.close();
    let panic = job.panic.lock().map(|mut panic| panic.take());
    if let Ok(Some(payload)) = panic {
        resume_unwind(payload);
    }
}

/// Shows a job to the threads that are awake, and calls others until there are `helpers`.
fn publish(job: &Arc<Job>, helpers: usize) {
    if let Ok(mut jobs) = JOBS.lock() {
        jobs.push(job.clone());
        OPEN.store(jobs.len(), Ordering::SeqCst);
    }
    while AWAKE.load(Ordering::SeqCst) < helpers {
        AWAKE.fetch_add(1, Ordering::SeqCst);
        apart(|| rayon::spawn(stay));
    }
}

fn withdraw(job: &Arc<Job>) {
    if let Ok(mut jobs) = JOBS.lock() {
        jobs.retain(|other| !Arc::ptr_eq(other, job));
        OPEN.store(jobs.len(), Ordering::SeqCst);
    }
}

/// The newest job that still has a share without a thread.
fn find() -> Option<Arc<Job>> {
    if OPEN.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let jobs = JOBS.lock().ok()?;
    let open = |job: &&Arc<Job>| job.joined.load(Ordering::Relaxed) < job.shares.len();
    jobs.iter().rev().find(open).cloned()
}

/// A helper's stay in one of rayon's threads: it works on jobs, and on rayon's other tasks, until there were none for a while.
fn stay() {
    enter();
    let mut last = Instant::now();
    loop {
        if let Some(job) = find() {
            job.help();
            last = Instant::now();
        } else if rayon::yield_now() == Some(rayon::Yield::Executed) {
            last = Instant::now();
        } else if last.elapsed() < STAY {
            (0..20).for_each(|_| std::hint::spin_loop());
        } else {
            AWAKE.fetch_sub(1, Ordering::SeqCst);
            // A caller that counted on this thread has published its job by now.
            if find().is_none() {
                return;
            }
            AWAKE.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for tasks in [0, 1, 2, 3, 7, 100] {
            for _ in 0..if cfg!(miri) { 3 } else { 200 } {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let add = |i: usize| _ = runs[i].fetch_add(1, Ordering::Relaxed);
                with_helpers(tasks, 3, &add);
                assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 1));
                parallel(tasks, add);
                assert!(runs.iter().all(|r| r.load(Ordering::Relaxed) == 2));
            }
        }
    }

    #[test]
    fn tasks_may_have_tasks() {
        let sum = AtomicUsize::new(0);
        parallel(5, |i| {
            parallel(7, |j| _ = sum.fetch_add(10 * i + j, Ordering::Relaxed));
        });
        assert_eq!(sum.into_inner(), 10 * 10 * 7 + 21 * 5);
    }

    #[test]
    fn a_panic_comes_back_after_all_threads_are_done() {
        for failing in [0, 99] {
            let result =
                catch_unwind(|| with_helpers(100, 3, &|i| assert!(i != failing, "task {i}")));
            let message = result.err().and_then(|e| e.downcast::<String>().ok());
            assert_eq!(message.as_deref(), Some(&format!("task {failing}")));
        }
    }
}
