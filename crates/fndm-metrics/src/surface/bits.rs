//! Sets of lattice points, a bit each: 64 neighbours along the last axis are one word. What is asked
//! of the neighbours of 64 voxels takes a few instructions, and a set an eighth of the memory.

use super::grid::Mask;
use ndarray::Axis;
use rayon::prelude::*;
use std::ops::Range;

/// A set of points of a 3-D lattice.
#[derive(Debug, Clone)]
pub(crate) struct Bits {
    shape: [usize; 3],
    /// Words of a row. Bits past its end are 0.
    words: usize,
    data: Vec<u64>,
    /// The smallest box that holds every point; 0..0 thrice if there is none.
    bounds: [Range<usize>; 3],
}

impl Bits {
    /// The true voxels of a mask.
    pub(crate) fn of(mask: &Mask<'_>) -> Self {
        let (nx, ny, nz) = mask.view.dim();
        Self::build([nx, ny, nz], 0..nx, |x, plane| {
            let words = nz.div_ceil(64);
            let rows = mask.view.index_axis(Axis(0), x);
            for (row, words) in rows.outer_iter().zip(plane.chunks_exact_mut(words)) {
                match row.as_slice() {
                    Some(row) => pack(row, words),
                    None => {
                        for (z, _) in row.iter().enumerate().filter(|voxel| *voxel.1) {
                            words[z / 64] |= 1 << (z % 64);
                        }
                    }
                }
            }
        })
    }

    /// Every point of the lattice.
    pub(crate) fn full(shape: [usize; 3]) -> Self {
        let last = match shape[2] % 64 {
            0 => u64::MAX,
            bits => (1 << bits) - 1,
        };
        let words = shape[2].div_ceil(64);
        Self::build(shape, 0..shape[0], |_, plane| {
            plane.fill(u64::MAX);
            for row in plane.chunks_exact_mut(words) {
                row[words - 1] = last;
            }
        })
    }

    /// Fills the planes `range` of the first axis, each by `fill`, which gets all words of a plane.
    pub(crate) fn build(
        shape: [usize; 3],
        range: Range<usize>,
        fill: impl Fn(usize, &mut [u64]) + Sync,
    ) -> Self {
        let words = shape[2].div_ceil(64);
        let plane = shape[1] * words;
        let mut bits = Self {
            shape,
            words,
            data: Vec::new(),
            bounds: [0..0, 0..0, 0..0],
        };
        if shape.contains(&0) {
            return bits;
        }
        bits.data = vec![0; shape[0] * plane];
        bits.data[range.start * plane..range.end * plane]
            .par_chunks_mut(plane)
            .enumerate()
            .for_each(|(i, words)| fill(range.start + i, words));
        bits.measure(range);
        bits
    }

    /// Finds the smallest box, which lies within these planes.
    fn measure(&mut self, planes: Range<usize>) {
        self.bounds = [0..0, 0..0, 0..0];
        let (mut low, mut high) = ([usize::MAX; 2], [0; 2]);
        let mut any = vec![0u64; self.words];
        for x in planes {
            for y in 0..self.shape[1] {
                let row = self.row(x, y);
                if row.iter().all(|&word| word == 0) {
                    continue;
                }
                for (axis, place) in [x, y].into_iter().enumerate() {
                    low[axis] = low[axis].min(place);
                    high[axis] = high[axis].max(place + 1);
                }
                for (any, &word) in any.iter_mut().zip(row) {
                    *any |= word;
                }
            }
        }
        let mut points = ones(&any);
        if let Some(first) = points.next() {
            let last = points.last().unwrap_or(first);
            self.bounds = [low[0]..high[0], low[1]..high[1], first..last + 1];
        }
    }

    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The smallest box that holds every point.
    pub(crate) fn bounds(&self) -> &[Range<usize>; 3] {
        &self.bounds
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bounds[0].is_empty()
    }

    /// The words of a row.
    #[inline]
    pub(crate) fn row(&self, x: usize, y: usize) -> &[u64] {
        let start = (x * self.shape[1] + y) * self.words;
        &self.data[start..start + self.words]
    }

    /// The words of a row that may lie outside the lattice, where there is no point.
    pub(crate) fn row_at(&self, x: Option<usize>, y: Option<usize>) -> Option<&[u64]> {
        let (x, y) = (x?, y?);
        (x < self.shape[0] && y < self.shape[1]).then(|| self.row(x, y))
    }

    /// Row and place in it of each point of a plane, in order.
    pub(crate) fn plane(&self, x: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let rows = self.bounds[1].clone();
        rows.flat_map(move |y| ones(self.row(x, y)).map(move |z| (y, z)))
    }

