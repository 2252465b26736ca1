//! Gradients with recomputed blocks take less memory than plain ones, measured.

mod common;

use candle_core::{DType, Device, Tensor};
use fndm_kernels::Tape;
use fndm_models::{UNet, UNetConfig};
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

#[test]
fn recomputing_blocks_saves_memory() {
    let config = UNetConfig {
        num_res_blocks: 6,
        channel_mult: vec![1., 1.],
        ..UNetConfig::small_64(3, 2)
    };
    let parameters = common::parameters(1);
    let unet = UNet::new(&config, parameters.builder()).unwrap();
    let x = Tensor::ones((4, 3, 64, 64), DType::F32, &Device::Cpu).unwrap();
    let t = Tensor::full(10f32, 4, &Device::Cpu).unwrap();
    let y = Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap();
    let loss = |output: &Tensor| output.sqr()?.mean_all();
    let measured = |run: &dyn Fn() -> usize| {
        let before = PEAK.current_usage();
        PEAK.reset_peak_usage();
        assert_eq!(run(), parameters.len());
        (PEAK.peak_usage() - before) as f64 / f64::from(1 << 20)
    };
    let found = |gradients: candle_core::backprop::GradStore| {
        let vars = parameters.iter();
        vars.filter(|(_, v)| gradients.get(v).is_some()).count()
    };
    let plain = measured(&|| {
        let tape = Tape::start().unwrap();
        let output = unet.forward_train(&x, &t, Some(&y), 1).unwrap();
        found(tape.backward(&loss(&output).unwrap()).unwrap())
    });
    let recomputed = measured(&|| {
        let (_, gradients) = unet
            .loss_gradients(&x, &t, Some(&y), Some(1), loss)
            .unwrap();
        found(gradients)
    });
    println!("plain {plain:.0} MiB, recomputed {recomputed:.0} MiB");
    assert!(recomputed < 0.5 * plain, "{recomputed} {plain}");
}
