use fndm_solver::{
    Algorithm, Grid, LowerOrderFinal, Method, SecondOrder, SolverConfig, ThirdOrder, UniPcForm,
};
use serde::{Deserialize, Serialize};

/// Which solver takes the steps of both directions: what [`SolverConfig`] holds beside what follows from the model and from the
/// rest of [`DetectConfig`](crate::DetectConfig). The default is the paper's, multistep DPM-Solver++ with steps uniform in time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SolverChoice {
    /// The formula family.
    pub algorithm: Algorithm,
    /// Multistep or singlestep.
    pub method: Method,
    /// How the times are spread between clean images and `noise_level`.
    pub grid: Grid,
    /// Lower orders at the end of multistep runs.
    pub lower_order_final: LowerOrderFinal,
    /// Form of order 2.
    pub second_order: SecondOrder,
    /// Form of multistep order 3.
    pub third_order: ThirdOrder,
    /// Form of `UniPC`'s steps.
    pub uni_pc_form: UniPcForm,
}

impl SolverChoice {
    /// The solver's config for so many steps of this order.
    pub(crate) fn config(&self, order: usize, steps: usize) -> SolverConfig {
        SolverConfig {
            algorithm: self.algorithm,
            method: self.method,
            grid: self.grid.clone(),
            lower_order_final: self.lower_order_final,
            second_order: self.second_order,
            third_order: self.third_order,
            uni_pc_form: self.uni_pc_form,
            ..SolverConfig::dpm_solver_pp(order, steps)
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
