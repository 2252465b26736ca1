//! Numbers that both sides make from the same formula; `inputs.py` is the other half.

use candle_core::{Device, Result, Tensor};

/// `n` floats in [-1, 1) that follow from `seed` by integer arithmetic alone.
pub(crate) fn floats(seed: u32, n: usize) -> Vec<f32> {
    let start = seed.wrapping_mul(0x85EB_CA77);
    (0..n as u32)
        .map(|i| {
            let mut x = i.wrapping_mul(0x9E37_79B1).wrapping_add(start);
            x = (x ^ (x >> 15)).wrapping_mul(0x2C1B_3C6D);
            x = (x ^ (x >> 12)).wrapping_mul(0x297A_2D39);
            x ^= x >> 15;
            (x >> 8) as f32 / 8_388_608. - 1.
        })
        .collect()
}

/// [`floats`] as a tensor on the CPU.
pub(crate) fn tensor(seed: u32, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(floats(seed, shape.iter().product()), shape, &Device::Cpu)
}

/// Up to 64 values of `x`, evenly spaced in its memory.
pub(crate) fn sample(x: &Tensor) -> Result<Vec<f64>> {
    let all = x.flatten_all()?.to_vec1::<f32>()?;
    let step = all.len().div_ceil(64).max(1);
    Ok(all.iter().step_by(step).map(|v| f64::from(*v)).collect())
}
