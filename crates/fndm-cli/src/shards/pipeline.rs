//! The loop over patients: one after the other, or with the next one read and the last ones written meanwhile.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder};

use anyhow::Result;
use fndm::kernels::keeping_nothing;

/// What a step came to.
pub(crate) enum Next<T, D> {
    /// The next step has this.
    Step(T),
    /// There is nothing more to do.
    Done(D),
}

/// The three steps of a patient, which may run in threads of their own.
pub(crate) trait Steps<'b>: Sync {
    /// Who is examined.
    type Input: Sync + 'b;
    /// A patient that was read.
    type Read: Send;
    /// A patient that was examined.
    type Found: Send;
    /// A patient that is done.
    type Done: Send;

    /// Reads a patient.
    fn read(&self, input: &'b Self::Input) -> Result<Next<Self::Read, Self::Done>>;
    /// Runs the networks.
    fn examine(&self, read: Self::Read) -> Result<Self::Found>;
    /// Writes what was found.
    fn write(&self, found: Self::Found) -> Result<Self::Done>;
}

/// Goes through all patients, with threads where it is asked for. `after` is told of every patient when it is done, or has failed; an error
/// of its own ends the loop.
pub(crate) fn each<'b, S: Steps<'b>>(
    ahead: bool,
    steps: &S,
    inputs: &'b [S::Input],
    after: &mut dyn FnMut(&'b S::Input, Result<S::Done>) -> Result<()>,
) -> Result<()> {
    match ahead {
        true => in_threads(steps, inputs, after),
        false => in_turn(steps, inputs, after),
    }
}

/// One patient after the other.
fn in_turn<'b, S: Steps<'b>>(
    steps: &S,
    inputs: &'b [S::Input],
    after: &mut dyn FnMut(&'b S::Input, Result<S::Done>) -> Result<()>,
) -> Result<()> {
    for input in inputs {
        let done = steps.read(input).and_then(|read| match read {
            Next::Done(done) => Ok(done),
            Next::Step(read) => steps.write(steps.examine(read)?),
        });
        after(input, done)?;
    }
    Ok(())
}

/// A patient on its way from one thread to the next.
type OnTheWay<'b, I, T> = (&'b I, Result<T>);

/// What the first thread hands on, and the second.
type WasRead<'b, S> = OnTheWay<'b, Input<'b, S>, Next<<S as Steps<'b>>::Read, Done<'b, S>>>;
type WasExamined<'b, S> = OnTheWay<'b, Input<'b, S>, Next<<S as Steps<'b>>::Found, Done<'b, S>>>;
type Input<'b, S> = <S as Steps<'b>>::Input;
type Done<'b, S> = <S as Steps<'b>>::Done;

/// Most of the time of writing is waiting for the disk: one thread that does it couldn't keep up with small networks.
const WRITERS: usize = 2;

/// Reading and computing in a thread each, writing in two. A thread hands a patient on when the next one is free to take it, so at most
/// four are in memory. Where threads can't be had, one patient after the other.
fn in_threads<'b, S: Steps<'b>>(
    steps: &S,
    inputs: &'b [S::Input],
    after: &mut dyn FnMut(&'b S::Input, Result<S::Done>) -> Result<()>,
) -> Result<()> {
    let started = thread::scope(|scope| -> std::io::Result<Result<()>> {
        let (to_networks, read) = sync_channel(0);
        let (to_writer, examined) = sync_channel(0);
        let (to_end, done) = sync_channel(0);
        let examined = Arc::new(Mutex::new(examined));
        // Who waits for others is first: where one can't be had, nothing was begun, and those before it find nobody and end. Beside the
        // networks' blocks, which come again with every batch, those of reading and writing are as large as the patient.
        for _ in 0..WRITERS {
            let (examined, to_end) = (examined.clone(), to_end.clone());
            let write = move || keeping_nothing(|| write_all(steps, &examined, &to_end));
            Builder::new().spawn_scoped(scope, write)?;
        }
        // The loop below ends when the threads have let go of theirs.
        drop((examined, to_end));
        Builder::new().spawn_scoped(scope, move || examine_all(steps, &read, &to_writer))?;
        Builder::new().spawn_scoped(scope, move || {
            keeping_nothing(|| {
                // An error of `send` says that the loop has ended.
                inputs
                    .iter()
                    .try_for_each(|input| to_networks.send((input, steps.read(input))))
            })
        })?;
        Ok(done.iter().try_for_each(|(input, done)| after(input, done)))
    });
    started.unwrap_or_else(|error| {
        tell!("warning: no threads to read ahead with ({error}): one patient after the other");
        in_turn(steps, inputs, after)
    })
}

fn examine_all<'b, S: Steps<'b>>(
    steps: &S,
    read: &Receiver<WasRead<'b, S>>,
    to_writer: &SyncSender<WasExamined<'b, S>>,
) {
    for (input, read) in read {
        let examined = read.and_then(|read| match read {
            Next::Done(done) => Ok(Next::Done(done)),
            Next::Step(read) => Ok(Next::Step(steps.examine(read)?)),
        });
        if to_writer.send((input, examined)).is_err() {
            return;
        }
    }
}

fn write_all<'b, S: Steps<'b>>(
    steps: &S,
    examined: &Mutex<Receiver<WasExamined<'b, S>>>,
    to_end: &SyncSender<OnTheWay<'b, S::Input, S::Done>>,
) {
    loop {
        let next = examined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((input, examined)) = next else { return };
        let done = examined.and_then(|examined| match examined {
            Next::Done(done) => Ok(done),
            Next::Step(found) => steps.write(found),
        });
        if to_end.send((input, done)).is_err() {
            return;
        }
    }
}
