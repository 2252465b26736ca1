//! Every program against the CPU path of this crate, on drawn shapes and in several orders of threads: f32 within 1e-4, bf16
//! within 3e-2 of the largest value. Orders must agree in every bit.

use super::super::machine::{Kind, Machine};
use super::super::program::attention::Attention;
use super::super::program::norm::{Gradients, Inputs, Norm};
use super::super::program::{elementwise, norm, optim};
use super::{Buffer, Emulator};
use candle_core::{Device, Result, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Forwards, backwards, and mixed.
const ORDERS: [u64; 3] = [0, 1, 2];

pub(super) const KINDS: [(Kind, f32); 2] = [(Kind::F32, 1e-4), (Kind::Bf16, 3e-2)];

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect()
}

/// As the machine sees them.
fn rounded(values: &[f32], kind: Kind) -> Vec<f32> {
    match kind {
        Kind::Bf16 => values
            .iter()
            .map(|v| half::bf16::from_f32(*v).to_f32())
            .collect(),
        _ => values.to_vec(),
    }
}

/// Runs `f` in every order, and gives the outputs of the first. `None` where there is no compiler.
pub(super) fn in_every_order(
    f: impl Fn(&Emulator) -> Result<Vec<Buffer>>,
) -> Result<Option<Vec<Vec<f32>>>> {
    let mut first: Option<Vec<Vec<u8>>> = None;
    let mut values = Vec::new();
    for order in ORDERS {
        let Some(machine) = Emulator::start(order) else {
            return Ok(None);
        };
        let outputs = f(&machine)?;
        let bytes: Vec<Vec<u8>> = outputs.iter().map(|b| machine.bytes(b)).collect();
        match &first {
            None => {
                values = outputs.iter().map(|b| machine.read(b)).collect();
                first = Some(bytes);
            }
            Some(first) => assert!(*first == bytes, "order {order} gives other bits"),
        }
    }
    Ok(Some(values))
}

fn close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    close_beside(what, got, expected, 1e-3, tolerance);
}

