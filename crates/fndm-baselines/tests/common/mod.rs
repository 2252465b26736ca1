//! Slices that methods are fitted to, and slices to look at.

use candle_core::{Device, Tensor};
use fndm_data::SliceSet;
use ndarray::Array4;

/// Smooth slices; every fourth is diseased, and has values that no healthy one has.
pub(crate) fn slices() -> SliceSet {
    let labels: Vec<u8> = (0..12).map(|n| u8::from(n % 4 == 3)).collect();
    let images = Array4::from_shape_fn((12, 1, 16, 16), |(n, _, y, x)| {
        let wave = 0.3 * ((n + 1) as f32 * 0.2 * x as f32).sin() * (0.3 * y as f32).cos();
        if n % 4 == 3 { 0.9 } else { wave }
    });
    let patients: Vec<String> = (0..12).map(|n| format!("p{}", n / 3)).collect();
    SliceSet::new(images, labels, &patients, &["flair"]).unwrap()
}

/// Two slices as of the set, the second with a bright square.
pub(crate) fn test_slices() -> Tensor {
    let values: Vec<f32> = (0..2 * 256)
        .map(|i| {
            let (n, y, x) = (i / 256, i / 16 % 16, i % 16);
            let square = n == 1 && (6..10).contains(&y) && (6..10).contains(&x);
            if square {
                0.95
            } else {
                0.3 * (0.5 * x as f32).sin() * (0.3 * y as f32).cos()
            }
        })
        .collect();
    Tensor::from_vec(values, (2, 1, 16, 16), &Device::Cpu).unwrap()
}
