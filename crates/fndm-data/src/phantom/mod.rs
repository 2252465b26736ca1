//! A seeded brain phantom: four sequences with an exact lesion mask.
//!
//! It is a cohort for examples and tests, made by rule: no real image is in it. A head has scalp,
//! skull, a rim of fluid, folded cortex, white matter, deep nuclei and ventricles that differ from
//! subject to subject; contrasts within a sequence keep their physical order; every sequence has
//! its own gain, bias field and Rician noise.
//!
//! The lesions are drawn with a generator of their own. So [`Phantom::healthy_patient`] gives the
//! same subject, scan and noise without them: outside the mask both are equal to the last bit.
//!
//! ```
//! use fndm_data::phantom::PhantomConfig;
//!
//! let config = PhantomConfig { size: 32, slices: 4, ..PhantomConfig::default() };
//! let patient = config.patient(7)?;
//! assert_eq!(patient.sequences[0].0, "flair");
//! assert_eq!(patient.sequences[0].1.shape(), [32, 32, 4]);
//! assert!(patient.mask.is_some());
//! # Ok::<(), fndm_data::Error>(())
//! ```

mod anatomy;
mod lesion;
mod noise;
mod scanner;
mod tissue;
mod trim;

use ndarray::Array3;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use lesion::LesionMix;
pub use tissue::SEQUENCES;

use crate::{Error, Patient, Result, Volume, affine};
use anatomy::{Anatomy, Point};
use lesion::Lesion;
use scanner::Scanner;
use tissue::{Contrast, Fractions, TISSUES};

/// How phantom patients are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhantomConfig {
    /// Pixels along each side of a slice.
    pub size: usize,
    /// Number of axial slices.
    pub slices: usize,
    /// Edge of a slice in millimetres; an adult head needs about 190.
    pub field_of_view: f64,
    /// Distance of neighbouring slices in millimetres. The slab is centred on the ventricles; the
    /// anatomy holds within about 35 mm of its middle.
    pub slice_spacing: f64,
    /// Samples per pixel along each side of it; more give softer borders and take longer.
    pub samples: usize,
    /// Standard deviation of the noise, where the signal of white matter on T1 is 0.8.
    pub noise: f64,
    /// Strength of the bias field: about its largest deviation from one.
    pub bias: f64,
    /// Range of the factor between signal and stored values, drawn evenly in its logarithm.
    pub gain: (f64, f64),
    /// The lesions.
    pub lesions: LesionMix,
}

impl Default for PhantomConfig {
    fn default() -> Self {
        Self {
            size: 64,
            slices: 24,
            field_of_view: 192.0,
            slice_spacing: 2.5,
            samples: 2,
            noise: 0.02,
            bias: 0.2,
            gain: (200.0, 2000.0),
            lesions: LesionMix::default(),
        }
    }
}

impl PhantomConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] names the first setting out of range.
    pub fn build(&self) -> Result<Phantom> {
        let count = |what: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::config(
                    format!("PhantomConfig.{what}"),
                    format!("{low} to {high}"),
                    value,
                ))
            }
        };
        let range = |what: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::config(
                    format!("PhantomConfig.{what}"),
                    format!("{low} to {high}"),
                    value,
                ))
            }
        };
        count("size", self.size, 8, 1024)?;
        count("slices", self.slices, 1, 1024)?;
        count("samples", self.samples, 1, 8)?;
        range("field_of_view", self.field_of_view, 100.0, 500.0)?;
        range("slice_spacing", self.slice_spacing, 0.1, 20.0)?;
        range("noise", self.noise, 0.0, 1.0)?;
        range("bias", self.bias, 0.0, 1.0)?;
        range("gain.0", self.gain.0, 1e-6, 1e6)?;
        range("gain.1", self.gain.1, self.gain.0, 1e6)?;
        self.lesions.check()?;
        Ok(Phantom {
            config: self.clone(),
        })
    }

    /// Shorthand for [`build`](Self::build) and [`Phantom::patient`].
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn patient(&self, seed: u64) -> Result<Patient> {
        Ok(self.build()?.patient(seed))
    }

    /// Shorthand for [`build`](Self::build) and [`Phantom::healthy_patient`].
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn healthy_patient(&self, seed: u64) -> Result<Patient> {
        Ok(self.build()?.healthy_patient(seed))
    }
}

/// A maker of phantom patients, from a checked [`PhantomConfig`].
#[derive(Debug, Clone)]
pub struct Phantom {
    config: PhantomConfig,
}

/// Parts of a lesion that are smaller than this in a slice, in mm^2, are left out.
const FRAGMENT: f64 = 70.0;

/// Streams of one seed's generator. Each part has its own, so that none moves another's numbers.
const ANATOMY: u64 = 0;
const LESIONS: u64 = 1;
const SCAN: u64 = 2;
const VOXEL_NOISE: u64 = 16;

fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// One finished slice: four sequences and the mask, row after row.
struct Slice {
    images: [Vec<f32>; 4],
    mask: Vec<bool>,
}

impl Phantom {
    /// The settings.
    #[must_use]
    pub fn config(&self) -> &PhantomConfig {
        &self.config
    }

    /// The patient of a seed: sequences flair, t1, t1ce, t2 in scanner units with axes left,
    /// back, up (codes LPS), and the exact mask. Lesions fill about half of the slices.
    #[must_use]
    pub fn patient(&self, seed: u64) -> Patient {
        self.make(seed, true)
    }

