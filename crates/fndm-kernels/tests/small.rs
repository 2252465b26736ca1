//! Each kernel once at the smallest size that reaches its edges: few enough operations for an interpreter that checks
//! every access to memory (`scripts/sanitize.sh`). Nothing here calls candle's products.

use candle_core::{Device, Result, Tensor, Var};
use fndm_kernels::{AdamStep, Algorithm, Backend, Conv2d, QkvOrder, attention_qkv, set_backend};
use std::sync::{Mutex, PoisonError};

/// The choice of the implementation is global, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Values in -1 to 1.
fn tensor(seed: usize, shape: &[usize]) -> Result<Tensor> {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| ((i * 37 + seed * 101) % 97) as f32 / 48. - 1.)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn var(seed: usize, shape: &[usize]) -> Result<Var> {
    Var::from_tensor(&tensor(seed, shape)?)
}

fn close(what: &str, a: &Tensor, b: &Tensor, tolerance: f32) -> Result<()> {
    let (a, b) = (
        a.flatten_all()?.to_vec1::<f32>()?,
        b.flatten_all()?.to_vec1::<f32>()?,
    );
    assert_eq!(a.len(), b.len(), "{what}");
    let top = b.iter().fold(1e-3f32, |t, v| t.max(v.abs()));
    for (i, (x, y)) in a.iter().zip(&b).enumerate() {
        let error = (x - y).abs() / top;
        assert!(
            error <= tolerance,
            "{what}: value {i} is {x}, by the other way {y}"
        );
    }
    Ok(())
}

/// Output and gradients of `f` for variables of these shapes.
fn results(shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Tensor>> {
    let vars = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| var(i + 1, s))
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let grads = (&y * tensor(9, y.dims())?)?.sum_all()?.backward()?;
    let gradients = vars.iter().map(|v| match grads.get(v) {
        Some(g) => Ok(g.clone()),
        None => candle_core::bail!("no gradient"),
    });
    std::iter::once(Ok(y)).chain(gradients).collect()
}

#[test]
fn winograd_and_direct_sums_agree() -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for up in [false, true] {
        let shapes: [&[usize]; 3] = [&[2, 3, 4, 5], &[18, 3, 3, 3], &[18]];
        let by = |algorithm| {
            results(&shapes, |t| {
                let conv = Conv2d::new(t[1].clone(), Some(t[2].clone()), 1)?;
                let conv = conv.with_algorithm(algorithm)?;
                if up {
                    conv.forward_upsampled(&t[0])
                } else {
                    conv.forward(&t[0])
                }
            })
        };
        let (a, b) = (by(Algorithm::Winograd)?, by(Algorithm::Direct)?);
        for (what, (a, b)) in ["y", "dx", "dw", "db"].iter().zip(a.iter().zip(&b)) {
            close(what, a, b, 3e-5)?;
        }
    }
    Ok(())
}

/// Convolutions of one pixel and of stride 2, whose sums are few enough to be written out.
#[test]
fn a_point_and_a_stride() -> Result<()> {
    let shapes: [&[usize]; 2] = [&[1, 2, 3, 3], &[3, 2, 1, 1]];
    let got = results(&shapes, |t| {
        Conv2d::new(t[1].clone(), None, 1)?.forward(&t[0])
    })?;
    let (x, w) = (tensor(1, shapes[0])?, tensor(2, shapes[1])?);
    let (x, w) = (x.reshape((2, 9))?, w.reshape((3, 2))?);
    let product = x.unsqueeze(0)?.broadcast_mul(&w.unsqueeze(2)?)?.sum(1)?;
    close("1x1", &got[0], &product, 2e-6)?;

    let shapes: [&[usize]; 2] = [&[1, 2, 5, 6], &[3, 2, 3, 3]];
    let strided = |stride| {
        results(&shapes, |t| {
            let y = Conv2d::new(t[1].clone(), None, stride)?.forward(&t[0])?;
            if stride == 2 {
                return Ok(y);
            }
            // Every second row and column of stride 1.
            let even = |n: usize| {
                Tensor::from_vec(
                    (0..n as u32).step_by(2).collect(),
                    n.div_ceil(2),
                    &Device::Cpu,
                )
            };
            y.index_select(&even(5)?, 2)?.index_select(&even(6)?, 3)
        })
    };
    for (a, b) in strided(2)?.iter().zip(&strided(1)?) {
        close("stride 2", a, b, 3e-6)?;
    }
    Ok(())
}

