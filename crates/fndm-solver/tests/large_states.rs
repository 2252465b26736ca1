//! States beyond the caches take another path through memory, under the allocator that the programs use.

#[path = "common/by_time.rs"]
mod by_time;

use by_time::by_time;
use candle_core::{DType, Device, Tensor};
use fndm_solver::{ScheduleConfig, SolverConfig};

#[global_allocator]
static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();

fn model(x: &Tensor, model_time: f64, _: usize) -> candle_core::Result<Tensor> {
    ((x * 1.3)?.sin()? + 0.0003 * model_time)? * 0.8
}

#[test]
fn a_large_batch_equals_its_members() -> fndm_solver::Result<()> {
    let schedule = ScheduleConfig::linear(1000).build()?;
    // One column more than a multiple of every vector's length.
    let (samples, sample) = (8, 4 * 256 * 257);
    let values: Vec<f32> = (0..samples * sample)
        .map(|i| (i as f32 * 0.37).sin() * 1.2)
        .collect();
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let x = Tensor::from_slice(&values, (samples, 4, 256, 257), &Device::Cpu)?;
        let x = x.to_dtype(dtype)?;
        for order in 1..=3 {
            let config = SolverConfig::dpm_solver_pp(order, 4);
            let solver = config.sample(&schedule, schedule.span())?;
            let all = solver.run(&x, by_time(model))?.to_dtype(DType::F64)?;
            for i in [0, 3, samples - 1] {
                let alone = solver.run(&x.narrow(0, i, 1)?.contiguous()?, by_time(model))?;
                let difference = (alone.to_dtype(DType::F64)? - all.narrow(0, i, 1)?)?;
                assert_eq!(difference.abs()?.max_all()?.to_scalar::<f64>()?, 0.0);
            }
        }
    }
    Ok(())
}
