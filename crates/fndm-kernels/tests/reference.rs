//! Every operation and gradient against a slow f64 reference, over drawn shapes, on every instruction set.

use candle_core::{DType, Device, Result, Tensor, Var};
use fndm_kernels::{AdamStep, Algorithm, Conv2d, Isa, Precision, set_precision, set_simd};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Mutex, PoisonError};

/// The switches are global, so the tests of this file take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Winograd against the largest output; direct sums likewise.
const WINOGRAD: f64 = 3e-5;
const DIRECT: f64 = 2e-6;

/// Runs `check` on drawn values under each instruction set of this machine. The draws are the same each time, so that a bound on
/// rounding isn't crossed by chance; `FNDM_RANDOM_CASES=1` draws others.
fn on_every_isa<S: Strategy>(
    cases: u32,
    strategy: &S,
    check: impl Fn(S::Value) -> Result<()>,
) -> std::result::Result<(), String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for isa in Isa::available() {
        set_simd(isa).map_err(|e| e.to_string())?;
        let config = ProptestConfig {
            cases,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let mut runner = match std::env::var_os("FNDM_RANDOM_CASES") {
            Some(_) => TestRunner::new(config),
            None => {
                let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
                TestRunner::new_with_rng(config, rng)
            }
        };
        runner
            .run(strategy, |v| {
                check(v).map_err(|e| TestCaseError::fail(e.to_string()))
            })
            .map_err(|e| format!("{isa:?}: {e}"))?;
    }
    set_simd(Isa::available()[0]).map_err(|e| e.to_string())
}

fn draw(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect()
}

fn tensor(data: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(data, shape, &Device::Cpu)
}

/// Fails when `got` is further from `want` than `tolerance` times the largest of `want`.
fn close(what: &str, got: &Tensor, want: &[f64], tolerance: f64) -> Result<()> {
    close_in(what, got, want, 1e-3, tolerance)
}

/// As [`close`], where what comes out may be much smaller than what was summed: no number is judged by less than `scale`.
fn close_in(what: &str, got: &Tensor, want: &[f64], scale: f64, tolerance: f64) -> Result<()> {
    let got = got.flatten_all()?.to_vec1::<f32>()?;
    if got.len() != want.len() {
        candle_core::bail!("{what}: {} values for {}", got.len(), want.len());
    }
    let top = want.iter().fold(scale, |a, b| a.max(b.abs()));
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let e = (f64::from(*g) - w).abs() / top;
        if e.is_nan() || e > tolerance {
            candle_core::bail!("{what}: value {i} is {g}, expected {w}: error {e:.1e} of {top}");
        }
    }
    Ok(())
}

/// What a bias gradient usually comes to: it sums thousands of values of both signs, which may nearly cancel.
fn usual_sum(c: &ConvCase, dy: &[f32]) -> f64 {
    let squares: f64 = dy.iter().map(|v| f64::from(*v).powi(2)).sum();
    (squares / c.co as f64).sqrt().max(1e-3)
}

#[derive(Debug, Clone, Copy)]
struct ConvCase {
    b: usize,
    ci: usize,
    h: usize,
    w: usize,
    co: usize,
    k: usize,
    stride: usize,
    bias: bool,
    seed: u64,
}

