//! Small operations on masks (H, W).

use ndarray::{Array2, ArrayView2};

/// Offsets of a disc of this radius in pixels.
fn disc(radius: usize) -> Vec<(isize, isize)> {
    let r = radius as isize;
    (-r..=r)
        .flat_map(|y| (-r..=r).map(move |x| (y, x)))
        .filter(|(y, x)| y * y + x * x <= r * r)
        .collect()
}

/// Grows the mask by a disc. What lies outside of the image counts as empty.
pub(crate) fn dilate(mask: ArrayView2<'_, bool>, radius: usize) -> Array2<bool> {
    let mut out = mask.to_owned();
    if radius == 0 {
        return out;
    }
    let disc = disc(radius);
    for ((y, x), _) in mask.indexed_iter().filter(|(_, on)| **on) {
        for (dy, dx) in &disc {
            if let (Some(y), Some(x)) = (y.checked_add_signed(*dy), x.checked_add_signed(*dx))
                && let Some(cell) = out.get_mut((y, x))
            {
                *cell = true;
            }
        }
    }
    out
}

/// Shrinks the mask by a disc. What lies outside of the image doesn't shrink it.
pub(crate) fn erode(mask: ArrayView2<'_, bool>, radius: usize) -> Array2<bool> {
    dilate(mask.mapv(|v| !v).view(), radius).mapv(|v| !v)
}

/// Clears the components (8 neighbours) with fewer than `smallest` pixels.
pub(crate) fn remove_small(mask: &mut Array2<bool>, smallest: usize) {
    if smallest <= 1 {
        return;
    }
    let mut seen = Array2::from_elem(mask.dim(), false);
    let starts: Vec<(usize, usize)> = mask
        .indexed_iter()
        .filter(|(_, on)| **on)
        .map(|(at, _)| at)
        .collect();
    for start in starts {
        if seen[start] {
            continue;
        }
        seen[start] = true;
        let mut component = vec![start];
        let mut next = 0;
        while let Some(&(y, x)) = component.get(next) {
            next += 1;
            for (dy, dx) in [
                (-1, -1),
                (-1, 0),
                (-1, 1),
                (0, -1),
                (0, 1),
                (1, -1),
                (1, 0),
                (1, 1),
            ] {
                let (Some(y), Some(x)) = (y.checked_add_signed(dy), x.checked_add_signed(dx))
                else {
                    continue;
                };
                if mask.get((y, x)) == Some(&true) && !seen[(y, x)] {
                    seen[(y, x)] = true;
                    component.push((y, x));
                }
            }
        }
        if component.len() < smallest {
            for at in component {
                mask[at] = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_disc_of_one_is_a_cross() {
        let mut mask = Array2::from_elem((3, 3), false);
        mask[(1, 1)] = true;
        let cross = array![
            [false, true, false],
            [true, true, true],
            [false, true, false]
        ];
        assert_eq!(dilate(mask.view(), 1), cross);
        assert_eq!(erode(cross.view(), 1), mask);
    }

    #[test]
    fn the_edge_of_the_image_does_not_erode() {
        let full = Array2::from_elem((4, 5), true);
        assert_eq!(erode(full.view(), 2), full);
    }

    #[test]
    fn diagonal_neighbours_are_one_component() {
        let mut mask = array![
            [true, false, false],
            [false, true, false],
            [false, false, false]
        ];
        remove_small(&mut mask, 2);
        assert_eq!(mask.iter().filter(|v| **v).count(), 2);
        remove_small(&mut mask, 3);
        assert_eq!(mask.iter().filter(|v| **v).count(), 0);
    }
}
