//! The tensor work of one solver step, beside memory copies of the same size: `cargo bench -p fndm-solver`.
//!
//! Throughput counts every tensor that is read or written once. The copies read and write as many bytes together, so
//! that neither fits the caches better, into memory that is there already: by one thread, and by as many as the step
//! has. A step makes a new state; the allocator is the one that this project's programs use, which finds the block of
//! the state before.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use fndm_solver::{
    Algorithm, LowerOrderFinal, Method, ScheduleConfig, Solver, SolverConfig, Stepper,
};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();

const SHAPES: [(usize, usize, usize, usize); 5] = [
    (1, 4, 64, 64),
    (4, 4, 128, 128),
    (1, 4, 256, 256),
    (8, 4, 256, 256),
    (16, 4, 256, 256),
];

fn noise(shape: (usize, usize, usize, usize), dtype: DType) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
        .and_then(|t| t.to_dtype(dtype))
        .expect("a tensor")
}

fn multistep(algorithm: Algorithm, order: usize) -> Solver {
    let schedule = ScheduleConfig::linear(1000).build().expect("a schedule");
    let config = SolverConfig {
        algorithm,
        lower_order_final: LowerOrderFinal::Never,
        method: Method::Multistep,
        ..SolverConfig::dpm_solver_pp(order, 50)
    };
    config.sample(&schedule, schedule.span()).expect("a solver")
}

/// A run in its middle, with a full history of distinct tensors.
fn stepper(solver: &Solver, shape: (usize, usize, usize, usize), dtype: DType) -> Stepper {
    let mut stepper = solver.stepper(&noise(shape, dtype)).expect("a stepper");
    for _ in 0..5 {
        stepper.advance(noise(shape, dtype)).expect("a step");
    }
    stepper
}

fn bench_step(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    stepper: &Stepper,
    output: &Tensor,
) {
    group.bench_function(id, |bench| {
        bench.iter(|| {
            let mut stepper = stepper.clone();
            stepper.advance(black_box(output)).expect("a step");
            black_box(stepper.x());
        });
    });
}

/// Copies that move `bytes`, half of them read and half written.
fn bench_copies(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, shape: &str, bytes: u64) {
    let source = vec![1f32; bytes as usize / 2 / size_of::<f32>()];
    let mut target = vec![0f32; source.len()];
    group.bench_function(BenchmarkId::new(format!("{name}, copy"), shape), |bench| {
        bench.iter(|| {
            target.copy_from_slice(black_box(&source));
            black_box(&target);
        });
    });
    let id = BenchmarkId::new(format!("{name}, threaded copy"), shape);
    group.bench_function(id, |bench| {
        bench.iter(|| {
            target
                .par_chunks_mut(1 << 15)
                .zip(black_box(&source).par_chunks(1 << 15))
                .for_each(|(target, source)| target.copy_from_slice(source));
            black_box(&target);
        });
    });
}

fn steps(c: &mut Criterion) {
    use Algorithm::{DpmSolverPlusPlus, UniPc};
    let mut group = c.benchmark_group("step");
    for shape in SHAPES {
        let (b, ch, h, w) = shape;
        let shape_name = format!("{b}x{ch}x{h}x{w}");
        let state = (b * ch * h * w * size_of::<f32>()) as u64;
        // Each evaluation that is looked back to brings a state and an output; one state is written. UniPC has two
        // updates a step: its corrector reads a state and three evaluations, its predictor a state and two.
        for (name, algorithm, order, tensors) in [
            ("order 1", DpmSolverPlusPlus, 1, 3),
            ("order 2", DpmSolverPlusPlus, 2, 5),
            ("order 3", DpmSolverPlusPlus, 3, 7),
            ("UniPC-2", UniPc, 2, 14),
        ] {
            group.throughput(Throughput::Bytes(tensors * state));
            bench_copies(&mut group, name, &shape_name, tensors * state);
            let stepper = stepper(&multistep(algorithm, order), shape, DType::F32);
            let output = noise(shape, DType::F32);
            let id = BenchmarkId::new(name, &shape_name);
            bench_step(&mut group, id, &stepper, &output);
        }
    }
    // The other types, at one shape.
    let shape = (8, 4, 256, 256);
    for (dtype, size) in [(DType::F64, 8), (DType::F16, 2), (DType::BF16, 2)] {
        let stepper = stepper(&multistep(DpmSolverPlusPlus, 2), shape, dtype);
        let bytes = 5 * size * stepper.x().elem_count() as u64;
        let name = format!("order 2, {dtype:?}");
        group.throughput(Throughput::Bytes(bytes));
        bench_copies(&mut group, &name, "8x4x256x256", bytes);
        let id = BenchmarkId::new(name, "8x4x256x256");
        bench_step(&mut group, id, &stepper, &noise(shape, dtype));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = steps
}
criterion_main!(benches);
