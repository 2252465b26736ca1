//! A Gaussian mixture, whose noise prediction is known exactly.

use candle_core::{Device, Result, Tensor};

/// Weight, mean and variance of each component.
const COMPONENTS: [(f64, [f64; 2], f64); 3] = [
    (0.5, [0.8, -0.4], 0.04),
    (0.3, [-0.7, 0.5], 0.09),
    (0.2, [0.1, 0.9], 0.06),
];

/// Points of the data.
pub(crate) fn data() -> Result<Tensor> {
    Tensor::from_vec(vec![0.75, -0.3, -0.6, 0.45, 0.2, 0.7], (3, 2), &Device::Cpu)
}

/// The noise in `x` (B, 2), with alpha and sigma of each sample.
pub(crate) fn noise(x: &Tensor, levels: &[(f64, f64)]) -> Result<Tensor> {
    let mut out = Vec::new();
    for (x, &(alpha, sigma)) in x.to_vec2::<f64>()?.iter().zip(levels) {
        let parts: Vec<(f64, f64, [f64; 2])> = COMPONENTS
            .iter()
            .map(|(w, mu, var)| {
                let v = alpha * alpha * var + sigma * sigma;
                let d = [x[0] - alpha * mu[0], x[1] - alpha * mu[1]];
                let log = w.ln() - (d[0] * d[0] + d[1] * d[1]) / (2.0 * v) - v.ln();
                (log, v, d)
            })
            .collect();
        let top = parts.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = parts.iter().map(|p| (p.0 - top).exp()).sum();
        for axis in 0..2 {
            let terms = parts
                .iter()
                .map(|(log, v, d)| (log - top).exp() / total * d[axis] / v);
            out.push(sigma * terms.sum::<f64>());
        }
    }
    Tensor::from_vec(out, x.dims(), &Device::Cpu)
}
