use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::{Error, Result};

/// A thread that makes batches `first, first + 1, ...` ahead of their use, at most `depth` of them.
///
/// Each batch is made from its number alone, so the thread's timing cannot change what is learnt.
#[derive(Debug)]
pub(crate) struct Prefetch<T> {
    ready: Option<Receiver<Result<T>>>,
    thread: Option<JoinHandle<()>>,
    next: u64,
}

impl<T: Send + 'static> Prefetch<T> {
    pub(crate) fn new(
        first: u64,
        depth: usize,
        mut make: impl FnMut(u64) -> Result<T> + Send + 'static,
    ) -> Self {
        let (sender, ready): (SyncSender<Result<T>>, _) = sync_channel(depth.max(1));
        let thread = std::thread::spawn(move || {
            for index in first.. {
                let batch = make(index);
                let failed = batch.is_err();
                // The receiver is gone when the trainer is.
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self {
            ready: Some(ready),
            thread: Some(thread),
            next: first,
        }
    }

    /// The next batch, in order.
    pub(crate) fn next(&mut self) -> Result<T> {
        let index = self.next;
        self.next += 1;
        let received = self.ready.as_ref().and_then(|ready| ready.recv().ok());
        received.unwrap_or_else(|| {
            Err(Error::Batch {
                index,
                reason: "the preparing thread has ended".to_owned(),
            })
        })
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // Closing the channel first lets a thread that waits to send go on and end.
        drop(self.ready.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
