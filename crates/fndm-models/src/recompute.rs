//! Gradient checkpointing: gradients in the memory of one block at a time.
//!
//! Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; guided-diffusion's `use_checkpoint`.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, TensorId, Var};
use fndm_kernels::Tape;

use crate::blocks::Block;
use crate::dropout::Pass;
use crate::encoder::Encoder;
use crate::layers::wide;
use crate::{Classifier, Result, UNet};

/// A pass in which no weight is tracked.
fn untracked(pass: Pass) -> Pass {
    Pass {
        constant_weights: true,
        ..pass
    }
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
        let first = untracked(pass);
        self.check(x, t)?;
        let silu = fndm_kernels::silu(&self.embedding(x.dim(0)?, t, y, first)?)?;
        let mut kept = Kept::forward(&self.encoder, x, &silu, pass, self.dtype)?;
        let inputs = kept.outputs.len();
        for (j, block) in self.output_blocks.iter().enumerate() {
            kept.step(block, Some(inputs - 1 - j), &silu)?;
        }

        let last = leaf(&kept.last)?;
        let tape = Tape::start()?;
        let head = self
            .out_norm
            .forward_silu(&last.to_dtype(wide(self.dtype))?, None, pass)?;
        let output = self.out_conv.forward(&head, pass)?.to_dtype(x.dtype())?;
        let loss = loss(&output)?;
        let mut gradients = tape.backward(&loss)?;
        let upstream = take(&mut gradients, &last);
        let of_silu = kept.backward(&silu, upstream, vec![None; inputs], &mut gradients)?;
        if let Some(gradient) = of_silu {
            let tape = Tape::start()?;
            let silu = fndm_kernels::silu(&self.embedding(x.dim(0)?, t, y, pass)?)?;
            let found = tape.backward(&(silu * gradient)?.sum_all()?)?;
            keep(&mut gradients, found)?;
        }
        Ok((loss.detach(), gradients))
    }
}

impl Classifier {
    /// The loss and the gradients of all parameters, with every block's inner activations computed again in the backward
    /// pass, as [`UNet::loss_gradients`] does it. `loss` makes a scalar of the logits `(B, out_channels)`.
    ///
    /// # Errors
    /// As [`Classifier::forward`]; when `loss` fails or doesn't give a scalar that depends on the logits; or when a
    /// [`Tape`] records on this thread already.
    pub fn loss_gradients(
        &self,
        x: &Tensor,
        t: &Tensor,
        dropout: Option<u64>,
        loss: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        let pass = Pass {
            dropout,
            ..Pass::default()
        };
        self.check(x, t)?;
        let silu = fndm_kernels::silu(&self.encoder.time.forward(t, untracked(pass))?)?;
        let kept = Kept::forward(&self.encoder, x, &silu, pass, self.dtype)?;

        let last = leaf(&kept.last)?;
        // What a pool takes from the blocks on the way reaches them beside the chain.
        let blocks: Vec<Var> = match self.pool.takes_blocks() {
            true => kept.outputs.iter().map(leaf).collect::<Result<_>>()?,
            false => Vec::new(),
        };
        let tape = Tape::start()?;
        let maps: Vec<Tensor> = blocks.iter().map(|b| b.as_tensor().clone()).collect();
        let logits = self.pool.forward(&maps, &last, pass)?.to_dtype(x.dtype())?;
        let loss = loss(&logits)?;
        let mut gradients = tape.backward(&loss)?;
        let upstream = take(&mut gradients, &last);
        let mut beside = vec![None; kept.outputs.len()];
        for (beside, block) in beside.iter_mut().zip(&blocks) {
            *beside = take(&mut gradients, block);
        }
        let of_silu = kept.backward(&silu, upstream, beside, &mut gradients)?;
        if let Some(gradient) = of_silu {
            let tape = Tape::start()?;
            let silu = fndm_kernels::silu(&self.encoder.time.forward(t, pass)?)?;
            let found = tape.backward(&(silu * gradient)?.sum_all()?)?;
            keep(&mut gradients, found)?;
        }
        Ok((loss.detach(), gradients))
    }
}

/// A block, and where its input comes from.
struct Step<'a> {
    block: &'a Block,
    /// The output of the step before, untracked.
    input: Tensor,
    /// For output blocks: the input block whose output is joined to the input.
    skip: Option<usize>,
}

/// What is kept of a forward pass: of every block, its output alone.
struct Kept<'a> {
    steps: Vec<Step<'a>>,
    /// Outputs of the input blocks, whose steps are the first.
    outputs: Vec<Tensor>,
    /// Output of the last step.
    last: Tensor,
    pass: Pass,
}

impl<'a> Kept<'a> {
    /// Input blocks and middle block.
    fn forward(
        encoder: &'a Encoder,
        x: &Tensor,
        silu: &Tensor,
        pass: Pass,
        dtype: candle_core::DType,
    ) -> Result<Self> {
        let mut kept = Self {
            steps: Vec::new(),
            outputs: Vec::new(),
            last: x.detach().to_dtype(dtype)?,
            pass,
        };
        for block in &encoder.input_blocks {
            kept.step(block, None, silu)?;
            kept.outputs.push(kept.last.clone());
        }
        kept.step(&encoder.middle_block, None, silu)?;
        Ok(kept)
    }

    /// One block more, to whose input the output of input block `skip` is joined.
    fn step(&mut self, block: &'a Block, skip: Option<usize>, silu: &Tensor) -> Result<()> {
        let input = self.last.clone();
        let joined = match skip {
            Some(i) => fndm_kernels::cat_channels(&input, &self.outputs[i])?,
            None => input.clone(),
        };
        self.last = block.forward(&joined, silu, untracked(self.pass))?;
        self.steps.push(Step { block, input, skip });
        Ok(())
    }

    /// Every block again, from the last to the first. `upstream` is the gradient of the last output; `beside` has what
    /// reaches the input blocks' outputs by another way than the block after them. Adds the parameters' gradients, and
    /// gives that of `silu`, the embedding that all blocks see.
    fn backward(
        mut self,
        silu: &Tensor,
        mut upstream: Option<Tensor>,
        mut beside: Vec<Option<Tensor>>,
        gradients: &mut GradStore,
    ) -> Result<Option<Tensor>> {
        let mut of_silu: Option<Tensor> = None;
        while let Some(step) = self.steps.pop() {
            let at = self.steps.len();
            if at < beside.len() {
                upstream = sum(upstream, beside[at].take())?;
            }
            let Some(gradient) = &upstream else {
                // The loss doesn't depend on what this block gives.
                continue;
            };
            let (input, silu) = (leaf(&step.input)?, leaf(silu)?);
            let skip = match step.skip {
                Some(i) => Some((i, leaf(&self.outputs[i])?)),
                None => None,
            };
            let tape = Tape::start()?;
            let joined = match &skip {
                Some((_, skip)) => fndm_kernels::cat_channels(&input, skip)?,
                None => input.as_tensor().clone(),
            };
            let output = step.block.forward(&joined, &silu, self.pass)?;
            let mut found = tape.backward(&(output * gradient)?.sum_all()?)?;
            // Candle differentiates constants, too.
            found.remove(gradient);
            upstream = take(&mut found, &input);
            of_silu = sum(of_silu, take(&mut found, &silu))?;
            if let Some((i, skip)) = &skip {
                beside[*i] = take(&mut found, skip);
            }
            keep(gradients, found)?;
        }
        Ok(of_silu)
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
