//! The loop over patients: one after the other, or with the next one read and the last ones written meanwhile.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use super::input::Input;
use super::work::{Done, Found, Read, Work};

/// Told of every patient when it is done, or has failed; an error of its own ends the loop.
pub(super) type After<'a, 'b> = &'a mut dyn FnMut(&'b Input, Result<Done>) -> Result<()>;

pub(super) fn each<'b>(work: &Work<'_>, inputs: &'b [Input], after: After<'_, 'b>) -> Result<()> {
    match work.options.out_of_core {
        true => in_threads(work, inputs, after),
        false => in_turn(work, inputs, after),
    }
}

/// One patient after the other.
fn in_turn<'b>(work: &Work<'_>, inputs: &'b [Input], after: After<'_, 'b>) -> Result<()> {
    for input in inputs {
        let done = work.read(input).and_then(|read| match read {
            Read::DoneBefore => Ok(Done::Before),
            Read::Ready(ready) => work.write(work.examine(*ready)?),
        });
        after(input, done)?;
    }
    Ok(())
}

/// A patient on its way from one thread to the next.
type Step<'b, T> = (&'b Input, Result<T>);

/// What the second thread hands on.
enum Examined<'b> {
    DoneBefore,
    Found(Box<Found<'b>>),
}

/// Most of the time of writing is waiting for the disk: one thread that does it couldn't keep up with small networks.
const WRITERS: usize = 2;

/// Reading and computing in a thread each, writing in two. A thread hands a patient on when the next one is free to take it, so at most
/// four are in memory.
fn in_threads<'b>(work: &Work<'_>, inputs: &'b [Input], after: After<'_, 'b>) -> Result<()> {
    thread::scope(|scope| {
        let (to_networks, read) = sync_channel(0);
        let (to_writer, examined) = sync_channel(0);
        let (to_end, done) = sync_channel(0);
        scope.spawn(move || {
            // An error of `send` says that the loop has ended.
            inputs
                .iter()
                .try_for_each(|input| to_networks.send((input, work.read(input))))
        });
        scope.spawn(move || examine_all(work, &read, &to_writer));
        let examined = Arc::new(Mutex::new(examined));
        for _ in 0..WRITERS {
            let (examined, to_end) = (examined.clone(), to_end.clone());
            scope.spawn(move || write_all(work, &examined, &to_end));
        }
        // The loop below ends when the threads have let go of theirs.
        drop((examined, to_end));
        done.iter().try_for_each(|(input, done)| after(input, done))
    })
}

fn examine_all<'b>(
    work: &Work<'_>,
    read: &Receiver<Step<'b, Read<'b>>>,
    to_writer: &SyncSender<Step<'b, Examined<'b>>>,
) {
    for (input, read) in read {
        let examined = read.and_then(|read| match read {
            Read::DoneBefore => Ok(Examined::DoneBefore),
            Read::Ready(ready) => Ok(Examined::Found(Box::new(work.examine(*ready)?))),
        });
        if to_writer.send((input, examined)).is_err() {
            return;
        }
    }
}

fn write_all<'b>(
    work: &Work<'_>,
    examined: &Mutex<Receiver<Step<'b, Examined<'b>>>>,
    to_end: &SyncSender<Step<'b, Done>>,
) {
    loop {
        let next = examined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((input, examined)) = next else { return };
        let done = examined.and_then(|examined| match examined {
            Examined::DoneBefore => Ok(Done::Before),
            Examined::Found(found) => work.write(*found),
        });
        if to_end.send((input, done)).is_err() {
            return;
        }
    }
}
