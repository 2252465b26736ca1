//! Long tasks at the same time, each of which has parallel work of its own.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use rayon::Scope;

thread_local! {
    /// Whether this thread is within a task.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Takes the mark off again, also where a task panics.
struct Within;

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(false);
    }
}

/// Work for a thread that isn't within a task. One that waits within a task does rayon's other work meanwhile: begun there, a task would
/// meet what the first one has open in its thread, a tape or a lock, and the first could go on only when it ends. It is handed on.
fn spawn_apart<'s>(scope: &Scope<'s>, work: impl FnOnce() + Send + 's) {
    scope.spawn(move |scope| {
        if WITHIN.get() {
            std::thread::yield_now();
            return spawn_apart(scope, work);
        }
        WITHIN.set(true);
        let _within = Within;
        work();
    });
}

/// `task(i, tell)` for each i below `tasks`, at most `at_once` at a time, in rayon's threads: the results in order. What a task hands to
/// `tell` comes to `hear`, in the caller's thread.
///
/// This is for tasks of milliseconds and more. Threads wait for each other once at the end, and not at each of the short steps that a
/// task is made of; those who have none left help with the steps of the others, as far as these are rayon's or
/// [`parallel`](crate::parallel)'s.
///
/// # Panics
/// When a task does, once all are done.
///
/// ```
/// let mut heard = 0;
/// let squares = fndm_runtime::side_by_side(5, 2, |i, tell| { tell(i); i * i }, |i| heard += i);
/// assert_eq!((squares, heard), (vec![0, 1, 4, 9, 16], 10));
/// ```
pub fn side_by_side<R: Send, M: Send>(
    tasks: usize,
    at_once: usize,
    task: impl Fn(usize, &dyn Fn(M)) -> R + Sync,
    mut hear: impl FnMut(M),
) -> Vec<R> {
    let workers = rayon::current_num_threads().min(at_once).min(tasks);
    // A thread of the pool that waited for what it hears could be the one that is to do the task.
    let inside = rayon::current_thread_index().is_some();
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(tasks));
    let work = |tell: &dyn Fn(M)| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= tasks {
                break;
            }
            let result = task(at, tell);
            // A panic of another task leaves the list as it was.
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((at, result));
        }
    };
    if workers <= 1 || inside {
        let hear = std::cell::RefCell::new(hear);
        work(&|message| (hear.borrow_mut())(message));
    } else {
        let (sender, messages) = channel();
        rayon::in_place_scope(|scope| {
            for _ in 0..workers {
                let (sender, work) = (sender.clone(), &work);
                // Nobody hears what is said after a panic.
                spawn_apart(scope, move || work(&|message| _ = sender.send(message)));
            }
            drop(sender);
            messages.into_iter().for_each(&mut hear);
        });
    }
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    use super::*;
    use crate::parallel;

    /// In a pool of its own, from outside of it as a program's main thread is of rayon's.
    fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(work)
    }

    #[test]
    fn results_are_in_order_and_messages_come_to_the_caller() {
        for (tasks, at_once) in [(0, 3), (1, 1), (7, 1), (7, 2), (50, 9)] {
            let caller = thread::current().id();
            let mut heard = vec![0; tasks];
            let task = |i: usize, tell: &dyn Fn(usize)| {
                tell(i);
                let sum = AtomicUsize::new(0);
                parallel(100, |j| _ = sum.fetch_add(i * j, Ordering::Relaxed));
                tell(i);
                sum.into_inner()
            };
            let found = side_by_side(tasks, at_once, task, |i| {
                assert_eq!(thread::current().id(), caller);
                heard[i] += 1;
            });
            let expected: Vec<usize> = (0..tasks).map(|i| i * 4950).collect();
            assert_eq!(found, expected);
            assert!(heard.iter().all(|&n| n == 2), "{heard:?}");
        }
    }

    #[test]
    fn no_more_run_than_asked_for_also_inside_of_a_pool() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let task = |i: usize, _: &dyn Fn(())| {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(std::time::Duration::from_millis(1));
            running.fetch_sub(1, Ordering::SeqCst);
            i
        };
        let run = |at_once| side_by_side(20, at_once, task, |()| {});
        assert_eq!(run(1), (0..20).collect::<Vec<_>>());
        assert_eq!(most.load(Ordering::SeqCst), 1);
        run(2);
        assert!(most.load(Ordering::SeqCst) <= 2);
        // A pool's only thread mustn't wait for another.
        assert_eq!(with_threads(1, || run(4)), (0..20).collect::<Vec<_>>());
    }

    /// A thread that waits for a part of its task takes other work, but no other task.
    #[test]
    fn no_task_begins_within_another() {
        thread_local! {
            static OPEN: Cell<bool> = const { Cell::new(false) };
        }
        for _ in 0..30 {
            let task = |_: usize, _: &dyn Fn(())| {
                assert!(!OPEN.replace(true), "a task within a task");
                for _ in 0..3 {
                    rayon::scope(|scope| {
                        for _ in 0..4 {
                            scope.spawn(|_| thread::sleep(std::time::Duration::from_micros(300)));
                        }
                    });
                }
                OPEN.set(false);
            };
            side_by_side(4, 4, task, |()| {});
        }
    }

    #[test]
    fn a_panic_comes_back() {
        for at_once in [1, 2] {
            let task = |i: usize, tell: &dyn Fn(usize)| {
                tell(i);
                assert_ne!(i, 3, "task 3");
            };
            let result = catch_unwind(AssertUnwindSafe(|| side_by_side(6, at_once, task, |_| {})));
            let message = result
                .err()
                .and_then(|e| e.downcast::<String>().ok())
                .unwrap();
            assert!(message.contains("task 3"), "{message}");
        }
    }
}
