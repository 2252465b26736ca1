//! How long the paper's network takes to load, beside the mere reading of its file. Run with `--ignored --nocapture`.

mod common;

use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use fndm_models::{Limits, StateDict, UNet, UNetConfig};

fn best(times: usize, mut run: impl FnMut()) -> Duration {
    (0..times)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

#[test]
#[ignore = "writes a file of half a gigabyte"]
fn loading_the_paper_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("paper.safetensors");
    let config = UNetConfig::paper_256(9, 4).with_learned_sigma();
    {
        let parameters = common::parameters(0);
        UNet::new(&config, parameters.builder()).unwrap();
        println!("{} parameters", parameters.len_elements());
        parameters.save(&path, &config).unwrap();
    }
    let (limits, device) = (Limits::default(), Device::Cpu);
    let read = best(5, || {
        std::hint::black_box(std::fs::read(&path).unwrap());
    });
    let state = best(5, || {
        std::hint::black_box(StateDict::read(&path, &limits).unwrap());
    });
    let load = best(5, || {
        std::hint::black_box(UNet::load(&path, &limits, DType::F32, &device).unwrap());
    });
    println!("read {read:.0?}, state dict {state:.0?}, network {load:.0?}");
    let ratio = load.as_secs_f64() / read.as_secs_f64();
    println!("network / read: {ratio:.2}");
    assert!(ratio < 1.5, "{ratio:.2}");
}
