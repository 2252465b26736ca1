//! The healthy head of one subject as a function of position.

use rand::{Rng, RngExt};

use super::noise::Noise;
use super::tissue::{Fractions, TISSUES, Tissue};

/// A point in millimetres: x to the subject's left, y to the back, z up; the middle of the slab is 0.
pub(crate) type Point = [f32; 3];

/// What is found at one point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    /// Tissue fractions.
    pub(crate) tissue: Fractions,
    /// Share of the point that a lesion could take: brain, without ventricles and great fissures.
    pub(crate) brain: f32,
    /// Share of white matter.
    pub(crate) white: f32,
    /// The point in the head's own frame.
    pub(crate) point: Point,
    /// Depth below the surface of the brain, in millimetres.
    pub(crate) depth: f32,
}

#[derive(Debug, Clone, Copy)]
struct Capsule {
    from: Point,
    to: Point,
    radius: (f32, f32),
}

impl Capsule {
    /// Signed distance, negative inside.
    fn distance(&self, p: Point) -> f32 {
        let ab = sub(self.to, self.from);
        let t = (dot(sub(p, self.from), ab) / dot(ab, ab).max(1e-6)).clamp(0.0, 1.0);
        let near = [
            self.from[0] + t * ab[0],
            self.from[1] + t * ab[1],
            self.from[2] + t * ab[2],
        ];
        length(sub(p, near)) - (self.radius.0 + t * (self.radius.1 - self.radius.0))
    }
}

#[derive(Debug, Clone, Copy)]
struct Ellipsoid {
    centre: Point,
    radii: Point,
    /// In-plane angle.
    angle: f32,
}

impl Ellipsoid {
    /// About the signed distance, negative inside.
    fn distance(&self, p: Point) -> f32 {
        let d = sub(p, self.centre);
        let (s, c) = self.angle.sin_cos();
        let q = [
            (c * d[0] + s * d[1]) / self.radii[0],
            (c * d[1] - s * d[0]) / self.radii[1],
            d[2] / self.radii[2],
        ];
        (length(q) - 1.0) * self.radii[0].min(self.radii[1])
    }
}

/// Half of the inner structures: everything that has a left and a right.
#[derive(Debug, Clone)]
struct Hemisphere {
    ventricle: Vec<Capsule>,
    horn_tips: [Point; 2],
    nuclei: Vec<Ellipsoid>,
    choroid: Ellipsoid,
    sylvian: [Capsule; 2],
    sylvian_z: f32,
}

/// One subject's head.
#[derive(Debug, Clone)]
pub(crate) struct Anatomy {
    axes: (f32, f32),
    exponent: f32,
    egg: f32,
    equator: f32,
    height: f32,
    shift: (f32, f32),
    turn: (f32, f32),
    tilt: f32,
    scalp: f32,
    skull: f32,
    rim: f32,
    cortex: f32,
    sulcus: f32,
    sulcus_depth: f32,
    fold: f32,
    fissure: f32,
    core_half_length: f32,
    third: Ellipsoid,
    sides: [Hemisphere; 2],
    sinus: (f32, f32),
    cap_line: f32,
    cap_tip: f32,
    shape: Noise,
    layers: Noise,
    folds: Noise,
    wobble: Noise,
    vessels: Noise,
}

impl Anatomy {
    /// Draws a subject.
    pub(crate) fn draw<R: Rng + ?Sized>(rng: &mut R) -> Self {
        // Age widens every space that holds fluid.
        let age: f32 = rng.random();
        let turn: f32 = rng.random_range(-0.10..0.10);
        let mut u = |low: f32, high: f32| rng.random_range(low..high);
        let ventricle_size = 2.6 + 2.6 * age + u(-0.8, 1.2);
        let left = ventricle_size * u(0.8, 1.2);
        let right = ventricle_size * u(0.8, 1.2);
        let level = u(-4.0, 4.0);
        Self {
            axes: (u(69.0, 75.0), u(84.0, 91.0)),
            exponent: u(2.1, 2.4),
            egg: u(0.02, 0.09),
            equator: u(-10.0, 6.0),
            height: u(95.0, 115.0),
            shift: (u(-3.0, 3.0), u(-3.0, 3.0)),
            turn: turn.sin_cos(),
            tilt: u(-0.08, 0.08),
            scalp: u(4.0, 6.5),
            skull: u(4.5, 6.5),
            rim: 0.8 + 1.6 * age + u(0.0, 0.6),
            cortex: u(3.6, 4.4),
            sulcus: 0.25 + 0.9 * age + u(0.0, 0.3),
            sulcus_depth: u(15.0, 21.0),
            fold: u(17.0, 21.0),
            fissure: 0.9 + 0.9 * age,
            core_half_length: u(34.0, 40.0),
            third: Ellipsoid {
                centre: [0.0, u(4.0, 9.0), level - 13.0],
                radii: [1.4 + 1.8 * age, u(11.0, 14.0), u(9.0, 12.0)],
                angle: 0.0,
            },
            sides: [
                Hemisphere::draw(left, level, &mut u),
                Hemisphere::draw(right, level, &mut u),
            ],
            sinus: (u(2.5, 4.0), u(1.5, 3.0)),
            cap_line: u(0.1, 0.7),
            cap_tip: u(0.2, 1.0),
            shape: Noise::new(rng.random()),
            layers: Noise::new(rng.random()),
            folds: Noise::new(rng.random()),
            wobble: Noise::new(rng.random()),
            vessels: Noise::new(rng.random()),
        }
    }

