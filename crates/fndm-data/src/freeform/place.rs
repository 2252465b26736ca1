//! Moving a mask onto the head.

use ndarray::{Array2, ArrayView2, Zip};
use rand::{Rng, RngExt};

/// Draws until most of the mask lies within the head, moving it so that its middle comes upon a
/// random pixel of the head where it does not; returns the part within.
pub(super) fn within<R: Rng + ?Sized>(
    rng: &mut R,
    head: &ArrayView2<bool>,
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
    for _ in 0..4 {
        let mask = draw(rng, h, w);
        let target = inside[rng.random_range(0..inside.len())];
        for candidate in [shift_to(&mask, target), mask] {
            let area = count(&candidate);
            let kept = Zip::from(&candidate).and(head).map_collect(|m, h| *m && *h);
            let overlap = count(&kept);
            if overlap > 0 && 4 * overlap >= 3 * area {
                return kept;
            }
        }
    }
    // The head is small or thin beside the mask.
    let target = inside[rng.random_range(0..inside.len())];
    let moved = shift_to(&draw(rng, h, w), target);
    let mut kept = Zip::from(&moved).and(head).map_collect(|m, h| *m && *h);
    kept[target] = true;
    kept
}

fn count(mask: &Array2<bool>) -> usize {
    mask.iter().filter(|m| **m).count()
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
