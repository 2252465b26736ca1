//! How deep in the head every pixel lies, slice by slice.

use ndarray::{Array2, Array3, ArrayView2, Axis};

/// Upper ends of the shells, as parts of the slice's largest depth. Scalp and skull lie in the first three.
pub(super) const SHELLS: [f64; 8] = [0.06, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0];

/// The shell of every pixel of the head, 0 outermost; [`OUTSIDE`] elsewhere. Slices whose head is thinner than 16 pixels are left
/// out, for their shells hold no pixel.
pub(super) fn shells(head: &Array3<bool>) -> Array3<u8> {
    let mut out = Array3::from_elem(head.dim(), OUTSIDE);
    for (slice, mut target) in head.axis_iter(Axis(0)).zip(out.axis_iter_mut(Axis(0))) {
        let depth = city_block(slice);
        let most = depth.iter().copied().max().unwrap_or(0);
        if most < LEAST_DEPTH {
            continue;
        }
        for (shell, &depth) in target.iter_mut().zip(&depth) {
            if depth > 0 {
                let part = (f64::from(depth) - 0.5) / f64::from(most);
                let found = SHELLS.iter().position(|&end| part <= end);
                *shell = found.unwrap_or(SHELLS.len() - 1) as u8;
            }
        }
    }
    out
}

/// The mark of a pixel in no shell.
pub(super) const OUTSIDE: u8 = u8::MAX;

const LEAST_DEPTH: u32 = 8;

/// City-block distance of every true pixel from the nearest false one; what lies beyond the border is false.
fn city_block(bits: ArrayView2<'_, bool>) -> Array2<u32> {
    let (height, width) = bits.dim();
    let mut out = Array2::zeros((height, width));
    for y in 0..height {
        for x in 0..width {
            if bits[(y, x)] {
                let above = if y > 0 { out[(y - 1, x)] } else { 0 };
                let left = if x > 0 { out[(y, x - 1)] } else { 0 };
                out[(y, x)] = above.min(left) + 1;
            }
        }
    }
    for y in (0..height).rev() {
        for x in (0..width).rev() {
            let below = if y + 1 < height { out[(y + 1, x)] } else { 0 };
            let right = if x + 1 < width { out[(y, x + 1)] } else { 0 };
            out[(y, x)] = out[(y, x)].min(below.min(right) + 1);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    /// By the definition: the least city-block distance to any false pixel, in or beyond the picture.
    fn slow(bits: ArrayView2<'_, bool>) -> Array2<u32> {
        let (height, width) = bits.dim();
        Array2::from_shape_fn((height, width), |(y, x)| {
            let border = (y + 1).min(height - y).min(x + 1).min(width - x);
            let inner = (bits.indexed_iter().filter(|(_, bit)| !**bit))
                .map(|((v, u), _)| v.abs_diff(y) + u.abs_diff(x));
            inner.min().map_or(border, |d| d.min(border)) as u32
        })
    }

    #[test]
    fn distances_are_those_of_the_definition() {
        let mut state = 1u32;
        for (height, width) in [(1, 1), (1, 9), (7, 5), (12, 13)] {
            let bits = Array2::from_shape_fn((height, width), |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 28 > 2
            });
            assert_eq!(city_block(bits.view()), slow(bits.view()));
        }
        let cross = array![
            [false, true, false],
            [true, true, true],
            [false, true, false]
        ];
        assert_eq!(city_block(cross.view())[(1, 1)], 2);
    }

    #[test]
    fn shells_go_inwards_and_thin_slices_have_none() {
        let mut head = Array3::from_elem((2, 64, 64), false);
        for y in 4..60 {
            for x in 4..60 {
                head[(0, y, x)] = true;
            }
        }
        head[(1, 30, 30)] = true;
        let shells = shells(&head);
        assert_eq!(shells[(0, 4, 30)], 0);
        assert_eq!(shells[(0, 31, 31)], 7);
        assert_eq!(shells[(0, 0, 0)], OUTSIDE);
        assert_eq!(shells[(1, 30, 30)], OUTSIDE);
        let row: Vec<u8> = (4..32).map(|y| shells[(0, y, 31)]).collect();
        assert!(row.is_sorted(), "{row:?}");
    }
}
