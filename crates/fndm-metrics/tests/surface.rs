//! Surface distances against brute force over all pairs, and the laws that they must keep.

use fndm_metrics::{
    BorderDistances, Connectivity, Definition, Error, SurfelDistances, VoxelDistances,
    average_symmetric_surface_distance, distance_transform, hausdorff, percentile_hausdorff,
    surface_dice,
};
use ndarray::{Array3, ArrayD, Axis, IxDyn, s};
use proptest::prelude::*;

type Place = [usize; 3];

fn shape() -> impl Strategy<Value = Place> {
    [1usize..6, 1usize..7, 1usize..8]
}

/// A mask that is sparse, mixed or dense.
fn mask(shape: Place) -> impl Strategy<Value = Array3<bool>> {
    let size: usize = shape.iter().product();
    (1u32..10, prop::collection::vec(0u32..10, size)).prop_map(move |(share, voxels)| {
        let voxels = voxels.into_iter().map(|v| v < share).collect();
        Array3::from_shape_vec(shape, voxels).unwrap()
    })
}

fn pair() -> impl Strategy<Value = (Array3<bool>, Array3<bool>)> {
    shape().prop_flat_map(|shape| (mask(shape), mask(shape)))
}

/// Few voxels and a block in a wide lattice.
fn sparse(shape: Place) -> impl Strategy<Value = Array3<bool>> {
    let place = [0..shape[0], 0..shape[1], 0..shape[2]];
    let block = (place.clone(), [0usize..6, 0usize..6, 0usize..30]);
    (prop::collection::vec(place, 0..6), block).prop_map(move |(voxels, (from, size))| {
        let mut mask = Array3::from_elem(shape, false);
        for voxel in voxels {
            mask[voxel] = true;
        }
        let to: Place = std::array::from_fn(|axis| (from[axis] + size[axis]).min(shape[axis]));
        mask.slice_mut(s![from[0]..to[0], from[1]..to[1], from[2]..to[2]])
            .fill(true);
        mask
    })
}

fn sparse_pair() -> impl Strategy<Value = (Array3<bool>, Array3<bool>, [f64; 3])> {
    [1usize..60, 1usize..60, 1usize..300]
        .prop_flat_map(|shape| (sparse(shape), sparse(shape), spacing()))
}

fn spacing() -> impl Strategy<Value = [f64; 3]> {
    let one = prop_oneof![Just(1.0), 0.3f64..5.0];
    [one.clone(), one.clone(), one]
}

fn places(mask: &Array3<bool>) -> Vec<Place> {
    mask.indexed_iter()
        .filter(|v| *v.1)
        .map(|((x, y, z), _)| [x, y, z])
        .collect()
}

fn gap(a: Place, b: Place, spacing: [f64; 3]) -> f64 {
    let square = |i: usize| (a[i].abs_diff(b[i]) as f64 * spacing[i]).powi(2);
    (square(0) + square(1) + square(2)).sqrt()
}

fn nearest(from: Place, to: &[Place], spacing: [f64; 3]) -> f64 {
    to.iter()
        .map(|&b| gap(from, b, spacing))
        .fold(f64::INFINITY, f64::min)
}

/// Voxels with a background neighbour that differs along at most `reach` axes.
fn border(mask: &Array3<bool>, reach: usize) -> Vec<Place> {
    let inside = |place: [isize; 3]| {
        let place = place.map(|p| usize::try_from(p).unwrap_or(usize::MAX));
        mask.get(place).copied().unwrap_or(false)
    };
    places(mask)
        .into_iter()
        .filter(|p| {
            (0..27isize).any(|i| {
                let step = [i / 9 - 1, i / 3 % 3 - 1, i % 3 - 1];
                let moved = step.iter().filter(|&&d| d != 0).count();
                let to = std::array::from_fn(|a| p[a] as isize + step[a]);
                moved > 0 && moved <= reach && !inside(to)
            })
        })
        .collect()
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1.0)
}

