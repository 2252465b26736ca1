//! Processes that train one network together.

use std::fmt::Debug;

use crate::{Error, Result};

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

/// The result of this process, or an error where another process has one: so none waits for one that has ended.
pub(crate) fn agree<R, E: From<Error>>(group: &dyn Group, result: Result<R, E>) -> Result<R, E> {
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
