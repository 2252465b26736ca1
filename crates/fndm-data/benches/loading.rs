//! A training batch of 16 slices of 4 sequences at 128 px from the cache, and reading a volume.
//!
//! `cargo bench -p fndm-data --bench loading`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fndm_data::loading::{Augmentation, Batches, LoadConfig, Loader, SliceCache};
use fndm_data::{Preprocess, SliceSet, phantom::PhantomConfig};

fn cache() -> Arc<SliceCache> {
    let config = PhantomConfig {
        size: 128,
        slices: 24,
        ..PhantomConfig::default()
    };
    let preprocess = Preprocess {
        image_size: 128,
        ..Preprocess::default()
    };
    let phantom = config.build().expect("valid settings");
    let patients = (0..4).map(|seed| preprocess.apply(&phantom.patient(seed)).expect("slices"));
    let set = SliceSet::from_patients(patients).expect("a set");
    Arc::new(SliceCache::new(&set).expect("a cache"))
}

fn batches(c: &mut Criterion) {
    let cache = cache();
    println!("cache: {:?}, {} bytes", cache.shape(), cache.bytes());
    let mut group = c.benchmark_group("batch 16 x 4 x 128 x 128");
    for (name, augmentation) in [
        ("plain", Augmentation::NONE),
        ("augmented", Augmentation::default()),
    ] {
        let config = LoadConfig {
            augmentation,
            ..LoadConfig::default()
        };
        // What one thread takes to make it.
        let mut maker = Batches::new(Arc::clone(&cache), &config).expect("valid settings");
        let mut index = 0;
        group.bench_function(format!("{name}, made"), |b| {
            b.iter(|| {
                index += 1;
                black_box(maker.at(index))
            });
        });
        // What a training step waits for, where it takes 50 ms itself and sleeps through them.
        group.bench_function(format!("{name}, waited for"), |b| {
            b.iter_custom(|times| {
                let mut loader =
                    Loader::new(Arc::clone(&cache), &config, 0).expect("valid settings");
                let mut waited = Duration::ZERO;
                for _ in 0..times {
                    std::thread::sleep(Duration::from_millis(50));
                    let start = Instant::now();
                    black_box(loader.next());
                    waited += start.elapsed();
                }
                waited
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = batches
}
criterion_main!(benches);
