//! Batch normalisation (Ioffe and Szegedy 2015), with its running statistics beside the parameters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{Error, Result};

const MEAN: &str = "running_mean";
const VARIANCE: &str = "running_var";
const COUNT: &str = "num_batches_tracked";
/// The share of the newest batch in the running statistics: PyTorch's default.
const MOMENTUM: f64 = 0.1;

/// Which statistics a batch norm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Those of the batch; the running ones follow them.
    Train,
    /// The running ones.
    Evaluate,
}

/// The running statistics of one norm.
#[derive(Clone, Debug)]
struct Running {
    mean: Tensor,
    variance: Tensor,
    batches: i64,
}

/// The running statistics of all batch norms of a network, by the names of the norms.
///
/// They are no parameters: no gradient reaches them, they follow the batches that a network in training mode sees. A clone is
/// another handle on the same values, so whoever trains keeps one, and saves [`tensors`](BatchNorms::tensors) beside the weights.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use fndm_models::{BatchNorm, BatchNorms, Mode, Parameters};
///
/// let (norms, parameters) = (BatchNorms::fresh(), Parameters::new(0, DType::F32, &Device::Cpu));
/// let norm = BatchNorm::new(3, 1e-5, &parameters.builder().pp("bn1"), &norms)?;
/// norm.forward(&Tensor::ones((2, 3, 4, 4), DType::F32, &Device::Cpu)?, Mode::Train)?;
/// let mean = norms.tensors()?["bn1.running_mean"].to_vec1::<f32>()?;
/// assert!((mean[0] - 0.1).abs() < 1e-6);
/// # Ok::<(), fndm_models::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchNorms {
    values: Arc<Mutex<BTreeMap<String, Running>>>,
    from_weights: bool,
}

impl BatchNorms {
    /// Statistics that begin at mean 0 and variance 1. A network that is built again on them takes what is there by then.
    #[must_use]
    pub fn fresh() -> Self {
        Self {
            values: Arc::default(),
            from_weights: false,
        }
    }

    /// Statistics that stand with the weights, as in a checkpoint of PyTorch's: a network that is built takes them from there, and
    /// fails where one is missing.
    #[must_use]
    pub fn from_weights() -> Self {
        Self {
            values: Arc::default(),
            from_weights: true,
        }
    }

    /// Copies of the values under PyTorch's names: `NAME.running_mean` and `NAME.running_var` `(C)`, and `NAME.num_batches_tracked`,
    /// one whole number.
    ///
    /// # Errors
    /// When there is no memory for the copy.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        for (name, running) in self.lock().iter() {
            let device = running.mean.device();
            all.insert(joined(name, MEAN), running.mean.copy()?);
            all.insert(joined(name, VARIANCE), running.variance.copy()?);
            all.insert(joined(name, COUNT), Tensor::new(running.batches, device)?);
        }
        Ok(all)
    }

    /// Takes over what [`tensors`](Self::tensors) gave. Other tensors may stand beside; the count of batches may be missing.
    ///
    /// # Errors
    /// When a norm's statistics are missing or of another shape. Nothing has changed then.
    pub fn set(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut values = self.lock();
        let mut next = values.clone();
        for (name, running) in &mut next {
            running.mean = take(tensors, &joined(name, MEAN), &running.mean)?;
            running.variance = take(tensors, &joined(name, VARIANCE), &running.variance)?;
            running.batches = match tensors.get(&joined(name, COUNT)) {
                Some(count) => count.to_dtype(DType::I64)?.reshape(())?.to_scalar()?,
                None => 0,
            };
        }
        *values = next;
        Ok(())
    }

    /// The norms' names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    // A panic of another thread can't leave the map half changed, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statistics of a norm that is built.
    fn enter(&self, channels: usize, vb: &VarBuilder<'_>) -> Result<()> {
        let (name, device) = (vb.prefix(), vb.device());
        let vb = vb.clone().set_dtype(DType::F32);
        let mut values = self.lock();
        if self.from_weights {
            let running = Running {
                mean: vb.get(channels, MEAN)?.detach(),
                variance: vb.get(channels, VARIANCE)?.detach(),
                batches: 0,
            };
            values.insert(name, running);
        } else if let Some(known) = values.get(&name) {
            if known.mean.dims() != [channels] {
                return Err(Error::input(
                    "batch norm",
                    format!("{channels} channels in {name}"),
                    known.mean.dims(),
                ));
            }
        } else {
            values.insert(name, Running::fresh(channels, device)?);
        }
        Ok(())
    }
}

fn joined(name: &str, value: &str) -> String {
    if name.is_empty() {
        return value.to_owned();
    }
    format!("{name}.{value}")
}

