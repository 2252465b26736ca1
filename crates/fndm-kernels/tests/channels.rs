//! What works on a channel by itself, against sums as they are defined, on every instruction set.

use candle_core::{DType, Device, Result, Tensor, Var};
use fndm_kernels::{Isa, Pads, channel_means, depthwise, scale_channels, set_simd, unfold};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Mutex, PoisonError};

/// The switch is global, so the tests of this file take turns.
static TURN: Mutex<()> = Mutex::new(());

fn on_every_isa(f: impl Fn() -> Result<()>) -> Result<()> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = Isa::current();
    let done = Isa::available().into_iter().try_for_each(|isa| {
        set_simd(isa)?;
        f()
    });
    set_simd(before)?;
    done
}

fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Result<Tensor> {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random::<f32>() * 2. - 1.).collect();
    Tensor::from_vec(data, shape, &Device::Cpu)
}

fn values(x: &Tensor) -> Result<Vec<f32>> {
    x.flatten_all()?.to_vec1()
}

/// Batch, channels, height, width, kernel, stride, pads.
type Shape = (usize, usize, usize, usize, usize, usize, [Pads; 2]);

const SHAPES: [Shape; 13] = [
    (1, 1, 1, 1, 1, 1, [(0, 0), (0, 0)]),
    (2, 3, 5, 7, 3, 1, [(1, 1), (1, 1)]),
    (1, 17, 2, 2, 5, 1, [(2, 2), (2, 2)]),
    (1, 4, 16, 16, 5, 1, [(2, 2), (2, 2)]),
    (3, 2, 9, 8, 3, 2, [(1, 1), (1, 1)]),
    (1, 5, 8, 8, 3, 2, [(0, 1), (0, 1)]),
    (1, 5, 15, 70, 5, 2, [(1, 2), (2, 1)]),
    (2, 40, 33, 31, 3, 1, [(1, 1), (1, 1)]),
    (1, 1, 4, 4, 4, 1, [(0, 0), (0, 0)]),
    (1, 2, 3, 200, 7, 2, [(3, 3), (3, 3)]),
    (1, 2, 3, 3, 2, 2, [(0, 0), (0, 0)]),
    (1, 1, 2, 3, 3, 1, [(4, 0), (0, 5)]),
    (1, 600, 4, 4, 3, 1, [(1, 1), (1, 1)]),
];

/// The padded pixel of an image `(B, C, H, W)` under a place of the kernel, 0 beyond the image.
fn pixel(x: &[f32], s: &Shape, (b, c): (usize, usize), (y, x_at): (usize, usize)) -> f64 {
    let (_, channels, h, w, .., pads) = *s;
    match (y.checked_sub(pads[0].0), x_at.checked_sub(pads[1].0)) {
        (Some(y), Some(x_at)) if y < h && x_at < w => {
            f64::from(x[((b * channels + c) * h + y) * w + x_at])
        }
        _ => 0.,
    }
}

fn sides(s: &Shape) -> (usize, usize) {
    let (_, _, h, w, k, stride, pads) = *s;
    let side = |n: usize, (before, after): Pads| (n + before + after - k) / stride + 1;
    (side(h, pads[0]), side(w, pads[1]))
}

#[test]
fn depthwise_is_its_sums() -> Result<()> {
    on_every_isa(|| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for s in SHAPES {
            let (b, c, h, w, k, stride, pads) = s;
            let x = random(&mut rng, &[b, c, h, w])?;
            let weight = random(&mut rng, &[c, 1, k, k])?;
            let bias = random(&mut rng, &[c])?;
            let y = depthwise(&x, &weight, &bias, stride, pads)?;
            let (oh, ow) = sides(&s);
            assert_eq!(y.dims(), [b, c, oh, ow], "{s:?}");
            let (x, weight, bias) = (values(&x)?, values(&weight)?, values(&bias)?);
            for (i, got) in values(&y)?.into_iter().enumerate() {
                let (image, channel) = (i / (c * oh * ow), i / (oh * ow) % c);
                let (oy, ox) = (i / ow % oh, i % ow);
                let mut sum = f64::from(bias[channel]);
                for tap in 0..k * k {
                    let at = (oy * stride + tap / k, ox * stride + tap % k);
                    let weight = f64::from(weight[channel * k * k + tap]);
                    sum += weight * pixel(&x, &s, (image, channel), at);
                }
                let close = (f64::from(got) - sum).abs() < 1e-5 * (k * k) as f64;
                assert!(close, "{s:?} at {i}: {got}, expected {sum}");
            }
        }
        Ok(())
    })
}

