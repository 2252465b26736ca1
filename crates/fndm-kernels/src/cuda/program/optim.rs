//! Adam and moving averages, all tensors in one launch.

use super::super::machine::{Arg, Launch, Machine, View, size};
use crate::optim::AdamConstants;
use candle_core::Result;

/// `OPTIM_THREADS` and `OPTIM_CHUNK` of the kernels.
const THREADS: u32 = 256;
const CHUNK: usize = 4096;

/// Parameter, first moment, second moment and gradient, with their length.
pub(crate) type AdamTensor = ([View; 4], usize);

/// One step of all tensors, f32.
pub(crate) fn adam<M: Machine>(
    machine: &M,
    tensors: &[AdamTensor],
    c: &AdamConstants,
) -> Result<()> {
    let constants = [
        c.beta1, c.keep1, c.beta2, c.keep2, c.shrink, c.rate, c.root, c.eps, c.scale,
    ];
    let views: Vec<View> = tensors.iter().flat_map(|t| t.0).collect();
    let lengths: Vec<usize> = tensors.iter().map(|t| t.1).collect();
    all(machine, "adam", &views, &lengths, &constants)
}

/// `average += rest * (parameter - average)` for all pairs, f32.
pub(crate) fn ema<M: Machine>(
    machine: &M,
    tensors: &[([View; 2], usize)],
    rest: f32,
) -> Result<()> {
    let views: Vec<View> = tensors.iter().flat_map(|t| t.0).collect();
    let lengths: Vec<usize> = tensors.iter().map(|t| t.1).collect();
    all(machine, "ema", &views, &lengths, &[rest])
}

fn all<M: Machine>(
    machine: &M,
    kernel: &str,
    views: &[View],
    lengths: &[usize],
    constants: &[f32],
) -> Result<()> {
    let mut first = vec![0u32];
    let mut blocks = 0;
    for n in lengths {
        blocks += n.div_ceil(CHUNK);
        first.push(size(blocks)?);
    }
    if blocks == 0 {
        return Ok(());
    }
    let lengths: Vec<u32> = lengths.iter().map(|n| size(*n)).collect::<Result<_>>()?;
    let table = machine.addresses(views)?;
    let lengths_there = machine.upload(&lengths)?;
    let first = machine.upload(&first)?;
    let mut args: Vec<Arg> = vec![
        machine.view(&table).into(),
        machine.view(&lengths_there).into(),
        machine.view(&first).into(),
        size(lengths.len())?.into(),
    ];
    args.extend(constants.iter().map(|c| Arg::F32(*c)));
    machine.launch(&Launch {
        kernel,
        blocks: size(blocks)?,
        threads: THREADS,
        args: &args,
    })
}