/// Output, and the gradients of input, weight and bias for the output gradient `dy`.
fn reference_conv(c: &ConvCase, x: &[f32], w: &[f32], bias: &[f32], dy: &[f32]) -> [Vec<f64>; 4] {
    let (oh, ow) = (c.h.div_ceil(c.stride), c.w.div_ceil(c.stride));
    let mut y = vec![0f64; c.b * c.co * oh * ow];
    let mut dx = vec![0f64; x.len()];
    let mut dw = vec![0f64; w.len()];
    let mut db = vec![0f64; c.co];
    let pad = c.k / 2;
    for b in 0..c.b {
        for o in 0..c.co {
            for oy in 0..oh {
                for ox in 0..ow {
                    let at = ((b * c.co + o) * oh + oy) * ow + ox;
                    let g = f64::from(dy[at]);
                    let mut sum = if c.bias { f64::from(bias[o]) } else { 0. };
                    db[o] += g;
                    for i in 0..c.ci {
                        for ky in 0..c.k {
                            for kx in 0..c.k {
                                let (py, px) = (oy * c.stride + ky, ox * c.stride + kx);
                                if py < pad || px < pad || py - pad >= c.h || px - pad >= c.w {
                                    continue;
                                }
                                let xi = ((b * c.ci + i) * c.h + py - pad) * c.w + px - pad;
                                let wi = ((o * c.ci + i) * c.k + ky) * c.k + kx;
                                sum += f64::from(x[xi]) * f64::from(w[wi]);
                                dx[xi] += g * f64::from(w[wi]);
                                dw[wi] += g * f64::from(x[xi]);
                            }
                        }
                    }
                    y[at] = sum;
                }
            }
        }
    }
    [y, dx, dw, db]
}

fn check_conv(c: &ConvCase, tolerance: f64) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(c.seed);
    let (oh, ow) = (c.h.div_ceil(c.stride), c.w.div_ceil(c.stride));
    let x = draw(&mut rng, c.b * c.ci * c.h * c.w);
    let w = draw(&mut rng, c.co * c.ci * c.k * c.k);
    let bias = draw(&mut rng, c.co);
    let dy = draw(&mut rng, c.b * c.co * oh * ow);
    let [y, dx, dw, db] = reference_conv(c, &x, &w, &bias, &dy);
    let xt = tensor(&x, &[c.b, c.ci, c.h, c.w])?;
    let wt = tensor(&w, &[c.co, c.ci, c.k, c.k])?;
    let bt = tensor(&bias, &[c.co])?;
    let dyt = tensor(&dy, &[c.b, c.co, oh, ow])?;
    // All three as variables.
    let (xv, wv, bv) = (
        Var::from_tensor(&xt)?,
        Var::from_tensor(&wt)?,
        Var::from_tensor(&bt)?,
    );
    let b = c.bias.then(|| bv.as_tensor().clone());
    let out = Conv2d::new(wv.as_tensor().clone(), b, c.stride)?.forward(&xv)?;
    close("output", &out, &y, tolerance)?;
    let grads = (&out * &dyt)?.sum_all()?.backward()?;
    let grad = |v: &Var| match grads.get(v) {
        Some(g) => Ok(g.clone()),
        None => candle_core::bail!("no gradient"),
    };
    close("input gradient", &grad(&xv)?, &dx, tolerance)?;
    close("weight gradient", &grad(&wv)?, &dw, tolerance)?;
    if c.bias {
        close_in("bias gradient", &grad(&bv)?, &db, usual_sum(c, &dy), DIRECT)?;
    }
    // Every algorithm that the shape has.
    for algorithm in [Algorithm::Direct, Algorithm::Winograd] {
        let b = c.bias.then(|| bt.clone());
        let conv = Conv2d::new(wt.clone(), b, c.stride)?.with_algorithm(algorithm);
        if algorithm == Algorithm::Winograd && (c.k, c.stride) != (3, 1) {
            if conv.is_ok() {
                candle_core::bail!("Winograd for {}x{} at stride {}", c.k, c.k, c.stride);
            }
            continue;
        }
        // The error of Winograd is measured by the largest output, which a handful of products may leave tiny.
        if algorithm == Algorithm::Winograd && (c.ci < 4 || c.h < 4 || c.w < 4) {
            continue;
        }
        let tolerance = match algorithm {
            Algorithm::Direct => DIRECT,
            _ => tolerance,
        };
        close("output by choice", &conv?.forward(&xt)?, &y, tolerance)?;
    }
    // The input alone: weights are packed once, and the packed ones serve the second call.
    let conv = Conv2d::new(wt, c.bias.then_some(bt), c.stride)?;
    for _ in 0..2 {
        let out = conv.clone().forward(&xv)?;
        close("output, packed", &out, &y, tolerance)?;
        let grads = (&out * &dyt)?.sum_all()?.backward()?;
        match grads.get(&xv) {
            Some(g) => close("input gradient, packed", g, &dx, tolerance)?,
            None => candle_core::bail!("no input gradient"),
        }
    }
    Ok(())
}

