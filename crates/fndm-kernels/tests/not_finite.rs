//! NaN and infinity in, NaN or infinity out: every operation and gradient, on every instruction set.
//!
//! The truth is plain candle in f64, which keeps what isn't finite where these operations need it: wherever its result isn't
//! finite, ours isn't. Where the operation can't spread anything, the other values must be finite too.

use candle_core::{DType, Device, Result, Tensor, Var};
use fndm_kernels::{AdamStep, Algorithm, Conv2d, Isa, QkvOrder, set_simd};
use std::sync::{Mutex, PoisonError};

/// The switch is global, so the tests of this file take turns.
static TURN: Mutex<()> = Mutex::new(());

const BAD: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

fn on_every_isa(check: impl Fn(Isa) -> Result<()>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for isa in Isa::available() {
        set_simd(isa)?;
        check(isa)?;
    }
    set_simd(Isa::available()[0])
}

/// Numbers in -1 to 1, none of them zero: zero times infinity is NaN here and there, but zero is rare and hides nothing else.
fn some(seed: usize, shape: &[usize]) -> Vec<f64> {
    let n: usize = shape.iter().product();
    (0..n)
        .map(|i| ((i * 37 + seed * 101) % 96) as f64 / 48. - 0.995)
        .collect()
}

type Operation<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Output of `f` and gradients of all inputs, for the output's gradient `dy`, in one type.
fn results(
    inputs: &[(Vec<f64>, &[usize])],
    dy: &dyn Fn(&[usize]) -> Vec<f64>,
    dtype: DType,
    f: Operation<'_>,
    backward: bool,
) -> Result<Vec<Vec<f64>>> {
    let vars = inputs
        .iter()
        .map(|(v, shape)| {
            let x = Tensor::from_slice(v, *shape, &Device::Cpu)?.to_dtype(dtype)?;
            Var::from_tensor(&x)
        })
        .collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let flat = |x: &Tensor| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let y = f(&tensors)?;
    let mut all = vec![flat(&y)?];
    if backward {
        let dy = Tensor::from_slice(&dy(y.dims()), y.shape(), &Device::Cpu)?.to_dtype(dtype)?;
        let grads = (&y * dy)?.sum_all()?.backward()?;
        for v in &vars {
            match grads.get(v) {
                Some(g) => all.push(flat(g)?),
                None => candle_core::bail!("no gradient of {:?} in {dtype:?}", v.dims()),
            }
        }
    }
    Ok(all)
}

/// How far an operation may spread what isn't finite beyond the exact result.
#[derive(Clone, Copy, PartialEq)]
enum Spread {
    /// Not at all.
    None,
    /// To neighbours, since sums are taken in another way.
    Some,
}

struct Case<'a> {
    name: &'a str,
    shapes: &'a [&'a [usize]],
    spread: Spread,
    backward: bool,
    f: Operation<'a>,
    /// The same by candle's f64, where `f` itself wouldn't do.
    truth: Option<Operation<'a>>,
}

fn check(isa: Isa, case: &Case<'_>) -> Result<()> {
    let inputs = || -> Vec<(Vec<f64>, &[usize])> {
        let shapes = case.shapes.iter().enumerate();
        shapes.map(|(i, s)| (some(i + 1, s), *s)).collect()
    };
    let plain_dy = |shape: &[usize]| some(9, shape);
    let mut seen = 0;
    let mut compare = |what: &str,
                       inputs: &[(Vec<f64>, &[usize])],
                       dy: &dyn Fn(&[usize]) -> Vec<f64>|
     -> Result<()> {
        let got = results(inputs, dy, DType::F32, case.f, case.backward)
            .map_err(|e| e.context(case.name.to_string()))?;
        let truth = case.truth.unwrap_or(case.f);
        let want = results(inputs, dy, DType::F64, truth, case.backward)
            .map_err(|e| e.context(case.name.to_string()))?;
        for (which, (got, want)) in got.iter().zip(&want).enumerate() {
            for (i, (g, w)) in got.iter().zip(want).enumerate() {
                let at = format!(
                    "{}, {isa:?}, {what}: value {i} of result {which} is {g}, exactly {w}",
                    case.name
                );
                if !w.is_finite() {
                    seen += 1;
                    assert!(!g.is_finite(), "{at}");
                } else if case.spread == Spread::None {
                    assert!(g.is_finite(), "{at}");
                }
            }
        }
        Ok(())
    };
    for bad in BAD {
        for which in 0..case.shapes.len() {
            let n = inputs()[which].0.len();
            // The first vector's lanes, those past the last whole one, and the middle.
            for at in [0, n / 2, n - 1] {
                let mut inputs = inputs();
                inputs[which].0[at] = bad;
                compare(
                    &format!("{bad} at {at} of input {which}"),
                    &inputs,
                    &plain_dy,
                )?;
            }
        }
        if case.backward {
            for part in 0..3 {
                let dy = |shape: &[usize]| {
                    let mut dy = some(9, shape);
                    let at = part * (dy.len() - 1) / 2;
                    dy[at] = bad;
                    dy
                };
                compare(&format!("{bad} in the gradient"), &inputs(), &dy)?;
            }
        }
    }
    assert!(
        seen > 0,
        "{}: nothing that isn't finite was seen",
        case.name
    );
    Ok(())
}

