//! Values of a network's parameters, the same on both sides: `fill` of `peers/guided_diffusion.py` is the other half.

use crate::inputs::tensor;
use anyhow::Result;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use fndm_models::Parameters;

/// A network for inference, with the values of [`fill`].
pub(crate) fn filled<N>(build: impl Fn(VarBuilder) -> fndm_models::Result<N>) -> Result<N> {
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    build(parameters.builder())?;
    fill(&parameters)?;
    Ok(build(parameters.frozen()?)?)
}

/// Gives every parameter, in the order of names, values that follow from its place, name and shape.
pub(crate) fn fill(parameters: &Parameters) -> Result<()> {
    for (seed, (name, var)) in parameters.iter().enumerate() {
        let values = tensor(seed as u32, var.dims())?;
        let values = if var.rank() >= 2 {
            let fan_in: usize = var.dims()[1..].iter().product();
            (values / (fan_in as f64).sqrt())?
        } else {
            let start = if name.ends_with("weight") { 1. } else { 0. };
            values.affine(0.1, start)?
        };
        var.set(&values)?;
    }
    Ok(())
}