fn conv_case(
    k: impl Strategy<Value = usize>,
    stride: impl Strategy<Value = usize>,
) -> impl Strategy<Value = ConvCase> {
    (
        (1..4usize, 1..37usize, 1..22usize, 1..22usize, 1..37usize),
        k,
        stride,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|((b, ci, h, w, co), k, stride, bias, seed)| ConvCase {
            b,
            ci,
            h,
            w,
            co,
            k,
            stride,
            bias,
            seed,
        })
}

#[test]
fn convolution() -> std::result::Result<(), String> {
    set_precision(Precision::Fast);
    let strategy = conv_case(prop_oneof![Just(1usize), Just(3)], 1..3usize);
    on_every_isa(24, &strategy, |c| check_conv(&c, WINOGRAD))
}

#[test]
fn winograd_on_larger_maps() -> std::result::Result<(), String> {
    // Few tiles are computed in another way than many: these are 32 to 882.
    let strategy = (
        13..82usize,
        13..82usize,
        1..34usize,
        1..34usize,
        any::<u64>(),
    );
    let check = |(h, w, ci, co, seed)| {
        let case = ConvCase {
            b: 2,
            ci,
            h,
            w,
            co,
            k: 3,
            stride: 1,
            bias: true,
            seed,
        };
        check_conv(&case, WINOGRAD)
    };
    on_every_isa(12, &strategy, check)?;
    // A bias gradient of 0.18 whose summands come to 50 as a rule.
    on_every_isa(1, &Just((54, 73, 24, 1, 1_671_583_485_878_163_605)), check)
}

/// The convolution of an upsampled image, fused, against upsampling first.
fn check_upsampled(small: &ConvCase, tolerance: f64) -> Result<()> {
    let (h, w) = (small.h, small.w);
    let c = &ConvCase {
        h: 2 * h,
        w: 2 * w,
        ..*small
    };
    let mut rng = ChaCha8Rng::seed_from_u64(c.seed);
    let x = draw(&mut rng, c.b * c.ci * h * w);
    let weight = draw(&mut rng, c.co * c.ci * 9);
    let bias = draw(&mut rng, c.co);
    let dy = draw(&mut rng, c.b * c.co * c.h * c.w);
    // Where pixel `i` of the large image comes from.
    let source = |i: usize| {
        let (plane, y, x) = (i / (c.h * c.w), i / c.w % c.h, i % c.w);
        (plane * h + y / 2) * w + x / 2
    };
    let large: Vec<f32> = (0..c.b * c.ci * c.h * c.w).map(|i| x[source(i)]).collect();
    let [y, dlarge, dw, db] = reference_conv(c, &large, &weight, &bias, &dy);
    let mut dx = vec![0f64; x.len()];
    for (i, g) in dlarge.iter().enumerate() {
        dx[source(i)] += g;
    }
    let (xv, wv, bv) = (
        Var::from_tensor(&tensor(&x, &[c.b, c.ci, h, w])?)?,
        Var::from_tensor(&tensor(&weight, &[c.co, c.ci, 3, 3])?)?,
        Var::from_tensor(&tensor(&bias, &[c.co])?)?,
    );
    let dyt = tensor(&dy, &[c.b, c.co, c.h, c.w])?;
    let b = c.bias.then(|| bv.as_tensor().clone());
    let out = Conv2d::new(wv.as_tensor().clone(), b, 1)?.forward_upsampled(&xv)?;
    close("output", &out, &y, tolerance)?;
    let grads = (&out * &dyt)?.sum_all()?.backward()?;
    for (what, v, want, scale) in [
        ("input gradient", &xv, &dx, 1e-3),
        ("weight gradient", &wv, &dw, 1e-3),
        ("bias gradient", &bv, &db, usual_sum(c, &dy)),
    ] {
        match grads.get(v) {
            Some(g) => close_in(what, g, want, scale, tolerance)?,
            None if what == "bias gradient" && !c.bias => {}
            None => candle_core::bail!("no {what}"),
        }
    }
    Ok(())
}