    /// In-plane half axes of the brain, in millimetres.
    pub(crate) fn brain_axes(&self) -> (f32, f32) {
        let shell = self.scalp + self.skull + self.rim;
        (self.axes.0 - shell, self.axes.1 - shell)
    }

    /// Position in the head's own frame.
    pub(crate) fn to_head(&self, p: Point) -> Point {
        let (s, c) = self.turn;
        let (x, y) = (
            p[0] - self.shift.0 - self.tilt * p[2],
            p[1] - self.shift.1 - self.tilt * p[2],
        );
        [c * x + s * y, c * y - s * x, p[2]]
    }

    /// Signed distance to the nearest lateral ventricle, in millimetres, in the head's own frame.
    pub(crate) fn ventricle_distance(&self, q: Point) -> f32 {
        let (side, m) = self.side(q);
        let bend = 1.2 * self.wobble.scaled(q, 12.0);
        side.ventricle.iter().fold(f32::MAX, |d, capsule| {
            smooth_min(d, capsule.distance(m), 2.0)
        }) + bend
    }

    fn side(&self, q: Point) -> (&Hemisphere, Point) {
        let side = &self.sides[usize::from(q[0] > 0.0)];
        (side, [q[0].abs(), q[1], q[2]])
    }

    /// Everything at a point given in millimetres; `None` in the air around the head.
    pub(crate) fn site(&self, p: Point) -> Option<Site> {
        let q = self.to_head(p);
        let [x, y, z] = q;
        let up = (z - self.equator) / self.height;
        let scale = (1.0 - up * up).max(0.05).sqrt();
        let (a, b) = (self.axes.0 * scale, self.axes.1 * scale);
        let a = a * (1.0 + self.egg * y / b);
        let r = x.hypot(y).max(1e-3);
        let n = self.exponent;
        let unit = ((x.abs() / a).powf(n) + (y.abs() / b).powf(n)).powf(1.0 / n);
        let direction = [x / r, y / r];
        let round = [direction[0] * 60.0, direction[1] * 60.0, z];
        let depth = r / unit.max(1e-4) - r + 3.0 * self.shape.scaled(round, 55.0);
        if depth < -2.0 {
            return None;
        }

        let mut tissue: Fractions = [0.0; TISSUES];
        let layer = self.layers.scaled(round, 26.0);
        let scalp = self.scalp * (1.0 + 0.45 * layer);
        let skull = self.skull * (1.0 - 0.30 * layer);
        let inner = depth - scalp - skull;
        let surface = inner - self.rim * (1.0 + 0.8 * self.layers.scaled(round, 15.0));
        let inside = step(inner, 1.2);

        let mut site = Site {
            tissue,
            brain: 0.0,
            white: 0.0,
            point: q,
            depth: surface,
        };
        if inside > 0.0 {
            let half = (a - scalp - skull, b - scalp - skull);
            self.brain(&mut site, round, half);
            tissue = site.tissue.map(|f| f * inside);
            site.brain *= inside;
        }
        let shell = 1.0 - inside;
        if shell > 0.0 {
            let head = step(depth, 1.5);
            let bone = step(depth - scalp, 1.2) * shell;
            // Marrow lies in the middle of the skull, fat between skin and bone.
            let middle = (depth - scalp) / skull;
            let marrow = (1.0 - (2.6 * (middle - 0.5)).powi(2)).clamp(0.0, 1.0) * 0.55;
            tissue[Tissue::Bone as usize] += bone * (1.0 - marrow);
            tissue[Tissue::Marrow as usize] += bone * marrow;
            let soft = (head - bone - inside * head).max(0.0);
            let skin = 1.0 - step(depth - 1.2, 1.5);
            let muscle = step(0.35 * self.layers.scaled(round, 34.0) - 0.10, 0.15) * 0.8;
            let lean = skin.max(muscle);
            tissue[Tissue::Muscle as usize] += soft * lean;
            tissue[Tissue::Fat as usize] += soft * (1.0 - lean);
        }
        site.white = tissue[Tissue::White as usize];
        site.tissue = tissue;
        Some(site)
    }

