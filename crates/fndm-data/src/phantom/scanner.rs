//! What the scanner adds: gain, uneven coil sensitivity, texture and noise.

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

use super::anatomy::Point;
use super::noise::Noise;

/// One sequence's acquisition.
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    gain: f32,
    bias: f32,
    slope: Point,
    field: Noise,
    texture: Noise,
    noise: f32,
}

impl Scanner {
    pub(super) fn draw<R: Rng + ?Sized>(
        rng: &mut R,
        gain: (f64, f64),
        bias: f64,
        noise: f64,
    ) -> Self {
        let (low, high) = (gain.0.ln(), gain.1.ln());
        let bias = bias as f32;
        Self {
            gain: rng.random_range(low..=high).exp() as f32,
            bias,
            slope: [(); 3].map(|()| bias * rng.random_range(-0.5..0.5f32) / 90.0),
            field: Noise::new(rng.random()),
            texture: Noise::new(rng.random()),
            noise: noise as f32,
        }
    }

    /// The measured magnitude of a clean signal at a point in millimetres: Rician noise, the
    /// length of a complex value with Gaussian noise in both parts.
    pub(super) fn measure<R: Rng + ?Sized>(&self, rng: &mut R, p: Point, signal: f32) -> f32 {
        let tilt = self.slope[0] * p[0] + self.slope[1] * p[1] + self.slope[2] * p[2];
        let field = (self.bias * self.field.scaled(p, 90.0) + tilt).exp();
        let grain = 1.0 + 0.07 * self.texture.scaled(p, 9.0);
        let (re, im): (f32, f32) = (rng.sample(StandardNormal), rng.sample(StandardNormal));
        let real = signal * field * grain + self.noise * re;
        self.gain * real.hypot(self.noise * im)
    }
}
