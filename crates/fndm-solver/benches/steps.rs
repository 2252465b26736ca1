//! The tensor work of one solver step, beside a memory copy of the same size: `cargo bench -p fndm-solver`.

use std::hint::black_box;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fndm_solver::{LowerOrderFinal, ScheduleConfig, SolverConfig, Stepper};

const SHAPES: [(usize, usize, usize, usize); 5] = [
    (1, 4, 64, 64),
    (4, 4, 128, 128),
    (1, 4, 256, 256),
    (8, 4, 256, 256),
    (16, 4, 256, 256),
];

fn noise(shape: (usize, usize, usize, usize)) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("a tensor")
}

/// A run in its middle, with a full history of distinct tensors.
fn stepper(order: usize, shape: (usize, usize, usize, usize)) -> Stepper {
    let schedule = ScheduleConfig::linear(1000).build().expect("a schedule");
    let config = SolverConfig {
        lower_order_final: LowerOrderFinal::Never,
        ..SolverConfig::dpm_solver_pp(order, 50)
    };
    let solver = config.sample(&schedule, schedule.span()).expect("a solver");
    let mut stepper = solver.stepper(&noise(shape)).expect("a stepper");
    for _ in 0..5 {
        stepper.advance(&noise(shape)).expect("a step");
    }
    stepper
}

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("step");
    for shape in SHAPES {
        let (b, ch, h, w) = shape;
        let name = format!("{b}x{ch}x{h}x{w}");
        let bytes = (b * ch * h * w * size_of::<f32>()) as u64;

        let source = vec![1f32; b * ch * h * w];
        let mut target = vec![0f32; source.len()];
        group.throughput(Throughput::Bytes(2 * bytes));
        group.bench_function(BenchmarkId::new("copy", &name), |bench| {
            bench.iter(|| {
                target.copy_from_slice(black_box(&source));
                black_box(&target);
            });
        });

        for order in 1..=3 {
            let stepper = stepper(order, shape);
            let output = noise(shape);
            // Each evaluation that is looked back to brings a state and an output; one state is written.
            group.throughput(Throughput::Bytes((2 * order as u64 + 1) * bytes));
            group.bench_function(BenchmarkId::new(format!("order {order}"), &name), |bench| {
                bench.iter(|| {
                    let mut stepper = stepper.clone();
                    stepper.advance(black_box(&output)).expect("a step");
                    black_box(stepper.x());
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
