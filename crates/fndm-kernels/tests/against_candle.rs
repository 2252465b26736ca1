//! Every operation and its gradients, this crate's kernels against plain candle.

use candle_core::{Device, Result, Tensor, Var};
use fndm_kernels::{Backend, Conv2d, set_backend};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Mutex, PoisonError};

/// The switch is global, so the tests of this file take turns.
static TURN: Mutex<()> = Mutex::new(());

fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect();
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// The largest difference over the largest value.
fn error(a: &Tensor, b: &Tensor) -> Result<f32> {
    assert_eq!(a.dims(), b.dims());
    let top = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    let diff = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(diff.is_finite());
    Ok(diff / top.max(1e-3))
}

/// Runs `f` under both implementations and compares its output and the gradient of every input, where the loss is
/// a random weighting of the output.
fn compare(
    name: &str,
    inputs: &[Tensor],
    tolerance: f32,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let run = |backend| -> Result<Vec<Tensor>> {
        set_backend(backend);
        let vars = inputs
            .iter()
            .map(Var::from_tensor)
            .collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tensors)?;
        let weights = random(&mut ChaCha8Rng::seed_from_u64(7), y.dims())?;
        let grads = (&y * &weights)?.sum_all()?.backward()?;
        let mut all = vec![y];
        for (i, v) in vars.iter().enumerate() {
            let g = grads.get(v);
            all.push(
                g.unwrap_or_else(|| panic!("{name}: input {i} got no gradient"))
                    .clone(),
            );
        }
        Ok(all)
    };
    let slow = run(Backend::Candle);
    let fast = run(Backend::Fast);
    set_backend(Backend::Fast);
    for (i, (a, b)) in fast?.iter().zip(&slow?).enumerate() {
        let e = error(a, b)?;
        let what = if i == 0 {
            "output".to_string()
        } else {
            format!("gradient {}", i - 1)
        };
        println!("{name}: {what} {e:.1e}");
        assert!(e < tolerance, "{name}: {what} differs by {e:.1e}");
    }
    Ok(())
}

#[test]
fn convolution() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // batch, in, h, w, out, kernel, stride
    for (b, ci, h, w, co, k, stride) in [
        (2, 8, 16, 16, 8, 3, 1),
        (1, 32, 64, 64, 32, 3, 1),
        (3, 5, 19, 23, 7, 3, 1),
        (2, 33, 17, 40, 49, 3, 1),
        (16, 16, 8, 8, 24, 3, 1),
        (1, 16, 8, 8, 48, 3, 1),
        (2, 3, 5, 7, 1, 3, 1),
        (1, 1, 1, 1, 1, 3, 1),
        (2, 20, 16, 16, 36, 3, 2),
        (2, 20, 15, 13, 36, 3, 2),
        (2, 20, 9, 12, 40, 1, 1),
        (2, 20, 9, 11, 40, 1, 2),
    ] {
        let x = random(&mut rng, &[b, ci, h, w])?;
        let weight = random(&mut rng, &[co, ci, k, k])?;
        let bias = random(&mut rng, &[co])?;
        let name = format!("conv {b} {ci} {h}x{w} {co} k{k} s{stride}");
        compare(&name, &[x.clone(), weight.clone(), bias], 3e-5, |t| {
            Conv2d::new(t[1].clone(), Some(t[2].clone()), stride)?.forward(&t[0])
        })?;
        let shift = random(&mut rng, &[b, co])?;
        let inputs = [x.clone(), weight.clone(), random(&mut rng, &[co])?, shift];
        compare(&format!("{name}, shifted"), &inputs, 3e-5, |t| {
            Conv2d::new(t[1].clone(), Some(t[2].clone()), stride)?.forward_shifted(&t[0], &t[3])
        })?;
        let inputs = [x.clone(), weight.clone(), random(&mut rng, &[co])?];
        compare(&format!("{name}, upsampled"), &inputs, 3e-5, |t| {
            Conv2d::new(t[1].clone(), Some(t[2].clone()), stride)?.forward_upsampled(&t[0])
        })?;
        let (oh, ow) = (h.div_ceil(stride), w.div_ceil(stride));
        let base = random(&mut rng, &[b, co, oh, ow])?;
        let bias = random(&mut rng, &[co])?;
        let inputs = [x.clone(), weight.clone(), bias.clone(), base.clone()];
        compare(&format!("{name}, onto"), &inputs, 3e-5, |t| {
            Conv2d::new(t[1].clone(), Some(t[2].clone()), stride)?.forward_onto(&t[0], &t[3])
        })?;
        same_bits_onto(&x, &base, &Conv2d::new(weight.clone(), Some(bias), stride)?)?;
        compare(&format!("{name}, no bias"), &[x, weight], 3e-5, |t| {
            Conv2d::new(t[1].clone(), None, stride)?.forward(&t[0])
        })?;
    }
    Ok(())
}

/// Without a gradient the sum is one pass over memory, and the same bits.
fn same_bits_onto(x: &Tensor, base: &Tensor, conv: &Conv2d) -> Result<()> {
    // Other tests change the backend.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let bits = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let sum = fndm_kernels::add(base, &conv.forward(x)?)?;
    assert_eq!(bits(&conv.forward_onto(x, base)?)?, bits(&sum)?);
    let wrong = base.narrow(1, 0, 1)?.narrow(2, 0, 1)?.narrow(3, 0, 1)?;
    assert_eq!(
        conv.forward_onto(x, &wrong).is_ok(),
        base.dims() == wrong.dims()
    );
    Ok(())
}