#[test]
fn convolution_of_an_upsampled_image() -> std::result::Result<(), String> {
    let strategy = conv_case(Just(3usize), 1..2usize);
    on_every_isa(24, &strategy, |c| {
        check_upsampled(&c, WINOGRAD)?;
        set_precision(Precision::Exact);
        let result = check_upsampled(&c, DIRECT);
        set_precision(Precision::Fast);
        result
    })
}

#[test]
fn exact_convolution() -> std::result::Result<(), String> {
    let strategy = conv_case(Just(3usize), 1..3usize);
    on_every_isa(24, &strategy, |c| {
        set_precision(Precision::Exact);
        let result = check_conv(&c, DIRECT);
        set_precision(Precision::Fast);
        result
    })
}

/// Compares `f` on f32 tensors, which takes the kernels, with `f` on f64 tensors, which takes candle: the output and
/// the gradient of every input for a random output gradient.
fn against_f64(
    inputs: &[(Vec<f32>, Vec<usize>)],
    rng: &mut ChaCha8Rng,
    tolerance: f64,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let mut weights: Option<Tensor> = None;
    let mut run = |dtype: DType| -> Result<Vec<Tensor>> {
        let vars = inputs
            .iter()
            .map(|(d, s)| Var::from_tensor(&tensor(d, s)?.to_dtype(dtype)?))
            .collect::<Result<Vec<_>>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let y = f(&tensors)?;
        let w = match &weights {
            Some(w) => w.clone(),
            None => {
                let w = tensor(&draw(rng, y.elem_count()), y.dims())?;
                weights = Some(w.clone());
                w
            }
        };
        let grads = (&y * w.to_dtype(dtype)?)?.sum_all()?.backward()?;
        let mut all = vec![y];
        for (i, v) in vars.iter().enumerate() {
            match grads.get(v) {
                Some(g) => all.push(g.clone()),
                None => candle_core::bail!("input {i} got no gradient"),
            }
        }
        Ok(all)
    };
    let want = run(DType::F64)?;
    let got = run(DType::F32)?;
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let w = w.flatten_all()?.to_vec1::<f64>()?;
        let what = match i {
            0 => "output".to_string(),
            i => format!("gradient {}", i - 1),
        };
        close(&what, g, &w, tolerance)?;
    }
    Ok(())
}

#[test]
fn group_norm() -> std::result::Result<(), String> {
    let strategy = (
        1..4usize,
        1..9usize,
        1..5usize,
        1..12usize,
        2..12usize,
        any::<u64>(),
    );
    on_every_isa(24, &strategy, |(b, groups, per_group, h, w, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let c = groups * per_group;
        let x = (draw(rng, b * c * h * w), vec![b, c, h, w]);
        let small = |rng: &mut ChaCha8Rng, s: &[usize]| (draw(rng, s.iter().product()), s.to_vec());
        let mut inputs = vec![x, small(rng, &[c]), small(rng, &[c])];
        // Normalising a handful of nearly equal values magnifies the rounding of their mean.
        let tolerance = 2e-5;
        against_f64(&inputs, rng, tolerance, |t| {
            fndm_kernels::group_norm(&t[0], groups, &t[1], &t[2], 1e-3)
        })?;
        against_f64(&inputs, rng, tolerance, |t| {
            fndm_kernels::group_norm_silu(&t[0], groups, &t[1], &t[2], 1e-3, None)
        })?;
        inputs.push(small(rng, &[b, c]));
        inputs.push(small(rng, &[b, c]));
        against_f64(&inputs, rng, tolerance, |t| {
            let scale_shift = Some((&t[3], &t[4]));
            fndm_kernels::group_norm_silu(&t[0], groups, &t[1], &t[2], 1e-3, scale_shift)
        })
    })
}

