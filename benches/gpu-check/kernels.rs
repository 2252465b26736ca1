//! Every operation and its gradients on the GPU, against the CPU.

use anyhow::{Context, Result};
use fndm::candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use fndm::kernels::{
    AdamStep, AdamTensor, Conv2d, MatrixMath, Tape, adam_step_all, attention, ema_update_all,
    set_matrix_math,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::has_bf16;
use crate::report::Report;

/// An input: its values on the CPU, and whether it stays f32 where the others are bf16.
#[derive(Debug)]
struct Input {
    values: Tensor,
    wide: bool,
}

type Operation = Box<dyn Fn(&[Tensor]) -> CandleResult<Tensor>>;

struct Case {
    name: String,
    inputs: Vec<Input>,
    /// Whether it has products, which TF32 changes.
    products: bool,
    f: Operation,
}

struct Draw(ChaCha8Rng);

impl Draw {
    fn tensor(&mut self, shape: &[usize]) -> CandleResult<Tensor> {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| self.0.random::<f32>() * 2. - 1.).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn inputs(&mut self, shapes: &[&[usize]]) -> CandleResult<Vec<Input>> {
        let all = shapes.iter().map(|shape| {
            Ok(Input {
                values: self.tensor(shape)?,
                wide: false,
            })
        });
        all.collect()
    }
}

fn convolutions(draw: &mut Draw) -> CandleResult<Vec<Case>> {
    let mut cases = Vec::new();
    for (b, ci, h, w, co, k, stride) in [
        (2, 8, 16, 16, 8, 3, 1),
        (1, 128, 64, 64, 128, 3, 1),
        (3, 5, 19, 23, 7, 3, 1),
        (16, 256, 8, 8, 512, 3, 1),
        (1, 1, 1, 1, 1, 3, 1),
        (2, 20, 16, 16, 36, 3, 2),
        (2, 20, 15, 13, 36, 3, 2),
        (2, 20, 9, 12, 40, 1, 1),
        (2, 20, 9, 11, 40, 1, 2),
        (4, 512, 16, 16, 1536, 1, 1),
    ] {
        let name = format!("conv {b} {ci} {h}x{w} {co} k{k} s{stride}");
        // The size that a trained network's weights have, so that outputs are of size one.
        let scale = 1. / ((ci * k * k) as f64).sqrt();
        let conv = move |t: &[Tensor]| Conv2d::new((&t[1] * scale)?, t.get(2).cloned(), stride);
        let shapes: [&[usize]; 4] = [&[b, ci, h, w], &[co, ci, k, k], &[co], &[b, co]];
        let mut add = |what: &str, inputs: &[&[usize]], f: Operation| -> CandleResult<()> {
            cases.push(Case {
                name: format!("{name}{what}"),
                inputs: draw.inputs(inputs)?,
                products: true,
                f,
            });
            Ok(())
        };
        add("", &shapes[..3], Box::new(move |t| conv(t)?.forward(&t[0])))?;
        add(
            ", no bias",
            &shapes[..2],
            Box::new(move |t| conv(t)?.forward(&t[0])),
        )?;
        let shifted = move |t: &[Tensor]| conv(&t[..3])?.forward_shifted(&t[0], &t[3]);
        add(", shifted", &shapes, Box::new(shifted))?;
        let upsampled = move |t: &[Tensor]| conv(t)?.forward_upsampled(&t[0]);
        add(", upsampled", &shapes[..3], Box::new(upsampled))?;
    }
    Ok(cases)
}

fn norms(draw: &mut Draw) -> CandleResult<Vec<Case>> {
    let mut cases = Vec::new();
    for (b, c, h, w, groups) in [
        (2, 32, 16, 16, 32),
        (3, 24, 7, 9, 4),
        (2, 128, 128, 128, 32),
        (16, 512, 8, 8, 32),
        (1, 6, 1, 5, 1),
    ] {
        for what in ["group_norm", "group_norm_silu", "scale and shift"] {
            let small = if what == "scale and shift" { 4 } else { 2 };
            let shapes: [&[usize]; 5] = [&[b, c, h, w], &[c], &[c], &[b, c], &[b, c]];
            let mut inputs = draw.inputs(&shapes[..=small])?;
            inputs[1..].iter_mut().for_each(|i| i.wide = true);
            cases.push(Case {
                name: format!("{what} {b} {c} {h}x{w} {groups}"),
                inputs,
                products: false,
                f: Box::new(move |t| match what {
                    "group_norm" => fndm::kernels::group_norm(&t[0], groups, &t[1], &t[2], 1e-5),
                    _ => {
                        let scale_shift = t.get(3).zip(t.get(4));
                        let f = fndm::kernels::group_norm_silu;
                        f(&t[0], groups, &t[1], &t[2], 1e-5, scale_shift)
                    }
                }),
            });
        }
    }
    Ok(cases)
}

fn others(draw: &mut Draw) -> CandleResult<Vec<Case>> {
    let mut cases = Vec::new();
    for (b, heads, c, t) in [
        (2, 2, 32, 64),
        (1, 1, 20, 9),
        (4, 8, 64, 256),
        (2, 1, 512, 256),
        (1, 2, 64, 1024),
    ] {
        let shape: &[usize] = &[b, heads, c, t];
        cases.push(Case {
            name: format!("attention {b} {heads} {c} {t}"),
            inputs: draw.inputs(&[shape; 3])?,
            products: true,
            f: Box::new(|t| attention(&t[0], &t[1], &t[2])),
        });
    }
    for (b, c, h, w) in [(2, 3, 4, 6), (1, 1, 2, 2), (3, 40, 34, 38)] {
        let shape: &[usize] = &[b, c, h, w];
        let mut add = |name: &str, inputs: Vec<Input>, f: Operation| {
            cases.push(Case {
                name: format!("{name} {b} {c} {h}x{w}"),
                inputs,
                products: false,
                f,
            });
        };
        for n in 1..=6 {
            let f = move |t: &[Tensor]| {
                let terms: Vec<(f64, &Tensor)> = t
                    .iter()
                    .enumerate()
                    .map(|(i, t)| (1. - 0.4 * i as f64, t))
                    .collect();
                fndm::kernels::linear_combination(&terms)
            };
            let inputs = draw.inputs(&vec![shape; n])?;
            add(&format!("combination of {n}"), inputs, Box::new(f));
        }
        let f = |t: &[Tensor]| fndm::kernels::silu(&(&t[0] * 4.)?);
        add("silu", draw.inputs(&[shape])?, Box::new(f));
        let f = |t: &[Tensor]| fndm::kernels::upsample_nearest_2x(&t[0]);
        add("upsample", draw.inputs(&[shape])?, Box::new(f));
        let f = |t: &[Tensor]| fndm::kernels::avg_pool_2x(&t[0]);
        add("pool", draw.inputs(&[shape])?, Box::new(f));
        let f = |t: &[Tensor]| fndm::kernels::cat_channels(&t[0], &t[1]);
        add("cat", draw.inputs(&[shape, &[b, 5, h, w]])?, Box::new(f));
    }
    Ok(cases)
}

/// The output and the gradients of all inputs, in f32 on the CPU.
fn run(
    inputs: &[Input],
    f: &Operation,
    (device, dtype): (&Device, DType),
    tape: bool,
) -> Result<Vec<Tensor>> {
    let vars = inputs
        .iter()
        .map(|input| {
            let dtype = if input.wide { DType::F32 } else { dtype };
            Var::from_tensor(&input.values.to_dtype(dtype)?.to_device(device)?)
        })
        .collect::<CandleResult<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let tape = tape.then(Tape::start).transpose()?;
    let y = f(&tensors)?;
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(7));
    // Rounded as the output's gradient is, so that the two sides start from the same numbers.
    let weights = rounded(&draw.tensor(y.dims())?, DType::BF16)?;
    let loss = (y.to_dtype(DType::F32)? * weights.to_device(device)?)?.sum_all()?;
    let grads = match tape {
        Some(tape) => tape.backward(&loss)?,
        None => loss.backward()?,
    };
    let mut all = vec![y.detach()];
    for var in &vars {
        all.push(grads.get(var).context("an input got no gradient")?.clone());
    }
    all.iter()
        .map(|t| Ok(t.to_dtype(DType::F32)?.to_device(&Device::Cpu)?))
        .collect()
}

