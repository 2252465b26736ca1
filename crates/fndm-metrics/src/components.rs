//! Connected components of a mask in 1 to 3 dimensions.
//!
//! Rows along the last axis are cut into runs of true voxels, and runs that touch are joined by
//! union-find. There are far fewer runs than voxels.

use crate::error::{Error, Result};
use crate::surface::{Connectivity, Mask};
use ndarray::{Array, ArrayView, Dimension};

/// The components of a mask, numbered from 1 in the order of their first voxels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Components<D: Dimension> {
    /// The component of each voxel; 0 is background.
    pub labels: Array<u32, D>,
    /// The number of voxels of component `i + 1`.
    pub sizes: Vec<u64>,
}

impl<D: Dimension> Components<D> {
    /// The number of components.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sizes.len()
    }
}

/// Parts a mask into connected components: voxels that hang together through neighbours of the
/// given [`Connectivity`]. Numbered as scipy's `ndimage.label` numbers them.
///
/// ```
/// use fndm_metrics::{Connectivity, connected_components};
/// use ndarray::array;
///
/// let mask = array![[true, false, true], [false, true, false]];
/// assert_eq!(connected_components(&mask.view(), Connectivity::Faces)?.count(), 3);
/// assert_eq!(connected_components(&mask.view(), Connectivity::Corners)?.count(), 1);
/// # Ok::<(), fndm_metrics::Error>(())
/// ```
///
/// # Errors
/// If the mask has not 1 to 3 axes, or 2^32 - 1 voxels or more.
pub fn connected_components<D: Dimension>(
    mask: &ArrayView<'_, bool, D>,
    connectivity: Connectivity,
) -> Result<Components<D>> {
    let runs = Runs::of(mask, connectivity)?;
    let mut labels = vec![0u32; mask.len()];
    for (row, run) in runs.iter() {
        let from = row * runs.length;
        labels[from + run.start as usize..from + run.end as usize].fill(run.label);
    }
    let labels = Array::from_shape_vec(mask.raw_dim(), labels).map_err(|_| Error::Shape {
        what: "component labels",
        expected: mask.shape().to_vec(),
        found: vec![mask.len()],
    })?;
    Ok(Components {
        labels,
        sizes: runs.sizes,
    })
}

/// True voxels `start..end` of a row, and the component they are of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) label: u32,
}

/// The runs of a mask, labelled by component.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    /// The first run of each row, and the number of runs.
    rows: Vec<u32>,
    /// The length of a row.
    length: usize,
    /// The number of voxels of component `i + 1`.
    pub(crate) sizes: Vec<u64>,
}