proptest! {
    #[test]
    fn the_distance_transform_is_exact(
        (set, spacing) in (shape().prop_flat_map(mask), spacing())
    ) {
        let distances = distance_transform(&set.view(), &spacing).unwrap();
        let to = places(&set);
        for ((x, y, z), &distance) in distances.indexed_iter() {
            let brute = nearest([x, y, z], &to, spacing);
            prop_assert!(distance == brute || close(distance, brute), "{distance} {brute}");
        }
    }

    #[test]
    fn border_distances_are_those_of_all_pairs(
        ((a, b), spacing) in (pair(), spacing())
    ) {
        for (reach, connectivity) in
            [(1, Connectivity::Faces), (2, Connectivity::Edges), (3, Connectivity::Corners)]
        {
            let (from, to) = (border(&a, reach), border(&b, reach));
            let found = BorderDistances::of(&a.view(), &b.view(), &spacing, connectivity).unwrap();
            let Ok(found) = found else {
                prop_assert!(from.is_empty() || to.is_empty());
                continue;
            };
            let there: Vec<f64> = from.iter().map(|&p| nearest(p, &to, spacing)).collect();
            let back: Vec<f64> = to.iter().map(|&p| nearest(p, &from, spacing)).collect();
            prop_assert_eq!(found.to_reference().len(), there.len());
            prop_assert_eq!(found.to_result().len(), back.len());
            for (a, b) in found.to_reference().iter().zip(&there) {
                prop_assert!(close(*a, *b));
            }
            for (a, b) in found.to_result().iter().zip(&back) {
                prop_assert!(close(*a, *b));
            }
            // The percentile by sorting.
            let mut all = [there, back].concat();
            all.sort_by(f64::total_cmp);
            for percent in [0.0, 37.0, 50.0, 95.0, 100.0] {
                let place = percent / 100.0 * (all.len() - 1) as f64;
                let (low, high) = (all[place.floor() as usize], all[place.ceil() as usize]);
                let sorted = low + (high - low) * place.fract();
                prop_assert!(close(found.percentile(percent).unwrap(), sorted));
            }
        }
    }

    #[test]
    fn voxel_distances_are_those_of_all_pairs(((a, b), spacing) in (pair(), spacing())) {
        let (from, to) = (places(&a), places(&b));
        let Ok(found) = VoxelDistances::of(&a.view(), &b.view(), &spacing).unwrap() else {
            prop_assert!(from.is_empty() || to.is_empty());
            return Ok(());
        };
        let there: Vec<f64> = from.iter().map(|&p| nearest(p, &to, spacing)).collect();
        let sum: f64 = there.iter().sum();
        prop_assert!(close(found.average_to_reference, sum / there.len() as f64));
        prop_assert!(close(found.largest_to_reference, there.iter().copied().fold(0.0, f64::max)));
    }

    #[test]
    fn surfels_sit_on_mixed_corners(((a, b), spacing) in (pair(), spacing())) {
        let corners = |mask: &Array3<bool>| -> Vec<Place> {
            let (x, y, z) = mask.dim();
            let around = |c: Place| (0..8usize).filter(|i| {
                let v = [c[0] + (i >> 2), c[1] + (i >> 1 & 1), c[2] + (i & 1)];
                // Voxel v - 1; zero is outside.
                v.iter().all(|&v| v > 0)
                    && mask.get([v[0] - 1, v[1] - 1, v[2] - 1]).copied().unwrap_or(false)
            }).count();
            (0..=x)
                .flat_map(|x| (0..=y).flat_map(move |y| (0..=z).map(move |z| [x, y, z])))
                .filter(|&c| (1..8).contains(&around(c)))
                .collect()
        };
        let (from, to) = (corners(&a), corners(&b));
        let Ok(found) = SurfelDistances::of(&a.view(), &b.view(), &spacing).unwrap() else {
            prop_assert!(from.is_empty() || to.is_empty());
            return Ok(());
        };
        let mut there: Vec<f64> = from.iter().map(|&p| nearest(p, &to, spacing)).collect();
        there.sort_by(f64::total_cmp);
        prop_assert_eq!(there.len(), found.to_reference().len());
        for (surfel, brute) in found.to_reference().iter().zip(there) {
            prop_assert!(close(surfel.0, brute) && surfel.1 > 0.0);
        }
    }

    #[test]
    fn points_far_apart_are_found((a, b, spacing) in sparse_pair()) {
        // Too far for a look around: the transform answers, with what lies beyond reach cut off.
        let (from, to) = (places(&a), places(&b));
        let found = BorderDistances::of(&a.view(), &b.view(), &spacing, Connectivity::Faces);
        let Ok(found) = found.unwrap() else {
            prop_assert!(from.is_empty() || to.is_empty());
            return Ok(());
        };
        // A filled block of the lattice has voxels that are no border.
        let (from, to) = (border(&a, 1), border(&b, 1));
        for (ours, &place) in found.to_reference().iter().zip(&from) {
            prop_assert!(close(*ours, nearest(place, &to, spacing)));
        }
        for (ours, &place) in found.to_result().iter().zip(&to) {
            prop_assert!(close(*ours, nearest(place, &from, spacing)));
        }
        prop_assert_eq!(found.to_reference().len(), from.len());
        // The same in another order of memory.
        let turned = |m: &Array3<bool>| m.t().as_standard_layout().into_owned();
        let (c, d) = (turned(&a), turned(&b));
        let again = BorderDistances::of(&c.t(), &d.t(), &spacing, Connectivity::Faces);
        let again = again.unwrap().unwrap();
        prop_assert!(close(again.hausdorff(), found.hausdorff()));
        prop_assert!(close(again.average_symmetric(), found.average_symmetric()));
        prop_assert!(close(again.percentile(60.0).unwrap(), found.percentile(60.0).unwrap()));
    }

    #[test]
    fn swapping_the_masks_changes_nothing(((a, b), spacing) in (pair(), spacing())) {
        for definition in [Definition::Medpy, Definition::SurfaceDistance, Definition::SimpleItk] {
            let there = metrics(&a, &b, spacing, definition);
            let back = metrics(&b, &a, spacing, definition);
            prop_assert_eq!(there.len(), back.len());
            prop_assert!(there.iter().zip(&back).all(|(a, b)| close(*a, *b)), "{there:?} {back:?}");
        }
    }

    #[test]
    fn scaling_the_spacing_scales_the_distances(
        ((a, b), spacing, factor) in (pair(), spacing(), 0.1f64..10.0)
    ) {
        for definition in [Definition::Medpy, Definition::SimpleItk, Definition::SurfaceDistance] {
            let plain = metrics(&a, &b, spacing, definition);
            let scaled = metrics(&a, &b, spacing.map(|s| s * factor), definition);
            // Rounding may move an area-weighted percentile to the next element: leave that out.
            let skip = usize::from(definition == Definition::SurfaceDistance);
            for (plain, scaled) in plain.iter().zip(&scaled).skip(skip) {
                prop_assert!(close(plain * factor, *scaled), "{definition} {plain} {scaled}");
            }
        }
    }

    #[test]
    fn moving_both_masks_changes_nothing(
        ((a, b), spacing, shift) in (pair(), spacing(), [0usize..4, 0usize..4, 0usize..4])
    ) {
        let moved = |mask: &Array3<bool>| {
            let (x, y, z) = mask.dim();
            let mut wide = Array3::from_elem((x + 5, y + 5, z + 5), false);
            let [sx, sy, sz] = shift;
            wide.slice_mut(s![sx..sx + x, sy..sy + y, sz..sz + z]).assign(mask);
            wide
        };
        for definition in [Definition::Medpy, Definition::SurfaceDistance, Definition::SimpleItk] {
            let here = metrics(&a, &b, spacing, definition);
            let there = metrics(&moved(&a), &moved(&b), spacing, definition);
            prop_assert_eq!(here.len(), there.len());
            prop_assert!(here.iter().zip(&there).all(|(a, b)| close(*a, *b)));
        }
    }

    #[test]
    fn turning_the_axes_changes_nothing(((a, b), spacing) in (pair(), spacing())) {
        let turned = |m: &Array3<bool>| m.clone().permuted_axes([2, 0, 1]);
        let spacing_turned = [spacing[2], spacing[0], spacing[1]];
        for definition in [Definition::Medpy, Definition::SurfaceDistance, Definition::SimpleItk] {
            let here = metrics(&a, &b, spacing, definition);
            let there = metrics(&turned(&a), &turned(&b), spacing_turned, definition);
            let skip = usize::from(definition == Definition::SurfaceDistance);
            prop_assert!(
                here.iter().zip(&there).skip(skip).all(|(a, b)| close(*a, *b)),
                "{definition} {here:?} {there:?}"
            );
        }
    }

    #[test]
    fn a_flat_mask_is_measured_as_two_dimensions_say(((a, b), spacing) in (pair(), spacing())) {
        // Border and voxel distances in the plane, against the plane put between empty ones and
        // far from them: only the outline counts in 2-D, so compare with brute force.
        let (a, b) = (a.index_axis(Axis(0), 0), b.index_axis(Axis(0), 0));
        let flat = &spacing[1..];
        let outline = |m: &ndarray::ArrayView2<'_, bool>| -> Vec<Place> {
            let inside = |y: isize, z: isize| {
                usize::try_from(y).ok().zip(usize::try_from(z).ok())
                    .and_then(|p| m.get(p).copied()).unwrap_or(false)
            };
            m.indexed_iter()
                .filter(|&((y, z), &v)| {
                    let (y, z) = (y as isize, z as isize);
                    v && [(y - 1, z), (y + 1, z), (y, z - 1), (y, z + 1)]
                        .iter().any(|&(y, z)| !inside(y, z))
                })
                .map(|((y, z), _)| [0, y, z])
                .collect()
        };
        let (from, to) = (outline(&a), outline(&b));
        let Ok(found) =
            BorderDistances::of(&a, &b, flat, Connectivity::Faces).unwrap() else { return Ok(()); };
        let there: Vec<f64> = from.iter().map(|&p| nearest(p, &to, spacing)).collect();
        prop_assert_eq!(there.len(), found.to_reference().len());
        for (ours, brute) in found.to_reference().iter().zip(there) {
            prop_assert!(close(*ours, brute));
        }
    }
}

