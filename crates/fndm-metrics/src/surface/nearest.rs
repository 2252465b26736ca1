//! The nearest point of a set by looking around: quick where it is near.
//!
//! Rows along the last axis are looked at in the order of their distance, each by one look at the
//! bits around the point's own place, until the next row is farther than what was found. Distances
//! between a result and its reference are mostly small. Where they are not, or where so many points
//! ask that it is cheaper to know the distance everywhere, this gives up within a budget.

use super::bits::Bits;

/// The number of rows that are looked at before giving up, where they fit.
const ROWS: f64 = 300.0;

/// A row by its place relative to the point's own.
#[derive(Debug)]
struct Step {
    dx: isize,
    dy: isize,
    squared: f64,
}

/// A search in one set.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    set: &'a Bits,
    spacing: [f64; 3],
    /// By rising distance.
    steps: Vec<Step>,
    /// Up to this squared distance no point is overlooked.
    complete: f64,
    /// How many rows may be looked at for one plane.
    budget: usize,
}

impl<'a> Search<'a> {
    /// Prepares the search for planes of the lattice of `set`, which must not be empty.
    pub(crate) fn new(set: &'a Bits, spacing: [f64; 3]) -> Self {
        let shape = set.shape();
        let radius = match (shape[0], shape[1]) {
            (1, _) => 0.5 * ROWS * spacing[1],
            (_, 1) => 0.5 * ROWS * spacing[0],
            _ => (ROWS * spacing[0] * spacing[1] / std::f64::consts::PI).sqrt(),
        };
        let reach = |axis: usize| {
            // Rounding to zero or saturating are both right here.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let steps = (radius / spacing[axis]) as usize;
            steps.min(shape[axis] - 1) as isize
        };
        let (reach_x, reach_y) = (reach(0), reach(1));
        let mut steps = Vec::new();
        for dx in -reach_x..=reach_x {
            for dy in -reach_y..=reach_y {
                let squared = (dx as f64 * spacing[0]).powi(2) + (dy as f64 * spacing[1]).powi(2);
                if squared <= radius * radius {
                    steps.push(Step { dx, dy, squared });
                }
            }
        }
        steps.sort_by(|a, b| a.squared.total_cmp(&b.squared));
        let [_, rows, columns] = set.bounds();
        Self {
            set,
            spacing,
            steps,
            complete: (radius * radius).min((64.0 * spacing[2]).powi(2)),
            budget: 8 * rows.len() * columns.len() + 1024,
        }
    }

    /// Writes the squared distances of the points that `asked` has in plane `x`. False if that would
    /// take too long.
    pub(crate) fn plane(&self, asked: &Bits, x: usize, found: &mut Vec<f64>) -> bool {
        found.clear();
        let mut looks = 0;
        for (y, z) in asked.plane(x) {
            match self.point(x, y, z, &mut looks) {
                Some(squared) if looks <= self.budget => found.push(squared),
                _ => return false,
            }
        }
        true
    }

    /// The squared distance of a point, if that is close enough.
    fn point(&self, x: usize, y: usize, z: usize, looks: &mut usize) -> Option<f64> {
        let [xs, ys, _] = self.set.bounds();
        let mut best = f64::INFINITY;
        for step in &self.steps {
            if step.squared >= best {
                return (best <= self.complete).then_some(best);
            }
            *looks += 1;
            // A wrapped sum lies outside the box.
            let (x, y) = (
                x.wrapping_add_signed(step.dx),
                y.wrapping_add_signed(step.dy),
            );
            if !(xs.contains(&x) && ys.contains(&y)) {
                continue;
            }
            let gap = gap(self.set.row(x, y), z);
            if gap < 64 {
                best = best.min(step.squared + (f64::from(gap) * self.spacing[2]).powi(2));
            }
        }
        (best <= self.complete).then_some(best)
    }
}

/// The number of places from `z` to the nearest point of the row, 64 if none is closer.
#[inline]
fn gap(row: &[u64], z: usize) -> u32 {
    let (w, b) = (z / 64, z % 64);
    let next = row.get(w + 1).copied().unwrap_or(0);
    let last = w.checked_sub(1).map_or(0, |w| row[w]);
    // Bits z, z + 1, ... from the lowest up; bits z, z - 1, ... from the highest down.
    let up = row[w] >> b | next << (63 - b) << 1;
    let down = row[w] << (63 - b) | last >> b >> 1;
    up.trailing_zeros().min(down.leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::gap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_are_those_of_counting(
            places in prop::collection::vec(0usize..192, 0..4), z in 0usize..192
        ) {
            let mut row = [0u64; 3];
            for &place in &places {
                row[place / 64] |= 1 << (place % 64);
            }
            let brute = places.iter().map(|&p| p.abs_diff(z)).min().unwrap_or(64).min(64);
            prop_assert_eq!(gap(&row, z) as usize, brute);
        }
    }
}