    /// Fills in what lies within the skull, whose half axes are `half`.
    fn brain(&self, site: &mut Site, round: Point, half: (f32, f32)) {
        let q = site.point;
        let [x, y, z] = q;
        let surface = site.depth;
        let (half_width, half_length) = half;
        let tissue = &mut site.tissue;
        tissue[Tissue::White as usize] = 1.0;
        let (side, m) = self.side(q);

        // Cortex: a ribbon under the surface that follows the sulci inwards.
        let folded = (self.sulcus_depth + 9.0 - surface).clamp(0.0, 9.0) / 9.0;
        let mut grey = step(self.cortex - surface, 1.5);
        let mut fluid = 0.0f32;
        if folded > 0.0 {
            // Sulci run towards the middle: the pattern changes slowly along the ray.
            let pattern = [round[0] + 0.35 * x, round[1] + 0.35 * y, z];
            let wall = self.folds.scaled(pattern, self.fold).abs() * self.fold * 0.9;
            let open = (1.0 - surface / self.sulcus_depth).clamp(0.0, 1.0);
            fluid = step(self.sulcus * (0.3 + open) - wall, 1.4) * step(open - 0.1, 0.2);
            grey = grey.max(step((self.cortex + self.sulcus) * folded - wall - 0.7, 1.6));
        }
        // Fissure between the hemispheres; white matter bridges it in the middle of the head.
        let bridge = 1.0 - ((y - 2.0) / self.core_half_length).powi(2) - ((z + 6.0) / 27.0).powi(2);
        let gap = (x - 2.0 * self.wobble.scaled([0.0, y, z], 30.0)).abs() + 40.0 * bridge.max(0.0);
        let great = step(self.fissure - gap, 1.4);
        grey = grey.max(step(self.fissure + self.cortex - gap, 1.6));
        // Sylvian fissure with the insula.
        let fade = ((z - side.sylvian_z) / 22.0).powi(2);
        let bent = [m[0], m[1] + 5.0 * self.wobble.scaled(q, 16.0), 0.0];
        let sylvian = side
            .sylvian
            .iter()
            .map(|c| c.distance(bent))
            .fold(f32::MAX, f32::min)
            + 6.0 * fade;
        let sylvian_fluid = step(-sylvian, 1.4);
        grey = grey.max(step(self.cortex - sylvian, 1.6) * step(1.6 - fade, 0.6));
        overlay(tissue, Tissue::Grey, grey);

        let mut ventricle = 0.0f32;
        if surface > 12.0 {
            for nucleus in &side.nuclei {
                overlay(tissue, Tissue::DeepGrey, step(-nucleus.distance(m), 1.6));
            }
            let lateral = self.ventricle_distance(q);
            let third = self.third.distance(q);
            ventricle = step(-lateral, 1.4).max(step(-third, 1.2));
            let tip = side
                .horn_tips
                .iter()
                .map(|t| length(sub(m, *t)))
                .fold(f32::MAX, f32::min);
            let near = lateral.max(0.0);
            let cap = (self.cap_line * (-(near / 2.6).powi(2)).exp())
                .max(self.cap_tip * (-(tip / 8.0).powi(2)).exp());
            // Seen in many healthy people on FLAIR and T2: the same water as in oedema.
            overlay(tissue, Tissue::Oedema, 0.6 * cap);
        }
        fluid = fluid.max(great).max(sylvian_fluid);
        overlay(tissue, Tissue::Csf, fluid);
        overlay(tissue, Tissue::Csf, ventricle);
        if ventricle > 0.0 {
            let choroid = step(-side.choroid.distance(m), 1.5) * ventricle;
            overlay(tissue, Tissue::Choroid, choroid);
        }
        let covered = step(surface, 1.4);
        overlay(tissue, Tissue::Csf, 1.0 - covered);

        // Sagittal sinus front and back, veins over the cortex, the middle cerebral artery.
        let back = x.hypot(y - half_length + 2.5) - self.sinus.0;
        let front = x.hypot(y + half_length - 2.5) - self.sinus.1;
        let vein = step(
            self.vessels.scaled([round[0] + x, round[1] + y, z], 7.0) - 0.42,
            0.12,
        ) * (fluid.max(1.0 - covered)).min(1.0);
        let artery =
            step(1.3 - (m[0] - half_width * 0.66).hypot(y + 9.0), 1.2) * step(-(z + 4.0), 6.0);
        let vessel = step(-back.min(front), 1.2).max(0.8 * vein).max(artery);
        overlay(tissue, Tissue::Vessel, vessel);

        site.brain = covered * (1.0 - ventricle) * (1.0 - great) * (1.0 - vessel.min(1.0));
    }
}

