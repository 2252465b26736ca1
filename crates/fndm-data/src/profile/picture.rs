//! A coarse picture of the head, by which its place in the axes is told.

use ndarray::{Array3, ArrayView3, s};

use crate::Plane;

/// Cells along each side.
pub(super) const SIDE: usize = 12;

/// The part of the volume that the head fills: first and last index along each axis.
pub(super) type HeadBox = [(usize, usize); 3];

/// The box of the head; `None` where there is no head.
pub(super) fn head_box(head: &Array3<bool>) -> Option<HeadBox> {
    let mut found: Option<HeadBox> = None;
    for ((z, y, x), _) in head.indexed_iter().filter(|(_, bit)| **bit) {
        let at = [z, y, x];
        let all = found.get_or_insert(at.map(|n| (n, n)));
        for (range, n) in all.iter_mut().zip(at) {
            *range = (range.0.min(n), range.1.max(n));
        }
    }
    found
}

/// The means of `SIDE`^3 cells of the head's box, background 0.
pub(super) fn picture(
    stack: &ArrayView3<'_, f32>,
    head: &Array3<bool>,
    within: HeadBox,
    map: impl Fn(f32) -> f64,
) -> Array3<f64> {
    let ranges = within.map(|(first, last)| cells(first, last));
    Array3::from_shape_fn((SIDE, SIDE, SIDE), |(z, y, x)| {
        let [(z0, z1), (y0, y1), (x0, x1)] = [ranges[0][z], ranges[1][y], ranges[2][x]];
        let cell = s![z0..z1, y0..y1, x0..x1];
        let (values, inside) = (stack.slice(cell), head.slice(cell));
        let both = values.iter().zip(inside);
        let sum: f64 = both.filter(|(_, b)| **b).map(|(&v, _)| map(v)).sum();
        sum / values.len().max(1) as f64
    })
}

/// Where each cell begins and ends; at least one index each.
fn cells(first: usize, last: usize) -> [(usize, usize); SIDE] {
    let length = last + 1 - first;
    std::array::from_fn(|n| {
        let from = n * length / SIDE;
        let to = ((n + 1) * length / SIDE).max(from + 1);
        (first + from, first + to)
    })
}

/// One of the ways in which a head may stand wrongly: which axis is taken for which, and which are turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    from: [usize; 3],
    flipped: [bool; 3],
}

impl Turn {
    /// All ways but those that differ by left and right alone, which pictures of heads don't tell; the right way first.
    pub(super) fn all(plane: Plane) -> Vec<Self> {
        let sides = plane.codes().map(|code| "LR".contains(code));
        let orders = [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ];
        let mut all = Vec::new();
        for from in orders {
            for flips in 0..8u8 {
                let flipped: [bool; 3] = std::array::from_fn(|axis| flips & (1 << axis) != 0);
                if flipped
                    .iter()
                    .zip(sides)
                    .all(|(flipped, side)| !(*flipped && side))
                {
                    all.push(Self { from, flipped });
                }
            }
        }
        all
    }

    /// A picture turned so.
    pub(super) fn of<'a>(&self, picture: &'a Array3<f64>) -> ArrayView3<'a, f64> {
        let mut turned = picture.view().permuted_axes(self.from);
        for (axis, _) in self.flipped.iter().enumerate().filter(|(_, f)| **f) {
            turned.invert_axis(ndarray::Axis(axis));
        }
        turned
    }

    /// What is wrong, in words.
    pub(super) fn words(&self, plane: Plane) -> String {
        let names = plane.codes().map(|code| match code {
            'S' | 'I' => "top and bottom",
            'A' | 'P' => "front and back",
            _ => "left and right",
        });
        if self.from == [0, 1, 2] {
            let turned = self.flipped.iter().zip(names).filter(|(f, _)| **f);
            let names: Vec<&str> = turned.map(|(_, name)| name).collect();
            return format!("turned round, {} exchanged", names.join(", "));
        }
        let moved = (self.from.iter().enumerate()).filter(|&(to, &from)| to != from);
        let told =
            moved.map(|(to, &from)| format!("{} where {} should be", names[from], names[to]));
        format!("turned over: {}", told.collect::<Vec<_>>().join(", "))
    }
}

/// Pearson's correlation; 0 where one of the two is constant.
pub(super) fn correlation<'a>(
    a: impl Iterator<Item = &'a f64> + Clone,
    b: impl Iterator<Item = &'a f64> + Clone,
) -> f64 {
    let count = a.clone().count().max(1) as f64;
    let mean_a = a.clone().sum::<f64>() / count;
    let mean_b = b.clone().sum::<f64>() / count;
    let (mut ab, mut aa, mut bb) = (0., 0., 0.);
    for (x, y) in a.zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    let scale = (aa * bb).sqrt();
    if scale > 0. { ab / scale } else { 0. }
}
