//! Each operation against plain candle, at the sizes of a 64 px network with a batch of 16.
//!
//! `cargo bench -p fndm-kernels -- conv` runs one group. Both sides use the same allocator.

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use fndm_kernels::{
    AdamStep, Backend, CachingAlloc, Conv2d, JointBilateral, Tape, joint_bilateral, set_backend,
};
use std::hint::black_box;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: CachingAlloc = CachingAlloc::new();

fn random(shape: &[usize]) -> Result<Tensor> {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu)
}

/// Measures `f` under both implementations.
fn both(c: &mut Criterion, group: &str, mut f: impl FnMut() -> Result<()>) {
    let mut g = c.benchmark_group(group);
    g.sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    for (name, backend) in [("fndm", Backend::Fast), ("candle", Backend::Candle)] {
        set_backend(backend);
        g.bench_function(name, |b| {
            b.iter(|| {
                if let Err(e) = f() {
                    eprintln!("{group}: {e}");
                }
            });
        });
    }
    set_backend(Backend::Fast);
    g.finish();
}

/// Forward, and forward with the backward pass of every input.
fn forward_and_training(
    c: &mut Criterion,
    name: &str,
    shapes: &[&[usize]],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let plain = shapes
        .iter()
        .map(|s| random(s))
        .collect::<Result<Vec<_>>>()?;
    let vars = plain
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<Vec<_>>>()?;
    let tracked: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    both(c, &format!("{name}/forward"), || {
        f(&plain).map(|y| drop(black_box(y)))
    });
    both(c, &format!("{name}/training"), || {
        f(&tracked)?.backward().map(|g| drop(black_box(g)))
    });
    Ok(())
}

fn convolution(c: &mut Criterion) -> Result<()> {
    for (b, i, h, o, k, stride) in [
        (16, 32, 64, 32, 3, 1),
        (16, 64, 32, 64, 3, 1),
        (16, 128, 16, 128, 3, 1),
        (16, 128, 8, 128, 3, 1),
        (16, 32, 64, 32, 3, 2),
        (16, 64, 32, 128, 1, 1),
        (1, 128, 16, 128, 3, 1),
        (1, 128, 128, 128, 3, 1),
    ] {
        let name = format!("conv {k}x{k} stride {stride}, {b}x{i}x{h}x{h} to {o}");
        // Inference: weights that aren't variables, packed once.
        let conv = Conv2d::new(random(&[o, i, k, k])?, Some(random(&[o])?), stride)?;
        let x = random(&[b, i, h, h])?;
        both(c, &format!("{name}/forward"), || {
            conv.forward(&x).map(|y| drop(black_box(y)))
        });
        let v = Var::from_tensor(&x)?;
        both(c, &format!("{name}/input gradient"), || {
            let y = conv.forward(v.as_tensor())?;
            y.backward().map(|g| drop(black_box(g)))
        });
        let (w, bias) = (
            Var::from_tensor(conv.weight())?,
            Var::from_tensor(&random(&[o])?)?,
        );
        let conv = Conv2d::new(
            w.as_tensor().clone(),
            Some(bias.as_tensor().clone()),
            stride,
        )?;
        both(c, &format!("{name}/training"), || {
            let y = conv.forward(v.as_tensor())?;
            y.backward().map(|g| drop(black_box(g)))
        });
    }
    Ok(())
}

fn other(c: &mut Criterion) -> Result<()> {
    for (n, h) in [(32, 64), (64, 32), (128, 16)] {
        let x = [16, n, h, h];
        let size = format!("16x{n}x{h}x{h}");
        let shapes: [&[usize]; 5] = [&x, &[n], &[n], &[16, n], &[16, n]];
        forward_and_training(c, &format!("group_norm_silu {size}"), &shapes[..3], |t| {
            fndm_kernels::group_norm_silu(&t[0], 32, &t[1], &t[2], 1e-5, None)
        })?;
        forward_and_training(c, &format!("scale shift {size}"), &shapes, |t| {
            let scale_shift = Some((&t[3], &t[4]));
            fndm_kernels::group_norm_silu(&t[0], 32, &t[1], &t[2], 1e-5, scale_shift)
        })?;
        forward_and_training(c, &format!("silu {size}"), &[&x], |t| {
            fndm_kernels::silu(&t[0])
        })?;
        forward_and_training(c, &format!("add {size}"), &[&x, &x], |t| {
            fndm_kernels::add(&t[0], &t[1])
        })?;
        forward_and_training(c, &format!("cat_channels {size}"), &[&x, &x], |t| {
            fndm_kernels::cat_channels(&t[0], &t[1])
        })?;
        forward_and_training(c, &format!("upsample {size}"), &[&x], |t| {
            fndm_kernels::upsample_nearest_2x(&t[0])
        })?;
        forward_and_training(c, &format!("avg_pool {size}"), &[&x], |t| {
            fndm_kernels::avg_pool_2x(&t[0])
        })?;
    }
    for (b, ch, h) in [(16, 96, 16), (1, 128, 128)] {
        let shapes: [&[usize]; 2] = [&[b, ch, h, h], &[ch, ch, 3, 3]];
        let name = format!("upsample and conv {b}x{ch}x{h}x{h}");
        forward_and_training(c, &name, &shapes, |t| {
            Conv2d::new(t[1].clone(), None, 1)?.forward_upsampled(&t[0])
        })?;
    }
    for (b, heads, ch, t) in [(16, 4, 32, 64), (16, 4, 32, 256), (1, 1, 64, 4096)] {
        let shape = [b, heads, ch, t];
        let name = format!("attention {b}x{heads}x{ch}x{t}");
        forward_and_training(c, &name, &[&shape, &shape, &shape], |t| {
            fndm_kernels::attention(&t[0], &t[1], &t[2])
        })?;
    }
    let images = [8, 4, 256, 256];
    let (a, b, d) = (random(&images)?, random(&images)?, random(&images)?);
    both(c, "solver step 8x4x256x256", || {
        let terms = [(0.9, &a), (0.3, &b), (-0.2, &d)];
        fndm_kernels::linear_combination(&terms).map(|y| drop(black_box(y)))
    });
    let p = Var::from_tensor(&random(&[1 << 20])?)?;
    let (m, v) = (
        Var::from_tensor(&p.zeros_like()?)?,
        Var::from_tensor(&p.zeros_like()?)?,
    );
    let g = random(&[1 << 20])?;
    both(c, "adam 1M", || {
        fndm_kernels::adam_step(&p, &m, &v, &g, &AdamStep::default())
    });
    both(c, "ema 1M", || {
        fndm_kernels::ema_update(&m, p.as_tensor(), 0.999)
    });
    Ok(())
}