impl Hemisphere {
    fn draw(size: f32, level: f32, u: &mut impl FnMut(f32, f32) -> f32) -> Self {
        let s = size;
        let spread = 0.6 * s;
        let front = [6.0 + spread, -27.0 - s, level + 2.0];
        let foramen = [4.0 + spread, -10.0, level + 5.0];
        let body = [6.0 + spread, 12.0, level + 14.0];
        let atrium = [15.0 + spread + u(-1.0, 2.0), 30.0, level + 2.0];
        let occipital = [17.0 + spread + u(-2.0, 3.0), 44.0 + s, level - 3.0];
        let temporal = [30.0, 6.0, level - 22.0];
        let pole = [32.0, -12.0, level - 26.0];
        let thin = (0.55 * s).max(1.2);
        let capsule = |from: Point, to: Point, r0: f32, r1: f32| Capsule {
            from,
            to,
            radius: (r0, r1),
        };
        let syl_y = u(-14.0, -6.0);
        let width = u(0.8, 1.9);
        Self {
            ventricle: vec![
                capsule(front, foramen, 0.85 * s, 0.9 * s),
                capsule(foramen, body, 0.9 * s, 0.95 * s),
                capsule(body, atrium, 0.95 * s, 1.15 * s),
                capsule(atrium, occipital, 1.15 * s, thin),
                capsule(atrium, temporal, 0.9 * s, thin),
                capsule(temporal, pole, thin, thin),
            ],
            horn_tips: [
                [front[0] + 0.6 * s, front[1] - 1.2 * s - 2.0, front[2]],
                [occipital[0], occipital[1] + 3.0, occipital[2] + 2.0],
            ],
            nuclei: vec![
                // Caudate, putamen with pallidum, thalamus.
                Ellipsoid {
                    centre: [12.0 + 1.1 * s, -19.0, level + 3.0],
                    radii: [u(4.5, 6.0), u(9.0, 12.0), u(11.0, 14.0)],
                    angle: -0.3,
                },
                Ellipsoid {
                    centre: [27.0 + 0.5 * s, -3.0 + u(-2.0, 2.0), level - 3.0],
                    radii: [u(5.5, 7.5), u(15.0, 19.0), u(11.0, 14.0)],
                    angle: 0.25,
                },
                Ellipsoid {
                    centre: [8.0 + 0.9 * s, 13.0 + u(-2.0, 2.0), level - 4.0],
                    radii: [u(7.5, 9.5), u(11.5, 14.5), u(9.0, 11.0)],
                    angle: -0.35,
                },
            ],
            choroid: Ellipsoid {
                centre: [atrium[0], atrium[1] - 1.0, atrium[2]],
                radii: [u(2.0, 3.2), u(3.5, 5.5), u(4.0, 7.0)],
                angle: -0.3,
            },
            sylvian: [
                capsule(
                    [62.0, syl_y + 5.0, 0.0],
                    [43.0, syl_y, 0.0],
                    width + 0.6,
                    width,
                ),
                capsule(
                    [43.0, syl_y, 0.0],
                    [39.0, syl_y + 22.0, 0.0],
                    width,
                    0.5 * width,
                ),
            ],
            sylvian_z: u(-14.0, -4.0),
        }
    }
}

/// Soft step of a width in millimetres: 0 well below zero, 1 well above.
pub(crate) fn step(x: f32, width: f32) -> f32 {
    (x / width + 0.5).clamp(0.0, 1.0)
}

/// Puts a tissue over what is there.
pub(crate) fn overlay(tissue: &mut Fractions, top: Tissue, share: f32) {
    if share > 0.0 {
        for f in tissue.iter_mut() {
            *f *= 1.0 - share;
        }
        tissue[top as usize] += share;
    }
}

pub(crate) fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn length(a: Point) -> f32 {
    dot(a, a).sqrt()
}

fn smooth_min(a: f32, b: f32, width: f32) -> f32 {
    let h = (width - (a - b).abs()).max(0.0) / width;
    a.min(b) - h * h * width * 0.25
}