#[test]
fn packed_weights_serve_every_use() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let weight = random(&mut rng, &[24, 12, 3, 3])?;
    let bias = random(&mut rng, &[24])?;
    let conv = Conv2d::new(weight.clone(), Some(bias.clone()), 1)?;
    for (b, h) in [(2, 32), (1, 8), (2, 32), (4, 20)] {
        let x = random(&mut rng, &[b, 12, h, h])?;
        compare("packed", &[x], 3e-5, |t| conv.clone().forward(&t[0]))?;
    }
    Ok(())
}

#[test]
fn normalisation() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (b, c, h, w, groups) in [(2, 32, 16, 16, 32), (3, 24, 7, 9, 4), (1, 6, 1, 5, 1)] {
        let x = random(&mut rng, &[b, c, h, w])?;
        let weight = random(&mut rng, &[c])?;
        let bias = random(&mut rng, &[c])?;
        let scale = random(&mut rng, &[b, c])?;
        let shift = random(&mut rng, &[b, c])?;
        compare(
            "group_norm",
            &[x.clone(), weight.clone(), bias.clone()],
            1e-5,
            |t| fndm_kernels::group_norm(&t[0], groups, &t[1], &t[2], 1e-5),
        )?;
        compare(
            "group_norm_silu",
            &[x.clone(), weight.clone(), bias.clone()],
            1e-5,
            |t| fndm_kernels::group_norm_silu(&t[0], groups, &t[1], &t[2], 1e-5, None),
        )?;
        compare(
            "scale shift",
            &[x.clone(), weight, bias, scale, shift],
            1e-5,
            |t| {
                let ss = Some((&t[3], &t[4]));
                fndm_kernels::group_norm_silu(&t[0], groups, &t[1], &t[2], 1e-5, ss)
            },
        )?;
        compare("silu", &[(x * 6.)?], 1e-6, |t| fndm_kernels::silu(&t[0]))?;
    }
    Ok(())
}

#[test]
fn attention() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (b, heads, c, t) in [
        (2, 2, 32, 64),
        (1, 1, 20, 9),
        (1, 3, 8, 150),
        (2, 1, 64, 256),
    ] {
        let mut qkv = || random(&mut rng, &[b, heads, c, t]);
        let inputs = [(qkv()? * 2.)?, (qkv()? * 2.)?, qkv()?];
        compare("attention", &inputs, 1e-5, |t| {
            fndm_kernels::attention(&t[0], &t[1], &t[2])
        })?;
    }
    Ok(())
}

#[test]
fn elementwise() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (b, c, h, w) in [(2, 3, 4, 6), (1, 1, 2, 2), (3, 40, 34, 38)] {
        let mut x = || random(&mut rng, &[b, c, h, w]);
        let t = [x()?, x()?, x()?, x()?, x()?, x()?];
        for n in 1..=t.len() {
            compare(&format!("combination of {n}"), &t[..n], 1e-6, |t| {
                let terms: Vec<(f64, &Tensor)> = t
                    .iter()
                    .enumerate()
                    .map(|(i, t)| (1. - 0.4 * i as f64, t))
                    .collect();
                fndm_kernels::linear_combination(&terms)
            })?;
        }
        compare("upsample", &t[..1], 1e-6, |t| {
            fndm_kernels::upsample_nearest_2x(&t[0])
        })?;
        compare("pool", &t[..1], 1e-6, |t| fndm_kernels::avg_pool_2x(&t[0]))?;
        compare("add", &t[..2], 1e-6, |t| fndm_kernels::add(&t[0], &t[1]))?;
        let other = random(&mut rng, &[b, 5, h, w])?;
        compare("cat", &[t[0].clone(), other], 1e-6, |t| {
            fndm_kernels::cat_channels(&t[0], &t[1])
        })?;
    }
    // An input that is used twice gets both gradients.
    let x = random(&mut rng, &[1, 2, 4, 4])?;
    compare("twice", &[x], 1e-6, |t| {
        let up = fndm_kernels::upsample_nearest_2x(&t[0])?;
        fndm_kernels::add(&fndm_kernels::avg_pool_2x(&up)?, &t[0])
    })
}

#[test]
fn updates() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let start = random(&mut rng, &[37, 1001])?;
    let grads = [
        random(&mut rng, &[37, 1001])?,
        random(&mut rng, &[37, 1001])?,
    ];
    let run = |backend| -> Result<Vec<Tensor>> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        set_backend(backend);
        let (p, m, v, e) = (
            Var::from_tensor(&start)?,
            Var::from_tensor(&start.zeros_like()?)?,
            Var::from_tensor(&start.zeros_like()?)?,
            Var::from_tensor(&start)?,
        );
        for (i, g) in grads.iter().enumerate() {
            let step = fndm_kernels::AdamStep {
                lr: 0.01,
                weight_decay: 0.1,
                step: i as u64 + 1,
                ..Default::default()
            };
            fndm_kernels::adam_step(&p, &m, &v, g, &step)?;
            fndm_kernels::ema_update(&e, p.as_tensor(), 0.9)?;
        }
        set_backend(Backend::Fast);
        Ok([p, m, v, e].map(|v| v.as_tensor().clone()).to_vec())
    };
    for (a, b) in run(Backend::Fast)?.iter().zip(&run(Backend::Candle)?) {
        let e = error(a, b)?;
        assert!(e < 1e-6, "{e}");
    }
    Ok(())
}
