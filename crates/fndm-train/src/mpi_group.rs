//! Processes that talk by MPI.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::collective::SystemOperation;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives};
use mpi::{Threading, initialize_with_threading};

use crate::{Error, Group, Result};

/// Most values in one message: MPI counts them in 32 bits.
const MOST: usize = 1 << 28;

/// All processes that `mpirun` or Slurm's `srun` has started for this program (cargo feature `mpi`).
///
/// A process that ends early leaves the others waiting: where an error is not one that all share, end with
/// [`MpiGroup::abort`].
pub struct MpiGroup {
    rank: usize,
    size: usize,
    /// MPI ends when it is dropped. One thread at a time may talk.
    universe: Mutex<Universe>,
}

impl MpiGroup {
    /// Starts MPI. Once in the life of a process.
    ///
    /// # Errors
    /// [`Error::Group`] when MPI was started before.
    pub fn new() -> Result<Self> {
        let (universe, _) =
            initialize_with_threading(Threading::Serialized).ok_or_else(|| Error::Group {
                reason: "MPI was started before in this process".to_owned(),
            })?;
        let world = universe.world();
        Ok(Self {
            rank: world.rank().unsigned_abs() as usize,
            size: world.size().unsigned_abs() as usize,
            universe: Mutex::new(universe),
        })
    }

    /// Ends all processes at once, with this exit status.
    pub fn abort(&self, status: i32) -> ! {
        self.world().1.abort(status)
    }

    /// The turn to talk, and whom to.
    fn world(&self) -> (MutexGuard<'_, Universe>, SimpleCommunicator) {
        let universe = self.universe.lock().unwrap_or_else(PoisonError::into_inner);
        let world = universe.world();
        (universe, world)
    }
}

impl std::fmt::Debug for MpiGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MpiGroup")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl Drop for MpiGroup {
    fn drop(&mut self) {
        // The others wait for a process that panics, and the end of MPI would wait for them.
        if std::thread::panicking() {
            self.abort(1);
        }
    }
}

impl Group for MpiGroup {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn sum(&self, values: &mut [f32]) -> Result<()> {
        let (_turn, world) = self.world();
        let own = values.to_vec();
        for (own, sum) in own.chunks(MOST).zip(values.chunks_mut(MOST)) {
            world.all_reduce_into(own, sum, SystemOperation::sum());
        }
        Ok(())
    }

    fn gather(&self, values: &[f64]) -> Result<Vec<f64>> {
        let (_turn, world) = self.world();
        let mut all = vec![0.0; values.len() * self.size];
        world.all_gather_into(values, &mut all[..]);
        Ok(all)
    }
}