#[test]
fn linear() -> std::result::Result<(), String> {
    let strategy = (1..5usize, 1..300usize, 1..200usize, any::<u64>());
    on_every_isa(24, &strategy, |(b, i, o, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let inputs = [
            (draw(rng, b * i), vec![b, i]),
            (draw(rng, o * i), vec![o, i]),
            (draw(rng, o), vec![o]),
        ];
        against_f64(&inputs, rng, DIRECT, |t| {
            fndm_kernels::linear(&t[0], &t[1], &t[2])
        })
    })
}

#[test]
fn silu() -> std::result::Result<(), String> {
    on_every_isa(16, &(1..3000usize, any::<u64>()), |(n, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let x = draw(rng, n).iter().map(|v| v * 30.).collect();
        against_f64(&[(x, vec![n])], rng, 1e-6, |t| fndm_kernels::silu(&t[0]))
    })
}

#[test]
fn silu_of_the_extremes() -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for isa in Isa::available() {
        set_simd(isa)?;
        let x = Tensor::new(&[-1e30f32, -200., -0., 0., 200., 1e30], &Device::Cpu)?;
        let y = fndm_kernels::silu(&x)?.to_vec1::<f32>()?;
        assert!(y[0].abs() < 1e-6 && y[1].abs() < 1e-6, "{isa:?} {y:?}");
        assert_eq!(y[2..], [0., 0., 200., 1e30]);
    }
    set_simd(Isa::available()[0])
}

#[test]
fn attention() -> std::result::Result<(), String> {
    let strategy = (1..3usize, 1..4usize, 1..40usize, 1..150usize, any::<u64>());
    on_every_isa(16, &strategy, |(b, heads, c, t, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let shape = vec![b, heads, c, t];
        let n = b * heads * c * t;
        let scaled = |v: Vec<f32>| v.iter().map(|x| x * 3.).collect::<Vec<f32>>();
        let inputs = [
            (scaled(draw(rng, n)), shape.clone()),
            (scaled(draw(rng, n)), shape.clone()),
            (draw(rng, n), shape),
        ];
        against_f64(&inputs, rng, 1e-5, |t| {
            fndm_kernels::attention(&t[0], &t[1], &t[2])
        })
    })
}

#[test]
fn attention_of_one_tensor() -> std::result::Result<(), String> {
    use fndm_kernels::QkvOrder::{HeadsFirst, PartsFirst};
    let strategy = (1..3usize, 1..4usize, 1..40usize, 1..12usize, any::<u64>());
    on_every_isa(16, &strategy, |(b, heads, c, side, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let shape = vec![b, 3 * heads * c, side, side];
        let n = shape.iter().product();
        let qkv = draw(rng, n).iter().map(|x| x * 3.).collect();
        let inputs = [(qkv, shape)];
        for order in [HeadsFirst, PartsFirst] {
            against_f64(&inputs, rng, 1e-5, |t| {
                fndm_kernels::attention_qkv(&t[0], heads, order)
            })?;
        }
        Ok(())
    })
}

#[test]
fn elementwise() -> std::result::Result<(), String> {
    let strategy = (
        1..4usize,
        1..6usize,
        1..20usize,
        1..20usize,
        1..7usize,
        any::<u64>(),
    );
    on_every_isa(16, &strategy, |(b, c, h, w, n, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let shape = vec![b, c, 2 * h, 2 * w];
        let inputs: Vec<_> = (0..n)
            .map(|_| (draw(rng, 4 * b * c * h * w), shape.clone()))
            .collect();
        let factors: Vec<f64> = draw(rng, n).iter().map(|v| f64::from(*v)).collect();
        against_f64(&inputs, rng, 1e-6, |t| {
            let terms: Vec<(f64, &Tensor)> = factors.iter().copied().zip(t).collect();
            fndm_kernels::linear_combination(&terms)
        })?;
        let other = (draw(rng, b * 3 * 4 * h * w), vec![b, 3, 2 * h, 2 * w]);
        against_f64(&[inputs[0].clone(), other], rng, 1e-6, |t| {
            fndm_kernels::cat_channels(&t[0], &t[1])
        })?;
        against_f64(&inputs[..1], rng, 1e-6, |t| {
            fndm_kernels::avg_pool_2x(&t[0])
        })?;
        against_f64(&inputs[..1], rng, 1e-6, |t| {
            fndm_kernels::upsample_nearest_2x(&t[0])
        })?;
        // An input that is used twice gets both gradients.
        against_f64(&inputs[..1], rng, 1e-6, |t| {
            let up = fndm_kernels::upsample_nearest_2x(&t[0])?;
            fndm_kernels::add(&fndm_kernels::avg_pool_2x(&up)?, &t[0])
        })
    })
}

