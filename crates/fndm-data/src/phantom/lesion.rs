//! Lesions: where they lie, what they are made of, and how far they reach.

use std::f32::consts::{PI, TAU};

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::anatomy::{Anatomy, Point, Site, length, step, sub};
use super::noise::Noise;
use super::tissue::Tissue;
use crate::{Error, Result};

/// Which lesions a cohort has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LesionMix {
    /// Weight of patients with a tumour-like lesion: a core, perhaps necrotic with an enhancing
    /// rim, in oedema that prefers white matter.
    pub tumour: f64,
    /// Weight of patients with a stroke-like lesion: a wedge between ventricle and cortex.
    pub stroke: f64,
    /// Weight of patients with many small lesions around the ventricles, as in multiple sclerosis.
    pub multiple: f64,
    /// Share of lesions that FLAIR does not show as bright: cysts, old cavities, and lesions with
    /// the signal of grey matter there. The other sequences show them.
    pub hidden: f64,
    /// Range of lesion strength: 1 is the full contrast of the pure lesion tissue.
    pub strength: (f64, f64),
    /// Lesions of a slice that together have less than this area, in mm^2, are left out of it.
    pub min_area: f64,
}

impl Default for LesionMix {
    fn default() -> Self {
        Self {
            tumour: 0.5,
            stroke: 0.3,
            multiple: 0.2,
            hidden: 0.45,
            strength: (0.75, 1.0),
            min_area: 250.0,
        }
    }
}

impl LesionMix {
    pub(super) fn check(&self) -> Result<()> {
        let weights = [self.tumour, self.stroke, self.multiple];
        let sum: f64 = weights.iter().sum();
        if weights.iter().any(|w| *w < 0.0) || !sum.is_finite() || sum <= 0.0 {
            return Err(Error::config(
                "LesionMix.tumour, stroke, multiple",
                "weights of 0 or more with a sum above 0",
                format!("{weights:?}"),
            ));
        }
        if !(0.0..=1.0).contains(&self.hidden) {
            return Err(Error::config("LesionMix.hidden", "0 to 1", self.hidden));
        }
        let (low, high) = self.strength;
        if !(0.0 < low && low <= high && high <= 1.0) {
            return Err(Error::config(
                "LesionMix.strength",
                "0 < low <= high <= 1",
                format!("{low}, {high}"),
            ));
        }
        if !(0.0..=1e5).contains(&self.min_area) {
            return Err(Error::config(
                "LesionMix.min_area",
                "0 to 1e5 mm^2",
                self.min_area,
            ));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    /// Irregular ellipsoid.
    Blob,
    /// Sector between two angles, from a depth below the surface outwards.
    Wedge { half_angle: f32, inner: f32 },
}

/// Tissues from outside in; an inner one reaches to the given share of the lesion's radius.
#[derive(Debug, Clone, Copy)]
struct Build {
    outer: Tissue,
    shell: (Tissue, f32),
    inner: (Tissue, f32),
    /// How much the lesion keeps to white matter.
    white: f32,
}

impl Build {
    fn plain(tissue: Tissue) -> Self {
        Self {
            outer: tissue,
            shell: (tissue, 0.0),
            inner: (tissue, 0.0),
            white: 0.0,
        }
    }
}

/// One lesion.
#[derive(Debug, Clone)]
pub(super) struct Lesion {
    shape: Shape,
    centre: Point,
    radii: Point,
    angle: f32,
    roughness: f32,
    noise: Noise,
    build: Build,
    strength: f32,
    one_side: bool,
}

/// What a lesion puts at a point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lesioned {
    /// Share of the point that is lesion.
    pub(super) share: f32,
    /// Strength of the lesion.
    pub(super) strength: f32,
    /// Tissues and their shares of the lesion.
    pub(super) tissue: [(Tissue, f32); 3],
}

impl Lesion {
    /// The lesion's part of a point of the head; `None` where it has none.
    pub(super) fn at(&self, site: &Site) -> Option<Lesioned> {
        if site.brain <= 0.0 {
            return None;
        }
        let q = site.point;
        if self.one_side && q[0] * self.centre[0] < 0.0 {
            return None;
        }
        let d = sub(q, self.centre);
        let up = (d[2] / self.radii[2]).abs();
        if up >= 1.35 {
            return None;
        }
        let small = self.radii[0].min(self.radii[1]);
        let radius = match self.shape {
            Shape::Blob => {
                let (s, c) = self.angle.sin_cos();
                let plane = ((c * d[0] + s * d[1]) / self.radii[0])
                    .hypot((c * d[1] - s * d[0]) / self.radii[1]);
                if plane > 1.7 {
                    return None;
                }
                // Blunt ends: the first and last slice of a lesion are not mere dots.
                (plane.powi(4) + up.powi(4)).powf(0.25)
            }
            Shape::Wedge { half_angle, inner } => {
                let mut turn = q[1].atan2(q[0]) - self.angle;
                if turn > PI {
                    turn -= TAU;
                } else if turn < -PI {
                    turn += TAU;
                }
                let across = turn.abs() / half_angle;
                let deep = site.depth / inner;
                if across > 1.7 || deep > 1.7 {
                    return None;
                }
                (across.powi(4) + deep.max(0.0).powi(4) + up.powi(4)).powf(0.25)
            }
        };
        let coarse = self.noise.scaled(q, 1.1 * small);
        let fine = self.noise.scaled([q[1], q[2], q[0]], 0.45 * small);
        let radius = radius * (1.0 + self.roughness * (coarse + 0.5 * fine));
        let outside = radius + self.build.white * (1.0 - site.white);
        let share = step((1.0 - outside) * small, 1.5) * site.brain;
        if share <= 0.0 {
            return None;
        }
        let within = |level: f32| {
            if level > 0.0 {
                step((level - radius) * small, 1.5)
            } else {
                0.0
            }
        };
        let inner = within(self.build.inner.1);
        let shell = within(self.build.shell.1) * (1.0 - inner);
        Some(Lesioned {
            share,
            strength: self.strength,
            tissue: [
                (self.build.outer, 1.0 - inner - shell),
                (self.build.shell.0, shell),
                (self.build.inner.0, inner),
            ],
        })
    }

