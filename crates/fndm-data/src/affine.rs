//! Voxel-to-world matrices, orientation codes and reorientation.
//!
//! World space is RAS+: x grows to the right, y to the front (anterior), z up
//! (superior), in millimetres.

/// A 4 x 4 matrix, rows first, that maps voxel indices (i, j, k, 1) to millimetres.
pub type Affine = [[f64; 4]; 4];

/// The matrix with the given voxel sizes on its diagonal and no offset.
#[must_use]
pub fn diagonal(spacing: [f64; 3]) -> Affine {
    let [x, y, z] = spacing;
    [
        [x, 0.0, 0.0, 0.0],
        [0.0, y, 0.0, 0.0],
        [0.0, 0.0, z, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
}

/// Edge lengths of a voxel: the lengths of the first three columns.
#[must_use]
pub fn spacing(affine: &Affine) -> [f64; 3] {
    std::array::from_fn(|c| {
        (0..3)
            .map(|r| affine[r][c] * affine[r][c])
            .sum::<f64>()
            .sqrt()
    })
}

/// For every array axis, the world axis that it runs along and its direction.
///
/// The assignment is the one that fits the whole matrix best, so that an oblique
/// grid still gives each world axis to one array axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orientation {
    /// For each array axis: world axis (0 = right, 1 = front, 2 = up) and whether
    /// the array runs against it.
    pub axes: [(usize, bool); 3],
}

impl Orientation {
    /// The orientation of a grid.
    #[must_use]
    pub fn of(affine: &Affine) -> Self {
        const ORDERS: [[usize; 3]; 6] = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        let scale = spacing(affine);
        let cosine = |world: usize, axis: usize| {
            let value = affine[world][axis] / scale[axis];
            if value.is_finite() { value } else { 0.0 }
        };
        let mut best = (f64::NEG_INFINITY, ORDERS[0]);
        for order in ORDERS {
            let fit: f64 = (0..3).map(|axis| cosine(order[axis], axis).abs()).sum();
            if fit > best.0 {
                best = (fit, order);
            }
        }
        let axes = std::array::from_fn(|axis| {
            let world = best.1[axis];
            (world, cosine(world, axis) < 0.0)
        });
        Self { axes }
    }

    /// One letter per array axis: the direction in which it grows.
    #[must_use]
    pub fn codes(&self) -> [char; 3] {
        self.axes.map(|(world, flipped)| match (world, flipped) {
            (0, false) => 'R',
            (0, true) => 'L',
            (1, false) => 'A',
            (1, true) => 'P',
            (_, false) => 'S',
            (_, true) => 'I',
        })
    }
}
