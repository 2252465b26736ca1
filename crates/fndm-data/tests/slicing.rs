//! Cutting, scaling and the way back, against closed forms and the input itself.

use fndm_data::phantom::PhantomConfig;
use fndm_data::preprocess::{HeadThreshold, HistogramReference, Resampler, erode};
use fndm_data::{
    Error, Normalization, Note, Patient, PatientSlices, Plane, Preprocess, SliceSet, Volume,
    affine, find_identical_sequences,
};
use ndarray::{Array2, Array3, Axis, s};
use proptest::prelude::*;

/// A ball of tissue whose brightness tells the place, in RAS order, and a lesion in it.
fn ball(shape: [usize; 3], spacing: [f64; 3]) -> (Volume, Volume) {
    let [x, y, z] = shape.map(|n| n as f64 / 2.0);
    let within = |i: f64, j: f64, k: f64, r: f64| {
        ((i + 0.5 - x) / x).powi(2) + ((j + 0.5 - y) / y).powi(2) + ((k + 0.5 - z) / z).powi(2)
            < r * r
    };
    let dim = (shape[0], shape[1], shape[2]);
    let image = Array3::from_shape_fn(dim, |(i, j, k)| {
        if within(i as f64, j as f64, k as f64, 0.9) {
            (200 + 3 * i + 2 * j + k) as f32
        } else {
            0.0
        }
    });
    let lesion = Array3::from_shape_fn(dim, |(i, j, k)| {
        let inside = within(i as f64, j as f64, k as f64, 0.5);
        f32::from(u8::from(inside && i < shape[0] / 2 && k > shape[2] / 2))
    });
    let matrix = affine::diagonal(spacing);
    (Volume::new(image, matrix), Volume::new(lesion, matrix))
}

fn patient(shape: [usize; 3]) -> Patient {
    let (image, lesion) = ball(shape, [1.0, 1.0, 2.0]);
    Patient {
        id: "p".into(),
        sequences: vec![("flair".into(), image)],
        mask: Some(lesion),
    }
}

fn turned(patient: &Patient, codes: [char; 3]) -> Patient {
    Patient {
        id: patient.id.clone(),
        sequences: patient
            .sequences
            .iter()
            .map(|(n, v)| (n.clone(), affine::reorient(v, codes).unwrap()))
            .collect(),
        mask: patient
            .mask
            .as_ref()
            .map(|m| affine::reorient(m, codes).unwrap()),
    }
}

fn all_codes() -> Vec<[char; 3]> {
    let mut out = Vec::new();
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        for flips in 0..8 {
            let letters = [['R', 'L'], ['A', 'P'], ['S', 'I']];
            out.push(std::array::from_fn(|n| letters[order[n]][(flips >> n) & 1]));
        }
    }
    out
}

/// However the array is stored, the slices are the same, and a mask comes back voxel for voxel.
#[test]
fn the_order_of_axes_in_the_file_does_not_matter() {
    let straight = patient([20, 24, 16]);
    for plane in [Plane::Axial, Plane::Coronal, Plane::Sagittal] {
        let preprocess = Preprocess {
            image_size: 24,
            pad_to: Some(24),
            plane,
            ..Preprocess::default()
        };
        let expected = preprocess.apply(&straight).unwrap();
        for codes in all_codes() {
            let other = turned(&straight, codes);
            let slices = preprocess.apply(&other).unwrap();
            assert_eq!(slices.images, expected.images, "{codes:?}");
            assert_eq!(slices.mask, expected.mask);
            assert_eq!(slices.labels, expected.labels);
            assert_eq!(slices.z, expected.z);
            // Nothing is resized, only padded to 24.
            let back = slices.to_mask(slices.mask.as_ref().unwrap()).unwrap();
            assert_eq!(
                Some(&back.data),
                other.mask.as_ref().map(|m| &m.data),
                "{plane:?} {codes:?}"
            );
            assert_eq!(back.affine, other.sequences[0].1.affine);
        }
    }
}