/// As `close` for sums whose parts are as large as `size`: they may cancel.
fn close_beside(what: &str, got: &[f32], expected: &[f32], size: f32, tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let top = expected.iter().fold(size, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(expected)
        .map(|(a, b)| {
            assert!(a.is_finite(), "{what}: {a} where {b} is expected");
            (a - b).abs()
        })
        .fold(0f32, f32::max);
    println!("{what}: {:.1e}", worst / top);
    assert!(
        worst <= tolerance * top,
        "{what}: differs by {worst} of {top}"
    );
}

pub(super) fn var(values: &[f32], shape: &[usize]) -> Result<Var> {
    Var::from_vec(values.to_vec(), shape, &Device::Cpu)
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}

/// The output and the gradients of `f` on the CPU, with `dy` the output's gradient.
fn on_cpu(
    inputs: &[&Var],
    dy: &[f32],
    f: impl FnOnce() -> Result<Tensor>,
) -> Result<(Vec<f32>, Vec<Vec<f32>>)> {
    let y = f()?;
    let dy = Tensor::from_vec(dy.to_vec(), y.shape(), &Device::Cpu)?;
    let grads = (&y * dy)?.sum_all()?.backward()?;
    let grads = inputs
        .iter()
        .map(|v| values(grads.get(v).expect("a gradient")))
        .collect::<Result<_>>()?;
    Ok((values(&y)?, grads))
}

#[test]
fn normalisation() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // batch, channels, h, w, groups: small and large groups, with and without packs
    let shapes = [
        (2, 32, 8, 8, 32),
        (1, 64, 5, 7, 32),
        (3, 8, 33, 31, 2),
        (1, 4, 64, 80, 2),
        (2, 6, 1, 1, 3),
        (1, 2, 64, 64, 2),
        (1, 3, 70, 61, 1),
    ];
    for (b, c, h, w, groups) in shapes {
        for (kind, tolerance) in KINDS {
            // A large one takes long.
            let large = b * c * h * w > 10_000;
            let ways = [(true, true), (true, false), (false, false)];
            for (activate, per_image) in ways.into_iter().take(if large { 1 } else { 3 }) {
                let n = b * c * h * w;
                let small = if per_image { b * c } else { c };
                // Far from zero, so that a variance by the mean of squares would fail.
                let x: Vec<f32> = random(&mut rng, n).iter().map(|v| v * 0.5 + 3.).collect();
                let (x, dy) = (rounded(&x, kind), rounded(&random(&mut rng, n), kind));
                let (f, o) = (random(&mut rng, small), random(&mut rng, small));
                let program = Norm {
                    batch: b,
                    channels: c,
                    pixels: h * w,
                    groups,
                    eps: 1e-5,
                    activate,
                    per_image,
                };
                let Some(got) = in_every_order(|m| {
                    let (xb, fb, ob) = (
                        m.floats(kind, &x),
                        m.floats(Kind::F32, &f),
                        m.floats(Kind::F32, &o),
                    );
                    let inputs = Inputs {
                        x: m.view(&xb),
                        factor: m.view(&fb),
                        offset: m.view(&ob),
                    };
                    let y = m.alloc(kind, n)?;
                    let moments = m.alloc(Kind::F32, program.moments())?;
                    program.forward(m, &inputs, m.view(&y), m.view(&moments))?;
                    let dyb = m.floats(kind, &dy);
                    let dx = m.alloc(kind, n)?;
                    let (df, d0) = (m.alloc(Kind::F32, b * c)?, m.alloc(Kind::F32, b * c)?);
                    let gradients = Gradients {
                        x: m.view(&dx),
                        factor: m.view(&df),
                        offset: m.view(&d0),
                    };
                    program.backward(m, &inputs, m.view(&moments), m.view(&dyb), &gradients)?;
                    if per_image {
                        return Ok(vec![y, dx, df, d0]);
                    }
                    let (fs, os) = (m.alloc(Kind::F32, c)?, m.alloc(Kind::F32, c)?);
                    elementwise::sum_rows(m, m.view(&df), m.view(&fs), b, c)?;
                    elementwise::sum_rows(m, m.view(&d0), m.view(&os), b, c)?;
                    Ok(vec![y, dx, fs, os])
                })?
                else {
                    return Ok(());
                };
                let xv = var(&x, &[b, c, h, w])?;
                let (fv, ov) = (var(&f, &[small])?, var(&o, &[small])?);
                let (y, grads) = on_cpu(&[&xv, &fv, &ov], &dy, || {
                    if per_image {
                        // A weight of one and a bias of zero leave factor and offset to scale and shift.
                        let ones = Tensor::ones(c, candle_core::DType::F32, &Device::Cpu)?;
                        let scale = (fv.reshape((b, c))? - 1.)?;
                        let shift = ov.reshape((b, c))?;
                        let ss = Some((&scale, &shift));
                        crate::group_norm_silu(&xv, groups, &ones, &ones.zeros_like()?, 1e-5, ss)
                    } else if activate {
                        crate::group_norm_silu(&xv, groups, &fv, &ov, 1e-5, None)
                    } else {
                        crate::group_norm(&xv, groups, &fv, &ov, 1e-5)
                    }
                })?;
                let name = format!("norm {b} {c} {h}x{w} {groups} {kind:?} {activate} {per_image}");
                close(&name, &got[0], &y, tolerance);
                for ((got, expected), what) in
                    got[1..].iter().zip(&grads).zip(["x", "factor", "offset"])
                {
                    // A group of two values has next to no gradient, whatever comes in.
                    let size = match what {
                        "x" => largest(&dy) * largest(&f),
                        _ => 1e-3,
                    };
                    let name = format!("{name}: gradient of {what}");
                    close_beside(&name, got, expected, size, tolerance);
                }
            }
        }
    }
    Ok(())
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0., |m, v| m.max(v.abs()))
}

