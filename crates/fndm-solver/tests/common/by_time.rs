use candle_core::Tensor;
use fndm_solver::{Query, Result};

/// A model that sees state, time and number of the evaluation, as one of queries.
pub(crate) fn by_time<M>(mut model: M) -> impl FnMut(Query<'_>) -> Result<Tensor>
where
    M: FnMut(&Tensor, f64, usize) -> candle_core::Result<Tensor>,
{
    move |query| Ok(model(query.x, query.model_time, query.evaluation)?)
}