impl Runs {
    pub(crate) fn of<D: Dimension>(
        mask: &ArrayView<'_, bool, D>,
        connectivity: Connectivity,
    ) -> Result<Self> {
        let mask = Mask::new("connected components", mask)?;
        if mask.view.len() >= u32::MAX as usize {
            return Err(Error::Parameter {
                what: "voxels of a mask for connected components",
                expected: "less than 2^32 - 1",
                found: mask.view.len() as f64,
            });
        }
        let (nx, ny, length) = match mask.view.dim() {
            // There may be very many rows of no voxel.
            _ if mask.view.is_empty() => (0, 0, 0),
            shape => shape,
        };
        let mut found = Self {
            runs: Vec::new(),
            rows: Vec::with_capacity(nx * ny + 1),
            length,
            sizes: Vec::new(),
        };
        // parents[run] is a run of the same component, never a later one.
        let mut parents: Vec<u32> = Vec::new();
        let reach = connectivity.axes();
        let earlier: Vec<(isize, isize)> = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]
            .into_iter()
            .filter(|&(dx, dy)| {
                let exists = (mask.axes[0] || dx == 0) && (mask.axes[1] || dy == 0);
                exists && moved(dx, dy) <= reach
            })
            .collect();
        for x in 0..nx {
            for y in 0..ny {
                let first = found.runs.len();
                found.rows.push(first as u32);
                found.cut(&mask.view.slice(ndarray::s![x, y, ..]));
                parents.extend(first as u32..found.runs.len() as u32);
                for &(dx, dy) in &earlier {
                    let (Some(x), Some(y)) = (x.checked_add_signed(dx), y.checked_add_signed(dy))
                    else {
                        continue;
                    };
                    if y < ny {
                        let row = x * ny + y;
                        let other = found.rows[row] as usize..found.rows[row + 1] as usize;
                        let slack = u32::from(moved(dx, dy) < reach);
                        found.join_rows(&mut parents, first, other, slack);
                    }
                }
            }
        }
        found.rows.push(found.runs.len() as u32);
        found.number(&mut parents);
        Ok(found)
    }

    /// Adds the runs of a row.
    fn cut(&mut self, row: &ndarray::ArrayView1<'_, bool>) {
        let mut start = None;
        for (z, &inside) in row.iter().enumerate() {
            match (start, inside) {
                (None, true) => start = Some(z as u32),
                (Some(from), false) => {
                    self.push(from, z as u32);
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(from) = start {
            self.push(from, row.len() as u32);
        }
    }

    fn push(&mut self, start: u32, end: u32) {
        self.runs.push(Run {
            start,
            end,
            label: 0,
        });
    }

    /// Joins the runs from `first` on with those of an earlier row that touch them. `slack` is 1
    /// where a step along the row may come on top.
    fn join_rows(
        &self,
        parents: &mut [u32],
        first: usize,
        other: std::ops::Range<usize>,
        slack: u32,
    ) {
        let mut j = other.start;
        for i in first..self.runs.len() {
            let run = self.runs[i];
            while j < other.end && self.runs[j].end + slack <= run.start {
                j += 1;
            }
            let mut k = j;
            while k < other.end && self.runs[k].start < run.end + slack {
                join(parents, i as u32, k as u32);
                k += 1;
            }
        }
    }

    /// Numbers the components. Roots are the first runs of their components: numbering them in
    /// order keeps the order of first voxels.
    fn number(&mut self, parents: &mut [u32]) {
        for run in 0..self.runs.len() {
            let root = root(parents, run as u32) as usize;
            let label = if root == run {
                self.sizes.push(0);
                self.sizes.len() as u32
            } else {
                self.runs[root].label
            };
            self.runs[run].label = label;
            let voxels = u64::from(self.runs[run].end - self.runs[run].start);
            self.sizes[label as usize - 1] += voxels;
        }
    }

    /// The runs with their row, in array order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, Run)> + '_ {
        self.rows.windows(2).enumerate().flat_map(|(row, ends)| {
            let runs = &self.runs[ends[0] as usize..ends[1] as usize];
            runs.iter().map(move |&run| (row, run))
        })
    }

    /// Calls `visit` with the labels of each pair of runs of two masks of one shape that share
    /// voxels, and how many.
    pub(crate) fn overlaps(&self, other: &Self, mut visit: impl FnMut(u32, u32, u64)) {
        for (a, b) in self.rows.windows(2).zip(other.rows.windows(2)) {
            let mut a = &self.runs[a[0] as usize..a[1] as usize];
            let mut b = &other.runs[b[0] as usize..b[1] as usize];
            while let (Some((first, rest_a)), Some((second, rest_b))) =
                (a.split_first(), b.split_first())
            {
                let common = first.end.min(second.end);
                let voxels = common.saturating_sub(first.start.max(second.start));
                if voxels > 0 {
                    visit(first.label, second.label, u64::from(voxels));
                }
                if first.end == common {
                    a = rest_a;
                }
                if second.end == common {
                    b = rest_b;
                }
            }
        }
    }
}

/// The number of axes along which a neighbouring row differs.
fn moved(dx: isize, dy: isize) -> usize {
    usize::from(dx != 0) + usize::from(dy != 0)
}

fn root(parents: &mut [u32], mut label: u32) -> u32 {
    while parents[label as usize] != label {
        // Halve the path while walking it.
        let parent = parents[label as usize];
        parents[label as usize] = parents[parent as usize];
        label = parents[label as usize];
    }
    label
}

fn join(parents: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root(parents, a), root(parents, b));
    parents[a.max(b) as usize] = a.min(b);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, array};
    use proptest::prelude::*;

    /// Floods from every voxel in turn.
    fn brute(mask: &Array3<bool>, reach: usize) -> Array3<u32> {
        let mut labels = Array3::zeros(mask.raw_dim());
        let mut count = 0;
        for (start, &inside) in mask.indexed_iter() {
            if !inside || labels[start] != 0 {
                continue;
            }
            count += 1;
            let mut stack = vec![start];
            while let Some(here) = stack.pop() {
                if labels[here] != 0 {
                    continue;
                }
                labels[here] = count;
                for (there, &inside) in mask.indexed_iter() {
                    let steps = [
                        here.0.abs_diff(there.0),
                        here.1.abs_diff(there.1),
                        here.2.abs_diff(there.2),
                    ];
                    let near =
                        steps.iter().all(|&s| s <= 1) && steps.iter().sum::<usize>() <= reach;
                    if inside && near {
                        stack.push(there);
                    }
                }
            }
        }
        labels
    }

    proptest! {
        #[test]
        fn components_are_those_of_flooding(
            (shape, voxels) in ((1usize..5, 1usize..6, 1usize..7), prop::collection::vec(0u8..3, 120))
        ) {
            let size = shape.0 * shape.1 * shape.2;
            let voxels: Vec<bool> = voxels.iter().map(|&v| v == 0).cycle().take(size).collect();
            let mask = Array3::from_shape_vec(shape, voxels).unwrap();
            for (connectivity, reach) in
                [(Connectivity::Faces, 1), (Connectivity::Edges, 2), (Connectivity::Corners, 3)]
            {
                let found = connected_components(&mask.view(), connectivity).unwrap();
                prop_assert_eq!(&found.labels, &brute(&mask, reach));
                prop_assert_eq!(found.sizes.iter().sum::<u64>(),
                    mask.iter().filter(|&&v| v).count() as u64);
            }
        }
    }

    #[test]
    fn one_dimension_and_strides() {
        let line = array![true, true, false, true];
        let found = connected_components(&line.view(), Connectivity::Faces).unwrap();
        assert_eq!(found.labels, array![1, 1, 0, 2]);
        assert_eq!(found.sizes, [2, 1]);
        let mask = array![[true, true, false], [false, true, true]];
        let turned = connected_components(&mask.t(), Connectivity::Faces).unwrap();
        assert_eq!(turned.count(), 1);
        assert!(connected_components(&ndarray::arr0(true).view(), Connectivity::Faces).is_err());
    }
}
