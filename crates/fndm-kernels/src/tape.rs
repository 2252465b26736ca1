//! Operations applied to tensors, and a backward pass that spares candle's bookkeeping.

use crate::config::own;
use crate::sum::untracked_combination;
use crate::{combination, plain};
use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
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
        propagate(nodes, loss.backward()?)
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
        if y.is_variable() && own(&[y, dy]) {
            // Nothing of candle's lies in between: its backward pass would clear a tensor and add to it.
            let nothing = Var::zeros((), dy.dtype(), dy.device())?;
            let mut grads = nothing.backward()?;
            grads.remove(&nothing);
            grads.insert(y, dy.clone());
            return propagate(NODES.take().unwrap_or_default(), grads);
        }
        let root = if own(&[y, dy]) {
            y.apply_op1(Inject(dy.clone()))?
        } else {
            (y * dy)?.sum_all()?
        };
        self.backward(&root)
    }
}

/// The gradients of all variables, from those that candle's part of the graph has left at the last nodes.
fn propagate(nodes: Vec<Node>, mut grads: GradStore) -> Result<GradStore> {
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
                    Some(other) => joined(&other, &dx)?,
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &candle_core::CudaStorage,
        _: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::CudaStorage;
        use candle_core::backend::BackendStorage;
        let zero = x.device().alloc_zeros::<f32>(1)?;
        let storage = CudaStorage::wrap_cuda_slice(zero, x.device().clone());
        Ok((storage, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// The sum of two gradients.
fn joined(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if own(&[a, b]) {
        return untracked_combination(&[(1., a), (1., b)]);
    }
    let terms = [(1., &a.detach()), (1., &b.detach())];
    combination::untracked(&terms).unwrap_or_else(|| plain::linear_combination(&terms))
}

/// Whether an operation on these tensors goes on the tape.
fn recording(tensors: &[&Tensor]) -> bool {
    tensors.iter().any(|t| t.track_op()) && NODES.with_borrow(Option::is_some)
}

/// The output as a leaf for candle, without a copy.
fn leaf((storage, shape): (Storage, Shape), node: impl FnOnce(Tensor) -> Node) -> Tensor {
    let y = Tensor::from_storage(storage, shape, BackpropOp::none(), true);
    NODES.with_borrow_mut(|nodes| {
        if let Some(nodes) = nodes {
            nodes.push(node(y.clone()));
        }
    });
    y
}

/// What the CPU's or the GPU's pass gives.
fn ran<S>((storage, shape): (S, Shape), wrap: impl FnOnce(S) -> Storage) -> (Storage, Shape) {
    (wrap(storage), shape)
}

/// `op` on a tensor.
pub(crate) fn apply1<C: 'static + CustomOp1 + Send + Sync>(x: &Tensor, op: C) -> Result<Tensor> {
    if !recording(&[x]) {
        return x.apply_op1(op);
    }
    let out = {
        let (a, al) = x.storage_and_layout();
        match &*a {
            Storage::Cpu(a) => ran(op.cpu_fwd(a, al)?, Storage::Cpu),
            Storage::Cuda(a) => ran(op.cuda_fwd(a, al)?, Storage::Cuda),
            Storage::Metal(_) => return x.apply_op1(op),
        }
    };
    Ok(leaf(out, |y| Node::One(Box::new(op), [x.clone()], y)))
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
        let ((a, al), (b, bl)) = (x.storage_and_layout(), y.storage_and_layout());
        match (&*a, &*b) {
            (Storage::Cpu(a), Storage::Cpu(b)) => ran(op.cpu_fwd(a, al, b, bl)?, Storage::Cpu),
            (Storage::Cuda(a), Storage::Cuda(b)) => ran(op.cuda_fwd(a, al, b, bl)?, Storage::Cuda),
            _ => candle_core::bail!("{}: expected tensors on one device", op.name()),
        }
    };
    Ok(leaf(out, |out| {
        Node::Two(Box::new(op), [x.clone(), y.clone()], out)
    }))
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
        let (a, al) = x.storage_and_layout();
        let (b, bl) = y.storage_and_layout();
        let (c, cl) = z.storage_and_layout();
        match (&*a, &*b, &*c) {
            (Storage::Cpu(a), Storage::Cpu(b), Storage::Cpu(c)) => {
                ran(op.cpu_fwd(a, al, b, bl, c, cl)?, Storage::Cpu)
            }
            (Storage::Cuda(a), Storage::Cuda(b), Storage::Cuda(c)) => {
                ran(op.cuda_fwd(a, al, b, bl, c, cl)?, Storage::Cuda)
            }
            _ => candle_core::bail!("{}: expected tensors on one device", op.name()),
        }
    };
    let inputs = [x.clone(), y.clone(), z.clone()];
    Ok(leaf(out, |out| Node::Three(Box::new(op), inputs, out)))
}
