//! The states of a run, one step at a time.

use candle_core::Tensor;

use crate::{Answer, Error, Query, Stepper};

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

impl<E, A, M> Iterator for Trajectory<M>
where
    E: From<Error>,
    A: Into<Answer>,
    M: FnMut(Query<'_>) -> Result<A, E>,
{
    type Item = Result<Tensor, E>;

    fn next(&mut self) -> Option<Self::Item> {
        let stepper = self.stepper.as_mut()?;
        let done = stepper.steps_done();
        while let Some(query) = stepper.query() {
            let answer = (self.model)(query);
            if let Err(error) = answer.and_then(|answer| Ok(stepper.advance(answer)?)) {
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