#[test]
fn scale_and_shift() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (b, c) = (3, 130);
    let (w, o) = (random(&mut rng, c), random(&mut rng, c));
    let (scale, shift) = (random(&mut rng, b * c), random(&mut rng, b * c));
    let Some(got) = in_every_order(|m| {
        let put = |v: &[f32]| m.floats(Kind::F32, v);
        let (wb, ob, sb, hb) = (put(&w), put(&o), put(&scale), put(&shift));
        let (f, z) = (m.alloc(Kind::F32, b * c)?, m.alloc(Kind::F32, b * c)?);
        norm::scale_shift(
            m,
            (m.view(&wb), m.view(&ob)),
            (m.view(&sb), m.view(&hb)),
            (m.view(&f), m.view(&z)),
            (b, c),
        )?;
        Ok(vec![f, z])
    })?
    else {
        return Ok(());
    };
    let each = |f: &dyn Fn(usize) -> f32| (0..b * c).map(f).collect::<Vec<_>>();
    close(
        "factor",
        &got[0],
        &each(&|i| w[i % c] * (1. + scale[i])),
        1e-6,
    );
    close(
        "offset",
        &got[1],
        &each(&|i| o[i % c] * (1. + scale[i]) + shift[i]),
        1e-6,
    );
    Ok(())
}