#[test]
fn every_operation_and_gradient() -> Result<()> {
    let x: &[usize] = &[2, 6, 6, 10];
    let tokens: &[usize] = &[1, 2, 5, 37];
    let case = |name, shapes, spread, f| Case {
        name,
        shapes,
        spread,
        backward: true,
        f,
        truth: None,
    };
    let silu: Operation<'_> = &|t| fndm_kernels::silu(&t[0]);
    let norm: Operation<'_> = &|t| fndm_kernels::group_norm(&t[0], 3, &t[1], &t[2], 1e-5);
    let norm_silu: Operation<'_> =
        &|t| fndm_kernels::group_norm_silu(&t[0], 3, &t[1], &t[2], 1e-5, None);
    let scale_shift: Operation<'_> =
        &|t| fndm_kernels::group_norm_silu(&t[0], 3, &t[1], &t[2], 1e-5, Some((&t[3], &t[4])));
    let attention: Operation<'_> = &|t| fndm_kernels::attention(&t[0], &t[1], &t[2]);
    let heads: Operation<'_> = &|t| fndm_kernels::attention_qkv(&t[0], 2, QkvOrder::HeadsFirst);
    let parts: Operation<'_> = &|t| fndm_kernels::attention_qkv(&t[0], 2, QkvOrder::PartsFirst);
    let linear: Operation<'_> = &|t| fndm_kernels::linear(&t[0], &t[1], &t[2]);
    let add: Operation<'_> = &|t| fndm_kernels::add(&t[0], &t[1]);
    // A coefficient of zero makes nothing of it.
    let sum: Operation<'_> =
        &|t| fndm_kernels::linear_combination(&[(0., &t[0]), (2., &t[1]), (-1., &t[2])]);
    // A coefficient of zero would give candle no gradient at all.
    let exact_sum: Operation<'_> = &|t| {
        let nothing = (t[0].detach().zeros_like()? * &t[0])?;
        (nothing + ((&t[1] * 2.)? - &t[2])?)?.contiguous()
    };
    let up: Operation<'_> = &|t| fndm_kernels::upsample_nearest_2x(&t[0]);
    let down: Operation<'_> = &|t| fndm_kernels::avg_pool_2x(&t[0]);
    let cat: Operation<'_> = &|t| fndm_kernels::cat_channels(&t[0], &t[1]);
    let relu: Operation<'_> = &|t| fndm_kernels::relu(&t[0]);
    let relu6: Operation<'_> = &|t| fndm_kernels::relu6(&t[0]);
    let small: [&[usize]; 3] = [x, &[6], &[6]];
    let five: [&[usize]; 5] = [x, &[6], &[6], &[2, 6], &[2, 6]];
    let qkv: [&[usize]; 3] = [tokens; 3];
    let rows: [&[usize]; 3] = [&[2, 83], &[3, 83], &[3]];
    let three: [&[usize]; 3] = [x; 3];
    let cases = [
        case("silu", &three[..1], Spread::None, silu),
        case("group_norm", &small, Spread::Some, norm),
        case("group_norm_silu", &small, Spread::Some, norm_silu),
        case("scale and shift", &five, Spread::Some, scale_shift),
        case("attention", &qkv, Spread::Some, attention),
        case(
            "attention, heads first",
            &[&[1, 18, 35]],
            Spread::Some,
            heads,
        ),
        case(
            "attention, parts first",
            &[&[1, 18, 35]],
            Spread::Some,
            parts,
        ),
        case("linear", &rows, Spread::None, linear),
        case("add", &three[..2], Spread::None, add),
        Case {
            truth: Some(exact_sum),
            ..case("linear_combination", &three, Spread::None, sum)
        },
        case("upsample", &three[..1], Spread::None, up),
        case("avg_pool", &three[..1], Spread::None, down),
        case("cat_channels", &three[..2], Spread::None, cat),
        case("relu", &three[..1], Spread::None, relu),
        case("relu6", &three[..1], Spread::None, relu6),
    ];
    on_every_isa(|isa| cases.iter().try_for_each(|case| check(isa, case)))
}

