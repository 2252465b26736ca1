//! A coarse map for one slice of 256 px beside one evaluation of the `UNet`, both of the paper's size.

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use fndm_memory::{ClassifierFeatures, HealthyModel, MemoryBank, MemoryConfig, silent};
use fndm_models::{Classifier, ClassifierConfig, Parameters, UNet, UNetConfig};
use ndarray::Array3;

#[global_allocator]
static ALLOCATOR: fndm_kernels::CachingAlloc = fndm_kernels::CachingAlloc::new();

const SEQUENCES: usize = 4;

/// Slices of smooth texture.
fn slices(count: usize) -> Tensor {
    let value = |i: usize| {
        let (image, y, x) = (i >> 16, i >> 8 & 255, i & 255);
        ((image + 1) as f32 * 0.7 + y as f32 / 9.0).sin() * (x as f32 / 7.0).cos()
    };
    let values: Vec<f32> = (0..(count * SEQUENCES) << 16).map(value).collect();
    Tensor::from_vec(values, (count, SEQUENCES, 256, 256), &Device::Cpu).expect("slices")
}

fn coarse(c: &mut Criterion) {
    let mut group = c.benchmark_group("256 px");
    group.sample_size(10);

    let config = ClassifierConfig::paper_256(SEQUENCES);
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    Classifier::new(&config, parameters.builder()).expect("classifier");
    let frozen = parameters.frozen().expect("parameters");
    let features = ClassifierFeatures {
        weights: None,
        classifier: Classifier::new(&config, frozen).expect("classifier"),
        // Outputs of 64 and 32 px.
        blocks: vec![14, 19],
        t: 0.0,
    };
    // As many rows as the default config keeps.
    let healthy = slices(6);
    let (seen, apart) = (healthy.narrow(0, 0, 4), healthy.narrow(0, 4, 2));
    let mut bank = MemoryBank::build(
        &MemoryConfig::default(),
        &features,
        &seen.expect("slices"),
        None,
        &mut silent,
    )
    .expect("bank");
    let head = Array3::from_elem((2, 256, 256), true);
    bank.calibrate(&features, &apart.expect("slices"), head.view(), &mut silent)
        .expect("calibration");
    let slice = slices(1);
    let head = Array3::from_elem((1, 256, 256), true);
    let name = format!("coarse map, {} rows", bank.len());
    group.bench_function(name, |b| {
        b.iter(|| bank.coarse(&features, &slice, head.view()).expect("map"));
    });
    let embedding = bank.embed(&features, &slice).expect("features");
    let name = format!("its search alone, {} patches", embedding.features.nrows());
    group.bench_function(name, |b| {
        b.iter(|| bank.score(embedding.features.view()).expect("scores"));
    });

    let config = UNetConfig::paper_256(2 * SEQUENCES + 1, SEQUENCES);
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    UNet::new(&config, parameters.builder()).expect("UNet");
    let unet = UNet::new(&config, parameters.frozen().expect("parameters")).expect("UNet");
    drop(parameters);
    let input =
        Tensor::zeros((1, 2 * SEQUENCES + 1, 256, 256), DType::F32, &Device::Cpu).expect("input");
    let t = Tensor::new(&[500f32], &Device::Cpu).expect("time");
    let label = Tensor::new(&[0u32], &Device::Cpu).expect("label");
    group.bench_function("one UNet evaluation", |b| {
        b.iter(|| unet.forward(&input, &t, Some(&label)).expect("noise"));
    });
    group.finish();
}

criterion_group!(benches, coarse);
criterion_main!(benches);