    /// The same subject and scan as [`patient`](Self::patient) gives for this seed, before the
    /// disease: the mask is empty, and every voxel outside the patient's mask is the same.
    #[must_use]
    pub fn healthy_patient(&self, seed: u64) -> Patient {
        self.make(seed, false)
    }

    fn make(&self, seed: u64, diseased: bool) -> Patient {
        let config = &self.config;
        let mut rng = stream(seed, ANATOMY);
        let anatomy = Anatomy::draw(&mut rng);
        let mut rng = stream(seed, SCAN);
        let contrast = Contrast::draw(&mut rng);
        let scanners =
            [(); 4].map(|()| Scanner::draw(&mut rng, config.gain, config.bias, config.noise));
        let lesions = if diseased {
            let half = (0.5 * config.slices as f64 * config.slice_spacing) as f32;
            Lesion::draw(&mut stream(seed, LESIONS), &config.lesions, &anatomy, half)
        } else {
            Vec::new()
        };

        let slices: Vec<Slice> = (0..config.slices)
            .into_par_iter()
            .map(|k| {
                let mut rng = stream(seed, VOXEL_NOISE + k as u64);
                self.slice(&mut rng, k, &anatomy, &lesions, &contrast, &scanners)
            })
            .collect();

        let spacing = config.field_of_view / config.size as f64;
        let centre = 0.5 * (config.size as f64 - 1.0) * spacing;
        let bottom = 0.5 * (config.slices as f64 - 1.0) * config.slice_spacing;
        let mut grid = affine::diagonal([-spacing, -spacing, config.slice_spacing]);
        grid[0][3] = centre;
        grid[1][3] = centre;
        grid[2][3] = -bottom;
        let shape = (config.size, config.size, config.slices);
        let volume = |value: &dyn Fn(&Slice, usize) -> f32| {
            let data =
                Array3::from_shape_fn(shape, |(x, y, z)| value(&slices[z], y * config.size + x));
            Volume::new(data, grid)
        };
        Patient {
            id: format!("phantom_{seed:06}"),
            sequences: SEQUENCES
                .iter()
                .enumerate()
                .map(|(s, name)| (name.to_string(), volume(&|slice, i| slice.images[s][i])))
                .collect(),
            mask: Some(volume(&|slice, i| f32::from(u8::from(slice.mask[i])))),
        }
    }

    fn slice<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        k: usize,
        anatomy: &Anatomy,
        lesions: &[Lesion],
        contrast: &Contrast,
        scanners: &[Scanner; 4],
    ) -> Slice {
        let config = &self.config;
        let size = config.size;
        let spacing = (config.field_of_view / size as f64) as f32;
        let at = |i: f32| (i + 0.5 - 0.5 * size as f32) * spacing;
        let z = ((k as f64 - 0.5 * (config.slices as f64 - 1.0)) * config.slice_spacing) as f32;

        let mut healthy: Vec<Fractions> = Vec::with_capacity(size * size);
        let mut ill: Vec<(f32, Fractions)> = Vec::with_capacity(size * size);
        for row in 0..size {
            for column in 0..size {
                let (tissue, share, lesion) = self.voxel(
                    [at(column as f32), at(row as f32), z],
                    spacing,
                    anatomy,
                    lesions,
                );
                healthy.push(tissue);
                ill.push((share, lesion));
            }
        }

        let area = f64::from(spacing * spacing);
        let mut mask: Vec<bool> = ill.iter().map(|(share, _)| *share >= 0.5).collect();
        trim::drop_fragments(&mut mask, size, (FRAGMENT / area).ceil() as usize);
        if (mask.iter().filter(|m| **m).count() as f64) * area < config.lesions.min_area {
            mask.fill(false);
        }
        let mut images = [(); 4].map(|()| Vec::with_capacity(size * size));
        for (i, tissue) in healthy.iter().enumerate() {
            let p: Point = [at((i % size) as f32), at((i / size) as f32), z];
            let fractions = if mask[i] { &ill[i].1 } else { tissue };
            let clean = contrast.signal(fractions);
            for ((image, scanner), signal) in images.iter_mut().zip(scanners).zip(clean) {
                image.push(scanner.measure(rng, p, signal));
            }
        }
        Slice { images, mask }
    }

    /// Mean tissue of a pixel without lesions, the lesions' share of it, and the mean with them.
    fn voxel(
        &self,
        p: Point,
        spacing: f32,
        anatomy: &Anatomy,
        lesions: &[Lesion],
    ) -> (Fractions, f32, Fractions) {
        let n = self.config.samples;
        let mut healthy = [0.0; TISSUES];
        let mut ill = [0.0; TISSUES];
        let mut share = 0.0;
        let weight = 1.0 / (n * n) as f32;
        let offset = |i: usize| ((i as f32 + 0.5) / n as f32 - 0.5) * spacing;
        for i in 0..n * n {
            let sample = [p[0] + offset(i % n), p[1] + offset(i / n), p[2]];
            let Some(site) = anatomy.site(sample) else {
                continue;
            };
            let lesion = lesions
                .iter()
                .filter_map(|l| l.at(&site))
                .max_by(|a, b| a.share.total_cmp(&b.share));
            let taken = lesion.map_or(0.0, |l| l.share * l.strength);
            for ((h, d), t) in healthy.iter_mut().zip(&mut ill).zip(&site.tissue) {
                *h += weight * t;
                *d += weight * t * (1.0 - taken);
            }
            if let Some(lesion) = lesion {
                share += weight * lesion.share;
                for (tissue, part) in lesion.tissue {
                    ill[tissue as usize] += weight * taken * part;
                }
            }
        }
        (healthy, share, ill)
    }
}