#[test]
fn convolutions() -> Result<()> {
    on_every_isa(|isa| {
        for (k, stride, algorithm) in [
            (1, 1, Algorithm::Auto),
            (3, 1, Algorithm::Direct),
            (3, 1, Algorithm::Winograd),
            (3, 2, Algorithm::Auto),
        ] {
            for up in [false, true] {
                if up && (k, stride) != (3, 1) {
                    continue;
                }
                let f: Operation<'_> = &|t| {
                    let conv = Conv2d::new(t[1].clone(), Some(t[2].clone()), stride)?;
                    let conv = conv.with_algorithm(algorithm)?;
                    if up {
                        conv.forward_upsampled(&t[0])
                    } else {
                        conv.forward(&t[0])
                    }
                };
                let truth: Operation<'_> = &|t| {
                    let x = if up {
                        fndm_kernels::upsample_nearest_2x(&t[0])?
                    } else {
                        t[0].clone()
                    };
                    let y = x.conv2d(&t[1], k / 2, stride, 1, 1)?;
                    y.broadcast_add(&t[2].reshape((1, (), 1, 1))?)
                };
                check(
                    isa,
                    &Case {
                        name: &format!("conv {k}x{k} stride {stride} {algorithm:?} {up}"),
                        shapes: &[&[2, 5, 8, 10], &[18, 5, k, k], &[18]],
                        spread: Spread::Some,
                        backward: true,
                        f,
                        truth: Some(truth),
                    },
                )?;
            }
        }
        Ok(())
    })
}

/// The largest of windows, against a loop over them.
#[test]
fn max_pool() -> Result<()> {
    let (h, w) = (9, 12);
    let shape = [1, 2, h, w];
    for dtype in [DType::F32, DType::F64] {
        for bad in BAD.into_iter().chain([0.5]) {
            for at in [0, 1, 2 * w + 2, h * w - 1, h * w + 3 * w + 7] {
                let mut v = some(1, &shape);
                v[at] = bad;
                let x = Tensor::from_slice(&v, &shape, &Device::Cpu)?.to_dtype(dtype)?;
                let y = fndm_kernels::max_pool_3x3(&x)?;
                let (oh, ow) = (4, 5);
                assert_eq!(y.dims(), [1, 2, oh, ow]);
                let got = y.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
                for (n, got) in got.iter().enumerate() {
                    let (plane, i, j) = (n / (oh * ow), n / ow % oh, n % ow);
                    let inside: Vec<f64> = (0..9)
                        .map(|k| v[(plane * h + 2 * i + k / 3) * w + 2 * j + k % 3])
                        .collect();
                    if inside.iter().any(|v| v.is_nan()) {
                        assert!(got.is_nan(), "{dtype:?} {bad} at {at}: {got}");
                    } else {
                        let top = inside.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        let same = *got == top || (got - top).abs() < 1e-6;
                        assert!(same, "{dtype:?} {bad} at {at}: {got}, {top}");
                    }
                }
            }
        }
    }
    assert!(
        fndm_kernels::max_pool_3x3(&Tensor::zeros((1, 1, 2, 5), DType::F32, &Device::Cpu)?)
            .is_err()
    );
    Ok(())
}

