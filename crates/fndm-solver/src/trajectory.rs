//! The states of a run, one step at a time.

use candle_core::Tensor;

use crate::{Result, Stepper};

/// Iterator over the states after each step of a run; made by [`Solver::trajectory`](crate::Solver::trajectory).
#[derive(Debug)]
pub struct Trajectory<M> {
    /// `None` once an evaluation has failed.
    stepper: Option<Stepper>,
    model: M,
}

impl<M> Trajectory<M> {
    pub(crate) fn new(stepper: Stepper, model: M) -> Self {
        Self {
            stepper: Some(stepper),
            model,
        }
    }
}

impl<M> Iterator for Trajectory<M>
where
    M: FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor>,
{
    type Item = Result<Tensor>;

    fn next(&mut self) -> Option<Self::Item> {
        let stepper = self.stepper.as_mut()?;
        let done = stepper.steps_done();
        while stepper.remaining() > 0 {
            if let Err(error) = stepper.evaluate(&mut self.model) {
                self.stepper = None;
                return Some(Err(error));
            }
            if stepper.steps_done() > done {
                return Some(Ok(stepper.x().clone()));
            }
        }
        None
    }
}