/// The metrics of a definition that has them all: the percentile first.
fn metrics(
    a: &Array3<bool>,
    b: &Array3<bool>,
    spacing: [f64; 3],
    definition: Definition,
) -> Vec<f64> {
    let (a, b) = (a.view(), b.view());
    let mut scores = vec![
        hausdorff(&a, &b, &spacing, definition).unwrap(),
        average_symmetric_surface_distance(&a, &b, &spacing, definition).unwrap(),
    ];
    if definition != Definition::SimpleItk {
        let percentile = percentile_hausdorff(&a, &b, &spacing, 90.0, definition).unwrap();
        scores.insert(0, percentile);
    }
    scores
        .into_iter()
        .filter_map(fndm_metrics::Score::value)
        .collect()
}

#[test]
fn identical_masks_are_at_distance_zero() {
    let ball = Array3::from_shape_fn((12, 12, 12), |(x, y, z)| {
        (x as f64 - 5.5).powi(2) + (y as f64 - 5.5).powi(2) + (z as f64 - 5.5).powi(2) < 20.0
    });
    for definition in [
        Definition::Medpy,
        Definition::SurfaceDistance,
        Definition::SimpleItk,
    ] {
        let all = metrics(&ball, &ball, [1.0, 2.0, 3.0], definition);
        assert!(all.iter().all(|&d| d == 0.0), "{definition} {all:?}");
    }
    let nsd = surface_dice(&ball.view(), &ball.view(), &[1.0; 3], 0.0).unwrap();
    assert_eq!(nsd.value(), Some(1.0));
}

