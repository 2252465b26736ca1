//! From every point of one set to the nearest point of another.
//!
//! Plane by plane, threads sharing the planes: first by looking around each point
//! ([`Search`]), then, for the planes where that gave up, by the distance transform. What the search
//! may cost is bounded by what the transform costs, so the time stays linear in the size of the box.

use super::bits::Bits;
use super::nearest::Search;
use super::transform::{Scratch, Transform};
use rayon::prelude::*;
use std::sync::Mutex;

/// Calls `visit` with each plane of `asked` along the first axis and the squared distances from its
/// points, in order, to the nearest point of `set`, a set of the same lattice that is not empty. The
/// answers come in the order of the planes.
pub(crate) fn map_planes<R: Send>(
    asked: &Bits,
    set: &Bits,
    spacing: [f64; 3],
    visit: impl Fn(usize, &[f64]) -> R + Sync,
) -> Vec<R> {
    let search = Search::new(set, spacing);
    let planes = asked.bounds()[0].clone();
    let mut answers: Vec<(usize, Option<R>)> = planes
        .into_par_iter()
        .map_init(Vec::new, |found, x| {
            let near = search.plane(asked, x, found);
            (x, near.then(|| visit(x, found)))
        })
        .collect();
    let mut far: Vec<(usize, &mut Option<R>)> = answers
        .iter_mut()
        .filter(|answer| answer.1.is_none())
        .map(|(x, answer)| (*x, answer))
        .collect();
    if !far.is_empty() {
        let planes: Vec<usize> = far.iter().map(|plane| plane.0).collect();
        let transform = Transform::new(asked, set, spacing, &planes);
        far.par_iter_mut().enumerate().for_each_init(
            Scratch::default,
            |scratch, (i, (x, answer))| {
                **answer = Some(visit(*x, transform.plane(i, scratch)));
            },
        );
    }
    answers.into_iter().filter_map(|answer| answer.1).collect()
}

/// The distance from every point of `asked`, in order, to the nearest point of `set`, which must not
/// be empty.
pub(crate) fn distances(asked: &Bits, set: &Bits, spacing: [f64; 3]) -> Vec<f64> {
    let range = asked.bounds()[0].clone();
    let mut distances = vec![0.0; asked.count()];
    let mut rest = distances.as_mut_slice();
    let mut planes = Vec::with_capacity(range.len());
    for x in range.clone() {
        let (plane, after) = std::mem::take(&mut rest).split_at_mut(asked.plane_count(x));
        planes.push(Mutex::new(plane));
        rest = after;
    }
    map_planes(asked, set, spacing, |x, squared| {
        // Each plane has one writer: the lock is always free.
        if let Ok(mut plane) = planes[x - range.start].lock() {
            for (distance, squared) in plane.iter_mut().zip(squared) {
                *distance = squared.sqrt();
            }
        }
    });
    drop(planes);
    distances
}