/// The head is the brain mask and nothing else, however the arrays are stored: what lies outside of it is background, and
/// intensities are those inside.
#[test]
fn a_brain_mask_takes_the_heads_place() {
    let mut straight = patient([20, 24, 16]);
    let brain = Array3::from_shape_fn((20, 24, 16), |(i, j, k)| {
        let inside = (6..13).contains(&i) && (5..19).contains(&j) && (4..12).contains(&k);
        f32::from(u8::from(inside)) * 0.3
    });
    let place = straight.sequences[0].1.affine;
    let brain = Volume::new(brain, place);
    straight.sequences.push(("brain".into(), brain.clone()));
    let preprocess = Preprocess {
        image_size: 24,
        pad_to: Some(24),
        percentiles: (0.0, 100.0),
        brain_mask: Some("brain".into()),
        ..Preprocess::default()
    };
    assert_eq!(preprocess.names_to_read(&["flair"]), ["flair", "brain"]);
    for codes in all_codes() {
        let slices = preprocess.apply(&turned(&straight, codes)).unwrap();
        assert_eq!(slices.sequences, ["flair"], "{codes:?}");
        assert_eq!(slices.images.dim(), (16, 1, 24, 24));
        let head = slices.to_mask(&slices.head).unwrap();
        let map = slices.to_volume(&slices.images.index_axis(Axis(1), 0).to_owned());
        let straightened = |volume| affine::reorient(volume, ['R', 'A', 'S']).unwrap().data;
        let (head, map) = (straightened(&head), straightened(&map.unwrap()));
        // Inside it is brightness 200 + 3 i + 2 j + k, from (6, 5, 4) to (12, 18, 11).
        let (low, high) = (232.0, 283.0);
        for ((i, j, k), &inside) in head.indexed_iter() {
            assert_eq!(inside > 0.0, brain.data[[i, j, k]] > 0.0, "{codes:?}");
            let value = (200 + 3 * i + 2 * j + k) as f32;
            let expected = match inside > 0.0 {
                true => 2.0 * (value - low) / (high - low) - 1.0,
                false => -1.0,
            };
            assert!((map[[i, j, k]] - expected).abs() < 1e-5, "{codes:?}");
        }
    }

    // It has to be there, not alone, with voxels inside and outside, and on the grid of the others.
    let message = |patient: &Patient| preprocess.apply(patient).unwrap_err().to_string();
    let plain = patient([20, 24, 16]);
    assert!(message(&plain).contains("a brain mask brain among them"));
    let mut wrong = straight.clone();
    wrong.sequences.remove(0);
    assert!(message(&wrong).contains("at least one"));
    let mut wrong = straight.clone();
    wrong.sequences[1].1.data.fill(0.0);
    assert!(matches!(
        preprocess.apply(&wrong),
        Err(Error::ConstantVolume { .. })
    ));
    let mut wrong = straight.clone();
    wrong.sequences[1].1.affine[0][3] += 3.0;
    assert!(matches!(
        preprocess.apply(&wrong),
        Err(Error::GridMismatch { .. })
    ));
    let empty = Preprocess {
        brain_mask: Some(String::new()),
        ..preprocess
    };
    assert!(empty.check().is_err());
}

/// Axial slices: from the feet upwards, seen from below.
#[test]
fn axial_slices_look_as_a_radiologist_expects() {
    let mut patient = patient([20, 24, 16]);
    // A bright spot in front, on the patient's right, near the top (RAS: high, high, high).
    patient.sequences[0].1.data.fill(100.0);
    patient.sequences[0]
        .1
        .data
        .slice_mut(s![15..18, 18..21, 12..14])
        .fill(900.0);
    patient.sequences[0].1.data[(0, 0, 0)] = 0.0;
    let preprocess = Preprocess {
        image_size: 24,
        percentiles: (0.0, 100.0),
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&patient).unwrap();
    let bright = |n: usize| -> Vec<(usize, usize)> {
        let slice = slices.images.slice(s![n, 0, .., ..]);
        slice
            .indexed_iter()
            .filter(|(_, v)| **v > 0.9)
            .map(|(p, _)| p)
            .collect()
    };
    assert!(bright(5).is_empty());
    // Rows from the front, columns from the right; 20 columns stand in 24.
    assert_eq!(bright(12).first(), Some(&(3, 2 + 2)));
    assert_eq!(bright(13).last(), Some(&(5, 2 + 4)));
}

#[test]
fn slices_are_chosen_by_place_number_and_content() {
    let patient = patient([20, 20, 21]);
    let chosen = |preprocess: Preprocess| preprocess.apply(&patient).unwrap().z;
    let all = Preprocess::default();
    assert_eq!(chosen(all.clone()), (0..21).collect::<Vec<_>>());
    let range = Preprocess {
        z_range: (0.30, 0.85),
        ..all.clone()
    };
    assert_eq!(chosen(range), (6..=17).collect::<Vec<_>>());
    let dropped = Preprocess {
        drop_lower: 3,
        drop_upper: 5,
        ..all.clone()
    };
    assert_eq!(chosen(dropped), (3..16).collect::<Vec<_>>());
    let full = Preprocess {
        min_head_fraction: 0.3,
        ..all.clone()
    };
    let full = chosen(full);
    assert!(full.len() < 21 && full.contains(&10) && !full.contains(&0));
    let none = Preprocess {
        drop_lower: 21,
        ..all.clone()
    };
    let error = none.apply(&patient).unwrap_err();
    assert!(matches!(error, Error::NoSlices { .. }), "{error}");
    let none = Preprocess {
        min_head_fraction: 1.0,
        ..all
    };
    assert!(matches!(none.apply(&patient), Err(Error::NoSlices { .. })));
}