    /// The number of points of a plane.
    pub(crate) fn plane_count(&self, x: usize) -> usize {
        let plane = self.shape[1] * self.words;
        let words = &self.data[x * plane..(x + 1) * plane];
        words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The number of points.
    pub(crate) fn count(&self) -> usize {
        let planes = self.bounds[0].clone();
        planes.map(|x| self.plane_count(x)).sum()
    }

    /// The points that `other`, of the same shape, has not.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for (word, other) in rest.data.iter_mut().zip(&other.data) {
            *word &= !other;
        }
        rest.measure(self.bounds[0].clone());
        rest
    }
}

/// The places of the ones.
pub(crate) fn ones(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(i, &word)| {
        let mut left = word;
        std::iter::from_fn(move || {
            let place = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(64 * i + place)
        })
    })
}

/// Packs a row. Eight bytes of 0 or 1 become eight bits by one multiplication: it brings byte i to
/// bit 56 + i, and no two products meet.
fn pack(row: &[bool], words: &mut [u64]) {
    for (word, voxels) in words.iter_mut().zip(row.chunks(64)) {
        let (eights, rest) = voxels.as_chunks::<8>();
        let mut bits = 0;
        for (i, eight) in eights.iter().enumerate() {
            let bytes = u64::from_le_bytes(eight.map(u8::from));
            bits |= (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
        }
        for (i, &voxel) in rest.iter().enumerate() {
            bits |= u64::from(voxel) << (8 * eights.len() + i);
        }
        *word = bits;
    }
}

/// Word `w` of a row whose every point has moved one place up: bit z tells of place z - 1. Past the
/// end of the row there is no point.
#[inline]
pub(crate) fn from_below(row: &[u64], w: usize) -> u64 {
    let word = row.get(w).copied().unwrap_or(0);
    let carried = w
        .checked_sub(1)
        .and_then(|w| row.get(w))
        .map_or(0, |v| v >> 63);
    word << 1 | carried
}

/// Word `w` of a row whose every point has moved one place down: bit z tells of place z + 1.
#[inline]
pub(crate) fn from_above(row: &[u64], w: usize) -> u64 {
    row[w] >> 1 | row.get(w + 1).map_or(0, |v| v << 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;
    use proptest::prelude::*;

    fn mask() -> impl Strategy<Value = Array3<bool>> {
        ([1usize..4, 1usize..5, 1usize..140], 1u32..5).prop_flat_map(|(shape, share)| {
            let size: usize = shape.iter().product();
            prop::collection::vec(0u32..5, size).prop_map(move |voxels| {
                let voxels = voxels.into_iter().map(|v| v < share).collect();
                Array3::from_shape_vec(shape, voxels).unwrap()
            })
        })
    }

    proptest! {
        #[test]
        fn bits_are_the_voxels(mask in mask()) {
            let view = mask.view();
            // Whole rows, and rows with a gap between neighbours.
            let turned = mask.view().reversed_axes().as_standard_layout().into_owned();
            let strided = turned.view().reversed_axes();
            for view in [&view, &strided] {
                let bits = Bits::of(&Mask::new("mask", view).unwrap());
                let mut voxels = Vec::new();
                for x in 0..mask.dim().0 {
                    prop_assert_eq!(bits.plane(x).count(), bits.plane_count(x));
                    voxels.extend(bits.plane(x).map(|(y, z)| (x, y, z)));
                }
                let expected: Vec<_> =
                    mask.indexed_iter().filter(|v| *v.1).map(|v| v.0).collect();
                prop_assert_eq!(bits.count(), expected.len());
                let range = |of: fn(&(usize, usize, usize)) -> usize| {
                    expected.iter().map(of).min().map_or(0..0, |low| {
                        low..expected.iter().map(of).max().unwrap_or(low) + 1
                    })
                };
                prop_assert_eq!(bits.bounds(), &[range(|v| v.0), range(|v| v.1), range(|v| v.2)]);
                prop_assert_eq!(voxels, expected);
            }
        }

        #[test]
        fn shifted_rows_tell_of_the_neighbours(mask in mask()) {
            let view = mask.view();
            let bits = Bits::of(&Mask::new("mask", &view).unwrap());
            let row = bits.row(0, 0);
            for z in 0..mask.dim().2 {
                let at = |word: u64| word >> (z % 64) & 1 == 1;
                let voxel = |z: usize| mask.get((0, 0, z)).copied().unwrap_or(false);
                prop_assert_eq!(at(from_below(row, z / 64)), z > 0 && voxel(z - 1));
                prop_assert_eq!(at(from_above(row, z / 64)), voxel(z + 1));
            }
        }
    }

    #[test]
    fn full_is_every_point() {
        for nz in [1, 63, 64, 65, 130] {
            assert_eq!(Bits::full([2, 3, nz]).count(), 6 * nz);
        }
        assert!(Bits::full([2, 0, 5]).is_empty());
    }
}
