//! One convolution with bias: forward, or its gradients.

use super::{Case, number};
use crate::inputs::{sample, tensor};
use anyhow::{Context, Result, bail};
use candle_core::{Tensor, Var};
use fndm_kernels::{Conv2d, Tape};
use serde_json::Value;

struct Conv {
    conv: Conv2d,
    x: Tensor,
    /// The gradient of the output, where the backward pass is timed too.
    dy: Option<Tensor>,
    wanted: Vec<Var>,
    out: Option<Tensor>,
}

impl Case for Conv {
    fn run(&mut self) -> Result<()> {
        self.out = None;
        let Some(dy) = &self.dy else {
            self.out = Some(self.conv.forward(&self.x)?);
            return Ok(());
        };
        let tape = Tape::start()?;
        let y = self.conv.forward(&self.x)?;
        let mut grads = tape.backward_from(&y, dy)?;
        for v in &self.wanted {
            self.out = Some(grads.remove(v.as_tensor()).context("no gradient")?);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<Vec<f64>> {
        Ok(sample(self.out.as_ref().context("nothing has run")?)?)
    }
}

pub(crate) fn prepare(spec: &Value) -> Result<Box<dyn Case>> {
    let (b, ci, h, w) = (
        number(spec, "batch")?,
        number(spec, "in")?,
        number(spec, "height")?,
        number(spec, "width")?,
    );
    let (co, k, stride) = (
        number(spec, "out")?,
        number(spec, "kernel")?,
        number(spec, "stride")?,
    );
    let x = tensor(1, &[b, ci, h, w])?;
    let weight = (tensor(2, &[co, ci, k, k])? / ((ci * k * k) as f64).sqrt())?;
    let bias = tensor(3, &[co])?;
    let (oh, ow) = (h.div_ceil(stride), w.div_ceil(stride));
    let dy = tensor(4, &[b, co, oh, ow])?;
    let (xv, wv, bv) = (
        Var::from_tensor(&x)?,
        Var::from_tensor(&weight)?,
        Var::from_tensor(&bias)?,
    );
    let (x, weight, bias, wanted) = match spec["pass"].as_str() {
        Some("forward") => (x, weight, bias, vec![]),
        // Guidance: x alone is differentiated.
        Some("input gradient") => (xv.as_tensor().clone(), weight, bias, vec![xv]),
        Some("training") => (
            xv.as_tensor().clone(),
            wv.as_tensor().clone(),
            bv.as_tensor().clone(),
            vec![xv, bv, wv],
        ),
        other => bail!("spec: unknown pass {other:?}"),
    };
    Ok(Box::new(Conv {
        conv: Conv2d::new(weight, Some(bias), stride)?,
        x,
        dy: (!wanted.is_empty()).then_some(dy),
        wanted,
        out: None,
    }))
}
