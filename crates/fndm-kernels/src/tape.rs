//! Operations applied to tensors, and a backward pass that spares candle's bookkeeping.

use crate::config::fast_path;
use crate::elementwise::untracked_combination;
use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Storage, Tensor, Var,
};
use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    /// The operations since [`Tape::start`] on this thread.
    static NODES: RefCell<Option<Vec<Node>>> = const { RefCell::new(None) };
}

/// Records this crate's operations on the current thread, for a cheaper backward pass than candle's.
///
/// Candle's backward pass clears a tensor for every gradient and adds the gradient to it: two passes over memory for
/// each operation. A tape hands gradients on as they are, and adds only where a tensor was used more than once.
/// Operations of candle in between are differentiated by candle. The gradients are those of
/// `loss.backward()`, up to the order of sums.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// # fn main() -> candle_core::Result<()> {
/// let x = Var::from_tensor(&Tensor::new(&[0.5f32, 2.], &Device::Cpu)?)?;
/// let tape = fndm_kernels::Tape::start()?;
/// let y = fndm_kernels::silu(&fndm_kernels::add(&x, &x)?)?;
/// let loss = y.sqr()?.sum_all()?;
/// let grads = tape.backward(&loss)?;
/// assert!(grads.get(&x).is_some());
/// # Ok(())
/// # }
/// ```
///
/// While a tape records, an operation's output is a leaf for candle: call [`Tape::backward`], not `loss.backward()`, and
/// take no gradient of what was computed before the start.
#[derive(Debug)]
pub struct Tape {
    /// Nodes live in the thread that started the tape.
    here: PhantomData<*const ()>,
}

impl Tape {
    /// Starts recording on this thread.
    ///
    /// # Errors
    /// When a tape is recording already.
    pub fn start() -> Result<Self> {
        NODES.with_borrow_mut(|nodes| {
            if nodes.is_some() {
                candle_core::bail!("a tape is recording on this thread already");
            }
            *nodes = Some(Vec::new());
            Ok(Self { here: PhantomData })
        })
    }

    /// Stops recording and gives the gradients of `loss` for every variable that it depends on.
    ///
    /// # Errors
    /// Those of the operations' backward passes.
    pub fn backward(self, loss: &Tensor) -> Result<GradStore> {
        let nodes = NODES.take().unwrap_or_default();
        let mut grads = loss.backward()?;
        // Dropping each node on the way frees the activations that only its gradient needed.
        for node in nodes.into_iter().rev() {
            let Some(dy) = grads.remove(node.output()) else {
                continue;
            };
            let mut through_candle: Option<Tensor> = None;
            for (x, dx) in node.backward(&dy)? {
                let Some(dx) = dx else { continue };
                if x.is_variable() {
                    let sum = match grads.remove(&x) {
                        Some(other) => untracked_combination(&[(1., &other), (1., &dx)])?,
                        None => dx,
                    };
                    grads.insert(&x, sum);
                } else if x.track_op() {
                    let root = x.apply_op1(Inject(dx))?;
                    through_candle = Some(match through_candle {
                        Some(other) => (other + root)?,
                        None => root,
                    });
                }
            }
            if let Some(root) = through_candle {
                grads.extend(root.backward()?)?;
            }
        }
        Ok(grads)
    }

    /// As [`backward`](Self::backward), from the gradient `dy` of a tensor `y` of the same shape: the gradients of
    /// the sum of `y * dy`.
    ///
    /// # Errors
    /// Those of the operations' backward passes, and shapes that differ.
    pub fn backward_from(self, y: &Tensor, dy: &Tensor) -> Result<GradStore> {
        if y.dims() != dy.dims() {
            candle_core::bail!(
                "backward: expected a gradient of shape {:?}, got {:?}",
                y.dims(),
                dy.dims()
            );
        }
        let root = if fast_path(&[y, dy]) {
            y.apply_op1(Inject(dy.clone()))?
        } else {
            (y * dy)?.sum_all()?
        };
        self.backward(&root)
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        NODES.set(None);
    }
}

/// One recorded operation.
enum Node {
    One(Box<dyn CustomOp1>, [Tensor; 1], Tensor),
    Two(Box<dyn CustomOp2>, [Tensor; 2], Tensor),
    Three(Box<dyn CustomOp3>, [Tensor; 3], Tensor),
}

