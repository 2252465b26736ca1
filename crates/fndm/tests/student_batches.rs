//! A student looks at as many slices at a time as memory should hold; their number changes nothing.

use candle_core::{DType, Device};
use fndm::models::{Parameters, Segmenter, SegmenterConfig};
use fndm::ndarray::{Array4, s};
use fndm::student::probability;

/// Of 256 px, which makes two slices a pass, and of 64 px, which makes 32.
#[test]
fn a_slice_has_the_same_map_whatever_is_beside_it() {
    let config = SegmenterConfig {
        context: 0,
        channel_mult: vec![1., 1.],
        ..SegmenterConfig::small_64(1)
    };
    let parameters = Parameters::new(3, DType::F32, &Device::Cpu);
    let network = Segmenter::new(&config, parameters.builder()).unwrap();
    for (n, side) in [(5, 256), (35, 64)] {
        let images = Array4::from_shape_fn((n, 1, side, side), |(n, _, y, x)| {
            ((n + 1) as f32 * 0.37 + y as f32 * 0.11).sin() * (x as f32 * 0.07).cos()
        });
        let z: Vec<usize> = (0..n).collect();
        let patient = vec![0; n];
        let all = probability(&network, &images, &patient, &z, true, &Device::Cpu).unwrap();
        for n in [0, n / 2, n - 1] {
            let one = images.slice(s![n..=n, .., .., ..]).to_owned();
            let one = probability(&network, &one, &[0], &[n], true, &Device::Cpu).unwrap();
            assert_eq!(all.slice(s![n..=n, .., ..]), one, "slice {n} of {side} px");
        }
    }
}
