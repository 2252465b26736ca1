//! Area of the surface that passes through a cell of the lattice of voxel corners.
//!
//! A cell is the cube between 2 x 2 x 2 voxel centres (a square between 2 x 2 in 2-D). Which of
//! these voxels are in the mask decides the triangles that marching cubes (Lorensen and Cline
//! 1987) lays through the cell, with corners at the middles of the cube's edges.

/// The basic cases of marching cubes: the voxels of the mask (a bit each, see [`voxel_bit`]) and the
/// area vectors of its triangles in eighths of a cell's face. Every other case is one of these
/// turned or mirrored, or its complement, which has the same surface. The choice of triangles where
/// several are possible is that of google-deepmind/surface-distance (Apache-2.0), whose numbers
/// this definition gives.
const BASIC_CASES: [(u8, &[[u8; 3]]); 13] = [
    (1, &[[1, 1, 1]]),
    (3, &[[2, 2, 0], [2, 2, 0]]),
    (6, &[[1, 1, 1], [1, 1, 1]]),
    (7, &[[1, 1, 1], [2, 2, 2], [4, 0, 0]]),
    (15, &[[4, 0, 0], [4, 0, 0]]),
    (22, &[[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    (23, &[[1, 1, 1], [1, 1, 1], [2, 2, 2], [2, 2, 2]]),
    (24, &[[1, 1, 1], [1, 1, 1]]),
    (25, &[[0, 2, 2], [0, 2, 2], [1, 1, 1]]),
    (27, &[[0, 2, 2], [1, 1, 1], [2, 0, 2], [3, 3, 3]]),
    (30, &[[1, 1, 1], [1, 1, 1], [2, 2, 2], [4, 0, 0]]),
    (60, &[[2, 2, 0], [2, 2, 0], [2, 2, 0], [2, 2, 0]]),
    (105, &[[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]),
];

/// The bit of a voxel of the 2 x 2 x 2 cell: the last axis is the lowest bit, and the first voxel
/// the highest.
fn voxel_bit(voxel: [usize; 3]) -> u8 {
    1 << (7 - (voxel[0] * 4 + voxel[1] * 2 + voxel[2]))
}

/// The area of the surface in a cell for each of the 256 sets of voxels, in the units of the
/// spacing squared.
pub(crate) fn surface_areas(spacing: [f64; 3]) -> Vec<f64> {
    const AXIS_ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let face = [
        spacing[1] * spacing[2],
        spacing[0] * spacing[2],
        spacing[0] * spacing[1],
    ];
    let mut areas = vec![0.0; 256];
    for (voxels, triangles) in BASIC_CASES {
        for order in AXIS_ORDERS {
            let area: f64 = triangles
                .iter()
                .map(|triangle| {
                    let vector: [f64; 3] = std::array::from_fn(|axis| {
                        f64::from(triangle[order[axis]]) / 8.0 * face[axis]
                    });
                    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
                })
                .sum();
            for mirror in 0..8usize {
                let turned = (0..8usize)
                    .map(|i| [i >> 2 & 1, i >> 1 & 1, i & 1])
                    .filter(|&voxel| voxels & voxel_bit(voxel) != 0)
                    .map(|voxel| {
                        voxel_bit(std::array::from_fn(|axis| {
                            voxel[order[axis]] ^ (mirror >> axis & 1)
                        }))
                    })
                    .fold(0u8, |all, bit| all | bit);
                areas[usize::from(turned)] = area;
                areas[usize::from(!turned)] = area;
            }
        }
    }
    areas
}

/// The length of the contour in a cell for each of the 16 sets of 2 x 2 pixels, in the units of
/// the spacing. The code has the bits 8 4 / 2 1.
pub(crate) fn contour_lengths(spacing: [f64; 2]) -> Vec<f64> {
    let [down, right] = spacing;
    let corner = 0.5 * (down * down + right * right).sqrt();
    (0..16u8)
        .map(|code| match code {
            0 | 15 => 0.0,
            // A row against the other, a column against the other, two opposite corners.
            0b0011 | 0b1100 => right,
            0b0101 | 0b1010 => down,
            0b0110 | 0b1001 => 2.0 * corner,
            _ => corner,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mixed_cell_has_a_surface() {
        let areas = surface_areas([1.0, 2.0, 3.0]);
        assert_eq!((areas[0], areas[255]), (0.0, 0.0));
        assert!(areas[1..255].iter().all(|&area| area > 0.0));
    }

    #[test]
    fn flat_faces_have_the_area_of_a_voxel_face() {
        let areas = surface_areas([1.0, 2.0, 3.0]);
        assert_eq!(areas[0b1111_0000], 6.0);
        assert_eq!(areas[0b1100_1100], 3.0);
        assert_eq!(areas[0b1010_1010], 2.0);
        let lengths = contour_lengths([2.0, 3.0]);
        assert_eq!((lengths[0b1100], lengths[0b1010]), (3.0, 2.0));
    }
}
