//! A tape gives the gradients of candle's own backward pass.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use fndm_kernels::{Conv2d, Tape};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn variable(rng: &mut ChaCha8Rng, shape: &[usize]) -> Result<Var> {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| rng.random::<f32>() - 0.5).collect();
    Var::from_vec(data, shape, &Device::Cpu)
}

/// A small network with the habits of a U-net: skips, concatenation, attention through views, an embedding by candle.
fn network(p: &[Var], x: &Tensor) -> Result<Tensor> {
    let t = |i: usize| p[i].as_tensor().clone();
    let embedding = fndm_kernels::silu(&t(0).matmul(&t(1).t()?)?)?;
    let h = Conv2d::new(t(2), Some(t(3)), 1)?.forward_shifted(x, &embedding)?;
    let first = fndm_kernels::group_norm_silu(&h, 4, &t(3), &t(3), 1e-5, None)?;
    let down = fndm_kernels::avg_pool_2x(&first)?;
    let (b, c, hh, ww) = down.dims4()?;
    let tokens =
        fndm_kernels::group_norm(&down, 2, &t(3), &t(3), 1e-5)?.reshape((b, c, hh * ww))?;
    let part = |i: usize| tokens.narrow(1, 2 * i, 2)?.reshape((b, 1, 2, hh * ww));
    let a = fndm_kernels::attention(&part(0)?, &part(1)?, &part(2)?)?.reshape((b, 2, hh, ww))?;
    let both = fndm_kernels::cat_channels(&down, &a)?;
    let up = fndm_kernels::upsample_nearest_2x(&both)?;
    let up = Conv2d::new(t(4), None, 1)?.forward(&up)?;
    // candle's addition, on a tensor that is used twice more.
    let sum = (&up + &first)?;
    let scaled =
        fndm_kernels::group_norm_silu(&sum, 4, &t(3), &t(3), 1e-5, Some((&embedding, &embedding)))?;
    fndm_kernels::linear_combination(&[(0.5, &scaled), (1., &sum), (-2., &first), (1., &sum)])
}

#[test]
fn same_gradients() -> Result<()> {
    let rng = &mut ChaCha8Rng::seed_from_u64(1);
    let p = [
        variable(rng, &[3, 5])?,
        variable(rng, &[8, 5])?,
        variable(rng, &[8, 6, 3, 3])?,
        variable(rng, &[8])?,
        variable(rng, &[8, 10, 1, 1])?,
    ];
    let x = variable(rng, &[3, 6, 12, 12])?;
    let loss = |y: Tensor| y.sqr()?.mean_all();
    let want = loss(network(&p, &x)?)?.backward()?;
    for _ in 0..2 {
        let tape = Tape::start()?;
        assert!(Tape::start().is_err());
        let got = tape.backward(&loss(network(&p, &x)?)?)?;
        same(p.iter().chain([&x]), &got, &want)?;
    }
    Ok(())
}

fn same<'a>(
    variables: impl Iterator<Item = &'a Var>,
    got: &GradStore,
    want: &GradStore,
) -> Result<()> {
    for v in variables {
        let (Some(a), Some(b)) = (got.get(v), want.get(v)) else {
            panic!("no gradient of {:?}", v.dims());
        };
        let diff = (a - b)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        let top = b.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        assert!(diff <= 1e-5 * top, "{:?}: {diff} of {top}", v.dims());
    }
    Ok(())
}

/// The last operation is one of the tape's, one of candle's, or none at all.
#[test]
fn same_gradients_from_a_gradient() -> Result<()> {
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let p = [
        variable(rng, &[1, 5])?,
        variable(rng, &[8, 5])?,
        variable(rng, &[8, 6, 3, 3])?,
        variable(rng, &[8])?,
        variable(rng, &[8, 10, 1, 1])?,
    ];
    let x = variable(rng, &[1, 6, 12, 12])?;
    let dy = variable(rng, &[1, 8, 12, 12])?.as_detached_tensor();
    for by_candle in [false, true] {
        let run = || {
            let y = network(&p, &x)?;
            if by_candle { y.sqr() } else { Ok(y) }
        };
        let want = (run()? * &dy)?.sum_all()?.backward()?;
        let tape = Tape::start()?;
        let got = tape.backward_from(&run()?, &dy)?;
        same(p.iter().chain([&x]), &got, &want)?;
    }
    let tape = Tape::start()?;
    let got = tape.backward_from(&x, &x.as_detached_tensor())?;
    let back = got.get(&x).map(|g| g.flatten_all()?.to_vec1::<f32>());
    assert_eq!(back.transpose()?, Some(x.flatten_all()?.to_vec1()?));
    Ok(())
}

#[test]
fn a_dropped_tape_records_no_more() -> Result<()> {
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let x = variable(rng, &[7])?;
    drop(Tape::start()?);
    let y = fndm_kernels::silu(&x)?;
    assert!(!y.is_variable());
    assert!(y.sum_all()?.backward()?.get(&x).is_some());
    // Nothing tracked, nothing recorded.
    let tape = Tape::start()?;
    let y = fndm_kernels::silu(&x.as_tensor().detach())?;
    assert!(!y.track_op());
    assert!(tape.backward(&y)?.get(&x).is_none());
    Ok(())
}
