//! The arctangent, which candle lacks.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Values in a task.
const CHUNK: usize = 1 << 13;

/// The arctangent of each value, with its gradient.
pub(crate) fn arctangent(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.contiguous()?.apply_op1(Arctangent)
    } else {
        composed(x)
    }
}

/// By operations that every device has: Cephes' polynomial, on an argument reduced to |t| <= tan(pi / 8).
fn composed(x: &Tensor) -> Result<Tensor> {
    let (octant, quarter) = (
        std::f64::consts::FRAC_PI_8.tan(),
        std::f64::consts::FRAC_PI_4,
    );
    // Not by `abs`, whose gradient at 0 is 0.
    let positive = x.ge(0.0)?;
    let size = positive.where_cond(x, &x.neg()?)?;
    let large = size.gt(1.0)?;
    // Where it is large, the angle of the reciprocal is what lacks to a right angle.
    let small = large.where_cond(&size.maximum(1.0)?.recip()?, &size)?;
    let turned = small.gt(octant)?;
    let t = turned.where_cond(&((&small - 1.0)? / (&small + 1.0)?)?, &small)?;
    let z = t.sqr()?;
    let mut sum = (&z * 8.053_744_495_38e-2)?;
    for c in [
        -1.387_768_560_32e-1,
        1.997_771_064_78e-1,
        -3.333_294_915_39e-1,
    ] {
        sum = ((sum + c)? * &z)?;
    }
    let angle = ((sum * &t)? + &t)?;
    let angle = turned.where_cond(&(&angle + quarter)?, &angle)?;
    let angle = large.where_cond(&(angle.neg()? + 2.0 * quarter)?, &angle)?;
    positive.where_cond(&angle, &angle.neg()?)
}

struct Arctangent;

impl CustomOp1 for Arctangent {
    fn name(&self) -> &'static str {
        "fndm-arctangent"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("arctangent: expected a contiguous tensor");
        };
        fn each<T: Copy + Send + Sync>(values: &[T], f: impl Fn(T) -> T + Sync) -> Vec<T> {
            let mut out = values.to_vec();
            out.par_chunks_mut(CHUNK)
                .for_each(|chunk| chunk.iter_mut().for_each(|v| *v = f(*v)));
            out
        }
        let out = match storage {
            CpuStorage::F32(values) => CpuStorage::F32(each(&values[start..end], f32::atan)),
            CpuStorage::F64(values) => CpuStorage::F64(each(&values[start..end], f64::atan)),
            _ => candle_core::bail!("arctangent: expected f32 or f64"),
        };
        Ok((out, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((gradient / (x.sqr()? + 1.0)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn points() -> Vec<f32> {
        let mut all: Vec<f32> = (-400..=400).map(|i| (i as f32 / 40.0).powi(3)).collect();
        all.extend([0.0, 1.0, -1.0, 0.414, 0.4143, 2.42, 1e30, -1e30]);
        all
    }

    #[test]
    fn both_ways_are_the_standard_librarys() {
        let x = Tensor::new(points(), &Device::Cpu).unwrap();
        for y in [arctangent(&x).unwrap(), composed(&x).unwrap()] {
            for (x, y) in points().iter().zip(y.to_vec1::<f32>().unwrap()) {
                assert!(
                    (f64::from(y) - f64::from(*x).atan()).abs() < 3e-7,
                    "{x} {y}"
                );
            }
        }
    }

    #[test]
    fn both_gradients_are_the_closed_form() {
        let x = Var::from_tensor(&Tensor::new(points(), &Device::Cpu).unwrap()).unwrap();
        for y in [arctangent(&x).unwrap(), composed(&x).unwrap()] {
            let gradient = y.sum_all().unwrap().backward().unwrap();
            let gradient = gradient.get(&x).unwrap().to_vec1::<f32>().unwrap();
            for (x, g) in points().iter().zip(gradient) {
                let wanted = 1.0 / (1.0 + f64::from(*x).powi(2));
                assert!((f64::from(g) - wanted).abs() < 1e-5, "{x} {g} {wanted}");
            }
        }
    }
}