/// The gradient of the largest of windows that overlap: to the largest, the first of equals, by both ways.
#[test]
fn max_pool_gradient() -> Result<()> {
    let (h, w) = (7, 8);
    let v: Vec<f64> = (0..2 * h * w)
        .map(|i| f64::from((i * 37 % 101) as u32))
        .collect();
    let dy: Vec<f64> = (0..2 * 3 * 3).map(|i| 1. + f64::from(i as u32)).collect();
    let mut want = vec![0.; v.len()];
    for (n, dy) in dy.iter().enumerate() {
        let (plane, i, j) = (n / 9, n / 3 % 3, n % 3);
        let inside = (0..9).map(|k| (plane * h + 2 * i + k / 3) * w + 2 * j + k % 3);
        let best = inside.reduce(|best, at| if v[at] > v[best] { at } else { best });
        want[best.unwrap()] += dy;
    }
    for dtype in [DType::F32, DType::F64] {
        let x = Tensor::from_slice(&v, (1, 2, h, w), &Device::Cpu)?.to_dtype(dtype)?;
        let x = Var::from_tensor(&x)?;
        let dy = Tensor::from_slice(&dy, (1, 2, 3, 3), &Device::Cpu)?.to_dtype(dtype)?;
        let g = (fndm_kernels::max_pool_3x3(&x)? * dy)?
            .sum_all()?
            .backward()?;
        let g = g.get(&x).unwrap().to_dtype(DType::F64)?.flatten_all()?;
        assert_eq!(g.to_vec1::<f64>()?, want, "{dtype:?}");
    }
    // Three equal pixels: the first in reading order has it all.
    let x = Var::from_tensor(&Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?)?;
    let g = fndm_kernels::max_pool_3x3(&x)?.sum_all()?.backward()?;
    let g = g.get(&x).unwrap().flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(g, [1., 0., 0., 0., 0., 0., 0., 0., 0.]);
    Ok(())
}

