//! Gradient checkpointing: gradients in the memory of one block at a time.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};
use fndm_kernels::Tape;

use crate::blocks::Block;
use crate::dropout::Pass;
use crate::layers::wide;
use crate::{Result, UNet};

/// Where a block's input comes from.
struct Step<'a> {
    block: &'a Block,
    /// The output of the step before, untracked.
    input: Tensor,
    /// For output blocks: the input block whose output is joined to the input.
    skip: Option<usize>,
}

impl UNet {
    /// The loss and the gradients of all parameters, with every block's inner activations dropped after the forward pass
    /// and computed again in the backward pass. Memory is that of the blocks' outputs plus one block's graph, at the
    /// price of a second forward pass.
    ///
    /// `loss` makes a scalar of the network's output. `dropout` is the seed of the masks, which are drawn alike in both
    /// passes; none to train without dropout. The gradients are those of `forward_train(..).backward()`. Source: Chen et
    /// al. 2016, "Training Deep Nets with Sublinear Memory Cost"; guided-diffusion's `use_checkpoint`.
    ///
    /// # Errors
    /// As [`UNet::forward`]; when `loss` fails or doesn't give a scalar that depends on the output; or when a
    /// [`Tape`] records on this thread already.
    pub fn loss_gradients(
        &self,
        x: &Tensor,
        t: &Tensor,
        y: Option<&Tensor>,
        dropout: Option<u64>,
        loss: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        let pass = Pass {
            dropout,
            ..Pass::default()
        };
        // The first time, nothing is tracked.
        let first = Pass {
            constant_weights: true,
            ..pass
        };
        self.check(x, t)?;
        let silu = fndm_kernels::silu(&self.embedding(x.dim(0)?, t, y, first)?)?;

        // Forward: of every block, the output alone is kept.
        let inputs = self.encoder.input_blocks.len();
        let mut steps: Vec<Step<'_>> = Vec::new();
        let mut outputs: Vec<Tensor> = Vec::with_capacity(inputs);
        let mut h = x.detach().to_dtype(self.dtype)?;
        let blocks = self.encoder.input_blocks.iter();
        for block in blocks.chain([&self.encoder.middle_block]) {
            steps.push(Step {
                block,
                input: h.clone(),
                skip: None,
            });
            h = block.forward(&h, &silu, first)?;
            if outputs.len() < inputs {
                outputs.push(h.clone());
            }
        }
        for (j, block) in self.output_blocks.iter().enumerate() {
            let skip = inputs - 1 - j;
            steps.push(Step {
                block,
                input: h.clone(),
                skip: Some(skip),
            });
            let joined = fndm_kernels::cat_channels(&h, &outputs[skip])?;
            h = block.forward(&joined, &silu, first)?;
        }

        // Backward: the head, then every block again from its last to its first.
        let last = leaf(&h)?;
        let tape = Tape::start()?;
        let head = self
            .out_norm
            .forward_silu(&last.to_dtype(wide(self.dtype))?, None, pass)?;
        let output = self.out_conv.forward(&head, pass)?.to_dtype(x.dtype())?;
        let loss = loss(&output)?;
        let mut gradients = tape.backward(&loss)?;
        let mut upstream = take(&mut gradients, &last);
        let mut skips: Vec<Option<Tensor>> = vec![None; inputs];
        let mut of_silu: Option<Tensor> = None;
        while let Some(step) = steps.pop() {
            let at = steps.len();
            if at < inputs {
                upstream = sum(upstream, skips[at].take())?;
            }
            let Some(gradient) = &upstream else {
                // The loss doesn't depend on what this block gives.
                continue;
            };
            let (input, silu) = (leaf(&step.input)?, leaf(&silu)?);
            let skip = match step.skip {
                Some(i) => Some((i, leaf(&outputs[i])?)),
                None => None,
            };
            let tape = Tape::start()?;
            let joined = match &skip {
                Some((_, skip)) => fndm_kernels::cat_channels(&input, skip)?,
                None => input.as_tensor().clone(),
            };
            let output = step.block.forward(&joined, &silu, pass)?;
            let mut found = tape.backward(&(output * gradient)?.sum_all()?)?;
            // Candle differentiates constants, too.
            found.remove(gradient);
            upstream = take(&mut found, &input);
            of_silu = sum(of_silu, take(&mut found, &silu))?;
            if let Some((i, skip)) = &skip {
                skips[*i] = take(&mut found, skip);
            }
            keep(&mut gradients, found)?;
        }
        if let Some(gradient) = of_silu {
            let tape = Tape::start()?;
            let silu = fndm_kernels::silu(&self.embedding(x.dim(0)?, t, y, pass)?)?;
            let found = tape.backward(&(silu * gradient)?.sum_all()?)?;
            keep(&mut gradients, found)?;
        }
        Ok((loss.detach(), gradients))
    }
}

/// The gradient of a leaf. Candle leaves it tracked through the parameters that it was computed with, and what is
/// computed from it later must not reach them again.
fn take(gradients: &mut GradStore, leaf: &Var) -> Option<Tensor> {
    gradients.remove(leaf).map(|gradient| gradient.detach())
}

/// Adds what was found, without the history by which candle would keep a block's activations alive.
fn keep(gradients: &mut GradStore, mut found: GradStore) -> Result<()> {
    let ids: Vec<TensorId> = found.get_ids().copied().collect();
    for id in ids {
        if let Some(gradient) = found.get_id(id).map(Tensor::detach) {
            found.insert_id(id, gradient);
        }
    }
    Ok(gradients.extend(found)?)
}

/// A tensor that gradients stop at.
fn leaf(tensor: &Tensor) -> Result<Var> {
    Ok(Var::from_tensor(tensor)?)
}

fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    Ok(match (a, b) {
        (Some(a), Some(b)) => Some(fndm_kernels::add(&a, &b)?),
        (a, b) => a.or(b),
    })
}
