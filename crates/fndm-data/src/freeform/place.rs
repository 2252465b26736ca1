//! Moving a mask onto the head.

use ndarray::{Array2, ArrayView2};
use rand::{Rng, RngExt};

/// Draws until half of the mask lies within the head; after some tries, shifts the best so that
/// its middle comes upon a random pixel of the head.
pub(super) fn within<R: Rng + ?Sized>(
    rng: &mut R,
    head: ArrayView2<bool>,
    mut draw: impl FnMut(&mut R, usize, usize) -> Array2<bool>,
) -> Array2<bool> {
    let (h, w) = head.dim();
    let inside: Vec<(usize, usize)> = head
        .indexed_iter()
        .filter_map(|(at, v)| v.then_some(at))
        .collect();
    if inside.is_empty() {
        return Array2::from_elem((h, w), false);
    }
    let mut mask = draw(rng, h, w);
    for _ in 0..4 {
        let (overlap, area) = count(&mask, head);
        if 2 * overlap >= area && overlap > 0 {
            return mask;
        }
        let target = inside[rng.random_range(0..inside.len())];
        let moved = shift_to(&mask, target);
        let (overlap, area) = count(&moved, head);
        if 2 * overlap >= area && overlap > 0 {
            return moved;
        }
        mask = draw(rng, h, w);
    }
    // A head so small or thin that half a mask hardly fits in it: one pixel is sure.
    let target = inside[rng.random_range(0..inside.len())];
    let mut moved = shift_to(&mask, target);
    moved[target] = true;
    moved
}

fn count(mask: &Array2<bool>, head: ArrayView2<bool>) -> (usize, usize) {
    let overlap = mask.iter().zip(head).filter(|(m, h)| **m && **h).count();
    (overlap, mask.iter().filter(|m| **m).count())
}

/// The mask moved so that its centre of mass lies at `target`; what leaves the image is lost.
fn shift_to(mask: &Array2<bool>, target: (usize, usize)) -> Array2<bool> {
    let (mut n, mut rows, mut columns) = (0usize, 0usize, 0usize);
    for ((i, j), v) in mask.indexed_iter() {
        if *v {
            n += 1;
            rows += i;
            columns += j;
        }
    }
    let mut out = Array2::from_elem(mask.raw_dim(), false);
    if n == 0 {
        return out;
    }
    let down = target.0 as isize - (rows / n) as isize;
    let right = target.1 as isize - (columns / n) as isize;
    for ((i, j), v) in mask.indexed_iter() {
        if *v {
            let to = (i.wrapping_add_signed(down), j.wrapping_add_signed(right));
            if let Some(pixel) = out.get_mut(to) {
                *pixel = true;
            }
        }
    }
    out
}