/// The values that `dtype` has, in f32.
fn rounded(x: &Tensor, dtype: DType) -> CandleResult<Tensor> {
    x.to_dtype(dtype)?.to_dtype(DType::F32)
}

/// The largest difference over the largest value; a NaN where a value isn't finite.
fn error(got: &Tensor, expected: &Tensor) -> Result<f64> {
    anyhow::ensure!(got.dims() == expected.dims(), "shapes differ");
    let top = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    if !got.sum_all()?.to_scalar::<f32>()?.is_finite() {
        return Ok(f64::NAN);
    }
    Ok(f64::from(top(&(got - expected)?)?) / f64::from(top(expected)?.max(1e-3)))
}

/// Compares one case in one type, with candle's backward pass and with the tape's.
fn compare(
    case: &Case,
    (device, dtype): (&Device, DType),
    (label, bound): (&str, f64),
    report: &mut Report,
) -> Result<()> {
    // Both sides start from the same numbers.
    let inputs = case
        .inputs
        .iter()
        .map(|input| {
            let dtype = if input.wide { DType::F32 } else { dtype };
            let values = rounded(&input.values, dtype)?;
            let wide = input.wide;
            Ok(Input { values, wide })
        })
        .collect::<CandleResult<Vec<_>>>()?;
    let expected = run(&inputs, &case.f, (&Device::Cpu, DType::F32), false)?;
    for tape in [false, true] {
        let mut worst = 0f64;
        for (got, expected) in run(&inputs, &case.f, (device, dtype), tape)?
            .iter()
            .zip(&expected)
        {
            let e = error(got, expected)?;
            if e.is_nan() || e > worst {
                worst = e;
            }
            if e.is_nan() {
                break;
            }
        }
        let way = if tape { ", tape" } else { "" };
        report.check(&format!("{} {label}{way}", case.name), worst, bound)?;
    }
    Ok(())
}