/// Maps of a patient, smoothed as `detect` does: inside is a disc, slices look at two to each side. Nothing of candle's does the same.
fn smoothing(c: &mut Criterion) -> Result<()> {
    for (n, channels, side) in [(16, 4, 64), (16, 3, 64), (16, 4, 128), (4, 4, 256)] {
        let size = [n, channels, side, side];
        let values = |len: usize, least: f32| -> Result<Vec<f32>> {
            Tensor::rand(least, 1f32, len, &Device::Cpu)?.to_vec1()
        };
        let map = values(n * side * side, 0.)?;
        let guide = values(map.len() * channels, -1.)?;
        let off = |p: usize| (p as f32 - side as f32 / 2.).powi(2);
        let disc = |at: usize| off(at % side) + off(at / side % side) < (0.4 * side as f32).powi(2);
        let inside: Vec<bool> = (0..map.len()).map(disc).collect();
        let pairs = (0..3).flat_map(|d| (d..n).map(move |k| (k - d, k, 1. / (1. + d as f32))));
        let pairs: Vec<_> = pairs.collect();
        let filter = JointBilateral {
            space: 5. * side as f32 / 64.,
            radius: 12 * side / 64,
            step: side / 64,
            range: 0.06,
        };
        let name = format!("joint_bilateral {n}x{channels}x{side}x{side}");
        c.bench_function(&name, |b| {
            b.iter(|| {
                let smooth = joint_bilateral(&map, &guide, &inside, size, &pairs, filter);
                drop(black_box(smooth));
            });
        });
    }
    Ok(())
}

/// Residual blocks at 64, 32, 16 and 8 pixels with skips: about a small U-net.
struct Network(Vec<Var>);

impl Network {
    fn new() -> Result<Self> {
        let mut all = Vec::new();
        let mut add = |shape: &[usize], scale: f64| -> Result<()> {
            all.push(Var::from_tensor(&(random(shape)? * scale)?)?);
            Ok(())
        };
        for c in [32, 64, 64, 128] {
            for _ in 0..4 {
                add(&[c, c, 3, 3], 0.05)?;
                add(&[c], 0.05)?;
                add(&[c], 1.)?;
            }
        }
        for (o, i) in [(64, 32), (128, 64), (64, 128), (32, 64)] {
            add(&[o, i, 1, 1], 0.1)?;
        }
        Ok(Self(all))
    }

    fn half_block(&self, x: &Tensor, i: usize) -> Result<Tensor> {
        let p = |j: usize| self.0[i * 3 + j].as_tensor();
        let h = fndm_kernels::group_norm_silu(x, 32, p(2), p(1), 1e-5, None)?;
        Conv2d::new(p(0).clone(), Some(p(1).clone()), 1)?.forward(&h)
    }

    fn block(&self, x: &Tensor, i: usize) -> Result<Tensor> {
        let h = self.half_block(&self.half_block(x, i)?, i + 1)?;
        fndm_kernels::add(x, &h)
    }

    fn mix(&self, x: &Tensor, i: usize) -> Result<Tensor> {
        Conv2d::new(self.0[48 + i].as_tensor().clone(), None, 1)?.forward(x)
    }

    fn loss(&self, x: &Tensor) -> Result<Tensor> {
        let (up, down) = (fndm_kernels::upsample_nearest_2x, fndm_kernels::avg_pool_2x);
        let a = self.block(x, 0)?;
        let b = self.block(&self.mix(&down(&a)?, 0)?, 4)?;
        let c = self.block(&down(&b)?, 8)?;
        let d = self.block(&self.mix(&down(&c)?, 1)?, 12)?;
        let d = self.block(&d, 14)?;
        let c = self.block(&fndm_kernels::add(&self.mix(&up(&d)?, 2)?, &c)?, 10)?;
        let b = self.block(&fndm_kernels::add(&up(&c)?, &b)?, 6)?;
        let a = self.block(&fndm_kernels::add(&self.mix(&up(&b)?, 3)?, &a)?, 2)?;
        a.sqr()?.mean_all()
    }
}

fn network(c: &mut Criterion) -> Result<()> {
    let net = Network::new()?;
    let x = random(&[16, 32, 64, 64])?;
    both(c, "network/forward", || {
        net.loss(&x).map(|y| drop(black_box(y)))
    });
    both(c, "network/training", || {
        net.loss(&x)?.backward().map(|g| drop(black_box(g)))
    });
    both(c, "network/training with a tape", || {
        let tape = Tape::start()?;
        let loss = net.loss(&x)?;
        tape.backward(&loss).map(|g| drop(black_box(g)))
    });
    Ok(())
}

fn all(c: &mut Criterion) {
    if let Err(e) = network(c)
        .and_then(|()| convolution(c))
        .and_then(|()| other(c))
        .and_then(|()| smoothing(c))
    {
        eprintln!("{e}");
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