#[test]
fn unfolded_pixels_are_where_the_kernel_sees_them() -> Result<()> {
    on_every_isa(|| {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for s in SHAPES {
            let (b, c, h, w, k, stride, pads) = s;
            let x = random(&mut rng, &[b, c, h, w])?;
            let y = unfold(&x, k, stride, pads)?;
            let (oh, ow) = sides(&s);
            assert_eq!(y.dims(), [b, k * k * c, oh, ow], "{s:?}");
            let x = values(&x)?;
            for (i, got) in values(&y)?.into_iter().enumerate() {
                let n = i / (oh * ow);
                let (image, tap, channel) = (n / (k * k * c), n / c % (k * k), n % c);
                let (oy, ox) = (i / ow % oh, i % ow);
                let at = (oy * stride + tap / k, ox * stride + tap % k);
                let expected = pixel(&x, &s, (image, channel), at);
                assert!(f64::from(got) == expected, "{s:?} at {i}");
            }
        }
        Ok(())
    })
}

#[test]
fn means_and_factors_of_channels() -> Result<()> {
    on_every_isa(|| {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (b, c, h, w) in [(1, 1, 1, 1), (2, 3, 5, 7), (1, 70, 16, 16), (3, 5, 1, 129)] {
            let x = random(&mut rng, &[b, c, h, w])?;
            let factors = random(&mut rng, &[b, c])?;
            let (means, scaled) = (channel_means(&x)?, scale_channels(&x, &factors)?);
            assert_eq!((means.dims(), scaled.dims()), (&[b, c][..], x.dims()));
            let (x, factors) = (values(&x)?, values(&factors)?);
            for (n, mean) in values(&means)?.into_iter().enumerate() {
                let pixels = &x[n * h * w..][..h * w];
                let expected = pixels.iter().map(|v| f64::from(*v)).sum::<f64>() / (h * w) as f64;
                assert!((f64::from(mean) - expected).abs() < 1e-6, "{n}: {mean}");
            }
            for (i, v) in values(&scaled)?.into_iter().enumerate() {
                assert_eq!(v, x[i] * factors[i / (h * w)]);
            }
        }
        Ok(())
    })
}

#[test]
fn gradients_pass_and_what_does_not_fit_is_refused() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let x = Var::from_tensor(&random(&mut rng, &[1, 2, 4, 4])?)?;
    let (weight, bias) = (random(&mut rng, &[2, 1, 3, 3])?, random(&mut rng, &[2])?);
    let pads = [(1, 1); 2];
    let y = depthwise(&x, &weight, &bias, 1, pads)?;
    let y = scale_channels(&y, &channel_means(&y)?)?;
    let grads = unfold(&y, 3, 1, pads)?.sum_all()?.backward()?;
    assert!(grads.get(&x).is_some());

    let flat = Tensor::zeros((1, 2, 2, 2), DType::F32, &Device::Cpu)?;
    for wrong in [
        depthwise(&flat, &weight, &bias, 3, pads),
        depthwise(&flat, &weight, &bias, 1, [(0, 0); 2]),
        depthwise(&flat, &weight.narrow(0, 0, 1)?, &bias, 1, pads),
        unfold(&flat, 3, 0, pads),
        unfold(&flat, 3, 1, [(0, 0); 2]),
        scale_channels(&flat, &bias.reshape((2, 1))?),
    ] {
        assert!(wrong.is_err());
    }
    Ok(())
}

#[test]
fn a_part_of_the_channels_is_as_good_as_a_copy_of_it() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (b, c, h, w) in [(3, 5, 4, 6), (2, 40, 33, 31), (4, 3, 1, 1)] {
        let all = random(&mut rng, &[b, c, h, w])?;
        for (first, count) in [(0, c - 1), (1, c - 1), (1, 1)] {
            let part = all.narrow(1, first, count)?;
            let expected = fndm_kernels::relu(&all)?.narrow(1, first, count)?;
            assert_eq!(values(&fndm_kernels::relu(&part)?)?, values(&expected)?);
            // Rows that don't lie together take candle's way.
            let turned = part.transpose(2, 3)?;
            let expected = expected.transpose(2, 3)?;
            assert_eq!(values(&fndm_kernels::relu(&turned)?)?, values(&expected)?);
        }
    }
    // Joined channels give their gradients back as parts of one.
    let a = Var::from_tensor(&random(&mut rng, &[3, 2, 4, 4])?)?;
    let b = Var::from_tensor(&random(&mut rng, &[3, 5, 4, 4])?)?;
    let weights = random(&mut rng, &[3, 7, 4, 4])?;
    let joined = fndm_kernels::cat_channels(&fndm_kernels::relu(&a)?, &fndm_kernels::relu(&b)?)?;
    let grads = (joined * &weights)?.sum_all()?.backward()?;
    for (x, first, count) in [(&a, 0, 2), (&b, 2, 5)] {
        let (x, weights) = (values(x)?, values(&weights.narrow(1, first, count)?)?);
        let gradient = grads.get(if first == 0 { &a } else { &b }).map(values);
        for ((x, w), g) in x.iter().zip(weights).zip(gradient.transpose()?.unwrap()) {
            assert_eq!(g, if *x > 0. { w } else { 0. });
        }
    }
    Ok(())
}
