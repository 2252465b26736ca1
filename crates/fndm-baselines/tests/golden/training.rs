//! Weights of a case as variables, and a training on them.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use fndm_baselines::flows::Source;
use fndm_train::{Optimizer, OptimizerConfig};

use crate::cases::{Tensors, builder};

/// The trained part of a state, as variables.
pub(crate) struct Trained {
    map: VarMap,
    vars: Vec<(String, Var)>,
    all: Tensors,
}

impl Trained {
    /// Every f32 tensor is trained but those that `fixed` picks.
    pub(crate) fn new(all: &Tensors, fixed: impl Fn(&str) -> bool) -> Self {
        let map = VarMap::new();
        let mut vars = Vec::new();
        for (name, tensor) in all {
            if fixed(name) || tensor.dtype() != DType::F32 {
                continue;
            }
            let var = Var::from_tensor(tensor).unwrap();
            map.data().lock().unwrap().insert(name.clone(), var.clone());
            vars.push((name.clone(), var));
        }
        Self {
            map,
            vars,
            all: all.clone(),
        }
    }

    pub(crate) fn builder(&self) -> VarBuilder<'_> {
        VarBuilder::from_varmap(&self.map, DType::F32, &Device::Cpu)
    }

    /// The variables, and the rest of the state as it is.
    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            trained: self.builder(),
            fixed: builder(&self.all),
        }
    }

    /// Gradients by name; variables that the loss doesn't depend on have none.
    pub(crate) fn gradients(&self, store: &GradStore) -> BTreeMap<String, Tensor> {
        let each = self.vars.iter();
        each.filter_map(|(name, var)| Some((name.clone(), store.get(var)?.clone())))
            .collect()
    }

    /// One step of the optimiser, at the config's rate, with the config's clipping.
    pub(crate) fn step(
        &self,
        optimizer: &mut Optimizer,
        config: &OptimizerConfig,
        lr: f64,
        gradients: &BTreeMap<String, Tensor>,
    ) {
        let scale = match config.clip {
            Some(clip) => (clip / (norm(gradients) + config.clip_eps)).min(1.0),
            None => 1.0,
        };
        optimizer.step(&self.vars, gradients, lr, scale).unwrap();
    }

    /// The state before any step.
    pub(crate) fn start(&self) -> &Tensors {
        &self.all
    }

    /// The values now, and those that aren't trained.
    pub(crate) fn state(&self) -> Tensors {
        let mut state = self.all.clone();
        for (name, var) in &self.vars {
            state.insert(name.clone(), var.as_tensor().copy().unwrap().detach());
        }
        state
    }
}

/// The Euclidean norm of all gradients.
pub(crate) fn norm(gradients: &BTreeMap<String, Tensor>) -> f64 {
    let squares = gradients.values().flat_map(crate::cases::values);
    squares.map(|v| v * v).sum::<f64>().sqrt()
}