/// Values and gradients at the bounds, where there is no gradient, by both ways.
#[test]
fn rectifiers() -> Result<()> {
    let v = [
        -2f32,
        -0.,
        0.,
        1e-30,
        3.,
        6.,
        7.,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    let relu = [0f32, 0., 0., 1e-30, 3., 6., 7., f32::INFINITY, 0.];
    let slope = [0f32, 0., 0., 1., 1., 1., 1., 1., 0.];
    let relu6 = [0f32, 0., 0., 1e-30, 3., 6., 6., 6., 0.];
    let slope6 = [0f32, 0., 0., 1., 1., 0., 0., 0., 0.];
    on_every_isa(|_| {
        let x = Var::new(&v, &Device::Cpu)?;
        for (y, want, slope) in [
            (fndm_kernels::relu(&x)?, relu, slope),
            (fndm_kernels::relu6(&x)?, relu6, slope6),
        ] {
            assert_eq!(y.to_vec1::<f32>()?, want);
            let g = y.sum_all()?.backward()?;
            let g = g.get(&x).map(Tensor::to_vec1::<f32>).transpose()?;
            assert_eq!(g, Some(slope.to_vec()));
        }
        let wide = x.as_detached_tensor().to_dtype(DType::F64)?;
        let plain = |y: Tensor| y.to_dtype(DType::F32)?.to_vec1::<f32>();
        assert_eq!(plain(fndm_kernels::relu(&wide)?)?, relu);
        assert_eq!(plain(fndm_kernels::relu6(&wide)?)?, relu6);
        Ok(())
    })
}

/// Logits that overflow don't become uniform attention.
#[test]
fn overflowing_logits() -> Result<()> {
    on_every_isa(|isa| {
        let shape = (1, 2, 4, 21);
        let large = Tensor::full(1e25f32, shape, &Device::Cpu)?;
        let v = Tensor::rand(-1f32, 1., shape, &Device::Cpu)?;
        let y = fndm_kernels::attention(&large, &large, &v)?;
        let y = y.flatten_all()?.to_vec1::<f32>()?;
        assert!(y.iter().all(|v| v.is_nan()), "{isa:?}: {y:?}");
        // So do networks in half precision, which attend in f32.
        let half = |x: &Tensor| (x * 1e10)?.to_dtype(DType::BF16);
        let y = fndm_kernels::attention(&half(&large)?, &half(&large)?, &half(&v)?)?;
        assert_eq!(fndm_kernels::first_non_finite(&y)?, Some(0), "{isa:?}");
        Ok(())
    })
}

/// Squares that overflow f32 have a variance all the same; without it the bias alone would be left.
#[test]
fn overflowing_squares() -> Result<()> {
    on_every_isa(|isa| {
        let shape = [1, 4, 5, 7];
        let small = some(1, &shape);
        let weight = Tensor::from_slice(&some(2, &[4]), 4, &Device::Cpu)?;
        let bias = Tensor::from_slice(&some(3, &[4]), 4, &Device::Cpu)?;
        for size in [1e10, 1e25, 1e37] {
            let v: Vec<f64> = small.iter().map(|v| v * size).collect();
            let x = Tensor::from_slice(&v, &shape, &Device::Cpu)?;
            // f64 reaches further.
            let want = fndm_kernels::group_norm(&x, 2, &weight, &bias, 1e-5)?;
            let narrow = |x: &Tensor| x.to_dtype(DType::F32);
            let (x, weight, bias) = (narrow(&x)?, narrow(&weight)?, narrow(&bias)?);
            let got = fndm_kernels::group_norm(&x, 2, &weight, &bias, 1e-5)?;
            let error = (got.to_dtype(DType::F64)? - want)?.abs()?.max_all()?;
            let error = error.to_scalar::<f64>()?;
            assert!(error < 1e-5, "{isa:?} {size}: {error}");
        }
        Ok(())
    })
}

/// Half precision and f64 have a pass of their own.
#[test]
fn sums_in_other_types() -> Result<()> {
    on_every_isa(|_| {
        for dtype in [DType::F16, DType::BF16, DType::F64] {
            for bad in BAD {
                for at in [0, 40, 69] {
                    let mut v = some(1, &[70]);
                    v[at] = bad;
                    let x = Tensor::from_slice(&v, 70, &Device::Cpu)?.to_dtype(dtype)?;
                    let y = fndm_kernels::linear_combination(&[(0., &x), (1., &x.ones_like()?)])?;
                    assert_eq!(fndm_kernels::first_non_finite(&y)?, Some(at));
                }
            }
        }
        Ok(())
    })
}

#[test]
fn updates() -> Result<()> {
    let n = 37;
    on_every_isa(|isa| {
        for bad in BAD {
            for at in [0, 20, n - 1] {
                let put = |seed, bad: Option<f64>| -> Result<Tensor> {
                    let mut v = some(seed, &[n]);
                    if let Some(bad) = bad {
                        v[at] = bad;
                    }
                    Tensor::from_slice(&v, n, &Device::Cpu)?.to_dtype(DType::F32)
                };
                let lost = |what: &str, x: &Tensor| -> Result<()> {
                    for (i, v) in x.to_vec1::<f32>()?.iter().enumerate() {
                        assert_eq!(!v.is_finite(), i == at, "{isa:?} {bad}: {what} {i} is {v}");
                    }
                    Ok(())
                };
                // In the gradient: parameter and moments.
                let (p, m) = (
                    Var::from_tensor(&put(1, None)?)?,
                    Var::from_tensor(&put(2, None)?)?,
                );
                let v = Var::from_tensor(&put(3, None)?.sqr()?)?;
                fndm_kernels::adam_step(&p, &m, &v, &put(4, Some(bad))?, &AdamStep::default())?;
                lost("parameter", &p)?;
                lost("first moment", &m)?;
                lost("second moment", &v)?;
                // In the average, and in the parameter.
                for (old, new) in [(Some(bad), None), (None, Some(bad))] {
                    let e = Var::from_tensor(&put(5, old)?)?;
                    fndm_kernels::ema_update(&e, &put(6, new)?, 0.999)?;
                    lost("average", &e)?;
                }
            }
        }
        Ok(())
    })
}

/// Products of nearest neighbours.
#[test]
fn products_of_rows() -> Result<()> {
    on_every_isa(|isa| {
        let (m, n, k) = (5, 9, 19);
        for bad in BAD {
            let floats =
                |seed, n| -> Vec<f32> { some(seed, &[n]).iter().map(|v| *v as f32).collect() };
            let (mut a, mut b) = (floats(1, m * k), floats(2, n * k));
            (a[2 * k + 18], b[4 * k]) = (bad as f32, bad as f32);
            let mut panel = vec![0.; k * fndm_kernels::PANEL_ROWS];
            fndm_kernels::pack_panel(&b, k, &mut panel)?;
            let mut out = vec![0.; m * fndm_kernels::PANEL_ROWS];
            fndm_kernels::panel_products(&a, &panel, k, &mut out)?;
            for i in 0..m {
                for j in 0..n {
                    let v = out[i * fndm_kernels::PANEL_ROWS + j];
                    assert_eq!(
                        !v.is_finite(),
                        i == 2 || j == 4,
                        "{isa:?} {bad}: {i} {j}: {v}"
                    );
                }
            }
        }
        Ok(())
    })
}