#[test]
fn a_long_first_axis_is_counted_in_wider_numbers() {
    let mut line = ArrayD::from_elem(IxDyn(&[70_000, 1, 1]), false);
    line[[0, 0, 0]] = true;
    let distances = distance_transform(&line.view(), &[0.5, 1.0, 1.0]).unwrap();
    assert_eq!(distances[[69_999, 0, 0]], 34_999.5);
}

#[test]
fn masks_that_no_metric_takes_are_errors() {
    let four = ArrayD::from_elem(IxDyn(&[2, 2, 2, 2]), true);
    assert!(hausdorff(&four.view(), &four.view(), &[1.0; 4], Definition::Medpy).is_err());
    let none = ArrayD::from_elem(IxDyn(&[]), true);
    assert!(distance_transform(&none.view(), &[]).is_err());
    let line = ArrayD::from_elem(IxDyn(&[3]), true);
    assert!(hausdorff(&line.view(), &line.view(), &[1.0], Definition::Medpy).is_ok());
    assert!(
        hausdorff(
            &line.view(),
            &line.view(),
            &[1.0],
            Definition::SurfaceDistance
        )
        .is_err()
    );
    let plane = ArrayD::from_elem(IxDyn(&[3, 3]), true);
    for bad in [
        vec![],
        vec![1.0],
        vec![1.0; 3],
        vec![1.0, 0.0],
        vec![1.0, -1.0],
        vec![1.0, f64::NAN],
        vec![1.0, f64::INFINITY],
        vec![1.0, 1e-200],
        vec![1.0, 1e200],
    ] {
        for definition in [
            Definition::Medpy,
            Definition::SurfaceDistance,
            Definition::SimpleItk,
        ] {
            let answer = hausdorff(&plane.view(), &plane.view(), &bad, definition);
            assert!(matches!(answer, Err(Error::Spacing { .. })), "{bad:?}");
        }
        assert!(distance_transform(&plane.view(), &bad).is_err());
        assert!(surface_dice(&plane.view(), &plane.view(), &bad, 1.0).is_err());
    }
    let answer = percentile_hausdorff(
        &plane.view(),
        &plane.view(),
        &[1.0; 2],
        101.0,
        Definition::Medpy,
    );
    assert!(answer.is_err());
    for bad in [-1.0, f64::NAN] {
        assert!(surface_dice(&plane.view(), &plane.view(), &[1.0; 2], bad).is_err());
    }
    // No voxel at all is an empty mask, not a panic.
    let nothing = ArrayD::from_elem(IxDyn(&[0, 4]), true);
    let score = hausdorff(
        &nothing.view(),
        &nothing.view(),
        &[1.0; 2],
        Definition::Medpy,
    )
    .unwrap();
    assert_eq!(score.undefined(), Some(fndm_metrics::Undefined::BothEmpty));
    assert_eq!(
        distance_transform(&nothing.view(), &[1.0; 2])
            .unwrap()
            .len(),
        0
    );
}