/// Two steps of Adam and two updates of an average, of tensors of several sizes.
fn updates(device: &Device, draw: &mut Draw, report: &mut Report) -> Result<()> {
    let sizes = [1, 4096, 4097, 20, 100_000];
    let mut all = Vec::new();
    for n in sizes {
        all.push((draw.tensor(&[n])?, draw.tensor(&[n])?));
    }
    let run = |device: &Device| -> Result<Vec<Tensor>> {
        let put = |t: &Tensor| Var::from_tensor(&t.to_device(device)?);
        let mut vars = Vec::new();
        for (p, g) in &all {
            let zeros = p.zeros_like()?;
            vars.push((
                [put(p)?, put(&zeros)?, put(&zeros)?, put(p)?],
                g.to_device(device)?,
            ));
        }
        for step in 1..=2 {
            let tensors: Vec<AdamTensor<'_>> = vars
                .iter()
                .map(|([param, m, v, _], grad)| AdamTensor { param, m, v, grad })
                .collect();
            let step = AdamStep {
                lr: 0.01,
                weight_decay: 0.1,
                step,
                ..AdamStep::default()
            };
            adam_step_all(&tensors, &step, 0.5)?;
            let pairs: Vec<(&Var, &Tensor)> = vars
                .iter()
                .map(|([p, .., e], _)| (e, p.as_tensor()))
                .collect();
            ema_update_all(&pairs, 0.9)?;
        }
        vars.iter()
            .flat_map(|(vars, _)| vars)
            .map(|v| Ok(v.as_detached_tensor().to_device(&Device::Cpu)?))
            .collect()
    };
    let mut worst = 0f64;
    for (got, expected) in run(device)?.iter().zip(&run(&Device::Cpu)?) {
        worst = worst.max(error(got, expected)?);
    }
    report.check("Adam and average, 5 tensors at once f32", worst, 1e-5)
}

pub(crate) fn check(device: &Device, report: &mut Report) -> Result<()> {
    let mut draw = Draw(ChaCha8Rng::seed_from_u64(1));
    let mut cases = convolutions(&mut draw)?;
    cases.extend(norms(&mut draw)?);
    cases.extend(others(&mut draw)?);
    for case in &cases {
        set_matrix_math(MatrixMath::Full);
        compare(case, (device, DType::F32), ("f32", 1e-4), report)?;
        if !has_bf16(device) {
            continue;
        }
        compare(case, (device, DType::BF16), ("bf16", 3e-2), report)?;
        if case.products {
            set_matrix_math(MatrixMath::Tf32);
            compare(case, (device, DType::F32), ("tf32", 1e-2), report)?;
            set_matrix_math(MatrixMath::Full);
        }
    }
    updates(device, &mut draw, report)
}