impl Node {
    fn output(&self) -> &Tensor {
        match self {
            Self::One(.., y) | Self::Two(.., y) | Self::Three(.., y) => y,
        }
    }

    fn backward(self, dy: &Tensor) -> Result<Vec<(Tensor, Option<Tensor>)>> {
        Ok(match self {
            Self::One(op, [a], y) => {
                let da = op.bwd(&a, &y, dy)?;
                vec![(a, da)]
            }
            Self::Two(op, [a, b], y) => {
                let (da, db) = op.bwd(&a, &b, &y, dy)?;
                vec![(a, da), (b, db)]
            }
            Self::Three(op, [a, b, c], y) => {
                let (da, db, dc) = op.bwd(&a, &b, &c, &y, dy)?;
                vec![(a, da), (b, db), (c, dc)]
            }
        })
    }
}

/// A scalar 0 whose gradient is the tensor inside: it starts candle's backward pass with a gradient that came from
/// outside.
struct Inject(Tensor);

impl CustomOp1 for Inject {
    fn name(&self) -> &'static str {
        "fndm-inject"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// Whether an operation on these tensors goes on the tape.
fn recording(tensors: &[&Tensor]) -> bool {
    tensors.iter().any(|t| t.track_op()) && NODES.with_borrow(Option::is_some)
}

/// The output as a leaf for candle, without a copy.
fn leaf(
    (storage, shape): (CpuStorage, Shape),
    node: impl FnOnce(Tensor) -> Node,
) -> Result<Tensor> {
    let CpuStorage::F32(data) = storage else {
        candle_core::bail!("expected an operation on f32")
    };
    let y = Var::from_vec(data, shape, &candle_core::Device::Cpu)?.into_inner();
    NODES.with_borrow_mut(|nodes| {
        if let Some(nodes) = nodes {
            nodes.push(node(y.clone()));
        }
    });
    Ok(y)
}

/// The storage of a tensor on the CPU.
macro_rules! cpu {
    ($guard:ident) => {
        match &*$guard.0 {
            Storage::Cpu(s) => (s, $guard.1),
            _ => candle_core::bail!("expected a tensor on the CPU"),
        }
    };
}

/// `op` on a tensor on the CPU.
pub(crate) fn apply1<C: 'static + CustomOp1 + Send + Sync>(x: &Tensor, op: C) -> Result<Tensor> {
    if !recording(&[x]) {
        return x.apply_op1(op);
    }
    let out = {
        let a = x.storage_and_layout();
        let (s, l) = cpu!(a);
        op.cpu_fwd(s, l)?
    };
    leaf(out, |y| Node::One(Box::new(op), [x.clone()], y))
}

/// As [`apply1`] for two tensors.
pub(crate) fn apply2<C: 'static + CustomOp2 + Send + Sync>(
    x: &Tensor,
    y: &Tensor,
    op: C,
) -> Result<Tensor> {
    if !recording(&[x, y]) {
        return x.apply_op2(y, op);
    }
    let out = {
        let (a, b) = (x.storage_and_layout(), y.storage_and_layout());
        let ((s1, l1), (s2, l2)) = (cpu!(a), cpu!(b));
        op.cpu_fwd(s1, l1, s2, l2)?
    };
    leaf(out, |out| {
        Node::Two(Box::new(op), [x.clone(), y.clone()], out)
    })
}

/// As [`apply1`] for three tensors.
pub(crate) fn apply3<C: 'static + CustomOp3 + Send + Sync>(
    x: &Tensor,
    y: &Tensor,
    z: &Tensor,
    op: C,
) -> Result<Tensor> {
    if !recording(&[x, y, z]) {
        return x.apply_op3(y, z, op);
    }
    let out = {
        let (a, b, c) = (
            x.storage_and_layout(),
            y.storage_and_layout(),
            z.storage_and_layout(),
        );
        let ((s1, l1), (s2, l2), (s3, l3)) = (cpu!(a), cpu!(b), cpu!(c));
        op.cpu_fwd(s1, l1, s2, l2, s3, l3)?
    };
    let inputs = [x.clone(), y.clone(), z.clone()];
    leaf(out, |out| Node::Three(Box::new(op), inputs, out))
}
