//! Volume and lesions of a mask on the grid of the input.

use fndm_data::{Geometry, Volume, affine};
use fndm_metrics::{Connectivity, connected_components};
use fndm_report::{LesionPart, Measure};
use ndarray::{Array3, ArrayView3, Axis};

use crate::Result;

/// Volume, connected parts (26 neighbours) and areas of a mask on the grid that `geometry` tells. `z` are the slices that a page shows,
/// counted from the lower end of the stack.
///
/// # Errors
/// For 2^32 - 1 voxels or more.
pub fn measure(title: &str, mask: &Volume, geometry: &Geometry, z: &[usize]) -> Result<Measure> {
    let inside = mask.data.mapv(|v| v > 0.);
    let stack = geometry.reorder().view(inside.view());
    let to_world = geometry
        .reorder()
        .affine(geometry.affine(), geometry.shape());
    let [slice, row, column] = affine::spacing(&to_world);
    let voxel = slice * row * column;
    let areas = z.iter().map(|&z| match z < stack.len_of(Axis(0)) {
        true => stack.index_axis(Axis(0), z).iter().filter(|&&v| v).count() as f64 * row * column,
        false => 0.,
    });
    let areas = areas.collect();
    let voxels = stack.iter().filter(|&&v| v).count();
    Ok(Measure {
        title: title.into(),
        voxels,
        mm3: voxels as f64 * voxel,
        lesions: parts(&stack, voxel, &to_world)?,
        areas,
    })
}

/// What is summed up of one part.
#[derive(Clone)]
struct Sums {
    places: [f64; 3],
    /// Voxels in each slice from the first one on.
    slices: Vec<u64>,
    first: usize,
}

fn parts(
    stack: &ArrayView3<'_, bool>,
    voxel: f64,
    to_world: &affine::Affine,
) -> Result<Vec<LesionPart>> {
    let components = connected_components(stack, Connectivity::Corners)?;
    let labels: &Array3<u32> = &components.labels;
    let mut sums = vec![None::<Sums>; components.count()];
    for ((z, y, x), &label) in labels.indexed_iter() {
        let Some(at) = (label as usize).checked_sub(1) else {
            continue;
        };
        let sum = sums[at].get_or_insert_with(|| Sums {
            places: [0.; 3],
            slices: Vec::new(),
            // Labels are met in the order of their slices.
            first: z,
        });
        for (sum, place) in sum.places.iter_mut().zip([z, y, x]) {
            *sum += place as f64;
        }
        sum.slices.resize(z - sum.first + 1, 0);
        sum.slices[z - sum.first] += 1;
    }
    let mut parts: Vec<LesionPart> = sums
        .into_iter()
        .flatten()
        .zip(&components.sizes)
        .map(|(sums, &size)| {
            let middle = sums.places.map(|sum| sum / size as f64);
            let world = |row: usize| {
                let [a, b, c, d] = to_world[row];
                a * middle[0] + b * middle[1] + c * middle[2] + d
            };
            // Of equal slices the lowest.
            let mut largest = 0;
            for (n, &voxels) in sums.slices.iter().enumerate() {
                if voxels > sums.slices[largest] {
                    largest = n;
                }
            }
            LesionPart {
                mm3: size as f64 * voxel,
                first_slice: sums.first,
                last_slice: sums.first + sums.slices.len() - 1,
                largest_slice: sums.first + largest,
                centre: [world(0), world(1), world(2)],
            }
        })
        .collect();
    // Stable: of equal ones the lowest first.
    parts.sort_by(|a, b| b.mm3.total_cmp(&a.mm3));
    Ok(parts)
}