#[test]
fn attention() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (heads, c, t) in [(2, 8, 16), (3, 5, 9), (1, 16, 150), (2, 4, 1), (1, 3, 600)] {
        for (kind, tolerance) in KINDS {
            let n = heads * c * t;
            let mut draw = || rounded(&random(&mut rng, n), kind);
            let (q, k, v, dy) = (draw(), draw(), draw(), draw());
            let program = Attention {
                heads,
                channels: c,
                tokens: t,
            };
            let Some(got) = in_every_order(|m| {
                let put = |v: &[f32]| m.floats(kind, v);
                let (qb, kb, vb, db) = (put(&q), put(&k), put(&v), put(&dy));
                let qkv = [m.view(&qb), m.view(&kb), m.view(&vb)];
                let all = (0..4)
                    .map(|_| m.alloc(kind, n))
                    .collect::<Result<Vec<_>>>()?;
                program.forward(m, qkv, m.view(&all[0]))?;
                let grads = [m.view(&all[1]), m.view(&all[2]), m.view(&all[3])];
                program.backward(m, qkv, m.view(&db), grads)?;
                Ok(all)
            })?
            else {
                return Ok(());
            };
            let shape = [1, heads, c, t];
            let (qv, kv, vv) = (var(&q, &shape)?, var(&k, &shape)?, var(&v, &shape)?);
            let (y, grads) = on_cpu(&[&qv, &kv, &vv], &dy, || crate::attention(&qv, &kv, &vv))?;
            let name = format!("attention {heads} {c} {t} {kind:?}");
            close(&name, &got[0], &y, tolerance);
            for ((got, expected), what) in got[1..].iter().zip(&grads).zip(["q", "k", "v"]) {
                if t > 1 || what == "v" {
                    close(
                        &format!("{name}: gradient of {what}"),
                        got,
                        expected,
                        tolerance,
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn elementwise_operations() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (b, c, h, w) in [(2, 3, 4, 6), (1, 1, 2, 2), (1, 5, 34, 38), (2, 4, 16, 16)] {
        for (kind, tolerance) in KINDS {
            let n = b * c * h * w;
            let mut draw = |n: usize| rounded(&random(&mut rng, n), kind);
            let (x, dy) = (draw(n), draw(n));
            let terms: Vec<Vec<f32>> = (0..9).map(|_| draw(n)).collect();
            let coefficient = |i: usize| 1. - 0.3 * i as f32;
            let (large, other) = (draw(4 * n), draw(b * 5 * h * w));
            let (bias, image_bias) = (draw(c), draw(b * c));
            let Some(got) = in_every_order(|m| {
                let put = |v: &[f32]| m.floats(kind, v);
                let new = |n: usize| m.alloc(kind, n);
                let (xb, dyb) = (put(&x), put(&dy));
                let mut all = Vec::new();
                let y = new(n)?;
                elementwise::silu(m, m.view(&xb), m.view(&y), n)?;
                all.push(y);
                let y = new(n)?;
                elementwise::silu_grad(m, m.view(&xb), m.view(&dyb), m.view(&y), n)?;
                all.push(y);
                for count in [1, 2, 3, 4, 5, 9] {
                    let there: Vec<Buffer> = terms[..count].iter().map(|t| put(t)).collect();
                    let terms: Vec<_> = there
                        .iter()
                        .enumerate()
                        .map(|(i, t)| (coefficient(i), m.view(t)))
                        .collect();
                    let y = new(n)?;
                    elementwise::combine(m, &terms, m.view(&y), n)?;
                    all.push(y);
                }
                let y = new(4 * n)?;
                elementwise::expand(m, m.view(&xb), m.view(&y), (b * c * h, w), 0.25)?;
                all.push(y);
                let (y, lb) = (new(n)?, put(&large));
                elementwise::reduce(m, m.view(&lb), m.view(&y), (b * c * h, w), 0.25)?;
                all.push(y);
                let (ob, y) = (put(&other), new(n + other.len())?);
                let (na, nb) = (n / b, other.len() / b);
                elementwise::copy_images(m, (m.view(&xb), na), (m.view(&y), na + nb), na, b)?;
                let behind = m.view(&y).offset(na);
                elementwise::copy_images(m, (m.view(&ob), nb), (behind, na + nb), nb, b)?;
                all.push(y);
                for bias in [&bias, &image_bias] {
                    let (y, bb) = (put(&x), put(bias));
                    elementwise::add_bias(m, m.view(&y), m.view(&bb), b * c, h * w, bias.len())?;
                    all.push(y);
                }
                for per_image in [false, true] {
                    let g = new(if per_image { b * c } else { c })?;
                    let shape = (b, c, h * w);
                    elementwise::bias_grad(m, m.view(&dyb), shape, per_image, m.view(&g))?;
                    all.push(g);
                }
                Ok(all)
            })?
            else {
                return Ok(());
            };
            let mut got = got.into_iter();
            let mut check = |what: &str, expected: &[f32]| {
                let name = format!("{what} {b} {c} {h}x{w} {kind:?}");
                close(&name, &got.next().expect("an output"), expected, tolerance);
            };
            let shape = [b, c, h, w];
            let xv = var(&x, &shape)?;
            let (y, grads) = on_cpu(&[&xv], &dy, || crate::silu(&xv))?;
            check("silu", &y);
            check("gradient of silu", &grads[0]);
            for count in [1, 2, 3, 4, 5, 9] {
                let sum: Vec<f32> = (0..n)
                    .map(|at| (0..count).map(|i| coefficient(i) * terms[i][at]).sum())
                    .collect();
                check(&format!("{count} terms"), &sum);
            }
            let up = (crate::upsample_nearest_2x(&xv)? * 0.25)?;
            check("expand", &values(&up)?);
            let lv = var(&large, &[b, c, 2 * h, 2 * w])?;
            check("reduce", &values(&crate::avg_pool_2x(&lv)?)?);
            let ov = var(&other, &[b, 5, h, w])?;
            check("copy", &values(&crate::cat_channels(&xv, &ov)?)?);
            let bv = var(&bias, &[1, c, 1, 1])?;
            check("bias", &values(&xv.broadcast_add(&bv)?)?);
            let bv = var(&image_bias, &[b, c, 1, 1])?;
            check("bias per image", &values(&xv.broadcast_add(&bv)?)?);
            let dv = var(&dy, &shape)?;
            check("gradient of bias", &values(&dv.sum((0, 2, 3))?)?);
            check("gradient of bias per image", &values(&dv.sum((2, 3))?)?);
        }
    }
    Ok(())
}

#[test]
fn updates() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let lengths = [1, 4096, 4097, 20, 9000];
    let draw = |rng: &mut ChaCha8Rng| -> Vec<Vec<f32>> {
        lengths.iter().map(|n| random(rng, *n)).collect()
    };
    let (p, m1, g, e) = (
        draw(&mut rng),
        draw(&mut rng),
        draw(&mut rng),
        draw(&mut rng),
    );
    let v1: Vec<Vec<f32>> = draw(&mut rng)
        .into_iter()
        .map(|v| v.iter().map(|x| x * x).collect())
        .collect();
    let step = crate::AdamStep {
        lr: 0.01,
        weight_decay: 0.1,
        step: 7,
        ..Default::default()
    };
    let (scale, decay) = (0.5f32, 0.99);
    let Some(got) = in_every_order(|m| {
        let put = |all: &[Vec<f32>]| -> Vec<Buffer> {
            all.iter().map(|v| m.floats(Kind::F32, v)).collect()
        };
        let (pb, mb, vb, gb, eb) = (put(&p), put(&m1), put(&v1), put(&g), put(&e));
        let tensors: Vec<_> = (0..lengths.len())
            .map(|i| ([&pb, &mb, &vb, &gb].map(|b| m.view(&b[i])), lengths[i]))
            .collect();
        optim::adam(m, &tensors, &crate::optim::constants(&step, scale))?;
        let pairs: Vec<_> = (0..lengths.len())
            .map(|i| ([m.view(&eb[i]), m.view(&pb[i])], lengths[i]))
            .collect();
        optim::ema(m, &pairs, (1. - decay) as f32)?;
        Ok(pb.into_iter().chain(mb).chain(vb).chain(eb).collect())
    })?
    else {
        return Ok(());
    };
    for (i, n) in lengths.iter().enumerate() {
        let v = |all: &[Vec<f32>]| var(&all[i], &[*n]);
        let (p, m, v, e) = (v(&p)?, v(&m1)?, v(&v1)?, v(&e)?);
        let g = (var(&g[i], &[*n])?.as_detached_tensor() * f64::from(scale))?;
        crate::adam_step(&p, &m, &v, &g, &step)?;
        crate::ema_update(&e, p.as_tensor(), decay)?;
        for (j, (expected, what)) in [
            (p, "parameter"),
            (m, "first"),
            (v, "second"),
            (e, "average"),
        ]
        .iter()
        .enumerate()
        {
            let got = &got[j * lengths.len() + i];
            close(&format!("{what} of {n}"), got, &values(expected)?, 1e-6);
        }
    }
    Ok(())
}

/// The emulator finds what it is there to find.
#[test]
fn the_emulator_tells_a_wrong_launch() -> Result<()> {
    let Some(m) = Emulator::start(0) else {
        return Ok(());
    };
    let x = m.floats(Kind::F32, &[0.5; 64]);
    let y = m.alloc(Kind::F32, 60)?;
    // Writes past the end.
    let e = elementwise::silu(&m, m.view(&x), m.view(&y), 64).expect_err("a fault");
    assert!(e.to_string().contains("beyond buffer"), "{e}");
    let Some(m) = Emulator::start(0) else {
        return Ok(());
    };
    let (x, y) = (m.floats(Kind::F32, &[0.5; 64]), m.alloc(Kind::F32, 64)?);
    let launch = |kernel, args: &[super::super::machine::Arg]| {
        m.launch(&super::super::machine::Launch {
            kernel,
            blocks: 1,
            threads: 64,
            args,
        })
    };
    let (xv, yv) = (m.view(&x).into(), m.view(&y).into());
    assert!(launch("silu_f32_1", &[xv, yv, 64u64.into()]).is_ok());
    assert!(launch("silu_f32_1", &[xv, yv, 64u32.into()]).is_err());
    assert!(launch("silu_f32_1", &[xv, yv]).is_err());
    assert!(launch("silu_f32_2", &[xv, yv, 64u64.into()]).is_err());
    Ok(())
}