fn take(tensors: &BTreeMap<String, Tensor>, name: &str, like: &Tensor) -> Result<Tensor> {
    let found = tensors.get(name);
    match found.filter(|t| t.dims() == like.dims()) {
        Some(tensor) => Ok(tensor
            .to_device(like.device())?
            .to_dtype(like.dtype())?
            .copy()?
            .detach()),
        None => Err(Error::input(
            "batch norm",
            format!("{name} of shape {:?}", like.dims()),
            found.map(Tensor::dims),
        )),
    }
}

impl Running {
    fn fresh(channels: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            mean: Tensor::zeros(channels, DType::F32, device)?,
            variance: Tensor::ones(channels, DType::F32, device)?,
            batches: 0,
        })
    }
}

/// Batch normalisation of `(B, C, H, W)` with scale and shift.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    name: String,
    norms: BatchNorms,
}

impl BatchNorm {
    /// A norm of so many channels under `vb`'s name. Scales begin at 1, shifts at 0.
    ///
    /// # Errors
    /// When `vb` lacks a tensor or has it in another shape.
    pub fn new(channels: usize, eps: f64, vb: &VarBuilder<'_>, norms: &BatchNorms) -> Result<Self> {
        norms.enter(channels, vb)?;
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.))?,
            eps,
            name: vb.prefix(),
            norms: norms.clone(),
        })
    }

    /// `(B, C, H, W)` to the same shape.
    ///
    /// # Errors
    /// When the channels differ, or, in training, a channel has a single value.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match mode {
            Mode::Train => self.train(x),
            Mode::Evaluate => {
                let (scale, shift) = self.affine()?;
                let as_channels = |v: Tensor| v.to_dtype(x.dtype())?.reshape((1, (), 1, 1));
                Ok(x.broadcast_mul(&as_channels(scale)?)?
                    .broadcast_add(&as_channels(shift)?)?)
            }
        }
    }

    /// The norm in evaluation as a factor and an offset of each channel, `(C)` in f64.
    pub(crate) fn affine(&self) -> Result<(Tensor, Tensor)> {
        let running = self.running()?;
        let wide = |t: &Tensor| t.to_dtype(DType::F64);
        let deviation = (wide(&running.variance)? + self.eps)?.sqrt()?;
        let scale = (wide(&self.weight)? / deviation)?;
        let shift = (wide(&self.bias)? - (wide(&running.mean)? * &scale)?)?;
        Ok((scale, shift))
    }

    fn running(&self) -> Result<Running> {
        let running = self.norms.lock().get(&self.name).cloned();
        running.ok_or_else(|| Error::input("batch norm", &self.name, "no statistics"))
    }

    fn train(&self, x: &Tensor) -> Result<Tensor> {
        let (b, c, h, w) = x.dims4()?;
        let count = b * h * w;
        if count < 2 {
            return Err(Error::input(
                "batch",
                "more than one value in a channel",
                x.dims(),
            ));
        }
        // The statistics of channels over the whole batch are those of groups of one channel in a single sample.
        let rows = x.transpose(0, 1)?.contiguous()?.reshape((1, c, b * h, w))?;
        self.follow(&rows.detach().reshape((c, count))?)?;
        // Without its mean, which norm and gradient are blind to, a channel keeps the digits that a large one would take.
        let mean = rows.detach().mean_keepdim((2, 3))?;
        let rows = rows.broadcast_sub(&mean)?;
        let y = fndm_kernels::group_norm(&rows, c, &self.weight, &self.bias, self.eps)?;
        Ok(y.reshape((c, b, h, w))?.transpose(0, 1)?.contiguous()?)
    }

    /// Moves the running statistics towards those of a batch `(C, N)`.
    fn follow(&self, values: &Tensor) -> Result<()> {
        let count = values.dim(1)? as f64;
        let mean = values.mean_keepdim(1)?;
        let squares = values.broadcast_sub(&mean)?.sqr()?.sum(1)?;
        // PyTorch normalises by the biased variance and keeps the unbiased one.
        let variance = (squares / (count - 1.))?;
        let moved = |old: &Tensor, new: &Tensor| -> Result<Tensor> {
            Ok(((old * (1. - MOMENTUM))? + (new.to_dtype(old.dtype())? * MOMENTUM)?)?)
        };
        let mut values = self.norms.lock();
        let Some(running) = values.get_mut(&self.name) else {
            return Err(Error::input("batch norm", &self.name, "no statistics"));
        };
        running.mean = moved(&running.mean, &mean.squeeze(1)?)?;
        running.variance = moved(&running.variance, &variance)?;
        running.batches += 1;
        Ok(())
    }
}