#[test]
fn intensities_are_scaled_by_the_percentiles_of_the_head() {
    // Ten thousand voxels of head with the values 1 to 10,000, in a frame of zeros.
    let mut data = Array3::<f32>::zeros((30, 30, 25));
    let mut value = 0.0;
    data.slice_mut(s![5..25, 5..25, ..]).mapv_inplace(|_| {
        value += 1.0;
        value
    });
    let patient = Patient {
        id: "p".into(),
        sequences: vec![(
            "t1".into(),
            Volume::new(data.clone(), affine::diagonal([1.0; 3])),
        )],
        mask: None,
    };
    let preprocess = Preprocess {
        image_size: 30,
        head: HeadThreshold::Fraction { value: 1e-9 },
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&patient).unwrap();
    assert_eq!(slices.head.iter().filter(|b| **b).count(), 10_000);
    // Ranks 1 + 0.01 * 9999 and 1 + 0.99 * 9999, as numpy's percentile gives.
    let (low, high) = (100.99, 9900.01);
    for (n, k) in slices.z.iter().enumerate() {
        for i in 0..30 {
            for j in 0..30 {
                let stored = f64::from(data[(i, j, *k)]);
                let expected = if stored == 0.0 {
                    -1.0
                } else {
                    ((stored - low) / (high - low) * 2.0 - 1.0).clamp(-1.0, 1.0)
                };
                // Rows from the front (j downwards), columns from the right (i downwards).
                let got = f64::from(slices.images[(n, 0, 29 - j, 29 - i)]);
                assert!((got - expected).abs() < 1e-5, "{got} {expected}");
            }
        }
    }
    // z-score: mean of the clipped values is 0 within rounding of the clipped ends.
    let scored = Preprocess {
        normalization: Normalization::ZScore { clip: 3.0 },
        ..preprocess.clone()
    };
    let slices = scored.apply(&patient).unwrap();
    let inside: Vec<f64> = slices
        .images
        .index_axis(Axis(1), 0)
        .iter()
        .zip(&slices.head)
        .filter(|(_, h)| **h)
        .map(|(v, _)| f64::from(*v) * 3.0)
        .collect();
    let mean = inside.iter().sum::<f64>() / inside.len() as f64;
    let variance = inside.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / inside.len() as f64;
    assert!(
        mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-4,
        "{mean} {variance}"
    );
}