    /// Draws the lesions of one patient in a slab of half height `half` millimetres.
    pub(super) fn draw<R: Rng + ?Sized>(
        rng: &mut R,
        mix: &LesionMix,
        anatomy: &Anatomy,
        half: f32,
    ) -> Vec<Self> {
        let pick = rng.random_range(0.0..mix.tumour + mix.stroke + mix.multiple);
        if pick < mix.tumour {
            let mut lesions = vec![tumour(rng, mix, anatomy, half)];
            if rng.random_bool(0.25) {
                lesions.push(tumour(rng, mix, anatomy, half));
            }
            lesions
        } else if pick < mix.tumour + mix.stroke {
            let mut lesions = vec![stroke(rng, mix, anatomy, half)];
            if rng.random_bool(0.3) {
                lesions.push(stroke(rng, mix, anatomy, half));
            }
            lesions
        } else {
            plaques(rng, mix, anatomy, half)
        }
    }
}

fn uniform<R: Rng + ?Sized>(rng: &mut R, low: f32, high: f32) -> f32 {
    rng.random_range(low..high)
}

fn strength<R: Rng + ?Sized>(rng: &mut R, mix: &LesionMix) -> f32 {
    rng.random_range(mix.strength.0..=mix.strength.1) as f32
}

/// Height of a lesion's middle: past the slab's ends too, so that no slice is likelier than another.
fn middle<R: Rng + ?Sized>(rng: &mut R, half: f32, reach: f32) -> f32 {
    let limit = half + 0.6 * reach;
    uniform(rng, -limit, limit)
}

fn tumour<R: Rng + ?Sized>(rng: &mut R, mix: &LesionMix, anatomy: &Anatomy, half: f32) -> Lesion {
    let reach = half * uniform(rng, 0.40, 0.75);
    let z = middle(rng, half, reach);
    let size = (uniform(rng, 0.0, 1.0).powf(1.1) * 0.62 + 3.05).exp();
    let flat = uniform(rng, 0.75, 1.0);
    let (a, b) = anatomy.brain_axes();
    // In the substance of one hemisphere, clear of the middle line.
    let angle = uniform(rng, 0.0, TAU);
    let out = uniform(rng, 0.42, 0.68);
    let mut centre = [a * out * angle.cos(), b * out * angle.sin(), z];
    if centre[0].abs() < 0.55 * size {
        centre[0] = (0.55 * size).copysign(centre[0]);
    }
    let build = if rng.random_bool(mix.hidden) {
        if rng.random_bool(0.5) {
            // A cyst in a thin wall.
            Build {
                outer: Tissue::Gliosis,
                shell: (Tissue::Rim, 0.94),
                inner: (Tissue::Necrosis, uniform(rng, 0.80, 0.88)),
                white: 0.10,
            }
        } else {
            Build {
                white: 0.15,
                ..Build::plain(Tissue::Silent)
            }
        }
    } else if rng.random_bool(0.65) {
        let core = uniform(rng, 0.55, 0.80);
        Build {
            outer: Tissue::Oedema,
            shell: (Tissue::Rim, core),
            inner: (Tissue::Necrosis, core * uniform(rng, 0.55, 0.82)),
            white: 0.22,
        }
    } else {
        Build {
            outer: Tissue::Oedema,
            shell: (Tissue::Core, uniform(rng, 0.5, 0.8)),
            inner: (Tissue::Core, 0.0),
            white: 0.20,
        }
    };
    Lesion {
        shape: Shape::Blob,
        centre,
        radii: [size, size * flat, reach],
        angle: uniform(rng, 0.0, PI),
        roughness: uniform(rng, 0.45, 0.8),
        noise: Noise::new(rng.random()),
        build,
        strength: strength(rng, mix),
        one_side: rng.random_bool(0.85),
    }
}

fn stroke<R: Rng + ?Sized>(rng: &mut R, mix: &LesionMix, anatomy: &Anatomy, half: f32) -> Lesion {
    let reach = half * uniform(rng, 0.45, 0.8);
    let z = middle(rng, half, reach);
    let (a, b) = anatomy.brain_axes();
    let angle = uniform(rng, -PI, PI);
    let inner = uniform(rng, 24.0, 38.0);
    let half_angle = uniform(rng, 0.30, 0.62);
    let build = if rng.random_bool(mix.hidden) {
        if rng.random_bool(0.5) {
            // An old cavity.
            Build {
                outer: Tissue::Gliosis,
                shell: (Tissue::Gliosis, 0.0),
                inner: (Tissue::Necrosis, uniform(rng, 0.78, 0.9)),
                white: 0.0,
            }
        } else {
            Build::plain(Tissue::Silent)
        }
    } else {
        Build::plain(Tissue::Infarct)
    };
    Lesion {
        shape: Shape::Wedge { half_angle, inner },
        centre: [a * angle.cos(), b * angle.sin(), z],
        radii: [inner, inner, reach],
        angle,
        roughness: uniform(rng, 0.3, 0.6),
        noise: Noise::new(rng.random()),
        build,
        strength: strength(rng, mix),
        one_side: true,
    }
}

fn plaques<R: Rng + ?Sized>(
    rng: &mut R,
    mix: &LesionMix,
    anatomy: &Anatomy,
    half: f32,
) -> Vec<Lesion> {
    let reach = half * uniform(rng, 0.45, 0.65);
    let z = middle(rng, half, reach);
    let (a, b) = anatomy.brain_axes();
    let count = rng.random_range(12..22);
    let mut lesions: Vec<Lesion> = Vec::with_capacity(count);
    // Most candidates fall outside the white matter around the ventricles; the bound ends the search.
    for _ in 0..40 * count {
        if lesions.len() == count {
            break;
        }
        let p = [
            a * uniform(rng, -0.8, 0.8),
            b * uniform(rng, -0.8, 0.8),
            z + uniform(rng, -reach, reach),
        ];
        let from_ventricle = anatomy.ventricle_distance(p);
        let radius = uniform(rng, 5.5, 10.5);
        let near = (p[0] / a).hypot(p[1] / b) < 0.78 && from_ventricle > 0.5 * radius;
        let spaced = lesions
            .iter()
            .all(|l| length(sub(l.centre, p)) > 0.8 * (l.radii[0] + radius));
        if !near || !spaced || from_ventricle > 30.0 || p[0].abs() < 0.6 * radius {
            continue;
        }
        let tissue = if rng.random_bool(0.5 * mix.hidden) {
            Tissue::Silent
        } else if rng.random_bool(0.5) {
            Tissue::Infarct
        } else {
            Tissue::Gliosis
        };
        lesions.push(Lesion {
            shape: Shape::Blob,
            centre: p,
            radii: [
                radius * uniform(rng, 1.0, 1.6),
                radius,
                radius * uniform(rng, 0.9, 1.3),
            ],
            angle: p[1].atan2(p[0]),
            roughness: uniform(rng, 0.2, 0.5),
            noise: Noise::new(rng.random()),
            build: Build::plain(tissue),
            strength: strength(rng, mix),
            one_side: true,
        });
    }
    lesions
}
