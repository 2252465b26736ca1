//! Tissues and their signal in each sequence.

use rand::{Rng, RngExt};

/// The sequences of a phantom patient, in the order in which it holds them.
pub const SEQUENCES: [&str; 4] = ["flair", "t1", "t1ce", "t2"];

/// What a voxel can be made of. The last seven make up lesions; oedema also the caps of healthy ventricles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Tissue {
    Fat,
    Muscle,
    Bone,
    Marrow,
    Csf,
    Grey,
    White,
    DeepGrey,
    Vessel,
    Choroid,
    Oedema,
    Core,
    Necrosis,
    Rim,
    Infarct,
    Gliosis,
    Silent,
}

/// Number of tissues.
pub(crate) const TISSUES: usize = 17;

/// Fractions of the tissues in a voxel. What is missing to one is air.
pub(crate) type Fractions = [f32; TISSUES];

/// Signal of pure tissue for flair, t1, t1ce, t2; fat on T1 is about one. The order within a
/// sequence is that of the clinic: FLAIR has CSF < WM < GM, T1 has CSF < GM < WM, T2 has WM < GM < CSF.
const SIGNAL: [[f32; 4]; TISSUES] = [
    [0.98, 1.12, 1.16, 0.80], // Fat
    [0.45, 0.50, 0.66, 0.30], // Muscle
    [0.05, 0.07, 0.08, 0.05], // Bone
    [0.32, 0.52, 0.58, 0.28], // Marrow
    [0.10, 0.20, 0.21, 1.00], // Csf
    [0.62, 0.56, 0.58, 0.60], // Grey
    [0.47, 0.80, 0.82, 0.42], // White
    [0.57, 0.66, 0.68, 0.52], // DeepGrey
    [0.12, 0.26, 1.20, 0.12], // Vessel
    [0.52, 0.42, 1.08, 0.72], // Choroid
    [0.94, 0.50, 0.51, 0.84], // Oedema
    [0.76, 0.44, 0.60, 0.74], // Core
    [0.20, 0.28, 0.30, 0.98], // Necrosis
    [0.74, 0.52, 1.22, 0.66], // Rim
    [0.86, 0.46, 0.48, 0.82], // Infarct
    [0.90, 0.52, 0.53, 0.76], // Gliosis
    [0.52, 0.36, 0.38, 0.88], // Silent: no contrast to grey and white matter on FLAIR
];

/// The signal table of one subject on one scanner.
#[derive(Debug, Clone)]
pub(crate) struct Contrast {
    signal: [[f32; 4]; TISSUES],
}

impl Contrast {
    /// The table with every tissue's signal varied by a few per cent.
    pub(crate) fn draw<R: Rng + ?Sized>(rng: &mut R) -> Self {
        let mut signal = SIGNAL;
        for value in signal.iter_mut().flatten() {
            *value *= 1.0 + rng.random_range(-0.05..0.05f32);
        }
        Self { signal }
    }

    /// Signal of a mixture in each sequence.
    pub(crate) fn signal(&self, fractions: &Fractions) -> [f32; 4] {
        let mut out = [0.0; 4];
        for (fraction, signal) in fractions.iter().zip(&self.signal) {
            if *fraction > 0.0 {
                for (o, s) in out.iter_mut().zip(signal) {
                    *o += fraction * s;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn contrasts_keep_their_physical_order() {
        for seed in 0..200 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let c = Contrast::draw(&mut rng).signal;
            let of = |t: Tissue, s: usize| c[t as usize][s];
            use Tissue::{Csf, Grey, Oedema, White};
            assert!(of(Csf, 0) < of(White, 0) && of(White, 0) < of(Grey, 0));
            assert!(of(Csf, 1) < of(Grey, 1) && of(Grey, 1) < of(White, 1));
            assert!(of(Csf, 2) < of(Grey, 2) && of(Grey, 2) < of(White, 2));
            assert!(of(White, 3) < of(Grey, 3) && of(Grey, 3) < of(Csf, 3));
            assert!(of(Oedema, 0) > of(Grey, 0) && of(Oedema, 1) < of(White, 1));
        }
    }
}