/// A volume whose intensities went through a rising curve is matched back to the original.
#[test]
fn histogram_matching_undoes_a_curve() {
    let plain = patient([32, 32, 20]);
    let mut curved = plain.clone();
    curved.sequences[0]
        .1
        .data
        .mapv_inplace(|v| v * 0.5 + (v / 100.0).powi(3));
    let preprocess = Preprocess {
        image_size: 32,
        ..Preprocess::default()
    };
    let reference = HistogramReference::fit([&plain], &preprocess).unwrap();
    let matched = Preprocess {
        normalization: Normalization::Histogram {
            reference: reference.clone(),
        },
        ..preprocess.clone()
    };
    let expected = preprocess.apply(&plain).unwrap().images;
    let far = |images: &ndarray::Array4<f32>| {
        let sum: f32 = images
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .sum();
        sum / expected.len() as f32
    };
    let before = far(&preprocess.apply(&curved).unwrap().images);
    let after = far(&matched.apply(&curved).unwrap().images);
    assert!(after < 0.1 * before, "{before} -> {after}");
    // The reference itself stays as it is.
    assert!(far(&matched.apply(&plain).unwrap().images) < 1e-3);
    // It is saved with the model.
    let text = serde_json::to_string(&matched).unwrap();
    assert_eq!(serde_json::from_str::<Preprocess>(&text).unwrap(), matched);
    assert!(reference.landmarks("t9").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The mean is kept by area averages; constants are kept by all.
    #[test]
    fn resampling_keeps_mean_and_constants(input in 1usize..40, output in 1usize..40, seed in any::<u32>()) {
        let image = Array2::from_shape_fn((input, input), |(y, x)| {
            ((y * 37 + x * 101 + seed as usize) % 97) as f32
        });
        let run = |resampler: &Resampler, image: &Array2<f32>| {
            let mut out = Array2::zeros((output, output));
            resampler.apply(image.view(), out.view_mut());
            out
        };
        let area = run(&Resampler::area(input, output), &image);
        let mean = |a: &Array2<f32>| a.iter().map(|v| f64::from(*v)).sum::<f64>() / a.len() as f64;
        prop_assert!((mean(&area) - mean(&image)).abs() < 1e-3);
        let constant = Array2::from_elem((input, input), 3.0);
        for resampler in [
            Resampler::area(input, output),
            Resampler::linear(input, output),
            Resampler::nearest(input, output),
            Resampler::image(input, output),
        ] {
            prop_assert_eq!(resampler.output(), output);
            let out = run(&resampler, &constant);
            prop_assert!(out.iter().all(|v| (v - 3.0).abs() < 1e-5));
            let out = run(&resampler, &image);
            let (low, high) = (image.iter().copied().fold(f32::MAX, f32::min), image.iter().copied().fold(0.0, f32::max));
            prop_assert!(out.iter().all(|v| *v >= low - 1e-3 && *v <= high + 1e-3));
        }
        // Linear interpolation of a ramp is the ramp, away from the edges.
        let ramp = Array2::from_shape_fn((input, input), |(_, x)| x as f32 + 0.5);
        let out = run(&Resampler::linear(input, output), &ramp);
        let step = input as f64 / output as f64;
        for x in 0..output {
            let place = ((x as f64 + 0.5) * step).clamp(0.5, input as f64 - 0.5);
            prop_assert!((f64::from(out[(0, x)]) - place).abs() < 1e-4);
        }
    }

    /// A mask at any size lands on the input's grid; large shapes come back nearly whole.
    #[test]
    fn masks_land_where_they_were(size in 16usize..80, i in 20usize..48, j in 20usize..48, code in 0usize..48) {
        let patient = turned(&patient([i, j, 12]), all_codes()[code]);
        let slices = Preprocess { image_size: size, ..Preprocess::default() }.apply(&patient).unwrap();
        let back = slices.to_mask(slices.mask.as_ref().unwrap()).unwrap();
        let truth = patient.mask.as_ref().unwrap();
        prop_assert_eq!(back.shape(), truth.shape());
        prop_assert_eq!(back.affine, truth.affine);
        // A voxel may only change where the mask's edge runs through the coarse pixel that it lies in.
        let reach = (i.max(j) as f64 / size as f64).ceil() as isize;
        let codes = truth.axis_codes();
        let up = codes.iter().position(|c| *c == 'S' || *c == 'I').unwrap();
        for (place, &bit) in back.data.indexed_iter() {
            let place = [place.0, place.1, place.2];
            let (mut all, mut any) = (true, false);
            for d in 0..(2 * reach + 1).pow(2) {
                let steps = [d / (2 * reach + 1) - reach, d % (2 * reach + 1) - reach];
                let mut near = place.map(|n| n as isize);
                near[(up + 1) % 3] += steps[0];
                near[(up + 2) % 3] += steps[1];
                // Beyond the volume there is padding, which is no lesion.
                let at = near.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                let lesion = truth.data.get(at).is_some_and(|v| *v > 0.0);
                all &= lesion;
                any |= lesion;
            }
            prop_assert!(!all || bit == 1.0, "{:?}", place);
            prop_assert!(any || bit == 0.0, "{:?}", place);
        }
        // Maps: a constant stays one in the slices used.
        let maps = Array3::from_elem((slices.len(), size, size), 2.0);
        let map = slices.to_volume(&maps).unwrap();
        prop_assert!(map.data.iter().all(|v| (v - 2.0).abs() < 1e-5));
    }

    /// Erosion by city-block steps, against its definition.
    #[test]
    fn erosion_is_the_distance_to_the_outside(bits in prop::collection::vec(prop::bool::weighted(0.9), 120), pixels in 0usize..5) {
        let mask = Array2::from_shape_vec((10, 12), bits).unwrap();
        let got = erode(mask.view(), pixels);
        for ((y, x), &bit) in got.indexed_iter() {
            let mut expected = true;
            let reach = pixels as isize;
            for dy in -reach..=reach {
                for dx in -(reach - dy.abs())..=(reach - dy.abs()) {
                    let (v, u) = (y as isize + dy, x as isize + dx);
                    let inside = (0..10).contains(&v) && (0..12).contains(&u);
                    expected &= inside && mask[(v as usize, u as usize)];
                }
            }
            prop_assert_eq!(bit, expected);
        }
    }
}

#[test]
fn unused_slices_are_zero_on_the_way_back() {
    let patient = patient([20, 20, 21]);
    let preprocess = Preprocess {
        image_size: 10,
        z_range: (0.3, 0.85),
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&patient).unwrap();
    let maps = Array3::from_elem((slices.len(), 10, 10), 1.0);
    let volume = slices.to_volume(&maps).unwrap();
    for k in 0..21 {
        let expected = if (6..=17).contains(&k) { 1.0 } else { 0.0 };
        assert!(
            volume
                .data
                .index_axis(Axis(2), k)
                .iter()
                .all(|v| (v - expected).abs() < 1e-6)
        );
    }
    for wrong in [(1, 10, 10), (slices.len(), 10, 11)] {
        let error = slices.to_volume(&Array3::zeros(wrong)).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        assert!(slices.to_mask(&Array3::from_elem(wrong, false)).is_err());
    }
    assert_eq!(slices.geometry.total_slices(), 21);
    assert_eq!(slices.geometry.pixel_spacing(), [2.0, 2.0]);
}

#[test]
fn padding_keeps_the_aspect() {
    // 240 stands in 256: 8 on each side, halved twice.
    let mut data = Array3::<f32>::from_elem((240, 200, 2), 5.0);
    data[(0, 0, 0)] = 0.0;
    let patient = Patient {
        id: "p".into(),
        sequences: vec![("t1".into(), Volume::new(data, affine::diagonal([1.0; 3])))],
        mask: None,
    };
    let preprocess = Preprocess {
        image_size: 64,
        pad_to: Some(256),
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&patient).unwrap();
    let head = slices.head.index_axis(Axis(0), 1);
    let columns = (0..64).filter(|&x| head[(32, x)]).count();
    let rows = (0..64).filter(|&y| head[(y, 32)]).count();
    assert_eq!((columns, rows), (60, 50));
}

/// What is cropped is 0 on the way back; the rest is where it was.
#[test]
fn cropping_takes_the_middle() {
    let patient = patient([20, 24, 16]);
    let truth = &patient.mask.as_ref().unwrap().data;
    for (crop, pad) in [
        (12, None),
        (12, Some(17)),
        (7, None),
        (22, None),
        (22, Some(30)),
    ] {
        let preprocess = Preprocess {
            image_size: pad.unwrap_or(crop),
            crop_to: Some(crop),
            pad_to: pad,
            ..Preprocess::default()
        };
        let slices = preprocess.apply(&patient).unwrap();
        let back = slices.to_mask(slices.mask.as_ref().unwrap()).unwrap();
        // Of the array's own axes, which run to the right and the front, the middle is
        // taken from the other ends: rows from the front, columns from the right.
        let kept = |n: usize, size: usize| {
            let cut = size.saturating_sub(crop) / 2;
            (cut..cut + crop.min(size)).contains(&(size - 1 - n))
        };
        for ((i, j, k), &bit) in back.data.indexed_iter() {
            let expected = if kept(i, 20) && kept(j, 24) {
                truth[(i, j, k)]
            } else {
                0.0
            };
            assert_eq!(bit, expected, "crop {crop}, pad {pad:?}: {i} {j} {k}");
        }
    }
}

#[test]
fn bad_volumes_are_told_by_name() {
    let good = patient([8, 9, 10]);
    let preprocess = Preprocess::default();
    let with = |change: &dyn Fn(&mut Patient)| {
        let mut patient = good.clone();
        let copy = patient.sequences[0].1.clone();
        patient.sequences.push(("t2".into(), copy));
        change(&mut patient);
        preprocess.apply(&patient).unwrap_err()
    };
    let error = with(&|p| {
        p.sequences[1].1.data[(1, 2, 3)] = f32::NAN;
        p.sequences[1].1.data[(1, 2, 4)] = f32::INFINITY;
    });
    assert_eq!(
        error.to_string(),
        "patient p: t2 has 2 of 720 voxels that are NaN, infinite, or beyond float32 (3.4e38)"
    );
    let error = with(&|p| p.sequences[1].1.data.fill(0.0));
    assert_eq!(
        error.to_string(),
        "patient p: every voxel of t2 is 0: the volume is empty"
    );
    let error = with(&|p| p.sequences[1].1.data = Array3::ones((8, 9, 11)));
    assert!(
        matches!(&error, Error::GridMismatch { first, second, what: "shape", .. } if first == "flair" && second == "t2"),
        "{error}"
    );
    let error = with(&|p| p.sequences[1].1.affine[0][3] += 0.01);
    assert!(
        matches!(&error, Error::GridMismatch { what: "affine", .. }),
        "{error}"
    );
    let error = with(&|p| {
        p.mask = Some(Volume::new(
            Array3::zeros((8, 9, 9)),
            affine::diagonal([1.0, 1.0, 2.0]),
        ));
    });
    assert!(
        matches!(&error, Error::GridMismatch { second, .. } if second == "mask"),
        "{error}"
    );
    let error = with(&|p| p.sequences.clear());
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    let error = with(&|p| {
        p.mask = None;
        for (_, v) in &mut p.sequences {
            v.data = Array3::zeros((0, 1, 1));
        }
    });
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let base = Preprocess::default;
    let wrong = [
        Preprocess {
            image_size: 0,
            ..base()
        },
        Preprocess {
            z_range: (0.5, 0.4),
            ..base()
        },
        Preprocess {
            z_range: (f64::NAN, 1.0),
            ..base()
        },
        Preprocess {
            min_head_fraction: 1.5,
            ..base()
        },
        Preprocess {
            crop_to: Some(0),
            ..base()
        },
        Preprocess {
            pad_to: Some(0),
            ..base()
        },
        Preprocess {
            percentiles: (99.0, 1.0),
            ..base()
        },
        Preprocess {
            normalization: Normalization::ZScore { clip: 0.0 },
            ..base()
        },
        Preprocess {
            head: HeadThreshold::Otsu { scale: 2.0 },
            ..base()
        },
        Preprocess {
            head: HeadThreshold::Fraction { value: 1.0 },
            ..base()
        },
    ];
    for preprocess in wrong {
        let error = preprocess.check().unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
    let text = serde_json::to_string(&base()).unwrap();
    assert_eq!(serde_json::from_str::<Preprocess>(&text).unwrap(), base());
    assert_eq!(serde_json::from_str::<Preprocess>("{}").unwrap(), base());
}

#[test]
fn copies_are_found() {
    let mut patient = patient([8, 9, 10]);
    let copy = patient.sequences[0].1.clone();
    let mut other = copy.clone();
    other.data[(4, 4, 4)] += 1.0;
    patient.sequences.push(("t1".into(), copy));
    patient.sequences.push(("t2".into(), other));
    assert_eq!(
        find_identical_sequences(&patient),
        [("flair".to_string(), "t1".to_string())]
    );
}

fn cut(id: &str, change: impl Fn(&mut PatientSlices)) -> PatientSlices {
    let mut patient = patient([12, 12, 9]);
    patient.id = id.into();
    let preprocess = Preprocess {
        image_size: 8,
        ..Preprocess::default()
    };
    let mut slices = preprocess.apply(&patient).unwrap();
    change(&mut slices);
    slices
}

#[test]
fn sets_join_patients() {
    let set = SliceSet::from_patients([cut("a", |_| ()), cut("b", |_| ())]).unwrap();
    assert_eq!(set.len(), 18);
    assert_eq!(set.ids, ["a", "b"]);
    assert_eq!(set.patient[8..10], [0, 1]);
    assert_eq!(set.z[..9], set.z[9..]);
    assert_eq!(set.images.shape(), [18, 1, 8, 8]);
    let diseased = set.with_label(1);
    assert_eq!(diseased.len() + set.with_label(0).len(), 18);
    let part = set.select(&diseased).unwrap();
    assert!(part.labels.iter().all(|l| *l == 1) && !part.is_empty());
    assert!(matches!(
        set.select(&[18]),
        Err(Error::InvalidConfig { .. })
    ));

    let none: [PatientSlices; 0] = [];
    assert!(matches!(
        SliceSet::from_patients(none),
        Err(Error::EmptySplit { .. })
    ));
    let error = SliceSet::from_patients([cut("a", |s| s.labels = None)]).unwrap_err();
    assert!(matches!(error, Error::NoMask { .. }), "{error}");
    let renamed = cut("b", |s| s.sequences[0] = "t1".into());
    let error = SliceSet::from_patients([cut("a", |_| ()), renamed]).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    let larger = cut("b", |s| s.images = ndarray::Array4::zeros((9, 1, 9, 9)));
    let error = SliceSet::from_patients([cut("a", |_| ()), larger]).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

/// Scans whose background is not the lowest value: grey air in one sequence of three, in all, and a
/// volume of mean 0 whose background is 0. The head is the same as with dark air, and so is the image.
#[test]
fn a_bright_background_is_no_head() {
    let (tissue, _) = ball([32, 32, 20], [1.0; 3]);
    let inside = tissue.data.mapv(|v| v > 0.0);
    let with_air = |level: f32, scale: f32, shift: f32| {
        let mut out = tissue.clone();
        out.data
            .mapv_inplace(|v| if v > 0.0 { v * scale + shift } else { level });
        out
    };
    let cut = |volumes: Vec<Volume>| {
        let named = volumes.into_iter().enumerate();
        let patient = Patient {
            id: "p".into(),
            sequences: named.map(|(n, v)| (format!("s{n}"), v)).collect(),
            mask: None,
        };
        let preprocess = Preprocess {
            image_size: 32,
            ..Preprocess::default()
        };
        preprocess.apply(&patient).unwrap()
    };
    let dark = || with_air(0.0, 1.0, 0.0);
    // Grey air, and fluid in the middle that is darker than it.
    let grey = || {
        let mut out = with_air(120.0, 1.0, 0.0);
        out.data.slice_mut(s![14..18, 14..18, 8..12]).fill(1.0);
        out
    };
    let scored = || with_air(0.0, -1.0, 100.0);
    let expected = cut(vec![dark(), dark(), dark()]);
    assert_eq!(
        expected.head.iter().filter(|b| **b).count(),
        inside.iter().filter(|b| **b).count()
    );
    for volumes in [
        vec![dark(), grey(), dark()],
        vec![grey(), grey()],
        vec![grey()],
        vec![scored(), dark()],
        vec![scored()],
    ] {
        let count = volumes.len();
        let got = cut(volumes);
        assert_eq!(got.head, expected.head, "{count} sequences");
    }
    // What the network sees of the other sequences is not touched.
    let mixed = cut(vec![dark(), grey(), dark()]);
    for channel in [0, 2] {
        let (a, b) = (
            expected.images.index_axis(Axis(1), channel),
            mixed.images.index_axis(Axis(1), channel),
        );
        assert_eq!(a, b);
    }
}

/// The same with noise and soft borders: the air of one sequence of a phantom made grey.
#[test]
fn grey_air_in_one_sequence_leaves_the_head_as_it_is() {
    let preprocess = Preprocess::default();
    for seed in 0..4 {
        let mut patient = PhantomConfig::default().patient(seed).unwrap();
        let before = preprocess.apply(&patient).unwrap();
        let share =
            |head: &Array3<bool>| head.iter().filter(|b| **b).count() as f64 / head.len() as f64;
        let t1 = &mut patient.sequences[1].1.data;
        let level = 0.6 * t1.iter().copied().fold(0.0, f32::max);
        // Axes left, back, up; slices are up, back, left.
        for ((i, j, k), value) in t1.indexed_iter_mut() {
            if !before.head[(k, j, i)] {
                *value += level;
            }
        }
        let after = preprocess.apply(&patient).unwrap();
        let changed = before
            .head
            .iter()
            .zip(&after.head)
            .filter(|(a, b)| a != b)
            .count();
        let changed = changed as f64 / before.head.len() as f64;
        println!(
            "{} to {} of the volume, {changed} changed",
            share(&before.head),
            share(&after.head)
        );
        assert!(
            share(&before.head) < 0.7 && changed < 0.01,
            "{seed}: {changed}"
        );
    }
}

/// Shapes that a small packed file may claim: refused before the memory is taken.
#[test]
fn extreme_shapes_are_refused() {
    let cut = |shape: (usize, usize, usize), preprocess: &Preprocess| {
        let mut data = Array3::zeros(shape);
        data[(0, 0, 0)] = 1.0;
        let patient = Patient {
            id: "p".into(),
            sequences: vec![("t1".into(), Volume::new(data, affine::diagonal([1.0; 3])))],
            mask: None,
        };
        preprocess.apply(&patient)
    };
    let plain = Preprocess::default();
    let error = cut((1 << 20, 1, 1), &plain).unwrap_err();
    assert!(
        matches!(&error, Error::Shape { got, .. } if *got == [1, 1 << 20]),
        "{error}"
    );
    let error = cut((1, 1, 1 << 20), &plain).unwrap_err();
    assert!(
        matches!(&error, Error::Shape { got, .. } if *got == [1 << 20, 1, 64, 64]),
        "{error}"
    );
    // Cropped, the first can be used; and one voxel is a volume.
    let cropped = Preprocess {
        crop_to: Some(64),
        ..plain.clone()
    };
    assert_eq!(cut((1 << 16, 1, 1), &cropped).unwrap().len(), 1);
    assert_eq!(cut((2, 1, 1), &plain).unwrap().len(), 1);
}

/// A mask that was resampled rings: what is above 0.5 is lesion, and the user is told.
#[test]
fn what_counts_as_lesion() {
    let mut p = patient([16, 16, 8]);
    let mask = &mut p.mask.as_mut().unwrap().data;
    mask.fill(0.02);
    mask[(7, 7, 2)] = 0.5;
    mask[(7, 7, 4)] = 0.51;
    mask[(7, 7, 5)] = 1.23;
    mask[(7, 8, 5)] = -0.15;
    let preprocess = Preprocess {
        image_size: 16,
        ..Preprocess::default()
    };
    let slices = preprocess.apply(&p).unwrap();
    assert_eq!(
        slices.labels.as_deref(),
        Some(&[0, 0, 0, 0, 1, 1, 0, 0][..])
    );
    let lesion = slices.mask.as_ref().unwrap();
    assert_eq!(lesion.iter().filter(|bit| **bit).count(), 2);
    let below = 16 * 16 * 8 - 3;
    let told = Note::NotBinary {
        low: -0.15,
        high: 1.23,
        below,
        lesion: 2,
    };
    assert_eq!(slices.notes, [told]);
    assert!(slices.notes[0].to_string().contains("-0.15 to 1.23"));

    // Labels as in BraTS are lesion, and nothing is odd about them.
    let mask = &mut p.mask.as_mut().unwrap().data;
    mask.fill(0.0);
    for (k, label) in [(1, 1.0), (2, 2.0), (4, 4.0)] {
        mask[(7, 7, k)] = label;
    }
    let slices = preprocess.apply(&p).unwrap();
    assert_eq!(
        slices.labels.as_deref(),
        Some(&[0, 1, 1, 0, 1, 0, 0, 0][..])
    );
    assert_eq!(slices.notes, []);

    let mask = &mut p.mask.as_mut().unwrap().data;
    mask[(0, 0, 0)] = f32::NAN;
    let error = preprocess.apply(&p).unwrap_err();
    assert!(
        matches!(&error, Error::NotFinite { sequence, .. } if sequence == "mask"),
        "{error}"
    );
}

/// A mask of the brain under the name of one of lesions is told.
#[test]
fn a_mask_that_covers_the_head_is_told() {
    let mut p = patient([16, 16, 8]);
    let preprocess = Preprocess {
        image_size: 16,
        ..Preprocess::default()
    };
    assert_eq!(preprocess.apply(&p).unwrap().notes, []);
    let head = p.sequences[0].1.data.mapv(|v| f32::from(u8::from(v > 0.0)));
    p.mask.as_mut().unwrap().data = head;
    let slices = preprocess.apply(&p).unwrap();
    assert!(
        matches!(slices.notes[..], [Note::CoversHead { share }] if share > 0.95),
        "{:?}",
        slices.notes
    );
    p.mask = None;
    assert_eq!(preprocess.apply(&p).unwrap().notes, []);
}

/// Where the grid of the slices lies in the volume, told by `square`, is where masks land.
#[test]
fn the_square_tells_where_a_pixel_lies() {
    let straight = patient([20, 24, 16]);
    for (crop_to, pad_to) in [
        (None, None),
        (None, Some(32)),
        (Some(16), None),
        (Some(16), Some(32)),
    ] {
        let preprocess = Preprocess {
            image_size: 8,
            crop_to,
            pad_to,
            ..Preprocess::default()
        };
        for codes in [['R', 'A', 'S'], ['L', 'P', 'I'], ['I', 'R', 'P']] {
            let slices = preprocess.apply(&turned(&straight, codes)).unwrap();
            let geometry = &slices.geometry;
            assert_eq!(geometry.stack(), [16, 24, 20]);
            assert_eq!(geometry.directions(), ['S', 'P', 'L']);
            let (top, left, side) = geometry.square();
            let pixel = side as f64 / 8.;
            // Where a small part is padded to a large square, only the middle has any pixels.
            let places = match (crop_to, pad_to) {
                (Some(_), Some(_)) => [(3, 4), (4, 3), (4, 4)],
                _ => [(2, 3), (5, 4), (4, 6)],
            };
            for (y, x) in places {
                let mut mask = Array3::from_elem(slices.head.raw_dim(), false);
                mask[(1, y, x)] = true;
                let back = slices.to_mask(&mask).unwrap();
                let stack = geometry.reorder().view(back.data.view());
                let marked: Vec<_> = stack.indexed_iter().filter(|(_, v)| **v > 0.).collect();
                assert!(!marked.is_empty());
                for ((z, row, column), _) in marked {
                    assert_eq!(z, slices.z[1]);
                    let within = |place: usize, start: isize, n: usize| {
                        let at = (place as f64 + 0.5 - start as f64) / pixel;
                        at > n as f64 && at < n as f64 + 1.
                    };
                    assert!(
                        within(row, top, y) && within(column, left, x),
                        "{codes:?} {row} {column}"
                    );
                }
            }
        }
    }
}

/// Masks beside the lesion of the whole volume, counted voxel by voxel on the input's grid: resized, cropped, however the file is stored.
#[test]
fn whole_overlap_counts_what_is_written() {
    let straight = patient([20, 24, 16]);
    for (crop_to, pad_to, image_size, z_range) in [
        (None, Some(24), 24, (0., 1.)),
        (None, None, 11, (0.2, 0.6)),
        (Some(18), None, 18, (0.4, 1.)),
        (Some(14), Some(40), 25, (0., 0.8)),
    ] {
        let preprocess = Preprocess {
            image_size,
            pad_to,
            crop_to,
            z_range,
            ..Preprocess::default()
        };
        for codes in all_codes() {
            let patient = turned(&straight, codes);
            let slices = preprocess.apply(&patient).unwrap();
            // Neither the lesion nor far from it.
            let mut masks = slices.mask.clone().unwrap();
            masks.indexed_iter_mut().for_each(|((n, y, x), bit)| {
                *bit = (*bit || (y + x) % 7 == 0) && (n + x) % 3 != 0;
            });
            let written = slices.to_mask(&masks).unwrap();
            let mut counted = fndm_data::Overlap::default();
            let truth = &patient.mask.as_ref().unwrap().data;
            for (&marked, &lesion) in written.data.iter().zip(truth) {
                match (marked > 0.5, lesion > 0.5) {
                    (true, true) => counted.both += 1,
                    (true, false) => counted.mask_only += 1,
                    (false, true) => counted.lesion_only += 1,
                    (false, false) => {}
                }
            }
            let found = slices.whole_overlap(&written).unwrap();
            assert_eq!(found, Some(counted), "{codes:?}");
            assert!(counted.both > 0 && counted.mask_only > 0 && counted.lesion_only > 0);
            let lesion = slices.lesion.as_ref().unwrap();
            assert_eq!(lesion.voxels(), counted.both + counted.lesion_only);
            // Of some of the slices nothing can be said.
            let some = slices.select(&[0]).unwrap();
            assert_eq!(some.whole_overlap(&written).unwrap(), None);
            let other = Volume::new(Array3::zeros((2, 2, 2)), written.affine);
            assert!(slices.whole_overlap(&other).is_err());
        }
    }
}

/// A disc that a fine grid shows sharply: drawn between the pixels of a coarse map it is closer to it than along them. Where nothing is
/// resized the two are one.
#[test]
fn borders_of_a_finer_grid_lie_between_the_pixels() {
    let straight = patient([48, 48, 12]);
    let disc = |y: f64, x: f64| 9.3 - ((y - 22.7).powi(2) + (x - 25.1).powi(2)).sqrt();
    for (image_size, resized) in [(48, false), (16, true), (20, true)] {
        let preprocess = Preprocess {
            image_size,
            pad_to: Some(48),
            ..Preprocess::default()
        };
        let slices = preprocess.apply(&straight).unwrap();
        let n = slices.len();
        let scale = 48. / image_size as f64;
        let place = |at: usize| (at as f64 + 0.5) * scale - 0.5;
        let map = Array3::from_shape_fn((n, image_size, image_size), |(_, y, x)| {
            (disc(place(y), place(x)) + 10.) as f32
        });
        let mut masks = map.mapv(|value| value > 10.);
        masks.index_axis_mut(Axis(0), 1).fill(false);
        let thresholds = vec![10.; n];
        let fine = slices.to_mask_above(&map, &thresholds, &masks).unwrap();
        let plain = slices.to_mask(&masks).unwrap();
        assert_eq!(fine.data == plain.data, !resized);
        let stack = |volume: &Volume| {
            slices
                .geometry
                .reorder()
                .view(volume.data.view())
                .to_owned()
        };
        let (fine, plain) = (stack(&fine), stack(&plain));
        let wrong = |found: &Array3<f32>| {
            let slice = found.index_axis(Axis(0), slices.z[0]);
            let wrong = slice
                .indexed_iter()
                .filter(|&((y, x), &v)| (v > 0.) != (disc(y as f64, x as f64) > 0.));
            wrong.count()
        };
        if resized {
            assert!(
                2 * wrong(&fine) < wrong(&plain),
                "{} {}",
                wrong(&fine),
                wrong(&plain)
            );
        }
        // What was emptied stays so, and no thresholds are no border.
        assert!(
            fine.index_axis(Axis(0), slices.z[1])
                .iter()
                .all(|&v| v == 0.)
        );
        assert_eq!(
            stack(&slices.to_mask_above(&map, &[], &masks).unwrap()),
            plain
        );
        assert!(
            slices
                .to_mask_above(&map, &thresholds[1..], &masks)
                .is_err()
        );
    }
}