#[test]
fn adam_and_moving_average() -> std::result::Result<(), String> {
    let strategy = (1..3000usize, 1..4u64, 0f64..0.2, any::<u64>());
    on_every_isa(16, &strategy, |(n, steps, weight_decay, seed)| {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        let start = draw(rng, n);
        let (mut p, mut m, mut v): (Vec<f64>, _, _) = (
            start.iter().map(|x| f64::from(*x)).collect(),
            vec![0f64; n],
            vec![0f64; n],
        );
        let mut e = p.clone();
        let zeros = tensor(&vec![0f32; n], &[n])?;
        let (pv, mv, vv, ev) = (
            Var::from_tensor(&tensor(&start, &[n])?)?,
            Var::from_tensor(&zeros)?,
            Var::from_tensor(&zeros)?,
            Var::from_tensor(&tensor(&start, &[n])?)?,
        );
        for step in 1..=steps {
            let s = AdamStep {
                lr: 0.02,
                weight_decay,
                step,
                ..AdamStep::default()
            };
            let g = draw(rng, n);
            fndm_kernels::adam_step(&pv, &mv, &vv, &tensor(&g, &[n])?, &s)?;
            fndm_kernels::ema_update(&ev, pv.as_tensor(), 0.9)?;
            let c1 = 1. - s.beta1.powi(step as i32);
            let c2 = 1. - s.beta2.powi(step as i32);
            for i in 0..n {
                let g = f64::from(g[i]);
                m[i] = s.beta1 * m[i] + (1. - s.beta1) * g;
                v[i] = s.beta2 * v[i] + (1. - s.beta2) * g * g;
                p[i] -= s.lr * weight_decay * p[i];
                p[i] -= s.lr * (m[i] / c1) / ((v[i] / c2).sqrt() + s.eps);
                e[i] = 0.9 * e[i] + 0.1 * p[i];
            }
        }
        close("parameter", pv.as_tensor(), &p, 2e-6)?;
        close("first moment", mv.as_tensor(), &m, 2e-6)?;
        close("second moment", vv.as_tensor(), &v, 2e-6)?;
        close("average", ev.as_tensor(), &e, 2e-6)
    })
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let run = |threads: usize| -> Result<Vec<Vec<f32>>> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(candle_core::Error::wrap)?;
        pool.install(|| {
            let rng = &mut ChaCha8Rng::seed_from_u64(9);
            let mut out = Vec::new();
            for (h, stride) in [(32, 1), (16, 1), (8, 1), (32, 2)] {
                let x = Var::from_tensor(&tensor(&draw(rng, 5 * 32 * h * h), &[5, 32, h, h])?)?;
                let w = Var::from_tensor(&tensor(&draw(rng, 32 * 32 * 9), &[32, 32, 3, 3])?)?;
                let b = Var::from_tensor(&tensor(&draw(rng, 32), &[32])?)?;
                let y = Conv2d::new(w.as_tensor().clone(), Some(b.as_tensor().clone()), stride)?
                    .forward(&x)?;
                let y = fndm_kernels::group_norm_silu(&y, 8, &b, &b, 1e-5, None)?;
                let (n, c, hh, ww) = y.dims4()?;
                let qkv = y.reshape((n, 2, c / 2, hh * ww))?;
                let y = fndm_kernels::attention(&qkv, &qkv, &qkv)?;
                let grads = y.sqr()?.sum_all()?.backward()?;
                out.push(y.flatten_all()?.to_vec1()?);
                for v in [&x, &w, &b] {
                    match grads.get(v) {
                        Some(g) => out.push(g.flatten_all()?.to_vec1()?),
                        None => candle_core::bail!("no gradient"),
                    }
                }
            }
            // More inputs than are summed at a time, of few tiles: with weights that are kept, and that change.
            for (n, i, o, h) in [(1, 128, 16, 32), (24, 96, 96, 8)] {
                let x = Var::from_tensor(&tensor(&draw(rng, n * i * h * h), &[n, i, h, h])?)?;
                let w = tensor(&draw(rng, o * i * 9), &[o, i, 3, 3])?;
                for w in [w.clone(), Var::from_tensor(&w)?.as_tensor().clone()] {
                    let y = Conv2d::new(w, None, 1)?.forward(&x)?;
                    let grads = y.sqr()?.sum_all()?.backward()?;
                    out.push(y.flatten_all()?.to_vec1()?);
                    let dx = grads.get(&x).map(Tensor::flatten_all).transpose()?;
                    out.push(dx.map(|dx| dx.to_vec1()).transpose()?.unwrap_or_default());
                }
            }
            Ok(out)
        })
    };
    let one = run(1)?;
    for threads in [2, 3, 4, 5, 8] {
        assert!(run(threads)? == one, "{threads} threads");
    }
    Ok(())
}