#[test]
fn extreme_spacings_keep_their_scale() {
    let ball = |x0: f64| {
        Array3::from_shape_fn((20, 20, 20), |(x, y, z)| {
            (x as f64 - x0).powi(2) + (y as f64 - 9.5).powi(2) + (z as f64 - 9.5).powi(2) < 30.0
        })
    };
    let (a, b) = (ball(8.0), ball(11.0));
    for definition in [
        Definition::Medpy,
        Definition::SurfaceDistance,
        Definition::SimpleItk,
    ] {
        let plain = metrics(&a, &b, [1.0, 2.0, 3.0], definition);
        for scale in [1e-49, 1e-20, 1e20, 1e49] {
            let scaled = metrics(&a, &b, [1.0, 2.0, 3.0].map(|s| s * scale), definition);
            for (plain, scaled) in plain.iter().zip(scaled) {
                assert!(close(scaled / scale, *plain), "{definition} {scale}");
            }
        }
    }
}

#[test]
fn one_voxel_is_enough() {
    let dot = Array3::from_elem((1, 1, 1), true);
    for definition in [
        Definition::Medpy,
        Definition::SurfaceDistance,
        Definition::SimpleItk,
    ] {
        let all = metrics(&dot, &dot, [2.0, 0.5, 1.0], definition);
        assert!(!all.is_empty() && all.iter().all(|&d| d == 0.0));
    }
}

#[test]
fn many_rows_of_no_voxel_are_an_empty_mask() {
    // The product of the axes that are not 0 is what an array's size is limited by.
    let nothing = ArrayD::from_elem(IxDyn(&[1 << 30, 1 << 30, 0]), true);
    let score = hausdorff(
        &nothing.view(),
        &nothing.view(),
        &[1.0; 3],
        Definition::Medpy,
    );
    assert_eq!(
        score.unwrap().undefined(),
        Some(fndm_metrics::Undefined::BothEmpty)
    );
    let parts = fndm_metrics::connected_components(&nothing.view(), Connectivity::Faces);
    assert_eq!(parts.unwrap().count(), 0);
}
