//! Smooth seeded noise on a lattice, the source of every irregular shape in the phantom.

/// Gradient noise: smooth, zero at every lattice point, mostly within -0.7 and 0.7.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    seed: u32,
}

/// Twelve directions to the middles of a cube's edges, four of them twice.
const GRADIENTS: [[f32; 3]; 16] = [
    [1.0, 1.0, 0.0],
    [-1.0, 1.0, 0.0],
    [1.0, -1.0, 0.0],
    [-1.0, -1.0, 0.0],
    [1.0, 0.0, 1.0],
    [-1.0, 0.0, 1.0],
    [1.0, 0.0, -1.0],
    [-1.0, 0.0, -1.0],
    [0.0, 1.0, 1.0],
    [0.0, -1.0, 1.0],
    [0.0, 1.0, -1.0],
    [0.0, -1.0, -1.0],
    [1.0, 1.0, 0.0],
    [-1.0, 1.0, 0.0],
    [0.0, -1.0, 1.0],
    [0.0, -1.0, -1.0],
];

impl Noise {
    pub(crate) fn new(seed: u32) -> Self {
        Self { seed }
    }

    fn hash(self, x: i32, y: i32, z: i32) -> usize {
        let mut h = self
            .seed
            .wrapping_add((x as u32).wrapping_mul(0x8da6_b343))
            .wrapping_add((y as u32).wrapping_mul(0xd816_3841))
            .wrapping_add((z as u32).wrapping_mul(0xcb1a_b31f));
        h ^= h >> 15;
        h = h.wrapping_mul(0x2c1b_3c6d);
        h ^= h >> 13;
        (h & 15) as usize
    }

    /// The noise at a point, one lattice cell per unit.
    pub(crate) fn at(self, p: [f32; 3]) -> f32 {
        let floor = p.map(f32::floor);
        let f = [p[0] - floor[0], p[1] - floor[1], p[2] - floor[2]];
        let i = floor.map(|v| v as i32);
        let fade = f.map(|t| t * t * t * (t * (t * 6.0 - 15.0) + 10.0));
        let corner = |dx: i32, dy: i32, dz: i32| {
            let g = GRADIENTS[self.hash(
                i[0].wrapping_add(dx),
                i[1].wrapping_add(dy),
                i[2].wrapping_add(dz),
            )];
            g[0] * (f[0] - dx as f32) + g[1] * (f[1] - dy as f32) + g[2] * (f[2] - dz as f32)
        };
        let lerp = |a: f32, b: f32, t: f32| a + t * (b - a);
        let face = |dz: i32| {
            lerp(
                lerp(corner(0, 0, dz), corner(1, 0, dz), fade[0]),
                lerp(corner(0, 1, dz), corner(1, 1, dz), fade[0]),
                fade[1],
            )
        };
        lerp(face(0), face(1), fade[2])
    }

    /// The noise of features about `size` millimetres large, at `p` in millimetres.
    pub(crate) fn scaled(self, p: [f32; 3], size: f32) -> f32 {
        self.at(p.map(|v| v / size + 0.37))
    }
}

#[cfg(test)]
mod tests {
    use super::Noise;

    #[test]
    fn zero_on_the_lattice_and_bounded_between() {
        let noise = Noise::new(7);
        for i in -3..4 {
            let p = [i as f32, 2.0 * i as f32, 5.0 - i as f32];
            assert_eq!(noise.at(p), 0.0);
        }
        for i in 0..5000 {
            let t = i as f32 * 0.137;
            let v = noise.at([t, 1.7 * t - 40.0, -0.6 * t]);
            assert!(v.abs() <= 1.5, "{v}");
        }
    }

    #[test]
    fn continuous_across_cells() {
        let noise = Noise::new(3);
        for i in -5..5 {
            let x = i as f32;
            let (a, b) = (
                noise.at([x - 1e-4, 0.3, 0.6]),
                noise.at([x + 1e-4, 0.3, 0.6]),
            );
            assert!((a - b).abs() < 1e-3);
        }
    }
}