#[test]
fn untracked_weights_get_no_gradient() -> Result<()> {
    let x = Var::zeros((1, 4, 16, 16), DType::F32, &Device::Cpu)?;
    let w = Tensor::ones((4, 4, 3, 3), DType::F32, &Device::Cpu)?;
    let y = Conv2d::new(w.clone(), None, 1)?.forward(&x)?;
    let grads = y.sum_all()?.backward()?;
    assert!(grads.get(&x).is_some() && grads.get(&w).is_none());
    Ok(())
}

#[test]
fn wrong_shapes_are_errors() -> Result<()> {
    let zeros = |s: &[usize]| Tensor::zeros(s, DType::F32, &Device::Cpu);
    assert!(Conv2d::new(zeros(&[4, 4, 5, 5])?, None, 1).is_err());
    assert!(Conv2d::new(zeros(&[4, 4, 3, 3])?, None, 3).is_err());
    assert!(Conv2d::new(zeros(&[4, 4, 3, 3])?, Some(zeros(&[3])?), 1).is_err());
    let conv = Conv2d::new(zeros(&[4, 4, 3, 3])?, None, 1)?;
    assert!(conv.forward(&zeros(&[1, 3, 8, 8])?).is_err());
    assert_eq!(conv.forward(&zeros(&[0, 4, 8, 8])?)?.dims(), [0, 4, 8, 8]);
    let (x, c) = (zeros(&[1, 6, 4, 4])?, zeros(&[6])?);
    assert!(fndm_kernels::group_norm(&x, 4, &c, &c, 1e-5).is_err());
    assert!(fndm_kernels::group_norm(&x, 0, &c, &c, 1e-5).is_err());
    assert!(fndm_kernels::group_norm(&x, 3, &zeros(&[5])?, &c, 1e-5).is_err());
    assert!(fndm_kernels::attention(&x, &x, &zeros(&[1, 6, 4, 5])?).is_err());
    assert!(fndm_kernels::avg_pool_2x(&zeros(&[1, 1, 3, 4])?).is_err());
    assert!(fndm_kernels::linear_combination(&[]).is_err());
    assert!(fndm_kernels::add(&x, &c).is_err());
    assert!(fndm_kernels::cat_channels(&x, &zeros(&[2, 6, 4, 4])?).is_err());
    let v = || Var::zeros(6, DType::F32, &Device::Cpu);
    let (p, m, s) = (v()?, v()?, AdamStep::default());
    assert!(fndm_kernels::adam_step(&p, &m, &m, &c, &s).is_err());
    assert!(fndm_kernels::adam_step(&p, &m, &v()?, &zeros(&[5])?, &s).is_err());
    assert!(fndm_kernels::adam_step(&p, &m, &v()?, &c, &AdamStep { step: 0, ..s }).is_err());
    assert!(fndm_kernels::ema_update(&p, p.as_tensor(), 0.5).is_err());
    Ok(())
}