#[test]
fn passes_over_memory_agree_with_candle() -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    type Operation = fn(&[Tensor]) -> Result<Tensor>;
    let x: &[usize] = &[2, 6, 4, 2];
    let cases: [(&str, &[&[usize]], Operation); 6] = [
        ("norm", &[x, &[6], &[6], &[2, 6], &[2, 6]], |t| {
            fndm_kernels::group_norm_silu(&t[0], 3, &t[1], &t[2], 1e-5, Some((&t[3], &t[4])))
        }),
        ("silu", &[x], |t| fndm_kernels::silu(&t[0])),
        ("upsample", &[x], |t| {
            fndm_kernels::upsample_nearest_2x(&t[0])
        }),
        ("pool", &[x], |t| fndm_kernels::avg_pool_2x(&t[0])),
        ("cat", &[x, &[2, 3, 4, 2]], |t| {
            fndm_kernels::cat_channels(&t[0], &t[1])
        }),
        ("combination", &[x, x, x], |t| {
            fndm_kernels::linear_combination(&[(0.5, &t[0]), (-2., &t[1]), (1., &t[2])])
        }),
    ];
    for (what, shapes, f) in cases {
        let fast = results(shapes, f)?;
        set_backend(Backend::Candle);
        let plain = results(shapes, f);
        set_backend(Backend::Fast);
        for (a, b) in fast.iter().zip(&plain?) {
            close(what, a, b, 1e-5)?;
        }
    }
    Ok(())
}

#[test]
fn attention_over_equal_values_returns_them() -> Result<()> {
    let shape: &[usize] = &[1, 2, 5, 19];
    let got = results(&[shape, shape, &[1, 2, 5, 1]], |t| {
        fndm_kernels::attention(&t[0], &t[1], &t[2].broadcast_as(shape)?)
    })?;
    close(
        "output",
        &got[0],
        &tensor(3, &[1, 2, 5, 1])?
            .broadcast_as(shape)?
            .contiguous()?,
        1e-5,
    )?;
    // Which token is looked at makes no difference then.
    for g in &got[1..3] {
        let top = g.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(top < 1e-4, "{top}");
    }
    let weights = tensor(9, shape)?.sum_keepdim(3)?;
    close("values' gradient", &got[3], &weights, 1e-4)
}

/// Three times such a number of heads is 2 in 64 bits, which divides any even width.
#[test]
fn heads_beyond_the_width_are_refused() -> Result<()> {
    let qkv = tensor(1, &[1, 12, 3])?;
    for heads in [0, 5, usize::MAX, 0x5555_5555_5555_5556] {
        for order in [QkvOrder::HeadsFirst, QkvOrder::PartsFirst] {
            assert!(attention_qkv(&qkv, heads, order).is_err(), "{heads}");
        }
    }
    Ok(())
}

#[test]
fn a_matrix_of_weights() -> Result<()> {
    let shapes: [&[usize]; 3] = [&[2, 83], &[3, 83], &[3]];
    let f = |t: &[Tensor]| fndm_kernels::linear(&t[0], &t[1], &t[2]);
    let plain = |t: &[Tensor]| t[0].matmul(&t[1].t()?)?.broadcast_add(&t[2]);
    for (a, b) in results(&shapes, f)?.iter().zip(&results(&shapes, plain)?) {
        close("linear", a, b, 1e-5)?;
    }
    Ok(())
}

#[test]
fn updates_in_place() -> Result<()> {
    let n: &[usize] = &[37];
    let (p, m, v) = (
        var(1, n)?,
        var(2, n)?,
        Var::from_tensor(&tensor(3, n)?.sqr()?)?,
    );
    let g = tensor(4, n)?;
    let s = AdamStep {
        lr: 0.1,
        ..AdamStep::default()
    };
    let m1 = ((m.as_tensor() * 0.9)? + (&g * 0.1)?)?.detach();
    let v1 = ((v.as_tensor() * 0.999)? + (g.sqr()? * 0.001)?)?.detach();
    let root = ((&v1 / 0.001)?.sqrt()? + 1e-8)?;
    let p1 = (p.as_tensor() - (((&m1 / 0.1)? / root)? * 0.1)?)?.detach();
    fndm_kernels::adam_step(&p, &m, &v, &g, &s)?;
    close("first moment", &m, &m1, 1e-5)?;
    close("second moment", &v, &v1, 1e-5)?;
    close("parameter", &p, &p1, 1e-4)?;
    let e = var(5, n)?;
    let e1 = ((e.as_tensor() * 0.75)? + (p.as_tensor() * 0.25)?)?.detach();
    fndm_kernels::ema_update(&e, p.as_tensor(), 0.75)?;
    close("average", &e, &e1, 1e-5)
}
