//! Processes that train one network together.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use crate::{Error, Result, StopFlag};

/// How often the first process asks the others, while they wait for it, whether one was told to stop.
const ASK: Duration = Duration::from_millis(100);
/// Most values of one message of a broadcast.
const MESSAGE: usize = 1 << 24;

/// Processes that train one network together, each on its part of every batch.
///
/// The config's batch is the joined one: it is divided among the processes, in the order of their ranks. So the same config
/// and seed give the same weights, within rounding, on any number of processes, and a run may go on with another number.
/// Every process calls the same operations in the same order.
pub trait Group: Debug + Send + Sync {
    /// This process, from 0. The process of rank 0 writes the files.
    fn rank(&self) -> usize;

    /// How many processes there are, at least 1.
    fn size(&self) -> usize;

    /// Replaces `values` by their sum over all processes, with the same bits in every process.
    ///
    /// # Errors
    /// [`Error::Group`] when the processes can't reach each other.
    fn sum(&self, values: &mut [f32]) -> Result<()>;

    /// The values of all processes, those of rank 0 first. All processes give the same number of them.
    ///
    /// # Errors
    /// As [`Group::sum`].
    fn gather(&self, values: &[f64]) -> Result<Vec<f64>>;
}

/// One process that trains alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Group for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>> {
        Ok(values.to_vec())
    }
}

/// Whether `flag` is set in any process.
pub(crate) fn any(group: &dyn Group, flag: bool) -> Result<bool> {
    let all = group.gather(&[f64::from(u8::from(flag))])?;
    Ok(all.iter().any(|&set| set > 0.0))
}

/// The result of this process, or an error where another process has one: so none waits for one that has ended. All processes
/// call this alike, after each part of the work that may fail in one of them alone.
///
/// # Errors
/// This process' own, or [`Error::Group`] where another one has an error.
pub fn agree<R, E: From<Error>>(group: &dyn Group, result: Result<R, E>) -> Result<R, E> {
    if group.size() == 1 {
        return result;
    }
    let failed = any(group, result.is_err())?;
    match result {
        Ok(_) if failed => Err(Error::Group {
            reason: "another process failed; its own message says why".to_owned(),
        }
        .into()),
        result => result,
    }
}

/// What the first process tells the others while they wait for it.
const GOING_ON: f64 = 0.0;
const DONE: f64 = 1.0;
const STOPPED: f64 = 2.0;
const FAILED: f64 = 3.0;

/// Lets the first process make something that all need, while the others wait for it, and gives all of them its bytes.
///
/// `work` runs in the first process alone. Its argument says whether to stop, by the stop flag of any process, and is to be asked
/// often; where it said so, `work` may give none, and then all get none.
///
/// # Errors
/// In the first process that of `work`, in the others [`Error::Group`]; all when the processes can't reach each other.
pub fn made_by_the_first<E: From<Error>>(
    group: &dyn Group,
    stop: &StopFlag,
    work: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<Option<Vec<u8>>, E>,
) -> Result<Option<Vec<u8>>, E> {
    if group.size() == 1 {
        return work(&mut || stop.is_set());
    }
    if group.rank() > 0 {
        return Ok(wait(group, stop)?);
    }
    let mut unreachable = None;
    let mut stopped = false;
    let mut asked = Instant::now();
    let made = work(&mut || {
        stopped |= stop.is_set();
        if !stopped && asked.elapsed() >= ASK {
            match told(group, GOING_ON) {
                Ok(any) => stopped = any,
                Err(error) => {
                    unreachable = Some(error);
                    stopped = true;
                }
            }
            asked = Instant::now();
        }
        stopped
    });
    if let Some(error) = unreachable {
        return Err(error.into());
    }
    let word = match &made {
        Ok(Some(_)) => DONE,
        Ok(None) => STOPPED,
        Err(_) => FAILED,
    };
    told(group, word)?;
    let made = made?;
    if let Some(bytes) = &made {
        group.gather(&[bytes.len() as f64])?;
        broadcast(group, bytes.len(), bytes)?;
    }
    Ok(made)
}

/// The first process' word to all; whether any of the others was told to stop.
fn told(group: &dyn Group, word: f64) -> Result<bool> {
    let all = group.gather(&[word])?;
    Ok(all.iter().skip(1).any(|&asks| asks > 0.0))
}

/// The part of a process that isn't the first.
fn wait(group: &dyn Group, stop: &StopFlag) -> Result<Option<Vec<u8>>> {
    loop {
        let all = group.gather(&[f64::from(u8::from(stop.is_set()))])?;
        let word = all.first().copied().unwrap_or(FAILED);
        if word == DONE {
            let lengths = group.gather(&[0.0])?;
            let length = lengths.first().copied().unwrap_or_default() as usize;
            return Ok(Some(broadcast(group, length, &[])?));
        }
        if word == STOPPED {
            return Ok(None);
        }
        if word == FAILED {
            return Err(Error::Group {
                reason: "process 0 failed; its own message says why".to_owned(),
            });
        }
    }
}

/// The bytes of the first process, in all. Two bytes travel as one whole number, which a sum with zeros leaves exact.
fn broadcast(group: &dyn Group, length: usize, own: &[u8]) -> Result<Vec<u8>> {
    let mut all = Vec::with_capacity(length);
    for start in (0..length).step_by(2 * MESSAGE) {
        let count = (length - start).min(2 * MESSAGE);
        let mut values = vec![0.0_f32; count.div_ceil(2)];
        if let Some(part) = own.get(start..start + count) {
            for (value, pair) in values.iter_mut().zip(part.chunks(2)) {
                let high = pair.get(1).copied().unwrap_or_default();
                *value = f32::from(u16::from_le_bytes([pair[0], high]));
            }
        }
        group.sum(&mut values)?;
        all.extend(values.iter().flat_map(|&v| (v as u16).to_le_bytes()));
        all.truncate(start + count);
    }
    Ok(all)
}

/// Fails unless all processes have the same `words`.
pub(crate) fn same(group: &dyn Group, what: &str, words: &[u32]) -> Result<()> {
    if group.size() == 1 {
        return Ok(());
    }
    let own: Vec<f64> = words.iter().map(|&word| f64::from(word)).collect();
    let all = group.gather(&own)?;
    match all.chunks(own.len().max(1)).position(|other| other != own) {
        Some(rank) => Err(Error::Group {
            reason: format!(
                "expected the same {what} in all processes, that of rank {rank} differs"
            ),
        }),
        None => Ok(()),
    }
}
